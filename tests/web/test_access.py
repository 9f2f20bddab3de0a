"""Who comes in: nobody unasked, each role to what is its own, and no page of another site."""

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.web.served import PASSWORD, PLENTY, Served, served
from web.access.accounts import Accounts, utc_now
from web.access.limits import LoginThrottle
from web.access.roles import MATRIX, ROLES, allows, need_of


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("gateway"), PLENTY) as found:
        found.user("admin")
        yield found


def routes(gateway: Served) -> list[tuple[str, str]]:
    """Every route of the OpenAPI, with something in place of each name."""
    found = gateway.cli().get("/openapi.json").json
    return [(method.upper(), path) for path, item in found["paths"].items() for method in item]


def place(path: str) -> str:
    return re.sub(r"\{[^}]+\}", "none-such", path)


# ---------------------------------------------------------------------- roles


def test_every_route_is_in_the_matrix(gateway: Served) -> None:
    assert [route for route in routes(gateway) if need_of(*route) is None] == []


@pytest.mark.threat(1)
def test_without_login_no_route_answers_that_is_not_open(gateway: Served) -> None:
    nobody = gateway.client()
    answers = {
        route: nobody.ask(route[0], place(route[1]), {} if route[0] != "GET" else None) for route in routes(gateway)
    }
    for route, answer in answers.items():
        if need_of(*route) not in ("open", "metrics"):
            assert answer.status == 401, (route, answer.body)
            assert "www-authenticate" in answer.headers
        elif route[1] not in ("/livez", "/readyz", "/health", "/metrics", "/api/session"):
            assert answer.status >= 400, route
    assert nobody.get("/api/none").status == 401
    assert nobody.get("/api").status == 401
    assert nobody.get("/openapi.json").status == 401
    assert set(nobody.get("/health").json) == {"gateway", "status"}


@pytest.mark.threat(1)
@pytest.mark.parametrize("role", ROLES)
def test_each_role_gets_what_is_its_own_and_nothing_more(gateway: Served, role: str) -> None:
    _, token = Accounts(gateway.directory).add_token(f"walk-{role}", role, None, utc_now())
    client = gateway.client(authorization=f"Bearer {token}")
    for method, path in routes(gateway):
        if (method, path) in SKIPPED:
            continue
        answer = client.ask(method, place(path), {} if method != "GET" else None)
        need = need_of(method, path)
        assert need is not None
        if allows(role, need):
            refused = answer.status == 403 and "wants the role" in answer.json["detail"]
            assert not refused and answer.status not in (401, 500), (method, path, answer.body)
        else:
            assert answer.status == 403, (method, path, answer.body)


SKIPPED = {("GET", "/api/events"), ("GET", "/api/tail"), ("GET", "/api/logs/follow")}  # streams without an end


def test_a_route_that_is_not_in_the_matrix_is_an_administrator_s_alone(gateway: Served) -> None:
    from fastapi import APIRouter, FastAPI
    from fastapi.routing import iter_route_contexts

    from web.access.guard import Doors

    router = APIRouter(prefix="/api/new")
    router.get("/{name}")(lambda name: name)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(router)
    doors = Doors(iter_route_contexts(app.routes))
    assert doors.need("GET", "/api/new/thing") == ("admin", "/api/new/{name}")
    assert doors.need("POST", "/api/new/thing")[0] == "viewer"  # which hears 405
    assert doors.need("GET", "/index.html")[0] == "open"


def test_who_lost_a_role_loses_it_at_once(gateway: Served) -> None:
    client, accounts = gateway.user("operator", "olga"), Accounts(gateway.directory)
    assert client.get("/api/status").status == 200
    assert client.get("/api/users").status == 403
    accounts.change_user("olga", None, "admin", utc_now())
    assert client.get("/api/users").status == 200
    accounts.remove_user("olga")
    assert client.get("/api/status").status == 401


