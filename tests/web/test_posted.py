"""Readings that are posted: durable when answered, each once whatever is killed and repeated, where they should be."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bifrost.run import account
from tests.web.client import NoAnswerError
from tests.web.open_gateway import configuration
from tests.web.serving import ROOT, Serving, gateway, until


def got(folder: Path, target: str) -> list[tuple[tuple[str, int], str, Any]]:
    """Identity, path and value of every reading that a target was given."""
    file = folder / f"{target}.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("]")]
    return [((shard, sequence), path, number) for _, shard, sequence, _, path, number, _ in rows]


def reading(number: int, tag: str = "temp", **more: Any) -> dict[str, Any]:
    return {"id": f"r-{number}", "device_id": "PLC001", "tag_name": tag, "value": float(number), **more}


KILLED_BEFORE_THE_FLOW = """
import asyncio, os, signal, sys
from pathlib import Path
from flows.posted import CloudData
from flows.process import Process
from tests.web.open_gateway import configuration

process = Process(configuration(Path(sys.argv[1])))
process.open_stores()
given = [CloudData(id=f"r-{n}", device_id="PLC001", tag_name="temp", value=float(n)) for n in range(3)]
asyncio.run(process.posted.take(given, "second"))
asyncio.run(process.posted.take(given[:1]))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


def test_a_posted_reading_goes_by_the_rules_or_to_the_connector_that_is_named(tmp_path: Path) -> None:
    with gateway(tmp_path) as running:
        seed = {"id": "sensor-001", "device_id": "PLC001", "tag_name": "temperature", "value": 25.5, "quality": "GOOD"}
        assert running.post(seed | {"timestamp": "2026-11-26T10:00:00.123456789Z"}) == {"accepted": 1, "repeated": 0}
        assert running.post([reading(1, "level"), reading(2, "temp2")]) == {"accepted": 2, "repeated": 0}
        place = "/api/cloud/connectors/second/data"
        assert running.post({"readings": [reading(3, "temp3")]}, place) == {"accepted": 1, "repeated": 0}
        until(lambda: len(got(tmp_path, "first")) == 2 and len(got(tmp_path, "second")) == 2)
        assert {(path, value) for _, path, value in got(tmp_path, "first")} == {
            ("PLC001/temperature/temperature", 25.5),
            ("PLC001/temperature/temp2", 2.0),
        }
        assert {path for _, path, _ in got(tmp_path, "second")} == {"PLC001/level/level", "PLC001/temperature/temp3"}
        health = running.client.get("/api/cloud/health").json()
        assert (health["status"], set(health["connectors"])) == ("ok", {"first", "second"})
        until(lambda: running.client.get("/api/cloud/health").json()["connectors"]["first"]["last_communication"])
        counted = running.client.get("/api/cloud/metrics").json()["connectors"]["first"]
        assert counted["data_points_sent_total"] == 2
        assert counted["batch_operations_total"]["ok"] >= 1
        for source, to, because in (
            ("api", "first", "rule warm"),
            ("api/second", "second", "posted for this target alone"),
        ):
            asked = {"source": source, "tag": "temp3", "device": "PLC001", "value": 3.0}
            (explained,) = running.post(asked, "/api/explain")["readings"]
            assert explained["path"]["path"] == "PLC001/temperature/temp3"
            ((target, why),) = [(target["name"], target["because"]) for target in explained["targets"]]
            assert (target, because in why[0]) == (to, True)
        running.post({"source": "api/none", "tag": "PLC001/temp3"}, "/api/explain", 404)
        running.stop()
    found = account(configuration(tmp_path))
    assert found["unaccounted"] == 0
    assert {name: line["journalled"] for name, line in found["sources"].items()} == {"api": 3, "api/second": 1}


