"""Log-in by OpenID Connect at a gateway: who may come in does, and no answer of a hostile provider or page lets anybody else in."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
import pytest

from tests.delivery.stores import until
from tests.ports import free_port
from tests.web.openid_provider import SECRET, Provider, ec_key, jwk, part, pem, rsa_key, signed
from tests.web.served import PASSWORD, PLENTY, Answer, Client, Served, served
from web.access.accounts import Accounts, utc_now
from web.access.audit import Audit
from web.access.sessions import Sessions

pytestmark = pytest.mark.threat(31)

CALLBACK = "/api/session/oidc/callback"
addresses = count(2)


def settings(issuer: str, **more: Any) -> str:
    said = {
        "issuer": issuer, "client_id": "bifrost", "client_secret": SECRET, "public_url": "http://127.0.0.1:$PORT",
        "label": "Plant account", "timeout": "2s",
        "roles": {"plant-operators": "operator", "plant-admins": "admin"}, **more,
    }  # fmt: skip
    return f"web_ui: {json.dumps({'oidc': said, 'hosts': ['gateway.plant.example']})}\n"


@pytest.fixture(scope="module")
def honest() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture
def provider(honest: Provider) -> Provider:
    honest.keys, honest.token, honest.changes = [jwk(rsa_key())], signed, {}
    honest.answers.clear()
    honest.asked.clear()
    return honest


@pytest.fixture(scope="module")
def gateway(honest: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("gateway"), PLENTY, settings(honest.issuer)) as found:
        found.user("admin")
        yield found


class Browser:
    """Keeps cookies as a browser does, and comes from an address of its own, so that the throttle counts each test alone."""

    def __init__(self, gateway: Served) -> None:
        self.gateway, self.cookies = gateway, dict[str, str]()
        self.address = f"127.0.0.{next(addresses)}"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """A request; cookies that come are kept."""
        cookie = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        client = Client(self.gateway.port, {"host": f"127.0.0.1:{self.gateway.port}"}, self.address)
        answer = client.ask(method, path, body, **({"cookie": cookie} if cookie else {}), **headers)
        self.cookies |= {name: one.value for name, one in self.set_by(answer).items()}
        self.cookies = {name: value for name, value in self.cookies.items() if value}
        return answer

    @staticmethod
    def set_by(answer: Answer) -> SimpleCookie:
        found: SimpleCookie = SimpleCookie()
        for line in answer.cookies:
            found.load(line)
        return found

    def begin(self) -> str:
        """Where the gateway sends the browser."""
        answer = self.ask("POST", "/api/session/oidc")
        assert answer.status == 200, answer.body
        return str(answer.json["location"])

    def come_back(self, brought: dict[str, str]) -> Answer:
        return self.ask("GET", f"{CALLBACK}?{urlencode(brought)}")

    def log_in(self, provider: Provider, **claims: Any) -> Answer:
        return self.come_back(provider.log_in(self.begin(), **claims))

    @property
    def session(self) -> Any:
        return self.ask("GET", "/api/session").json


def audited(gateway: Served) -> list[tuple[str, str]]:
    """Who came back from the provider, the newest first, and whether they got in."""
    _, entries = Audit(gateway.directory).newest(0, 500)
    return [(one["who"], one["result"]) for one in entries if one["what"] == f"GET {CALLBACK}"]


# ---------------------------------------------------------------------- who may


def test_who_has_a_role_gets_a_session_of_it_and_logs_out_at_both_ends(gateway: Served, provider: Provider) -> None:
    browser, home = Browser(gateway), f"http://127.0.0.1:{gateway.port}"
    assert browser.session["oidc"] == "Plant account"
    begun = browser.ask("POST", "/api/session/oidc")
    lax = Browser.set_by(begun)["bifrost_oidc"]
    assert (lax["samesite"], lax["httponly"], lax["path"], lax["max-age"]) == ("lax", True, "/api/session", "600")
    asked = {name: value for name, (value,) in parse_qs(urlsplit(begun.json["location"]).query).items()}
    assert asked["redirect_uri"] == home + CALLBACK
    assert asked["scope"] == "openid profile"
    back = browser.come_back(provider.log_in(begun.json["location"], roles=["plant-operators", "plant-admins", "x"]))
    assert (back.status, back.headers["location"]) == (303, f"{home}/")
    assert set(browser.cookies) == {"bifrost_session"}
    session = browser.session
    assert (session["user"], session["role"], session["problem"]) == ("oidc:olga", "admin", None)
    until(lambda: audited(gateway)[:1] == [("oidc:olga", "done")])
    _, (entry,) = Audit(gateway.directory).newest(0, 1)
    assert (entry["subject"], entry["role"]) == ("0815", "admin")
    assert browser.ask("GET", "/api/users").status == 200
    changed = browser.ask("PUT", "/api/session/password", {"old": "x", "new": PASSWORD}, x_csrf_token=session["csrf"])
    assert changed.status == 403
    assert browser.ask("DELETE", "/api/session").status == 403  # as every change, with its token
    left = browser.ask("DELETE", "/api/session", x_csrf_token=session["csrf"])
    asked = {name: value for name, (value,) in parse_qs(urlsplit(left.json["location"]).query).items()}
    assert left.json["location"].startswith(f"{provider.issuer}/end?")
    assert asked["post_logout_redirect_uri"] == f"{home}/"
    assert jwt.decode(asked["id_token_hint"], options={"verify_signature": False})["sub"] == "0815"
    assert browser.session["user"] is None


def test_a_name_of_a_user_of_the_gateway_is_another_one_at_the_provider(gateway: Served, provider: Provider) -> None:
    browser = Browser(gateway)
    browser.log_in(provider, preferred_username="admin")
    assert (browser.session["user"], browser.session["role"]) == ("oidc:admin", "operator")
    assert browser.ask("GET", "/api/users").status == 403
    begun = browser.ask("POST", "/api/session/oidc", x_csrf_token=browser.session["csrf"])
    browser.come_back(provider.log_in(begun.json["location"], preferred_username="ann"))
    assert browser.session["user"] == "oidc:ann"
    until(lambda: audited(gateway)[:2] == [("oidc:ann", "done"), ("oidc:admin", "done")])


def test_who_has_no_mapped_value_is_refused_by_name(gateway: Served, provider: Provider) -> None:
    browser = Browser(gateway)
    answer = browser.log_in(provider, preferred_username="cleo", roles=["everybody"])
    assert answer.status == 303
    assert "bifrost_session" not in browser.cookies
    problem = browser.session["problem"]
    assert "cleo may not use this gateway: the claim `roles` says `everybody`" in problem
    assert "`plant-operators` (operator)" in problem
    assert Browser(gateway).session["problem"] is None  # it is for the browser that tried
    until(lambda: audited(gateway)[:1] == [("oidc:cleo", "refused")])
    browser.log_in(provider, preferred_username="cleo")  # with a role, and the same browser
    assert browser.session["user"] == "oidc:cleo"


def test_a_session_ends_when_the_configuration_says_at_the_latest(tmp_path: Path, provider: Provider) -> None:
    with served(tmp_path, PLENTY, settings(provider.issuer, session_time="10m")) as gateway:
        browser = Browser(gateway)
        answer = browser.log_in(provider)
        assert Browser.set_by(answer)["bifrost_session"]["max-age"] == "600"
    sessions = Sessions()
    text, session = sessions.begin("oidc:olga", "viewer", 600.0)
    assert sessions.find(text) is session
    session.began -= 601.0
    assert sessions.find(text) is None
    assert sessions.begin("oidc:olga", "viewer", 10**9)[1].longest == 12 * 3600.0


# ---------------------------------------------------------------------- tokens that are not right


def confused(claims: dict[str, Any]) -> str:
    """HS256 with the provider's public key as the secret, which the library refuses to make."""
    import base64
    import hashlib
    import hmac

    text = f"{part({'alg': 'HS256', 'typ': 'JWT', 'kid': 'one'})}.{part(claims)}"
    mac = hmac.new(pem(rsa_key()), text.encode(), hashlib.sha256).digest()
    return f"{text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def unsigned(claims: dict[str, Any]) -> str:
    return f"{part({'alg': 'none', 'kid': 'one'})}.{part(claims)}."


