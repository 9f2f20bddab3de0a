"""What is asked of an OpenID provider, where, how often and for how long; what it says of itself; its keys."""

import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from config.oidc import OidcSection
from tests.certificates import Authority
from tests.ports import free_port
from tests.web import openid_provider
from tests.web.openid_provider import SECRET, ec_key, jwk, rsa_key, send
from web.access.oidc.claims import OidcError
from web.access.oidc.fetch import MOST, DownError
from web.access.oidc.log_ins import Answer, LogIns, challenge
from web.access.oidc.provider import Document, Provider, document_of
from web.access.oidc.tokens import UnknownKeyError, key_of

pytestmark = pytest.mark.threat(31)

DOCUMENT = "/.well-known/openid-configuration"


def section(issuer: str, **more: Any) -> OidcSection:
    given = {
        "issuer": issuer,
        "client_id": "bifrost",
        "client_secret": SECRET,
        "public_url": "https://gw.plant.example",
    }
    return OidcSection.model_validate({**given, "roles": {"plant-operators": "operator"}, "timeout": "1s", **more})


# ---------------------------------------------------------------------- the discovery document


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"issuer": "https://login.other.example"}, "the provider calls itself `https://login.other.example`"),
        ({"issuer": None}, "the provider calls itself `None`"),
        ({"issuer": ["x"]}, "the provider calls itself"),
        ({"token_endpoint": "https://evil.example/token"}, "token_endpoint is `https://evil.example/token`"),
        ({"jwks_uri": "http://169.254.169.254/keys"}, "jwks_uri is `http://169.254.169.254/keys`"),
        ({"jwks_uri": "file:///etc/passwd"}, "jwks_uri"),
        ({"jwks_uri": None}, "jwks_uri is `None`"),
        ({"jwks_uri": 7}, "jwks_uri"),
        ({"authorization_endpoint": "javascript:alert(1)"}, "authorization_endpoint"),
        ({"authorization_endpoint": "https://login.plant.example@evil.example/"}, "authorization_endpoint"),
        ({"authorization_endpoint": "http://login.plant.example/auth"}, "authorization_endpoint"),
        ({"end_session_endpoint": "https://evil.example/end"}, "end_session_endpoint"),
        ({"response_types_supported": ["id_token"]}, "authorization code flow"),
        ({"code_challenge_methods_supported": ["plain"]}, "PKCE"),
        ({"id_token_signing_alg_values_supported": ["HS256", "none"]}, "signs with neither RS256 nor ES256"),
        ({"token_endpoint_auth_methods_supported": ["private_key_jwt"]}, "takes no client secret"),
    ],
)
def test_a_document_that_must_not_be_used_is_refused_with_the_reason(changes: dict[str, Any], words: str) -> None:
    own = section("https://login.plant.example")
    said = {
        "issuer": "https://login.plant.example",
        **{
            key: f"https://login.plant.example/{key}"
            for key in ("authorization_endpoint", "token_endpoint", "jwks_uri")
        },
    }
    found = document_of(said, own)
    assert found == Document(said["authorization_endpoint"], said["token_endpoint"], said["jwks_uri"], "", True, False)
    with pytest.raises(OidcError) as caught:
        document_of(said | changes, own)
    assert words in str(caught.value)


def test_hosts_that_the_configuration_lists_may_be_asked_too() -> None:
    said = {
        "issuer": "https://accounts.google.com",
        "authorization_endpoint": "https://accounts.google.com/o/oauth2/v2/auth",
        "token_endpoint": "https://oauth2.googleapis.com/token",
        "jwks_uri": "https://www.googleapis.com/oauth2/v3/certs",
    }
    with pytest.raises(OidcError, match=r"web_ui\.oidc\.hosts"):
        document_of(said, section("https://accounts.google.com"))
    hosts = ["oauth2.googleapis.com", "WWW.googleapis.com"]
    assert document_of(said, section("https://accounts.google.com", hosts=hosts)).token == said["token_endpoint"]


# ---------------------------------------------------------------------- answers that are none


def huge(handler: BaseHTTPRequestHandler) -> None:
    send(handler, 200, b'{"issuer": "' + b"x" * (MOST + 1000) + b'"}')


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(3 * MOST // 4096):
        handler.wfile.write(b"[" * 4096)


def trickle(handler: BaseHTTPRequestHandler) -> None:
    """A byte every now and then: no single read is late."""
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b"{")
        time.sleep(0.1)


