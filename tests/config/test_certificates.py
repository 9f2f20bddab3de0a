"""Certificates that are made, imported, renewed and listed; what is made is judged by OpenSSL and by our own OPC UA chain."""

import contextlib
import datetime
import shutil
import socket
import ssl
import stat
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509.oid import NameOID

from config.certificates import (
    AmbiguousCertificateError,
    CertificatesDesk,
    CertificatesError,
    NoSuchCertificateError,
    Wanted,
)
from config.certificates.used import ending, ends, first_end, unusable
from config.models import Configuration
from connectors.settings import TlsSettings
from connectors.sources.mqtt import MqttConfig
from connectors.sources.opcua import OpcUaConfig
from connectors.sources.opcua.chain import Expected, Known, judge
from connectors.targets.kafka import KafkaConfig
from connectors.targets.mqtt import MqttTargetConfig


class Clock:
    """The present, which a test sets."""

    def __init__(self) -> None:
        self.now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)

    def __call__(self) -> datetime.datetime:
        return self.now

    def pass_(self, days: float) -> None:
        self.now += datetime.timedelta(days=days)


class Gateway:
    """A configuration and its desk."""

    def __init__(self, directory: Path) -> None:
        self.config = Configuration("hall", directory)
        self.clock = Clock()
        self.desk = CertificatesDesk(lambda: self.config, self.clock)

    def use(self, *sources: object, **targets: object) -> None:
        self.config = replace(self.config, sources=sources, targets=targets)  # type: ignore[arg-type]

    def owned(self) -> set[tuple[str, str, str]]:
        return {(row["owner"], row["kind"], row["subject"]) for row in self.desk.listed()["certificates"]}


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path / "data")


def loaded(file: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(Path(file).read_bytes())


def client_tls(gateway: Gateway, name: str, ca: str) -> TlsSettings:
    folder = gateway.desk.folder
    files = {"cert_file": folder / f"{name}.pem", "key_file": folder / f"{name}.key", "ca_file": folder / f"{ca}.pem"}
    return TlsSettings.model_validate(files)


def opcua(name: str = "press", **more: object) -> OpcUaConfig:
    return OpcUaConfig.model_validate({"name": name, "endpoint": "opc.tcp://127.0.0.1:1", **more})


# ---------------------------------------------------------------------- making


def shaken_hands(server: tuple[Path, Path], client: tuple[Path, Path], ca: Path, name: str) -> str:
    """The subject of the client as a TLS server sees it, both of OpenSSL, each checking the other."""
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(ca))
    serving.load_cert_chain(*server)
    serving.verify_mode = ssl.CERT_REQUIRED
    asking = ssl.create_default_context(cafile=str(ca))
    asking.load_cert_chain(*client)
    seen: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with contextlib.suppress(ssl.SSLError), serving.wrap_socket(connection, server_side=True) as secured:
                found = secured.getpeercert()
                seen.append(dict(part[0] for part in found["subject"])["commonName"])  # type: ignore[index,misc]
                secured.send(b"x")

        thread = threading.Thread(target=serve)
        thread.start()
        with (
            socket.create_connection(listening.getsockname()[:2], 5) as plain,
            asking.wrap_socket(plain, server_hostname=name) as secured,
        ):
            assert secured.recv(1) == b"x"
        thread.join(5)
    return seen[0]


@pytest.mark.interop("OpenSSL")
@pytest.mark.parametrize("key", ["p-256", "p-384", "rsa-2048"])
def test_a_server_and_a_client_of_one_authority_know_each_other(gateway: Gateway, key: str) -> None:
    desk = gateway.desk
    desk.create("plant-ca", Wanted("ca", "Plant CA", "ACME"), key="p-256")
    desk.create("broker", Wanted("server", "broker", hosts=("broker.plant", "127.0.0.1")), by="plant-ca", key=key)  # type: ignore[arg-type]
    desk.create("gateway", Wanted("client", "gateway 1"), by="plant-ca", key=key)  # type: ignore[arg-type]
    folder = desk.folder
    pair = {name: (folder / f"{name}.pem", folder / f"{name}.key") for name in ("broker", "gateway")}
    for name in ("broker.plant", "127.0.0.1"):
        assert shaken_hands(pair["broker"], pair["gateway"], folder / "plant-ca.pem", name) == "gateway 1"
    with pytest.raises(ssl.SSLError):
        shaken_hands(pair["broker"], pair["gateway"], folder / "plant-ca.pem", "other.plant")
    if (openssl := shutil.which("openssl")) is not None:
        for purpose, name in (("sslserver", "broker"), ("sslclient", "gateway")):
            command = [openssl, "verify", "-x509_strict", "-purpose", purpose, "-CAfile", str(folder / "plant-ca.pem")]
            subprocess.run([*command, str(folder / f"{name}.pem")], check=True, capture_output=True)


