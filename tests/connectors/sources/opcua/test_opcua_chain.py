"""Which certificates of servers are accepted: chains, trust, revocation, usage; and the folders that it is read from."""

import datetime
import ssl
import warnings

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from connectors.sources.opcua.certificates import parse, thumbprint
from connectors.sources.opcua.chain import LONGEST, Expected, Known, judge
from connectors.sources.opcua.trust import _MAX_REJECTED, TrustStore, UntrustedServerError, split
from tests.connectors.sources.opcua.milo_server import DAY, URI, Made, usage

NOW = datetime.datetime.now(datetime.UTC)
EXPECTED = Expected(URI)
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)  # one for most servers: keys take time

ROOT = Made("Plant CA", ca=True)
MIDDLE = Made("Line CA", ROOT, ca=True)
SERVER = Made("press", MIDDLE, key=KEY)
ALONE = Made("press alone", key=KEY)
STRANGER = Made("Plant CA", ca=True)  # another authority of the same name


def known(*, trusted=(), issuers=(), revocations=()):
    return Known(
        [one.certificate for one in trusted], [one.certificate for one in issuers], list(revocations)
    )  # fmt: skip


def problem(sent, of, expected=EXPECTED, now=NOW):
    return judge([one.certificate for one in sent], of, expected, now).problem


@pytest.mark.parametrize("form", ["DER", "PEM"])
def test_a_serial_number_that_no_standard_allows_is_read_without_a_warning(form):
    """Below 0; among a system's authorities there are such."""
    serial = ROOT.certificate.serial_number
    octets = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    sound = ROOT.certificate.public_bytes(serialization.Encoding.DER)
    found = sound.replace(octets, b"\x80" + octets[1:], 1)
    data = found if form == "DER" else ssl.DER_cert_to_PEM_cert(found).encode()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (certificate,) = parse(data)
    with pytest.warns(UserWarning, match="serial number"):
        assert certificate.serial_number < 0


@pytest.mark.parametrize(
    ("sent", "of"),
    [
        ([ALONE], known(trusted=[ALONE])),
        ([SERVER], known(trusted=[SERVER], issuers=[ROOT, MIDDLE])),
        ([SERVER], known(trusted=[ROOT], issuers=[MIDDLE])),
        ([SERVER], known(trusted=[MIDDLE], issuers=[ROOT])),
        ([SERVER, MIDDLE], known(trusted=[ROOT])),
        ([SERVER, ROOT, MIDDLE], known(trusted=[SERVER])),
        ([SERVER, MIDDLE], known(trusted=[STRANGER, ROOT])),
        ([SERVER], known(trusted=[ROOT], issuers=[STRANGER, MIDDLE])),
    ],
)
def test_a_server_is_accepted_when_it_or_an_authority_above_it_is_trusted(sent, of):
    assert problem(sent, of) is None


@pytest.mark.threat(10)
@pytest.mark.parametrize(
    ("sent", "of"),
    [
        ([ALONE], known()),
        ([ALONE], known(trusted=[SERVER, ROOT])),
        ([SERVER, MIDDLE, ROOT], known()),
        ([SERVER], known(issuers=[ROOT, MIDDLE])),
        ([SERVER], known(trusted=[ROOT])),  # the authority between them is not known
        ([SERVER, MIDDLE], known(trusted=[STRANGER])),
        ([ALONE], known(issuers=[ALONE])),
    ],
)
def test_it_is_not_trusted_because_of_what_it_sends_or_because_of_a_name(sent, of):
    verdict = judge([one.certificate for one in sent], of, EXPECTED, NOW)
    assert verdict.untrusted
    assert verdict.problem == "it is not trusted"


@pytest.mark.threat(11)
@pytest.mark.parametrize(
    ("of", "missing"),
    [(known(trusted=[SERVER]), "CN=Line CA"), (known(trusted=[MIDDLE]), "CN=Plant CA"), (known(trusted=[SERVER], issuers=[ROOT]), "CN=Line CA")],
)  # fmt: skip
def test_a_chain_without_its_end_is_refused_and_the_missing_authority_named(of, missing):
    verdict = judge([SERVER.certificate], of, EXPECTED, NOW)
    assert verdict.missing == missing
    assert not verdict.untrusted


def server(issuer=None, **more):
    return Made("press", issuer, key=KEY, **more)


OLD = {"begin": NOW - 3 * DAY, "end": NOW - DAY}
SERVER_AUTH = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH])
CLIENT_AUTH = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH])
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")