def altered(claims: dict[str, Any]) -> str:
    head, _, signature = signed(claims).split(".")
    return f"{head}.{part(claims | {'roles': ['plant-admins']})}.{signature}"


def other(**changes: Any) -> Callable[[dict[str, Any]], str]:
    return lambda claims: signed({k: v for k, v in (claims | changes).items() if v is not None})


NOW = int(time.time())
FORGED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another nonce": (other(nonce="x"), "belongs to another log-in"),
    "no nonce": (other(nonce=None), "belongs to another log-in"),
    "a nonce that is no text": (other(nonce=["x"]), "belongs to another log-in"),
    "another audience": (other(aud="grafana"), "for another client"),
    "no audience": (other(aud=None), "no claim `aud`"),
    "several audiences": (other(aud=["bifrost", "grafana"]), "claim `azp`"),
    "another party": (other(azp="grafana"), "claim `azp`"),
    "several audiences for another": (other(aud=["bifrost", "grafana"], azp="grafana"), "claim `azp`"),
    "another issuer": (other(iss="https://login.other.example"), "from another issuer"),
    "an issuer that begins alike": (lambda claims: signed(claims | {"iss": claims["iss"] + "/"}), "from another issuer"),
    "expired": (other(exp=NOW - 3600, iat=NOW - 7200), "set the clock"),
    "from the future": (other(iat=NOW + 3600, exp=NOW + 7200), "set the clock"),
    "not yet valid": (other(nbf=NOW + 3600), "set the clock"),
    "without an end": (other(exp=None), "no claim `exp`"),
    "an end that is no number": (other(exp="never"), "not sound"),
    "without a time": (other(iat=None), "no claim `iat`"),
    "without a subject": (other(sub=None), "no claim `sub`"),
    "alg none": (unsigned, "signed by `none`"),
    "HS256 with the public key": (confused, "signed by `HS256`"),
    "RS512": (lambda claims: signed(claims, algorithm="RS512"), "signed by `RS512`"),
    "another key of the same name": (lambda claims: signed(claims, rsa_key(1)), "not signed by the provider"),
    "an unknown key": (lambda claims: signed(claims, rsa_key(1), kid="two"), "does not publish"),
    "altered": (altered, "not signed by the provider"),
    "an unknown critical header": (lambda claims: signed(claims, crit=["x"], x=1), "that can be read"),
    "a key given along": (lambda claims: signed(claims, rsa_key(1), jwk=jwk(rsa_key(1))), "not signed by the provider"),
    "no token": (lambda _: None, "gives no ID token"),
    "no text": (lambda _: {"a": 1}, "gives no ID token"),
    "nonsense": (lambda _: "a.b.c", "that can be read"),
    "a list as claims": (lambda _: jwt.PyJWS().encode(b"[]", rsa_key(), "RS256", {"kid": "one"}), "not sound"),
    "a name that breaks the line": (other(preferred_username="ol\nga"), "no usable name"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_token_that_is_not_right_lets_nobody_in(gateway: Served, provider: Provider, name: str) -> None:
    provider.token, words = FORGED[name]
    browser, before = Browser(gateway), len(audited(gateway))
    answer = browser.log_in(provider)
    assert (answer.status, answer.headers["location"]) == (303, f"http://127.0.0.1:{gateway.port}/")
    assert "bifrost_session" not in browser.cookies
    session = browser.session
    assert (session["user"], words in session["problem"]) == (None, True), session["problem"]
    until(lambda: len(audited(gateway)) == before + 1)
    assert audited(gateway)[0] == ("oidc:", "refused")


def test_es256_is_as_good_as_rs256(tmp_path: Path, provider: Provider) -> None:
    provider.keys = [jwk(rsa_key(), "r"), jwk(ec_key(), "e")]
    provider.token = lambda claims: signed(claims, ec_key(), "ES256", kid="e")
    with served(tmp_path, PLENTY, settings(provider.issuer)) as gateway:
        browser = Browser(gateway)
        browser.log_in(provider, aud=["bifrost", "other"], azp="bifrost", iat=int(time.time()) + 30)
        assert browser.session["role"] == "operator"


# ---------------------------------------------------------------------- answers that are not right


def test_an_answer_counts_once_and_in_the_browser_that_asked_for_it_alone(gateway: Served, provider: Provider) -> None:
    browser, victim = Browser(gateway), Browser(gateway)
    brought = provider.log_in(browser.begin())
    for one in (victim, Browser(gateway)):  # a link that somebody was sent
        answer = one.come_back(brought)
        assert answer.status == 303
        assert "bifrost_session" not in one.cookies
        assert "not begun in this browser" in one.session["problem"]
    victim.begin()
    victim.come_back(brought)
    assert victim.session["user"] is None
    browser.come_back(brought | {"state": "x"})  # somebody else's answer leaves the log-in as it is
    assert browser.session["user"] is None
    cookies = dict(browser.cookies)
    browser.come_back(brought)
    assert browser.session["user"] == "oidc:olga"
    again = Browser(gateway)
    again.cookies = cookies
    assert "bifrost_session" not in Browser.set_by(again.come_back(brought))
    assert "not begun in this browser" in again.session["problem"]
    fresh = Browser(gateway)  # the provider takes a code once, too
    state = provider.log_in(fresh.begin())["state"]
    fresh.come_back(brought | {"state": state})
    assert "does not take its code any more" in fresh.session["problem"]


def test_an_answer_of_another_provider_is_refused_before_its_code_goes_anywhere(
    gateway: Served, tmp_path: Path, provider: Provider
) -> None:
    browser = Browser(gateway)
    brought = provider.log_in(browser.begin())
    provider.asked.clear()
    browser.come_back(brought | {"iss": "https://login.other.example"})
    assert "from another provider" in browser.session["problem"]
    assert provider.asked == []
    provider.changes = {"authorization_response_iss_parameter_supported": True}
    with served(tmp_path, PLENTY, settings(provider.issuer)) as strict:
        browser = Browser(strict)
        brought = provider.log_in(browser.begin())
        browser.come_back({name: value for name, value in brought.items() if name != "iss"})
        assert "from another provider" in browser.session["problem"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("access_denied", "access was denied"),
        ("temporarily_unavailable", "try again later"),
        ("<b>call 555</b>", "(no reason)"),
        ("", "(no reason)"),
    ],
)
def test_an_error_of_the_provider_is_told_in_our_words(
    gateway: Served, provider: Provider, error: str, words: str
) -> None:
    browser = Browser(gateway)
    brought = provider.log_in(browser.begin())
    browser.come_back({"state": brought["state"], "error": error, "error_description": "call 555"})
    problem = browser.session["problem"]
    assert words in problem
    assert "555" not in problem