def test_keys_are_their_owners_alone_and_in_no_answer(gateway: Gateway) -> None:
    made = gateway.desk.create("plant-ca", Wanted("ca", "Plant CA"), key="p-256")
    key = Path(made["key_file"])
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(gateway.desk.folder.stat().st_mode) == 0o700
    assert "PRIVATE" not in str(made) + str(gateway.desk.listed())
    assert "PRIVATE" not in Path(made["file"]).read_text()


@pytest.mark.parametrize("by", [None, "plant-ca"])
def test_an_opcua_application_is_for_its_source_and_judged_sound(gateway: Gateway, by: str | None) -> None:
    gateway.use(opcua(certificate_hosts=["10.1.1.5"]))
    authority = gateway.desk.create("plant-ca", Wanted("ca", "Plant CA"), key="rsa-2048")
    made = gateway.desk.create("press", Wanted("application", "press", hosts=("edge1",)), by=by, source="press")
    assert made["application_uris"] == ["urn:bifrost:hall:press"]
    assert made["hosts"] == ["10.1.1.5", "edge1"]
    certificate = loaded(made["file"])
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature and usage.content_commitment and usage.key_encipherment and usage.data_encipherment
    assert usage.key_cert_sign is (by is None)
    known = Known([certificate if by is None else loaded(authority["file"])])
    now = datetime.datetime.now(datetime.UTC)
    assert judge([certificate], known, Expected("urn:bifrost:hall:press"), now).problem is None