@pytest.mark.threat(10)
@pytest.mark.parametrize(
    ("made", "said"),
    [
        (server(**OLD), "it expired on"),
        (server(begin=NOW + DAY), "it is not valid before"),
        (server(uri="urn:another"), "it is for urn:another, and the server says it is"),
        (server(uri=None), "it is for no application"),
        (Made("press", bits=1024), "1024 bits, and 2048 are needed"),
        (Made("press", key=ec.generate_private_key(ec.SECP256R1())), "not an RSA key"),
        (server(extensions=((usage(ca=False, encipher=False), True),)), "not meant for signatures and encryption"),
        (server(extensions=((CLIENT_AUTH, True),)), "not meant for a server"),
        (server(extensions=((UNKNOWN, True),)), "not known here (extension 1.2.3.4.5)"),
    ],
)
def test_a_trusted_certificate_must_be_sound(made, said):
    verdict = judge([made.certificate], known(trusted=[made]), EXPECTED, NOW)
    assert said in (verdict.problem or "")
    assert not verdict.untrusted


@pytest.mark.parametrize(
    ("made", "warning"),
    [
        (server(extensions=((usage(ca=False, encipher=False), False),)), "not meant for signatures"),
        (server(extensions=((CLIENT_AUTH, False),)), "not meant for a server"),
        (server(extensions=((SERVER_AUTH, True),)), None),
        (server(extensions=((UNKNOWN, False),)), None),
    ],
)
def test_what_a_certificate_does_not_insist_on_is_a_warning(made, warning):
    verdict = judge([made.certificate], known(trusted=[made]), EXPECTED, NOW)
    assert verdict.problem is None
    assert [w for w in verdict.warnings if warning is None or warning not in w] == []
    assert bool(verdict.warnings) == (warning is not None)


def test_another_host_is_a_warning():
    expected = Expected(URI, host="10.1.1.100")
    verdict = judge([ALONE.certificate], known(trusted=[ALONE]), expected, NOW)
    assert verdict.problem is None
    assert verdict.warnings == ["it is for localhost, and not for 10.1.1.100"]
    assert not judge([ALONE.certificate], known(trusted=[ALONE]), Expected(URI, host="LOCALHOST"), NOW).warnings


def test_a_deprecated_policy_takes_shorter_keys():
    short = Made("press", bits=1024)
    assert problem([short], known(trusted=[short]), Expected(URI, min_key=1024)) is None


@pytest.mark.parametrize(
    ("authority", "said"),
    [
        (Made("CA", ca=True, **OLD), "of its issuer CN=CA: it expired"),
        (Made("CA", ca=False), "its issuer CN=CA is not an authority"),
        (Made("CA", ca=True, extensions=((usage(ca=False, self_signed=False), True),)), "is not an authority"),
        (Made("CA", ca=True, extensions=((UNKNOWN, True),)), "of its issuer CN=CA: it asks for something"),
    ],
)
def test_an_authority_must_be_one_and_sound(authority, said):
    found = problem([server(authority)], known(trusted=[authority]))
    assert found is not None
    assert said in found


def test_sha1_of_an_authority_can_be_forged_and_of_the_server_itself_says_nothing():
    made = server(ROOT, sha1=True)
    assert problem([made], known(trusted=[ROOT])) == "its issuer CN=Plant CA signed with SHA1, which can be forged"
    assert problem([made], known(trusted=[ROOT]), Expected(URI, weak_hashes=True)) is None
    assert problem([made], known(trusted=[STRANGER]), Expected(URI, weak_hashes=True)) == "it is not trusted"
    alone = server(sha1=True)
    assert problem([alone], known(trusted=[alone])) is None


def test_an_authority_may_forbid_others_below_it():
    root = Made("CA", ca=True, path_length=0)
    middle = Made("Line", root, ca=True)
    assert problem([server(root)], known(trusted=[root])) is None
    found = problem([server(middle), middle], known(trusted=[root]))
    assert found == "its issuer CN=CA may not have other authorities below it"


def test_an_authority_that_was_renewed_has_two_certificates_and_one_is_enough():
    late = Made("CA", ca=True, **OLD)
    renewed = Made("CA", ca=True, key=late.key)
    made = server(late)
    for both in ([late, renewed], [renewed, late]):
        assert problem([made], known(trusted=both)) is None
        assert problem([made, renewed], known(trusted=[made], issuers=both)) is None
    revoked = known(trusted=[renewed, late], revocations=[renewed.revocation_list(made)])
    assert "was revoked by CN=CA" in (problem([made], revoked) or "")