def trickling_head(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for number in range(100):
        handler.wfile.write(f"x-{number}: y\r\n".encode())
        time.sleep(0.1)


BAD = {
    "huge": (huge, "more than 512 KiB"),
    "endless": (endless, "more than 512 KiB"),
    "trickle": (trickle, "does not answer within 1 s"),
    "trickling head": (trickling_head, "does not answer within 1 s"),
    "deep": (lambda handler: send(handler, 200, b"[" * 200_000), "no JSON"),
    "no JSON": (lambda handler: send(handler, 200, b"<html>"), "no JSON"),
    "a list": (lambda handler: send(handler, 200, []), "calls itself `None`"),
    "a fault": (lambda handler: send(handler, 500, {}), "answers 500"),
    "no HTTP": (lambda handler: handler.wfile.write(b"SSH-2.0-x\r\n\r\n"), "does not speak HTTP"),
}


@pytest.mark.parametrize("name", BAD)
def test_an_answer_that_is_none_is_told_in_time(name: str) -> None:
    answer, words = BAD[name]
    with openid_provider.Provider() as hostile:
        hostile.answers[DOCUMENT] = answer
        began = time.monotonic()
        with pytest.raises(OidcError) as caught:
            Provider(section(hostile.issuer)).document()
    assert words in str(caught.value)
    assert time.monotonic() - began < 8  # and not the ten seconds of the trickle


def test_a_redirect_is_not_followed_wherever_it_leads() -> None:
    with openid_provider.Provider() as hostile, openid_provider.Provider() as elsewhere:
        elsewhere.changes = {"issuer": hostile.issuer}
        to = {"location": elsewhere.issuer + DOCUMENT}
        hostile.answers[DOCUMENT] = lambda handler: send(handler, 302, {}, **to)
        provider = Provider(section(hostile.issuer))
        with pytest.raises(DownError, match="leads elsewhere"):
            provider.document()
        hostile.answers = {"/keys": hostile.answers[DOCUMENT], "/token": hostile.answers[DOCUMENT]}
        with pytest.raises(DownError, match="leads elsewhere"):
            provider.key("one", "RS256")
        with pytest.raises(OidcError, match=r"gives no ID token \(status 302"):
            provider.id_token("code", "verifier")
        assert elsewhere.asked == []


def test_a_provider_that_is_not_there_is_told_by_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DownError, match="cannot be reached"):
        Provider(section(f"http://127.0.0.1:{free_port()}")).document()
    with pytest.raises(DownError, match="cannot be resolved"):
        Provider(section("https://login.invalid")).document()
    authority = Authority(tmp_path)
    with openid_provider.Provider(authority) as honest:
        with pytest.raises(DownError, match=r"is not trusted .* set web_ui\.oidc\.ca_file"):
            Provider(section(honest.issuer)).document()
        assert Provider(section(honest.issuer, ca_file=authority.ca)).document().token == f"{honest.issuer}/token"


# ---------------------------------------------------------------------- the exchange


@pytest.mark.parametrize(
    ("methods", "secret", "words"),
    [
        (["client_secret_basic"], SECRET, ""),
        (["client_secret_post"], SECRET, ""),
        (None, SECRET, ""),
        (["client_secret_basic"], "wrong", "does not take web_ui.oidc.client_id with web_ui.oidc.client_secret"),
        (["client_secret_post"], "wrong", "does not take web_ui.oidc.client_id with web_ui.oidc.client_secret"),
    ],
)
def test_the_secret_goes_as_the_provider_wants_it(methods: list[str] | None, secret: str, words: str) -> None:
    with openid_provider.Provider() as honest:
        honest.changes = {"token_endpoint_auth_methods_supported": methods}
        log_ins = LogIns(section(honest.issuer, client_secret=secret))
        cookie, location = log_ins.begin()
        brought = honest.log_in(location)
        answer = Answer(brought["state"], brought["code"], "", brought["iss"])
        if words:
            with pytest.raises(OidcError, match=words.replace(".", r"\.")):
                log_ins.finish(cookie, answer)
        else:
            assert log_ins.finish(cookie, answer)[0].name == "oidc:olga"
        (form,) = honest.forms
        assert ("client_secret" in form) == (methods == ["client_secret_post"])
        assert form["redirect_uri"] == "https://gw.plant.example/api/session/oidc/callback"


def test_a_verifier_is_that_of_the_log_in_and_its_challenge_that_of_the_standard() -> None:
    assert challenge("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk") == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
    with openid_provider.Provider() as honest:
        log_ins = LogIns(section(honest.issuer))
        (mine, location), (other, elsewhere) = log_ins.begin(), log_ins.begin()
        mine_brought, other_brought = honest.log_in(location), honest.log_in(elsewhere)
        with pytest.raises(OidcError, match="does not take its code"):  # a code that was injected
            log_ins.finish(mine, Answer(mine_brought["state"], other_brought["code"], "", honest.issuer))
        with pytest.raises(OidcError, match="does not take its code"):
            log_ins.finish(other, Answer(other_brought["state"], other_brought["code"], "", honest.issuer))