@pytest.mark.threat(20)
@pytest.mark.parametrize(
    ("name", "wanted", "key", "said"),
    [
        ("Broker", Wanted("server", "x", hosts=("a",)), None, "is no name"),
        ("../broker", Wanted("server", "x", hosts=("a",)), None, "is no name"),
        ("a" * 64, Wanted("ca", "x"), None, "is no name"),
        ("broker", Wanted("server", "x"), None, "give hosts"),
        ("broker", Wanted("server", "x", hosts=("a b",)), None, "no host name"),
        ("broker", Wanted("server", "x", hosts=("http://a",)), None, "no host name"),
        ("broker", Wanted("server", "x", hosts=("a\x00b",)), None, "no host name"),
        ("broker", Wanted("server", "x", hosts=("fe80::1%eth0",)), None, "no host name"),
        ("broker", Wanted("client", "漢" * 64), None, "cannot be made"),
        ("broker", Wanted("client", ""), None, "1 to 64"),
        ("broker", Wanted("client", "x" * 65), None, "1 to 64"),
        ("broker", Wanted("client", "x", "y" * 65), None, "64 characters"),
        ("broker", Wanted("client", "x", days=0), None, "between 1 and"),
        ("press", Wanted("application", "x"), None, "ApplicationUri"),
        ("press", Wanted("application", "x", uri="urn: x"), None, "no blanks"),
        ("press", Wanted("application", "x", uri="urn:x"), "p-256", "RSA"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused_and_nothing_is_made(
    gateway: Gateway, name: str, wanted: Wanted, key: None, said: str
) -> None:
    with pytest.raises(CertificatesError, match=said):
        gateway.desk.create(name, wanted, key=key)
    assert not gateway.desk.folder.exists()


def test_a_name_is_taken_once_and_an_authority_must_be_one(gateway: Gateway) -> None:
    desk = gateway.desk
    desk.create("one", Wanted("client", "one"))
    with pytest.raises(AmbiguousCertificateError, match="already"):
        desk.create("one", Wanted("client", "one"))
    with pytest.raises(NoSuchCertificateError, match="bifrost certs ca two"):
        desk.create("other", Wanted("client", "other"), by="two")
    with pytest.raises(CertificatesError, match="not an authority's"):
        desk.create("other", Wanted("client", "other"), by="one")


def test_no_certificate_outlives_its_authority(gateway: Gateway) -> None:
    gateway.desk.create("plant-ca", Wanted("ca", "Plant CA", days=100), key="p-256")
    made = gateway.desk.create("a", Wanted("client", "a", days=500), by="plant-ca")
    assert made["days_left"] == 100.0
    gateway.clock.pass_(101)
    with pytest.raises(CertificatesError, match="has expired; renew it first"):
        gateway.desk.create("b", Wanted("client", "b"), by="plant-ca")


# ---------------------------------------------------------------------- importing


def exported(gateway: Gateway, form: str) -> tuple[bytes, bytes | None, str | None]:
    """A client's certificate with its key, as people bring it."""
    gateway.desk.create("their-ca", Wanted("ca", "Their CA"), key="p-256")
    made = gateway.desk.create("theirs", Wanted("client", "theirs"), by="their-ca")
    cert, key_file = Path(made["file"]).read_bytes(), Path(made["key_file"]).read_bytes()
    certificates = x509.load_pem_x509_certificates(cert)
    key = load_pem_private_key(key_file, None)
    for name in ("theirs", "their-ca"):
        (gateway.desk.folder / f"{name}.pem").unlink()
        (gateway.desk.folder / f"{name}.key").unlink()
    encrypted = BestAvailableEncryption(b"s3cret")
    match form:
        case "pem":
            return cert, key_file, None
        case "pem with key, issuer first":
            return b"".join(one.public_bytes(Encoding.PEM) for one in reversed(certificates)) + key_file, None, None
        case "der":
            der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
            return certificates[0].public_bytes(Encoding.DER), der, None
        case "encrypted key":
            return cert, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encrypted), "s3cret"
        case _:
            packed = pkcs12.serialize_key_and_certificates(b"x", key, certificates[0], certificates[1:], encrypted)  # type: ignore[arg-type]
            return packed, None, "s3cret"


@pytest.mark.parametrize("form", ["pem", "pem with key, issuer first", "der", "encrypted key", "pkcs12"])
def test_what_is_imported_can_be_connected_with(gateway: Gateway, form: str) -> None:
    data, key, password = exported(gateway, form)
    made = gateway.desk.import_("theirs", data, key=key, password=password)
    assert made["subject"] == "CN=theirs"
    assert stat.S_IMODE(Path(made["key_file"]).stat().st_mode) == 0o600
    ssl.create_default_context().load_cert_chain(made["file"], made["key_file"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data, key, password, other: (data, other, None), "do not belong together"),
        (lambda data, key, password, other: (b"nothing", None, None), "no certificate in PEM, DER or PKCS#12"),
        (lambda data, key, password, other: (data, b"nothing", None), "no private key"),
        (lambda data, key, password, other: (data, key, None), "is encrypted: give its password"),
        (lambda data, key, password, other: (data, key, "wrong"), "password is wrong"),
        (lambda data, key, password, other: (b"x" * 5_000_000, key, None), "more than"),
    ],
)
def test_what_cannot_be_used_is_not_imported(
    gateway: Gateway, spoil: Callable[..., tuple[Any, Any, Any]], said: str
) -> None:
    data, key, password = exported(gateway, "encrypted key")
    other = Path(gateway.desk.create("other", Wanted("client", "other"))["key_file"]).read_bytes()
    data, key, password = spoil(data, key, password, other)
    with pytest.raises(CertificatesError, match=said) as caught:
        gateway.desk.import_("theirs", data, key=key, password=password)
    assert "s3cret" not in str(caught.value)
    assert not (gateway.desk.folder / "theirs.pem").exists()


def test_an_import_for_an_opcua_source_goes_into_its_folder(gateway: Gateway) -> None:
    gateway.use(opcua())
    data, _, _ = exported(gateway, "pem")
    made = gateway.desk.import_("x", data, source="press", to="issuer")
    assert Path(made["file"]).parent == gateway.config.directory / "sources" / "press" / "issuer"
    assert gateway.owned() == {("press", "issuer", "CN=theirs")}
    with pytest.raises(NoSuchCertificateError, match="no OPC UA source `lathe`; the configuration has: press"):
        gateway.desk.import_("x", data, source="lathe")


# ---------------------------------------------------------------------- looking


def test_all_that_the_configuration_uses_is_listed_with_who_uses_it(gateway: Gateway) -> None:
    desk = gateway.desk
    desk.create("plant-ca", Wanted("ca", "Plant CA"), key="p-256")
    desk.create("edge", Wanted("client", "edge", days=20), by="plant-ca")
    desk.create("spare", Wanted("client", "spare"))
    tls = client_tls(gateway, "edge", "plant-ca")
    gateway.use(
        MqttConfig(name="broker", endpoint="mqtts://127.0.0.1:1", tls=tls),
        opcua(security_policy="auto"),
        copied=MqttTargetConfig.model_validate({"endpoint": "mqtts://127.0.0.1:1", "ca_file": tls.ca_file, "provider_config": {}}),
        kafka=KafkaConfig.model_validate({"endpoint": "127.0.0.1:1", "provider_config": {"topic": "t", "tls": {"ca_file": tls.ca_file}}}),
    )  # fmt: skip
    found = {Path(row["file"]).name + " " + row["kind"]: row for row in desk.listed()["certificates"]}
    assert {name: row["used_by"] for name, row in found.items()} == {
        "plant-ca.pem ca": [
            "source broker: tls.ca_file",
            "target copied: ca_file",
            "target kafka: provider_config.tls.ca_file",
        ],
        "edge.pem own": ["source broker: tls.cert_file"],
        "edge.pem ca": ["source broker: tls.cert_file"],  # its issuer comes with it
        "spare.pem own": [],
    }
    assert (found["edge.pem own"]["state"], found["edge.pem own"]["days_left"]) == ("soon", 20.0)
    assert found["plant-ca.pem ca"]["id"] == found["edge.pem ca"]["id"]
    days = {key: round(left) for key, left in ends(gateway.config, gateway.clock.now).items()}
    assert days == {
        ("broker", "own"): 20, ("broker", "ca"): 3650, ("copied", "ca"): 3650, ("kafka", "ca"): 3650,
    }  # fmt: skip
    (said,) = ending(gateway.config, gateway.clock.now)
    assert (said.owners, said.expired) == (("broker",), False)
    assert "CN=edge" in said.text and "in 20 days" in said.text and "source broker: tls.cert_file" in said.text


@pytest.mark.parametrize(
    ("kind", "days", "counts"),
    [
        ("own", [400.0, 3.0, -2.0], -2.0),
        ("ca", [400.0, 3.0, -2.0], 3.0),
        ("trusted", [-5.0, -2.0], -2.0),
    ],
)
def test_of_several_the_one_that_matters_counts(kind: str, days: list[float], counts: float) -> None:
    assert first_end(kind, days) == counts


def test_an_authority_that_ended_says_nothing_beside_its_successor(gateway: Gateway, tmp_path: Path) -> None:
    old = gateway.desk.create("old", Wanted("ca", "Plant CA 1", days=5), key="p-256")
    new = gateway.desk.create("new", Wanted("ca", "Plant CA 2"), key="p-256")
    both = tmp_path / "both.pem"
    both.write_bytes(Path(old["file"]).read_bytes() + Path(new["file"]).read_bytes())
    gateway.use(MqttConfig(name="broker", endpoint="mqtts://127.0.0.1:1", tls=TlsSettings(ca_file=both)))
    assert ending(gateway.config, gateway.clock.now) == []
    both.write_bytes(Path(old["file"]).read_bytes())
    assert [one.expired for one in ending(gateway.config, gateway.clock.now)] == [False]
    gateway.clock.pass_(10)
    assert [one.expired for one in ending(gateway.config, gateway.clock.now)] == [True]


def test_files_that_cannot_be_connected_with_are_told(gateway: Gateway, tmp_path: Path) -> None:
    gateway.desk.create("a", Wanted("client", "a"))
    gateway.desk.create("b", Wanted("client", "b"))
    folder = gateway.desk.folder
    wrong = TlsSettings(cert_file=folder / "a.pem", key_file=folder / "b.key")
    gateway.use(
        MqttConfig(name="one", endpoint="mqtts://127.0.0.1:1", tls=wrong),
        MqttConfig(name="two", endpoint="mqtts://127.0.0.1:1", tls=TlsSettings(ca_file=tmp_path / "none.pem")),
        MqttConfig(name="three", endpoint="mqtts://127.0.0.1:1", tls=TlsSettings(ca_file=folder / "b.key")),
    )
    said = dict(unusable(gateway.config))
    assert "is not that of the certificate" in said["one"]
    assert said["two"] == f"tls.ca_file: {tmp_path}/none.pem cannot be read: No such file or directory"
    assert "holds no certificate" in said["three"]


def test_what_a_stranger_put_into_a_refused_certificate_does_not_hide_the_others(gateway: Gateway) -> None:
    """A name of a kind that nobody reads: the library raises, and no ValueError."""
    from connectors.sources.opcua.own import application_uri, own_identities

    gateway.use(opcua())
    directory = gateway.config.directory / "sources" / "press"
    directory.mkdir(parents=True)
    own_identities(directory, application_uri("hall", "press"), gateway.clock.now)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stranger")])
    names = x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, bytes([0x30, 0x02, 0xA3, 0x00]))
    strange = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(gateway.clock.now)
        .not_valid_after(gateway.clock.now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    (directory / "rejected").mkdir()
    (directory / "rejected" / "x.der").write_bytes(strange.public_bytes(Encoding.DER))
    assert gateway.owned() == {("press", "own", "CN=Bifrost hall:press"), ("press", "rejected", "CN=stranger")}


# ---------------------------------------------------------------------- renewing


def as_before(old: x509.Certificate, new: x509.Certificate) -> None:
    """A renewed certificate differs in number and dates only."""
    assert (new.subject, new.issuer, new.public_key()) == (old.subject, old.issuer, old.public_key())
    assert {e.oid: (e.value, e.critical) for e in new.extensions} == {
        e.oid: (e.value, e.critical) for e in old.extensions
    }
    assert new.serial_number != old.serial_number
    lasts = new.not_valid_after_utc - new.not_valid_before_utc
    assert lasts == old.not_valid_after_utc - old.not_valid_before_utc


@pytest.mark.parametrize("by", [None, "plant-ca"])
def test_a_renewed_certificate_is_the_same_with_other_dates_and_the_old_one_is_kept(
    gateway: Gateway, by: str | None
) -> None:
    desk = gateway.desk
    desk.create("plant-ca", Wanted("ca", "Plant CA"), key="p-256")
    made = desk.create("broker", Wanted("server", "broker", hosts=("broker", "10.0.0.1"), days=100), by=by)
    before, key = Path(made["file"]).read_bytes(), Path(made["key_file"]).read_bytes()
    gateway.clock.pass_(90)
    done = desk.renew(made["id"][:8])
    after = Path(made["file"]).read_bytes()
    old, new = x509.load_pem_x509_certificates(before), x509.load_pem_x509_certificates(after)
    as_before(old[0], new[0])
    assert done["days_left"] == 100.0
    assert old[1:] == new[1:]
    assert Path(done["previous_file"]).read_bytes() == before
    assert Path(made["key_file"]).read_bytes() == key
    if by is not None:
        new[0].verify_directly_issued_by(loaded(str(desk.folder / "plant-ca.pem")))


def test_a_renewed_authority_still_vouches_for_what_it_signed(gateway: Gateway) -> None:
    desk = gateway.desk
    authority = desk.create("plant-ca", Wanted("ca", "Plant CA", days=200), key="p-256")
    made = desk.create("a", Wanted("client", "a", days=500), by="plant-ca")
    gateway.clock.pass_(150)
    assert desk.renew(authority["id"], days=1000)["days_left"] == 1000.0
    loaded(made["file"]).verify_directly_issued_by(loaded(authority["file"]))
    assert desk.renew(made["id"])["days_left"] == 200.0
    assert x509.load_pem_x509_certificates(Path(made["file"]).read_bytes())[1] == loaded(authority["file"])


def test_all_that_are_due_are_renewed(gateway: Gateway) -> None:
    desk = gateway.desk
    desk.create("plant-ca", Wanted("ca", "Plant CA"), key="p-256")
    for name, days in (("a", 20), ("b", 40)):
        desk.create(name, Wanted("client", name, days=days), by="plant-ca")
    assert [row["subject"] for row in desk.renew_due(30, days=365)] == ["CN=a"]
    assert desk.renew_due(30) == []


def test_a_certificate_of_somebody_else_is_renewed_by_them(gateway: Gateway) -> None:
    data, key, _ = exported(gateway, "pem")
    made = gateway.desk.import_("theirs", data, key=key)
    with pytest.raises(CertificatesError, match="issued by CN=Their CA, whose key is not here"):
        gateway.desk.renew(made["id"])
    assert Path(made["file"]).read_bytes() == data


def test_the_certificate_that_an_opcua_source_made_is_renewed_with_the_one_before_beside_it(gateway: Gateway) -> None:
    from connectors.sources.opcua.own import application_uri, own_identities

    gateway.use(opcua(security_policy="auto"))
    directory = gateway.config.directory / "sources" / "press"
    directory.mkdir(parents=True)
    uri = application_uri("hall", "press")
    (made,) = own_identities(directory, uri, gateway.clock.now)
    (row,) = gateway.desk.listed()["certificates"]
    gateway.clock.pass_(400)
    gateway.desk.renew(row["id"])
    new, old = own_identities(directory, uri, gateway.clock.now)
    assert old.certificate == made.certificate
    as_before(made.certificate, new.certificate)
    assert new.key.private_numbers() == made.key.private_numbers()


# ---------------------------------------------------------------------- trust, and removing


@pytest.mark.threat(20)
def test_trust_is_given_and_taken_by_id(gateway: Gateway) -> None:
    gateway.use(opcua("press"), opcua("oven"))
    data, _, _ = exported(gateway, "pem")
    made = gateway.desk.import_("x", data, source="press")
    number = gateway.desk.reject(made["id"])["id"]
    assert gateway.owned() == {("press", "rejected", "CN=theirs")}
    gateway.desk.import_("x", data, source="oven")
    gateway.desk.reject(number, owner="oven")
    with pytest.raises(AmbiguousCertificateError, match="of several: oven, press; say of which"):
        gateway.desk.trust(number)
    assert gateway.desk.trust(number, owner="press")["kind"] == "trusted"
    assert gateway.desk.trust(number, owner="oven", issuer=True)["kind"] == "issuer"
    with pytest.raises(NoSuchCertificateError, match="no certificate with the id"):
        gateway.desk.reject("0" * 64)
    for wrong in ("../../x", "", "abc"):
        with pytest.raises(NoSuchCertificateError, match="is no id"):
            gateway.desk.trust(wrong)


def test_what_is_refused_or_unused_can_be_removed_and_nothing_else(gateway: Gateway) -> None:
    desk = gateway.desk
    authority = desk.create("plant-ca", Wanted("ca", "Plant CA"), key="p-256")
    made = desk.create("edge", Wanted("client", "edge"), by="plant-ca")
    gateway.use(MqttConfig(name="broker", endpoint="mqtts://127.0.0.1:1", tls=client_tls(gateway, "edge", "plant-ca")))
    with pytest.raises(AmbiguousCertificateError, match="in use by source broker: tls.cert_file"):
        desk.remove(made["id"])
    gateway.use()
    with pytest.raises(AmbiguousCertificateError, match="has issued certificates that lie here"):
        desk.remove(authority["id"])
    desk.remove(made["id"])
    desk.remove(authority["id"])
    assert [file.name for file in desk.folder.iterdir() if file.suffix in (".pem", ".key")] == []