@pytest.mark.threat(10)
def test_revoked_by_its_issuer():
    of = known(trusted=[ROOT], issuers=[MIDDLE], revocations=[MIDDLE.revocation_list(SERVER)])
    found = problem([SERVER], of)
    assert found is not None
    assert found.startswith("it was revoked by CN=Line CA on ")


@pytest.mark.threat(11)
def test_an_authority_that_was_revoked():
    of = known(trusted=[SERVER], issuers=[MIDDLE, ROOT], revocations=[ROOT.revocation_list(MIDDLE)])
    found = problem([SERVER], of)
    assert found is not None
    assert found.startswith("its issuer CN=Line CA was revoked by CN=Plant CA")


@pytest.mark.threat(11)
def test_an_old_list_still_revokes():
    old = MIDDLE.revocation_list(SERVER, begin=NOW - 9 * DAY, end=NOW - DAY)
    found = problem([SERVER], known(trusted=[ROOT], issuers=[MIDDLE], revocations=[old]))
    assert found is not None
    assert "revoked" in found


@pytest.mark.threat(11)
def test_a_list_that_another_signed_does_not_count():
    forged = STRANGER.revocation_list(MIDDLE)  # has the name of the authority
    assert problem([SERVER], known(trusted=[ROOT], issuers=[MIDDLE], revocations=[forged])) is None


@pytest.mark.parametrize(
    ("lists", "missing"),
    [
        ([ROOT.revocation_list(), MIDDLE.revocation_list()], None),
        ([ROOT.revocation_list()], "CN=Line CA"),
        ([MIDDLE.revocation_list()], "CN=Plant CA"),
        ([ROOT.revocation_list(), MIDDLE.revocation_list(begin=NOW - 9 * DAY, end=NOW - DAY)], "CN=Line CA"),
        ([STRANGER.revocation_list(), MIDDLE.revocation_list()], "CN=Plant CA"),
    ],
)
def test_current_lists_can_be_required(lists, missing):
    expected = Expected(URI, revocation=True)
    found = problem([SERVER], known(trusted=[ROOT], issuers=[MIDDLE], revocations=lists), expected)
    assert found == (f"there is no current list of revoked certificates of {missing}" if missing else None)


def test_a_server_without_authority_needs_no_list():
    assert problem([ALONE], known(trusted=[ALONE]), Expected(URI, revocation=True)) is None


def test_chains_in_a_circle_and_crowds_of_one_name_come_to_an_end():
    first, second = Made("A", ca=True), Made("B", ca=True)
    crossed = Made("A", second, ca=True, key=first.key), Made("B", first, ca=True, key=second.key)
    crowd = [Made("A", second, ca=True, key=first.key) for _ in range(30)]
    made = server(crossed[0])
    assert problem([made, *crossed, *crowd], known()) == "it is not trusted"
    assert problem([made], known(trusted=[first], issuers=[*crowd, *crossed])) is None


# -- the folders


def put(folder, name, data):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)


def crl(made, *revoked, encoding=serialization.Encoding.DER):
    return made.revocation_list(*revoked).public_bytes(encoding)


@pytest.mark.parametrize("form", ["der", "pem", "together"])
def test_certificates_and_lists_are_read_in_either_form(tmp_path, form):
    store = TrustStore(tmp_path, "press")
    if form == "der":
        put(tmp_path / "trusted", "root.cer", ROOT.der)
        put(tmp_path / "issuer" / "certs", "middle.crt", MIDDLE.der)
        lists = crl(MIDDLE, SERVER)
    else:
        put(tmp_path / "trusted", "root.pem", ROOT.pem + (MIDDLE.pem if form == "together" else b""))
        put(tmp_path / "issuer", "middle.pem", MIDDLE.pem)
        lists = crl(MIDDLE, SERVER, encoding=serialization.Encoding.PEM)
    assert store.check(SERVER.der, EXPECTED, NOW) == []
    assert not (tmp_path / "rejected").exists()
    put(tmp_path / "issuer" / "crl", "list.crl", lists)
    with pytest.raises(UntrustedServerError, match=r"by a trusted authority, but it was revoked by CN=Line CA"):
        store.check(SERVER.der, EXPECTED, NOW)


