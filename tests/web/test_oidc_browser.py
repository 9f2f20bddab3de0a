"""Log-in by a real OpenID provider (oidc-provider), in a real browser; the provider's site is not the gateway's."""

import contextlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.ports import free_port
from tests.running_gateway import gateway
from tests.web.browser import Tab, chromium
from tests.web.served import PASSWORD, Client, write_config
from tests.web.serving import until
from web.access.accounts import Accounts, utc_now
from web.access.cli_token import cli_token

pytestmark = pytest.mark.timeout(180)

HERE = Path(__file__).parents[1] / "counterparts" / "oidc"
SECRET = "known to both: 100 %25+&/="
ELSEWHERE = "Log in with Plant account"


@contextlib.contextmanager
def provider(port: int, address: str) -> Iterator[None]:
    """The provider, at http://localhost:PORT."""
    subprocess.run([HERE / "install.sh"], check=True, timeout=300)
    command = ["node", str(HERE / "server.js"), str(port), address]
    environment = os.environ | {"CLIENT_SECRET": SECRET}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "listening\n"
            yield
        finally:
            process.stdin.close()


@dataclass
class Plant:
    """A gateway and its provider."""

    folder: Path
    port: int
    issuer: str

    def audit(self) -> list[tuple[str, str, str]]:
        """Who logged in and out, the newest first."""
        client = Client(self.port, {"authorization": f"Bearer {cli_token(self.folder / 'data')}"})
        entries = client.get("/api/audit").json["entries"]
        return [(one["who"], one["what"], one["result"]) for one in entries if "/api/session" in one["what"]]


def section(port: int, provider_port: int, client: str) -> str:
    return f"""\
web_ui:
  oidc:
    issuer: http://localhost:{provider_port}
    public_url: http://127.0.0.1:{port}
    label: Plant account
    {client}
    roles: {{plant-admin: admin, plant-operator: operator, plant-viewer: viewer}}
"""


@contextlib.contextmanager
def plant(folder: Path, client: str) -> Iterator[Plant]:
    port, other = free_port(), free_port()
    config = write_config(folder, port, section(port, other, client))
    Accounts(folder / "data").add_user("glass", PASSWORD, "admin", utc_now())
    with provider(other, f"http://127.0.0.1:{port}"), gateway(config):
        until(lambda: ready(port), 60)
        yield Plant(folder, port, f"http://localhost:{other}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


def ready(port: int) -> bool:
    try:
        return Client(port).get("/readyz").status == 200
    except OSError:
        return False


def opened(browser: Browser, port: int) -> Tab:
    """A tab in which the provider's own pages ask nothing of the internet."""
    tab = Tab(browser, port)
    tab.page.route("https://fonts.googleapis.com/**", lambda route: route.fulfill(body="", content_type="text/css"))
    return tab


def at_the_provider(page: Page, login: str) -> None:
    page.get_by_placeholder("Enter any login").fill(login)
    page.get_by_placeholder("and password").fill("any")
    page.get_by_role("button", name="Sign-in").click()
    page.get_by_role("button", name="Continue").click()


@pytest.mark.threat(31)
def test_a_user_of_the_provider_logs_in_from_the_button_to_the_page_and_out_at_both(
    browser: Browser, tmp_path: Path
) -> None:
    with plant(tmp_path, f"client_id: bifrost\n    client_secret: {json.dumps(SECRET)}") as running:
        tab = opened(browser, running.port)
        tab.page.goto(f"{tab.origin}#/tags")
        expect(tab.page.get_by_role("button", name=ELSEWHERE)).to_be_visible()
        tab.picture("oidc-1-log-in")
        tab.press(ELSEWHERE)
        tab.page.wait_for_url(f"{running.issuer}/**")
        asked = tab.page.url
        at_the_provider(tab.page, "operator-olga")
        expect(tab.page.get_by_role("heading", name="Tags", level=1)).to_be_visible()
        assert asked.startswith(f"{running.issuer}/interaction/")
        expect(tab.page.locator(".who")).to_contain_text("oidc:olga · operator")
        tab.go("overview", "Overview")
        tab.picture("oidc-2-overview")
        cookies = {one["name"]: one for one in tab.page.context.cookies(tab.origin)}
        assert "bifrost_oidc" not in cookies
        assert (cookies["bifrost_session"]["sameSite"], cookies["bifrost_session"]["httpOnly"]) == ("Strict", True)
        until(lambda: running.audit()[:1] == [("oidc:olga", "GET /api/session/oidc/callback", "done")])

        tab.press("Log out")
        tab.page.wait_for_url(f"{running.issuer}/session/end**")
        tab.page.get_by_role("button", name=re.compile("Yes")).click()
        expect(tab.page.get_by_role("button", name=ELSEWHERE)).to_be_visible()
        assert tab.page.url.startswith(tab.origin)
        assert running.audit()[0] == ("oidc:olga", "DELETE /api/session", "done")
        tab.press(ELSEWHERE)  # and the provider asks again who it is
        at_the_provider(tab.page, "cleaner-cleo")
        expect(tab.page.locator(".trouble")).to_contain_text(
            "cleo may not use this gateway: the claim `roles` says `everybody`, `plant-cleaner`"
        )
        expect(tab.page.locator(".trouble")).to_contain_text("`plant-operator` (operator)")
        tab.picture("oidc-3-no-role")
        until(lambda: running.audit()[:1] == [("oidc:cleo", "GET /api/session/oidc/callback", "refused")])
        assert tab.complaints == []

        tab.log_in("glass", PASSWORD)
        expect(tab.page.locator(".who")).to_contain_text("glass · admin")
        tab.press("Log out")
        expect(tab.page.get_by_role("button", name=ELSEWHERE)).to_be_visible()
        tab.close()
    said = (tmp_path / "log").read_text()
    assert SECRET not in said
    assert "BF-WEB-006" in said


def test_a_client_without_a_secret_logs_in_and_a_provider_that_is_gone_leaves_the_gateway_s_own_users(
    browser: Browser, tmp_path: Path
) -> None:
    port, other = free_port(), free_port()
    config = write_config(tmp_path, port, section(port, other, "client_id: bifrost-public"))
    Accounts(tmp_path / "data").add_user("glass", PASSWORD, "admin", utc_now())
    with gateway(config):
        until(lambda: ready(port), 60)
        tab = opened(browser, port)
        tab.page.goto(tab.origin)
        tab.press(ELSEWHERE)
        expect(tab.page.locator(".trouble")).to_contain_text("cannot be reached")
        tab.picture("oidc-4-provider-down")
        with provider(other, f"http://127.0.0.1:{port}"):
            tab.press(ELSEWHERE)
            at_the_provider(tab.page, "admin-ann")
            expect(tab.page.locator(".who")).to_contain_text("oidc:ann · admin")
            expect(tab.page.get_by_role("heading", name="Overview")).to_be_visible()
        other_tab = Tab(browser, port)
        other_tab.log_in("glass", PASSWORD)
        expect(tab.page.locator(".who")).to_contain_text("oidc:ann · admin")  # who is in stays in
        tab.page.reload()
        expect(tab.page.locator(".who")).to_contain_text("oidc:ann · admin")
        other_tab.close()
        tab.close()
