"""What no target could take is sent again from the browser, once the cause is mended."""

from pathlib import Path

import pytest
import yaml
from playwright.sync_api import expect

from tests.contract.writers.timescaledb import Database
from tests.ports import free_port
from tests.postgres_server import PASSWORD, SUPERUSER
from tests.running_gateway import gateway
from tests.web.browser import Tab, chromium
from tests.web.client import Client, NoAnswerError
from tests.web.serving import until
from web.access.accounts import Accounts, utc_now
from web.access.cli_token import cli_token

USER = "correct horse battery"


@pytest.fixture
def database() -> Database:
    return Database({})


def configuration(folder: Path, database: Database, port: int) -> Path:
    own = {"username": SUPERUSER, "password": PASSWORD, "table": "readings"}
    target = {"type": "timescaledb", "endpoint": database.server.url(database.name), "provider_config": own}
    cloud = {"connectors": {"history": target | {"retry_delay": "50ms"}}, "default_connector": "history"}
    path = folder / "gateway.yaml"
    written = {"gateway": {"name": "line1", "directory": str(folder / "data"), "port": port, "cloud": cloud}}
    path.write_text(yaml.safe_dump(written))
    return path


@pytest.mark.interop("PostgreSQL")
def test_dead_letters_arrive_when_the_table_takes_them_and_send_again_is_clicked(
    tmp_path: Path, database: Database
) -> None:
    port = free_port()

    def arrived() -> list[float]:
        run = database.server.run
        if not run("SELECT to_regclass('readings') IS NOT NULL", database=database.name)[0][0]:
            return []
        return [row[0] for row in run("SELECT value FROM readings ORDER BY 1", database=database.name)]

    def answers() -> bool:
        try:
            return Client(port).get("/health").status_code == 200
        except NoAnswerError:
            return False

    def client() -> Client:
        return Client(port, {"authorization": f"Bearer {cli_token(tmp_path / 'data')}"})

    def numbers() -> set[int]:
        return {one["dead_letter"]["number"] for one in client().get("/api/dead-letters/each").json()["letters"]}

    def post(*values: float) -> None:
        body = [{"device_id": "press", "tag_name": "force", "value": value} for value in values]
        assert client().post("/api/data", json=body).status_code == 200

    with gateway(configuration(tmp_path, database, port)), chromium() as browser:
        until(answers, 60)
        Accounts(tmp_path / "data").add_user("operator", USER, "operator", utc_now())
        post(1.5)
        until(lambda: arrived() == [1.5], 60)
        database.server.run("ALTER TABLE readings ADD CONSTRAINT sound CHECK (value < 100)", database=database.name)
        post(2.5, 101.5, 102.5)
        tab = Tab(browser, port)
        tab.log_in("operator", USER)
        tab.go("store", "Store and forward")
        letters = tab.page.locator(".panel").filter(has=tab.page.get_by_role("heading", name="Dead letters"))
        row = letters.locator("tbody tr")
        expect(row.locator("td").first).to_have_text("2")
        expect(row).to_contain_text("history")
        expect(row).to_contain_text('violates check constraint "sound"')
        expect(letters).to_contain_text("2 readings, ")
        row.get_by_role("button", name="Look").click()
        figures = tab.page.get_by_role("dialog").locator("tbody td:last-child")
        expect(figures).to_have_text(["101.5", "102.5"])
        tab.page.keyboard.press("Escape")
        assert arrived() == [1.5, 2.5]

        first = numbers()
        tab.press("Send again")  # the cause is not mended: what is sent again comes back
        expect(tab.page.locator(".messages")).to_contain_text("Sent again: 2")
        until(lambda: len(numbers() - first) == 2, 60)
        expect(row.locator("td").first).to_have_text("2")
        assert arrived() == [1.5, 2.5]

        database.server.run("ALTER TABLE readings DROP CONSTRAINT sound", database=database.name)
        tab.press("Send again")
        until(lambda: arrived() == [1.5, 2.5, 101.5, 102.5], 60)
        expect(letters).to_contain_text("Every reading could be taken.")
        expect(letters).to_contain_text("0 readings, ")
        tab.picture("sent-again")
        assert tab.complaints == []
        tab.close()
