"""A running gateway is changed by the API: sources, targets, rules, files, secrets; and looked into."""

import asyncio
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from simulator.opcua import OpcUaServer
from simulator.plant import build_plant
from tests.connectors.sources.modbus import device
from tests.delivery import stores
from tests.ports import free_port
from tests.running_gateway import gateway as running
from tests.running_gateway import until
from tests.web.served import PASSWORD, Answer, Client
from web.access.accounts import Accounts, utc_now
from web.access.cli_token import cli_token

CANARY = "canary-5f3a9c"
FILE = f"""\
# line 4, ask Olga before changing anything
gateway:
  name: gw
  directory: DATA
  port: PORT
  cloud:
    connectors:
      files: {{type: file, endpoint: FILES}}   # read by the historian
web_ui: {{rate: 10000}}
sources:
  - name: line1   # not reached
    protocol: mqtt
    endpoint: mqtt://127.0.0.1:1
    username: olga
    password: {CANARY}
"""


class Gateway:
    """A gateway in a process of its own, and those who ask it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.file = folder, free_port(), folder / "gateway.yaml"
        text = FILE.replace("DATA", str(folder / "data")).replace("FILES", str(folder / "files"))
        self.file.write_text(text.replace("PORT", str(self.port)))

    def ready(self) -> bool:
        try:
            return Client(self.port).get("/readyz").status == 200
        except OSError:
            return False

    def client(self) -> Client:
        return Client(self.port, {"authorization": f"Bearer {cli_token(self.folder / 'data')}"})

    async def ask(
        self, method: str, path: str, body: Any = None, expected: int = 200, client: Client | None = None
    ) -> Any:
        """Ask from a thread, as the devices of a test live in this loop."""
        answer: Answer = await asyncio.to_thread((client or self.client()).ask, method, path, body)
        assert answer.status == expected, (method, path, answer.status, answer.body)
        return answer.json if answer.body else None

    async def until(self, holds: Callable[[], bool]) -> None:
        await until(holds, self.file)

    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with started(tmp_path_factory.mktemp("changes")) as found:
        yield found


@contextmanager
def started(folder: Path) -> Iterator[Gateway]:
    found = Gateway(folder)
    with running(found.file):
        stores.until(found.ready, 60)
        yield found


def press(endpoint: str) -> dict[str, Any]:
    return {
        "name": "press4",
        "protocol": "modbus",
        "endpoint": endpoint,
        "interval": "200ms",
        "registers": [{"name": "pressure", "address": 100, "type": "uint16", "unit": "bar"}],
    }


async def test_a_source_is_tried_added_changed_and_removed_while_the_gateway_runs(gateway: Gateway) -> None:
    async with device.running() as plc:
        tried = await gateway.ask("POST", "/api/sources/test", press(plc.endpoint))
        assert tried["ok"], tried
        assert tried["readings"][0]["path"].endswith("pressure")
        assert tried["took"] < 10
        assert not (gateway.folder / "files").exists() or not list((gateway.folder / "files").rglob("*.json*"))

        added = await gateway.ask("POST", "/api/sources", press(plc.endpoint), 201)
        assert [(change["kind"], change["name"], change["what"]) for change in added["changes"]] == [
            ("source", "press4", "added")
        ]
        assert added["took"] < 5
        await gateway.ask("POST", "/api/sources", press(plc.endpoint), 409)

        def delivered() -> bool:
            found = gateway.client().get("/api/sources/press4").json
            return bool(found["state"] == "connected" and found["received"] > 2 and found["rate"])

        await gateway.until(delivered)
        text = gateway.file.read_text()
        assert "# line 4, ask Olga before changing anything" in text
        assert "# not reached" in text
        shown = await gateway.ask("GET", "/api/sources/press4")
        assert (shown["editable"], shown["enabled"], shown["tags"]) == (True, True, 1)
        assert "pressure" in shown["yaml"]

        slower = {**shown["config"], "interval": "1s"}
        changed = await gateway.ask("PUT", "/api/sources/press4", slower)
        assert list(changed["changes"][0]["keys"]) == ["interval"] or changed["changes"][0]["what"] == "changed"
        wrong = await gateway.ask("PUT", "/api/sources/press4", {**slower, "intervall": "1s"}, 422)
        assert "intervall" in wrong["problems"][0]["message"]
        assert (await gateway.ask("GET", "/api/sources/press4"))["config"]["interval"] == "1s"
        await gateway.ask("DELETE", "/api/sources/press4")
        await gateway.ask("GET", "/api/sources/press4", None, 404)
        await gateway.ask("DELETE", "/api/sources/press4", None, 404)
        ledger = await gateway.ask("GET", "/api/ledger")
        assert ledger["unaccounted"] == 0
    gone = await gateway.ask("POST", "/api/sources/test", press(plc.endpoint))
    assert (gone["ok"], gone["took"] < 5) == (False, True)
    assert "is the device on" in gone["error"]


async def test_targets_and_rules_come_and_go_and_the_files_can_be_taken_back(tmp_path: Path) -> None:
    with started(tmp_path) as gateway:
        await check_targets_and_rules(gateway)


async def check_targets_and_rules(gateway: Gateway) -> None:
    base = await gateway.ask("GET", "/api/config")
    archive = {"name": "archive", "config": {"type": "file", "endpoint": str(gateway.folder / "archive")}}
    tried = await gateway.ask("POST", "/api/targets/test", archive)
    assert tried["ok"], tried
    await gateway.ask("POST", "/api/targets", archive, 201)
    await gateway.ask("POST", "/api/targets", archive, 409)
    listed = await gateway.ask("GET", "/api/targets")
    assert [target["name"] for target in listed["targets"]] == ["files", "archive"]
    rule = {"name": "hot", "condition": "value > 100", "connectors": ["archive"]}
    await gateway.ask("PUT", "/api/rules", {"rules": [rule]})
    assert (await gateway.ask("GET", "/api/rules"))["rules"] == [rule]
    wrong = {"rules": [{**rule, "condition": "value >"}]}
    assert "problems" in await gateway.ask("PUT", "/api/rules", wrong, 422)

    order = {"files": base["files"], "base": base["base"]}
    outdated = await gateway.ask("POST", "/api/config/apply", order, 409)
    assert "have changed meanwhile" in outdated["detail"]
    plan = await gateway.ask("POST", "/api/config/plan", {"files": base["files"]})
    assert {(change["kind"], change["what"]) for change in plan["changes"]} >= {
        ("target", "removed"),
        ("rule", "removed"),
    }
    broken = await gateway.ask("POST", "/api/config/plan", {"files": {"gateway.yaml": "gateway: {name: [}"}})
    assert (broken["changes"], len(broken["problems"])) == ([], 1)
    for name in ("../escape.yaml", "conf.d/../../escape.yaml", "/etc/escape.yaml", "conf.d/a/b.yaml", "conf.d/x.txt"):
        files = {**base["files"], name: "sources: []"}
        await gateway.ask("POST", "/api/config/apply", {"files": files}, 422)
    assert not list(gateway.folder.parent.glob("escape.yaml"))

    history = (await gateway.ask("GET", "/api/config/history"))["configurations"]
    assert [kept["targets"] for kept in history] == [1, 2, 2]
    first = await gateway.ask("GET", f"/api/config/history/{history[0]['number']}")
    assert "+" in first["diff"]
    assert "archive" in first["diff"]
    await gateway.ask("POST", "/api/config/rollback", {"number": history[0]["number"]})
    assert gateway.file.read_text() == base["files"]["gateway.yaml"]
    await gateway.ask("POST", "/api/config/rollback", {"number": 999}, 404)
    assert [t["name"] for t in (await gateway.ask("GET", "/api/targets"))["targets"]] == ["files"]
    audit = (await gateway.ask("GET", "/api/audit"))["entries"]
    assert [entry["what"] for entry in audit][:2] == ["POST /api/config/rollback"] * 2


async def test_nobody_reads_a_secret_and_an_operator_sends_none_elsewhere(gateway: Gateway) -> None:
    accounts = Accounts(gateway.folder / "data")
    accounts.add_user("otto", PASSWORD, "operator", utc_now())
    otto = Client(gateway.port)
    assert (await asyncio.to_thread(otto.log_in, "otto")).status == 200
    paths = ("/api/sources", "/api/sources/line1", "/api/config/show", "/api/logs", "/api/status", "/api/audit")
    seen = [await gateway.ask("GET", path) for path in paths]
    assert CANARY not in json.dumps(seen)
    source = seen[1]["config"]
    assert source["password"] == "********"
    bundle = await asyncio.to_thread(gateway.client().get, "/api/support-bundle")
    with zipfile.ZipFile(io.BytesIO(bundle.body)) as archive:
        assert {"configuration.json", "status.json", "ledger.json", "versions.json", "log.jsonl", "metrics.txt"} == set(
            archive.namelist()
        )
        assert CANARY.encode() not in b"".join(archive.read(name) for name in archive.namelist())
    # As it is stored everybody who operates may try it; elsewhere its secret is not sent by an operator.
    stored = await gateway.ask("POST", "/api/sources/test", source, client=otto)
    assert not stored["ok"]
    for other in (
        {**source, "endpoint": "mqtt://127.0.0.1:2"},
        {**source, "name": "new", "password": "${secret:other}"},
        {**source, "name": "new", "password": "${file:/etc/hostname}"},
    ):
        refused = await gateway.ask("POST", "/api/sources/test", other, 403, client=otto)
        assert "only an administrator" in refused["detail"]
    target = {"name": "other", "config": {"type": "file", "endpoint": "${env:HOME}"}}
    await gateway.ask("POST", "/api/targets/test", target, 403, client=otto)
    # What is sent back masked stays what it was.
    await gateway.ask("PUT", "/api/sources/line1", {**source, "username": "otto"})
    assert CANARY in gateway.file.read_text()
    assert "username: otto" in gateway.file.read_text()
    assert CANARY not in gateway.log()


async def test_secrets_are_written_and_forgotten_and_never_read(gateway: Gateway) -> None:
    no_key = await gateway.ask("PUT", "/api/secrets/plc", {"value": CANARY}, 409)
    assert "no key for the secrets" in no_key["detail"]
    assert await gateway.ask("GET", "/api/secrets") == {"secrets": []}
    await gateway.ask("DELETE", "/api/secrets/plc", None, 404)
    for name in ("..%2Fx", "a%00", "x" * 64):
        answer = await asyncio.to_thread(gateway.client().ask, "PUT", f"/api/secrets/{name}", {"value": "x"})
        assert answer.status in (404, 422)
    assert CANARY not in gateway.log()


async def test_a_reading_is_explained_and_the_log_is_followed(gateway: Gateway) -> None:
    found = await gateway.ask("POST", "/api/explain", {"tag": "plant/press", "source": "line1", "value": 7.5})
    assert found["readings"][0]["targets"][0]["name"] == "files"
    await gateway.ask("POST", "/api/explain", {"tag": "x", "source": "none"}, 404)
    await gateway.ask("POST", "/api/explain", {}, 422)
    message = {"topic": "plant/press", "payload": "7.5"}
    captured = await gateway.ask("POST", "/api/explain", {"message": message})
    assert captured["captured"]["topic"] == "plant/press"
    message = {"topic": "plant/press", "payload": "%%%", "base64": True}
    await gateway.ask("POST", "/api/explain", {"message": message}, 422)

    events = (await gateway.ask("GET", "/api/logs?limit=500"))["events"]
    assert events[-1]["seq"] > events[0]["seq"]
    warnings = (await gateway.ask("GET", "/api/logs?level=warning"))["events"]
    assert {event["level"] for event in warnings} <= {"warning", "error"}
    await gateway.ask("PUT", "/api/log-level", {"level": "error"}, 204)
    await gateway.ask("PUT", "/api/log-level", {"level": "loud"}, 422)
    await gateway.ask("PUT", "/api/log-level", {"level": "debug"}, 204)
    versions = await gateway.ask("GET", "/api/versions")
    assert versions["packages"]["fastapi"]

    def follow() -> str:
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
        connection.request("GET", "/api/logs/follow", headers=gateway.client().headers)
        answer = connection.getresponse()
        assert answer.getheader("content-type", "").startswith("text/event-stream")
        gateway.client().ask("POST", "/api/tokens", {"name": "followed"})
        text = ""
        while "followed" not in text and "audit" not in text:
            text += answer.readline().decode()
        answer.close()
        connection.close()
        return text

    assert "event: logs" in await asyncio.to_thread(follow)


async def test_a_stream_ends_with_the_right_to_it(gateway: Gateway) -> None:
    accounts = Accounts(gateway.folder / "data")
    number, token = accounts.add_token("screen", "viewer", None, utc_now())

    def follow() -> bytes:
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
        connection.request("GET", "/api/events?topics=status", headers={"authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        assert answer.status == 200
        accounts.remove_token(number)
        try:
            return answer.read()  # to its end
        finally:
            answer.close()
            connection.close()

    assert await asyncio.to_thread(follow)
    assert "Traceback" not in gateway.log()


async def test_an_opc_ua_server_is_looked_into_node_by_node(gateway: Gateway) -> None:
    plant = build_plant(tags=10, rate=10, sources={"opcua": 1})
    async with OpcUaServer(plant, plant.sources[0]) as server:
        source = {"name": "ua", "protocol": "opcua", "endpoint": server.endpoint, "nodes": [{"id": "i=2258"}]}
        await gateway.ask("POST", "/api/sources", source, 201)
        try:
            path, seen, depth = "i=85", [], 0
            while depth < 6:
                query = urlencode({"source": "ua", "node": path})
                nodes = (await gateway.ask("GET", f"/api/sources/browse?{query}"))["nodes"]
                seen += [node for node in nodes if node["kind"] == "variable"]
                below = [node for node in nodes if node["has_children"] and "urn:simulator" in node["node_id"]]
                if not below:
                    break
                path, depth = below[0]["node_id"], depth + 1
            assert depth > 0
            assert any(node["unit"] and node["type"] for node in seen), seen
            await gateway.ask("GET", "/api/sources/browse?source=line1", None, 404)
            await gateway.ask("GET", "/api/sources/browse?source=ua&node=nonsense", None, 422)
        finally:
            await gateway.ask("DELETE", "/api/sources/ua")