# ---------------------------------------------------------------------- the first start


@pytest.mark.threat(2)
def test_a_fresh_gateway_takes_no_change_from_anybody_and_its_token_makes_one_user(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with served(tmp_path, PLENTY) as gateway:
        said = capfd.readouterr().err
        tokens = re.findall(r"setup_[\w-]{30,}", said)
        assert len(tokens) == 1
        nobody = gateway.client()
        for route in MATRIX:
            method, path = route.split(" ")
            if method != "GET":
                answer = nobody.ask(method, place(path), {"user": "admin", "password": "admin", "token": "admin"})
                absent = {404} if route == "POST /api/session/oidc" else set()  # it is not set up
                assert answer.status in {401, 403, 422, 204, *absent}, (route, answer.status)
                assert answer.status != 204 or route == "DELETE /api/session"
        assert nobody.get("/api/session").json["setup_needed"] is True
        for password in ("", "admin", "password", "bifrost"):
            assert nobody.log_in("admin", password).status == 401
        order = {"token": tokens[0], "user": "ann", "password": "short"}
        assert nobody.ask("POST", "/api/setup", order).status == 422
        made = nobody.ask("POST", "/api/setup", order | {"password": PASSWORD})
        assert (made.status, made.json["role"]) == (200, "admin")
        nobody.keep(made)
        assert nobody.get("/api/users").json["users"][0]["name"] == "ann"
        again = gateway.client().ask("POST", "/api/setup", order | {"password": PASSWORD})
        assert again.status == 409
        kept = (gateway.directory / "access.json").read_text()
        assert tokens[0] not in kept
        assert PASSWORD not in kept
        assert stat.S_IMODE((gateway.directory / "access.json").stat().st_mode) == 0o600
        assert stat.S_IMODE((gateway.directory / "cli-token").stat().st_mode) == 0o600
    with served(tmp_path, PLENTY):
        assert "setup_" not in capfd.readouterr().err


def test_the_set_up_token_is_told_once_and_a_new_one_makes_the_old_worth_nothing(tmp_path: Path) -> None:
    accounts, now = Accounts(tmp_path), utc_now()
    first = accounts.begin_setup(now, again=False)
    assert first is not None
    assert accounts.begin_setup(now, again=False) is None
    second = accounts.begin_setup(now, again=True)
    assert second is not None
    assert not accounts.finish_setup(first, "ann", PASSWORD, now)
    assert not accounts.finish_setup(second, "ann", PASSWORD, now + timedelta(hours=25))
    assert not accounts.finish_setup("", "ann", PASSWORD, now)
    assert accounts.finish_setup(second, "ann", PASSWORD, now)
    assert accounts.begin_setup(now, again=True) is None


# ---------------------------------------------------------------------- logging in


def test_a_login_is_a_cookie_that_no_script_reads_and_no_other_site_sends(gateway: Served) -> None:
    client = gateway.client()
    answer = client.log_in("admin")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert client.get("/api/session").json["user"] == "admin"
    assert client.ask("DELETE", "/api/session").status == 204
    assert client.get("/api/users").status == 401


@pytest.mark.threat(3)
def test_passwords_cannot_be_tried_in_great_number(tmp_path: Path) -> None:
    with served(tmp_path, PLENTY) as gateway:
        gateway.user("viewer", "ann")
        attacker = gateway.client()
        statuses = [attacker.log_in("ann", f"wrong password {i}").status for i in range(1000)]
        evaluated = statuses.count(401)
        assert 3 <= evaluated <= 20
        assert statuses.count(429) == 1000 - evaluated
        attacker.address = "127.0.0.9"  # from elsewhere the user comes in meanwhile
        assert attacker.log_in("ann").status == 200


def test_failures_make_the_next_try_wait_longer_and_longer() -> None:
    now = 0.0
    throttle = LoginThrottle(lambda: now)
    evaluated = []
    for _ in range(3000):
        if not throttle.wait("ann", "10.0.0.1"):
            evaluated.append(now)
            throttle.failed("ann", "10.0.0.1")
        now += 1.0
    gaps = [after - before for before, after in zip(evaluated[4:-1], evaluated[5:], strict=True)]
    assert gaps == sorted(gaps)
    assert gaps[-1] >= 256
    assert throttle.wait("bob", "10.0.0.2") == 0.0


@pytest.mark.threat(3)
def test_an_unknown_user_takes_as_long_as_a_known_one(tmp_path: Path) -> None:
    import time

    accounts = Accounts(tmp_path)
    accounts.add_user("ann", PASSWORD, "viewer", utc_now())
    took: dict[str, list[float]] = {"ann": [], "bob": []}
    for _ in range(20):
        for name, times in took.items():
            began = time.thread_time()
            assert accounts.login(name, "another password") is None
            times.append(time.thread_time() - began)
    known, unknown = min(took["ann"]), min(took["bob"])
    assert abs(known - unknown) < 0.05 * known + 0.001


@pytest.mark.threat(4)
def test_no_page_of_another_site_changes_anything(gateway: Served) -> None:
    admin = gateway.user("admin")
    token = admin.headers.pop("x-csrf-token")
    good = {"x_csrf_token": token}
    origin = f"http://127.0.0.1:{gateway.port}"
    for method, path in routes(gateway):
        if method == "GET" or (method, path) == ("DELETE", "/api/session"):
            continue
        where = place(path)
        tries = [
            admin.ask(method, where, {}, origin="http://evil.example", **good),
            admin.ask(method, where, {}, origin="null", **good),
            admin.ask(method, where, {}, sec_fetch_site="cross-site", **good),
            admin.ask(method, where, b"a=b", content_type="application/x-www-form-urlencoded", **good),
            admin.ask(method, where, b"{}", content_type="text/plain", **good),
        ]
        if path not in ("/api/session", "/api/setup"):
            tries += [admin.ask(method, where, {}), admin.ask(method, where, {}, x_csrf_token="x" * 43)]
        assert {answer.status for answer in tries} <= {403, 415}, (method, path)
    accepted = admin.ask("POST", "/api/users", {"name": "eve", "password": PASSWORD}, origin=origin, **good)
    assert accepted.status == 201
    assert admin.ask("DELETE", "/api/users/eve", None, **good).status == 204


@pytest.mark.threat(5)
def test_the_gateway_answers_to_its_own_names_alone(gateway: Served) -> None:
    client = gateway.cli()
    for method, path in routes(gateway):
        for host in (
            "evil.example",
            f"evil.example:{gateway.port}",
            "127.0.0.1.evil.example",
            "10.1.2.3",
            "",
            "[::2]:80",
        ):
            assert client.ask(method, place(path), {} if method != "GET" else None, host=host).status == 421, (
                path,
                host,
            )
    for host in ("localhost", f"LOCALHOST:{gateway.port}", "127.0.0.1", f"127.0.0.1:{gateway.port}"):
        assert client.get("/health", host=host).status == 200


def test_names_of_the_configuration_are_answered_to(tmp_path: Path) -> None:
    with served(tmp_path, PLENTY, "web_ui: {hosts: [Gateway.plant.example]}\n") as gateway:
        assert gateway.client().get("/health", host="gateway.plant.example:8080").status == 200
        assert gateway.client().get("/health", host="other.plant.example").status == 421


def test_every_answer_forbids_what_a_page_need_not_do(gateway: Served) -> None:
    for answer in (
        gateway.client().get("/health"),
        gateway.client().get("/api/status"),
        gateway.cli().get("/api/none"),
    ):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["bifrost-gateway"] == "gw"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers


# ---------------------------------------------------------------------- users and tokens


def test_users_are_made_changed_and_removed_and_the_last_administrator_stays(tmp_path: Path) -> None:
    with served(tmp_path, PLENTY) as gateway:
        admin = gateway.user("admin")
        order = {"name": "ann", "password": PASSWORD, "role": "operator"}
        assert admin.ask("POST", "/api/users", order).status == 201
        assert admin.ask("POST", "/api/users", order).status == 409
        assert admin.ask("POST", "/api/users", order | {"name": "../x"}).status == 422
        ann = gateway.client()
        ann.log_in("ann")
        assert ann.get("/api/status").status == 200
        assert admin.ask("PUT", "/api/users/ann", {"password": "another long one"}).status == 200
        assert ann.get("/api/status").status == 401  # logged out with the password
        assert ann.log_in("ann", "another long one").status == 200
        own = {"old": "another long one", "new": "yet another one"}
        assert ann.ask("PUT", "/api/session/password", own).status == 204
        assert ann.ask("PUT", "/api/session/password", own).status == 403
        for way in (("DELETE", None), ("PUT", {"role": "viewer"})):
            answer = admin.ask(way[0], "/api/users/admin", way[1])
            assert (answer.status, "last administrator" in answer.json["detail"]) == (409, True)
        assert admin.ask("DELETE", "/api/users/ann").status == 204
        assert admin.ask("DELETE", "/api/users/ann").status == 404


def test_an_api_token_is_shown_once_and_ends_with_its_time_or_by_hand(gateway: Served) -> None:
    admin = gateway.user("admin")
    made = admin.ask("POST", "/api/tokens", {"name": "scada", "role": "viewer", "days": 1})
    text = made.json["token"]
    assert text.startswith("bfr_")
    assert text not in admin.get("/api/tokens").body.decode()
    assert text not in (gateway.directory / "access.json").read_text()
    scada = gateway.client(authorization=f"Bearer {text}")
    assert scada.get("/api/status").status == 200
    assert scada.get("/api/users").status == 403
    assert Accounts(gateway.directory).token(text, utc_now() + timedelta(days=2)) is None
    assert admin.ask("DELETE", f"/api/tokens/{made.json['id']}").status == 204
    assert scada.get("/api/status").status == 401
    for nonsense in ("bfr_", "bfr_" + "x" * 43, "bfr_\u00e9".encode().decode("latin-1"), "x" * 5000):
        assert gateway.client(authorization=f"Bearer {nonsense}").get("/api/status").status == 401
    assert gateway.client(authorization="Basic YTpi").get("/api/status").status == 401


def test_the_command_line_s_token_is_of_one_start(tmp_path: Path) -> None:
    with served(tmp_path, PLENTY) as gateway:
        first = gateway.cli()
        assert first.get("/api/users").status == 200
    with served(tmp_path, PLENTY) as gateway:
        first.port = gateway.port
        assert first.get("/api/users").status == 401
        assert gateway.cli().get("/api/users").status == 200


def test_a_file_of_users_that_others_read_or_that_is_broken_lets_nobody_in(tmp_path: Path) -> None:
    with served(tmp_path, PLENTY) as gateway:
        client = gateway.user("admin")
        path = gateway.directory / "access.json"
        path.chmod(0o644)
        os.utime(path)
        answer = client.get("/api/status")
        assert (answer.status, "chmod 600" in answer.json["detail"]) == (503, True)
        path.chmod(0o600)
        path.write_text("{")
        assert client.get("/api/status").status == 503
        assert client.log_in("admin").status == 503
        assert gateway.client().get("/health").status == 200


# ---------------------------------------------------------------------- what a gateway without a port needs


def test_a_gateway_without_a_port_imports_nothing_that_serves_http(tmp_path: Path) -> None:
    code = """
import sys, json
import flows.gateway, flows.process, bifrost.run
print(json.dumps([m for m in sys.modules if m.partition(".")[0] in ("web", "fastapi", "starlette", "uvicorn")]))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(shown.stdout) == []