def test_a_log_in_is_good_for_ten_minutes_and_a_thousand_are_kept() -> None:
    now = [0.0]
    with openid_provider.Provider() as honest:
        log_ins = LogIns(section(honest.issuer), lambda: now[0])
        cookie, location = log_ins.begin()
        brought = honest.log_in(location)
        answer = Answer(brought["state"], brought["code"], "", "")
        now[0] = 601.0
        with pytest.raises(OidcError, match="too long ago"):
            log_ins.finish(cookie, answer)
        cookie, location = log_ins.begin()
        brought = honest.log_in(location)
        told = log_ins.tell("", "a problem")
        assert log_ins.told(told) == "a problem"
        for _ in range(1001):
            log_ins.begin()
        assert log_ins.told(told) == ""
        with pytest.raises(OidcError, match="not begun in this browser"):
            log_ins.finish(cookie, Answer(brought["state"], brought["code"], "", ""))
        told = log_ins.tell("", "a problem")
        now[0] += 61.0
        assert log_ins.told(told) == ""


def test_an_id_token_too_long_for_an_address_is_left_out_of_it() -> None:
    with openid_provider.Provider() as honest:
        log_ins = LogIns(section(honest.issuer))
        assert log_ins.leave("x") == ""  # nothing is asked for it
        log_ins.begin()
        plain = {"client_id": "bifrost", "post_logout_redirect_uri": "https://gw.plant.example/"}
        assert log_ins.leave("x" * 5000) == f"{honest.issuer}/end?{urlencode(plain)}"
        assert log_ins.leave("x").endswith("&id_token_hint=x")


# ---------------------------------------------------------------------- keys


def test_a_new_key_is_looked_for_once_a_minute_and_an_old_one_is_gone_within_an_hour() -> None:
    now = [0.0]
    with openid_provider.Provider() as honest:
        provider = Provider(section(honest.issuer), lambda: now[0])
        first = provider.key("one", "RS256")
        assert provider.key("one", "RS256") is not None
        assert honest.asked.count("/keys") == 1
        honest.keys = [jwk(rsa_key(1), "two")]
        assert provider.key("two", "RS256").public_numbers() != first.public_numbers()  # at once
        assert honest.asked.count("/keys") == 2
        for kid in ("one", "three", "four"):
            with pytest.raises(UnknownKeyError):
                provider.key(kid, "RS256")
        honest.keys = [jwk(ec_key(), "three")]
        with pytest.raises(UnknownKeyError, match="in a minute"):
            provider.key("three", "ES256")
        assert honest.asked.count("/keys") == 2
        now[0] = 61.0
        assert provider.key("three", "ES256") is not None
        assert honest.asked.count("/keys") == 3
        honest.keys = []
        now[0] = 3600.0
        assert provider.key("three", "ES256") is not None
        now[0] = 3662.0
        with pytest.raises(UnknownKeyError):
            provider.key("three", "ES256")
        assert honest.asked.count(DOCUMENT) == 2


WEAK: dict[str, Any] = {
    "too short": jwk(rsa_key(9, 1024)),
    "for encryption": jwk(rsa_key()) | {"use": "enc"},
    "of another algorithm": jwk(rsa_key(), alg="PS256"),
    "of another kind": jwk(ec_key()),
    "a secret": {"kty": "oct", "kid": "one", "k": "c2VjcmV0"},
    "huge": {"kty": "RSA", "kid": "one", "e": "AQAB", "n": "_" * 100_000},
    "nonsense": {"kty": "RSA", "kid": "one", "e": "AQAB", "n": "!!"},
    "even": {"kty": "RSA", "kid": "one", "e": "Ag", "n": jwk(rsa_key())["n"]},
    "no numbers": {"kty": "RSA", "kid": "one", "e": 3},
    "no mapping": "one",
}


@pytest.mark.parametrize("name", WEAK)
def test_a_key_that_must_not_sign_signs_for_nobody(name: str) -> None:
    with pytest.raises(UnknownKeyError, match="does not publish"):
        key_of([WEAK[name]], "one", "RS256")
    assert key_of([WEAK[name], jwk(rsa_key(), "good")], "good", "RS256") is not None


def test_only_the_key_that_is_meant_is_taken() -> None:
    point = jwk(ec_key())
    assert key_of([point], "one", "ES256") is not None
    for wrong in ({"crv": "P-384"}, {"x": point["y"]}, {"x": "AA"}):
        with pytest.raises(UnknownKeyError):
            key_of([point | wrong], "one", "ES256")
    both = [jwk(rsa_key(), "a"), jwk(rsa_key(1), "b")]
    with pytest.raises(UnknownKeyError, match="publishes twice"):
        key_of(both, None, "RS256")
    assert key_of([both[0], point], None, "RS256") is not None  # no other may have signed so
    with pytest.raises(UnknownKeyError):
        key_of([jwk(rsa_key(n), str(n)) for n in (0, 1)] * 60 + [jwk(rsa_key(), "late")], "late", "RS256")