def test_no_request_changes_where_the_browser_is_sent(gateway: Served, provider: Provider) -> None:
    home = f"http://127.0.0.1:{gateway.port}"
    browser = Browser(gateway)
    evil = {"x_forwarded_host": "evil.example", "forwarded": "host=evil.example", "x_forwarded_proto": "https"}
    begun = browser.ask("POST", "/api/session/oidc?redirect_uri=https://evil.example", **evil)
    assert parse_qs(urlsplit(begun.json["location"]).query)["redirect_uri"] == [home + CALLBACK]
    query = urlencode(
        provider.log_in(begun.json["location"]) | {"next": "https://evil.example", "redirect_uri": "//evil"}
    )
    assert browser.ask("GET", f"{CALLBACK}?{query}", **evil).headers["location"] == f"{home}/"
    stranger = gateway.client(host="evil.example")
    assert stranger.ask("POST", "/api/session/oidc").status == 421
    assert stranger.get(f"{CALLBACK}?{query}").status == 421
    elsewhere = gateway.client(host=f"gateway.plant.example:{gateway.port}").ask("POST", "/api/session/oidc")
    assert (elsewhere.status, f"{home}/" in elsewhere.json["detail"]) == (409, True)
    for headers in ({"origin": "https://evil.example"}, {"sec_fetch_site": "cross-site"}):
        assert Browser(gateway).ask("POST", "/api/session/oidc", **headers).status == 403