def test_readings_that_were_posted_for_a_target_alone_wait_as_dead_letters_when_it_is_removed(tmp_path: Path) -> None:
    """They are in the journal when the gateway is killed, and their target is not in the configuration of its next lives."""
    killed = subprocess.run([sys.executable, "-c", KILLED_BEFORE_THE_FLOW, tmp_path], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL

    def letters(running: Serving) -> list[tuple[str, str, int]]:
        groups = running.get("/api/dead-letters")["groups"]
        return [(group["target"], group["reason"], group["count"]) for group in groups]

    removed = [("@flow", "target removed: it was posted for second alone, which the configuration does not have", 3)]
    with gateway(tmp_path, "alone") as running:
        until(lambda: letters(running) == removed and len(got(tmp_path, "first")) == 1)
        running.kill()
    again = {"gateway": "gw", "reason": removed[0][1]}
    with gateway(tmp_path, "alone") as running:
        assert running.post(again, "/api/dead-letters/replay")["replay"]["refused"] == 3
        running.post([reading(9)])
        until(lambda: [value for *_, value in got(tmp_path, "first")][-1] == 9.0)
        assert letters(running) == removed
        assert {value for *_, value in got(tmp_path, "first")} == {0.0, 9.0}
        running.stop()
    assert account(configuration(tmp_path, alone=True))["unaccounted"] == 0
    with gateway(tmp_path) as running:
        assert running.post(again, "/api/dead-letters/replay")["replay"]["moved"] == 3
        until(lambda: [value for *_, value in got(tmp_path, "second")] == [0.0, 1.0, 2.0])
        assert letters(running) == []
        running.stop()
    assert account(configuration(tmp_path))["unaccounted"] == 0


def test_the_same_reading_again_is_left_out_and_another_one_under_its_id_is_not(shared: Serving) -> None:
    once = reading(100, timestamp="2026-01-01T00:00:00Z")
    assert shared.post([once, once]) == {"accepted": 1, "repeated": 1}
    assert shared.post(once) == {"accepted": 0, "repeated": 1}
    assert shared.post(once | {"timestamp": "2026-01-01T01:00:00+01:00"}) == {"accepted": 0, "repeated": 1}
    # The seed's ids are those of sensors: what says something else is another reading.
    assert shared.post(once | {"value": 7}) == {"accepted": 1, "repeated": 0}
    assert shared.post(once | {"timestamp": "2026-01-01T00:00:01Z"}) == {"accepted": 1, "repeated": 0}
    nameless = {key: value for key, value in once.items() if key != "id"}
    assert shared.post([nameless, nameless]) == {"accepted": 2, "repeated": 0}
    assert shared.post(once, "/api/cloud/connectors/first/data") == {"accepted": 1, "repeated": 0}


def test_what_is_answered_is_there_once_whatever_is_killed_and_repeated(tmp_path: Path) -> None:
    """Kills come between and within POSTs; who gets no answer posts the same again, at the next gateway."""
    sent = 0
    for life in range(2):
        with gateway(tmp_path) as running, contextlib.suppress(NoAnswerError):
            killer = threading.Timer(0.6 + 0.5 * life, running.process.kill)
            killer.start()
            while True:
                batch = [reading(n, f"temp{n % 7}") for n in range(sent, sent + 20)]
                found = running.post(batch)
                assert found["accepted"] + found["repeated"] == 20
                assert running.post(batch) == {"accepted": 0, "repeated": 20}
                sent += 20
    assert sent >= 100
    with gateway(tmp_path) as running:
        last = running.post([reading(n, f"temp{n % 7}") for n in range(sent + 20)])  # all of them once more
        assert last["repeated"] >= sent
        want = {float(n) for n in range(sent + 20)}
        until(lambda: {value for _, _, value in got(tmp_path, "first")} >= want)
        running.stop()
    found = got(tmp_path, "first")
    identities = {identity: value for identity, _, value in found}
    assert sorted(identities.values()) == sorted(
        want
    )  # one identity for each, so that a target with a key shows it once
    total = account(configuration(tmp_path))
    assert total["unaccounted"] == 0
    assert total["sources"]["api"]["journalled"] == len(want)


WRONG = [
    ({"device_id": "a"}, "/tag_name"),
    (reading(1) | {"value": None, "quality": "FINE"}, "/quality"),
    (reading(1) | {"timestamp": 5}, "/timestamp"),
    (reading(1) | {"timestamp": "yesterday"}, "/timestamp"),
    (reading(1) | {"timestamp": "0001-01-01T00:00:00+14:00"}, "/timestamp"),
    (reading(1) | {"device_id": 7}, "/device_id"),
    (reading(1) | {"device_id": " "}, "/device_id"),
    (reading(1) | {"value": "x" * 70_000}, "/value"),
    (reading(1) | {"value": 10**400}, "/value"),
    (reading(1) | {"unit": "bar"}, "/unit"),
    ([reading(1), reading(2) | {"quality": 1}], "/1/quality"),
    ({"readings": [reading(1), 5]}, "/readings/1"),
    ({"readings": {}}, "/readings"),
    (7, ""),
]


@pytest.mark.parametrize(("body", "place"), WRONG)
def test_a_wrong_reading_is_refused_with_its_place_and_nothing_is_taken(shared: Serving, body: Any, place: str) -> None:
    found = shared.post(body, expected=422)
    assert found["problems"][0]["where"] == place, found
    assert found["detail"]


@pytest.mark.threat(26)
def test_what_is_too_much_or_no_json_is_refused(shared: Serving) -> None:
    post = shared.client.post
    many = [{"device_id": "d", "tag_name": "t", "value": n} for n in range(10_001)]
    assert post("/api/data", json=many).status_code == 413
    assert post("/api/data", content=b" " * 2_000_000, headers={"content-type": "application/json"}).status_code == 413
    assert post("/api/data", content=b"[" * 100_000, headers={"content-type": "application/json"}).status_code == 422
    assert post("/api/data", content=b'{"value": NaN}', headers={"content-type": "application/json"}).status_code == 422
    assert post("/api/data", content=b"\xff", headers={"content-type": "application/json"}).status_code == 422
    assert post("/api/data", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
    unknown = post("/api/cloud/connectors/nobody/data", json=reading(1))
    assert (unknown.status_code, unknown.json()["detail"]) == (
        404,
        "there is no connector `nobody`; there are first, second",
    )


def test_every_kind_of_value_can_be_posted(shared: Serving) -> None:
    values = [1.5, 7, 2**63, 2**80, True, "on", None, [1, 2], {"a": {"b": 1}}, "", "°C ✓"]
    bodies = [{"device_id": "d", "tag_name": f"kind{n}", "value": value} for n, value in enumerate(values)]
    assert shared.post(bodies) == {"accepted": len(values), "repeated": 0}
    assert shared.post({"device_id": "d", "tag_name": "k", "value": 1, "quality": "bad"})["accepted"] == 1


def test_the_configuration_of_a_connector_is_shown_without_secrets(shared: Serving) -> None:
    found = shared.client.get("/api/cloud/connectors/first/config").json()
    assert found["config"]["type"] == "telling"
    assert shared.client.get("/api/cloud/connectors/nobody/config").status_code == 404