@pytest.mark.threat(10)
def test_a_refused_server_lands_in_rejected_with_its_issuers_and_is_trusted_by_a_move(tmp_path):
    store = TrustStore(tmp_path, "press")
    name = thumbprint(SERVER.certificate)
    chain = SERVER.der + MIDDLE.der + ROOT.der
    for _ in range(2):
        with pytest.raises(UntrustedServerError, match=rf"CN=press, SHA-1 {name}\) is not trusted; move .*{name}.der .*`bifrost certs trust press {name}"):  # fmt: skip
            store.check(chain, EXPECTED, NOW)
    assert {stored.thumbprint for stored in store.certificates("rejected")} == {
        thumbprint(one.certificate) for one in (SERVER, MIDDLE, ROOT)
    }
    (stored,) = [s for s in store.certificates("rejected") if s.thumbprint == name]
    moved = store.move(stored, "trusted")
    assert moved == tmp_path / "trusted" / f"{name}.der"
    assert store.check(chain, EXPECTED, NOW) == []


def test_a_trusted_server_with_a_fault_is_not_filed_again(tmp_path):
    late = server(**OLD)
    put(tmp_path / "trusted", "press.der", late.der)
    with pytest.raises(UntrustedServerError, match="is trusted, but it expired on"):
        TrustStore(tmp_path, "press").check(late.der, EXPECTED, NOW)
    assert not (tmp_path / "rejected").exists()


def test_the_missing_authority_is_asked_for(tmp_path):
    put(tmp_path / "trusted", "press.der", SERVER.der)
    with pytest.raises(UntrustedServerError, match=r"its issuer CN=Line CA is not known.*; put .* into .*issuer"):
        TrustStore(tmp_path, "press").check(SERVER.der, EXPECTED, NOW)


def test_a_stranger_does_not_fill_the_disk(tmp_path):
    folder = tmp_path / "rejected"
    for at in range(_MAX_REJECTED):
        put(folder, f"{at:040x}.der", b"x")
    with pytest.raises(UntrustedServerError):
        TrustStore(tmp_path, "press").check(ALONE.der, EXPECTED, NOW)
    assert len(list(folder.iterdir())) == _MAX_REJECTED


def test_what_is_no_certificate_is_said_and_left_out(tmp_path, caplog):
    put(tmp_path / "trusted", "a.der", b"nonsense")
    put(tmp_path / "trusted", "b.der", ALONE.der)
    put(tmp_path / "trusted", "c.crl", b"nonsense")
    put(tmp_path / "trusted", "d.pem", b"-----BEGIN CERTIFICATE-----\n" + b"A" * 2_000_000)
    put(tmp_path / "trusted", "readme.txt", b"nonsense")
    assert TrustStore(tmp_path, "press").check(ALONE.der, EXPECTED, NOW) == []
    assert [("a.der" in text, "c.crl" in text, "d.pem" in text) for text in caplog.messages] == [
        (True, False, False), (False, False, True), (False, True, False)
    ]  # fmt: skip


@pytest.mark.parametrize("chain", [None, b"", b"\x30\x82", b"\x30\x82\x00\x04abcd", ALONE.der[:-1], ALONE.der + b"?"])
def test_no_certificate_or_nonsense_is_refused(tmp_path, chain):
    with pytest.raises(UntrustedServerError):
        TrustStore(tmp_path, "press").check(chain, EXPECTED, NOW)


def test_what_a_stranger_sends_is_one_thing_only(tmp_path):
    """A certificate of his own around a trusted one in PEM: what is looked at must be what is used."""
    put(tmp_path / "trusted", "press.der", ALONE.der)
    note = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), ALONE.pem)
    stranger = Made("stranger", extensions=((note, False),))
    assert ALONE.pem in stranger.der
    with pytest.raises(UntrustedServerError, match=r"CN=stranger.* is not trusted"):
        TrustStore(tmp_path, "press").check(stranger.der, EXPECTED, NOW)


def test_a_chain_is_split_and_ends():
    assert split(SERVER.der + MIDDLE.der) == [SERVER.der, MIDDLE.der]
    assert split(SERVER.der * 100) == [SERVER.der] * LONGEST
    assert split(b"\x30\x82\xff\xff") == [b"\x30\x82\xff\xff"]


def test_a_file_with_several_certificates_is_not_moved(tmp_path):
    put(tmp_path / "trusted", "all.pem", ROOT.pem + MIDDLE.pem)
    store = TrustStore(tmp_path, "press")
    with pytest.raises(ValueError, match="several certificates"):
        store.move(store.certificates("trusted")[0], "rejected")