# ---------------------------------------------------------------------- how often, and when the provider is gone


def test_tries_are_counted_as_those_with_a_password(gateway: Served, provider: Provider) -> None:
    browser = Browser(gateway)
    provider.token = unsigned
    for _ in range(4):
        browser.log_in(provider)
    answer = browser.ask("POST", "/api/session/oidc")
    assert answer.status == 429
    assert int(answer.headers["retry-after"]) >= 1
    patient = Browser(gateway)
    tries = [patient.ask("POST", "/api/session/oidc").status for _ in range(12)]
    assert tries == [200] * 10 + [429] * 2


def test_a_provider_that_hangs_keeps_nobody_else_waiting(tmp_path: Path, provider: Provider) -> None:
    release = threading.Event()

    def hang(handler: BaseHTTPRequestHandler) -> None:
        release.wait(60)
        handler.close_connection = True

    provider.answers["/.well-known/openid-configuration"] = hang
    with served(tmp_path, PLENTY, settings(provider.issuer, timeout="10s")) as gateway:
        Accounts(gateway.directory).add_user("glass", PASSWORD, "admin", utc_now())
        with ThreadPoolExecutor(8) as threads:
            waiting = [threads.submit(Browser(gateway).ask, "POST", "/api/session/oidc") for _ in range(8)]
            until(lambda: len(provider.asked) == 8)
            busy = Browser(gateway).ask("POST", "/api/session/oidc")
            assert (busy.status, "several log-ins wait" in busy.json["detail"]) == (503, True)
            assert gateway.client().get("/health").status == 200
            assert gateway.client().log_in("glass").status == 200
            assert not any(one.done() for one in waiting)
            release.set()
            assert {one.result().status for one in waiting} == {503}


def test_without_the_provider_the_set_up_token_and_local_users_work(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with served(tmp_path, PLENTY, settings(f"http://127.0.0.1:{free_port()}")) as gateway:
        token = capfd.readouterr().err.split('"setup_token": "')[1].split('"')[0]
        answer = Browser(gateway).ask("POST", "/api/session/oidc")
        assert answer.status == 503
        assert "cannot be reached" in answer.json["detail"]
        assert "can log in all the same" in answer.json["detail"]
        order = {"token": token, "user": "glass", "password": PASSWORD}
        assert gateway.client().ask("POST", "/api/setup", order).json["role"] == "admin"
        assert gateway.client().log_in("glass").status == 200


def test_api_tokens_are_the_gateway_s_own(gateway: Served, provider: Provider) -> None:
    token = signed({"iss": provider.issuer, "aud": "bifrost", "sub": "x", "exp": NOW + 3600, "roles": ["plant-admins"]})
    assert gateway.client(authorization=f"Bearer {token}").get("/api/status").status == 401


def test_a_gateway_without_it_loads_nothing_of_it() -> None:
    code = """
import json, sys
from pathlib import Path
import web.server, web.routes.every
from config.models import Configuration, WebSection
from config.oidc import OidcSection
from web.access.gate import Gate
def found(): return [m for m in sys.modules if m == "jwt" or m.startswith("web.access.oidc")]
config = {"gateway": "g", "directory": Path(sys.argv[1])}
assert Gate(Configuration(**config)).oidc is None
before = found()
own = OidcSection(issuer="https://a.example", client_id="c", public_url="https://b.example", roles={"a": "admin"})
assert Gate(Configuration(**config, web=WebSection(oidc=own))).oidc is not None
print(json.dumps([before, len(found()) > 3]))
"""
    shown = subprocess.run([sys.executable, "-c", code, "/nowhere"], capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout) == [[], True]
