"""`bifrost dlq` and `bifrost spool` as a user meets them: in the stores, through a running gateway, and as docs print them."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from bifrost.cli import app
from bifrost.options import moment
from bifrost.run import ask
from config.loader import load
from connectors.settings import SourceConfig
from delivery.disk import DirectoryLock
from flows.process import Process
from normalization.reading import FACTS, Columns, numbers, repeat, view
from tests.command_in_process import quiet
from tests.delivery.stores import until
from tests.ports import free_port
from web.server import Port

__all__ = ["quiet"]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "dead-letters.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line) for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
]
SOURCE = """
sources:
  - name: line1
    protocol: mqtt
    endpoint: mqtt://127.0.0.1:1
    tags: [{match: "*", type: TYPE}]
"""


def write_config(directory: Path, kind: str = "number", port: int = 1) -> Path:
    path = directory / "gateway.yaml"
    path.write_text(
        f"gateway:\n  name: gw\n  directory: {directory / 'data'}\n  port: {port}\n"
        f"  cloud: {{connectors: {{files: {{type: file, endpoint: {directory / 'files'}}}}}}}\n"
        + SOURCE.replace("TYPE", kind)
    )
    return path


def readings(process: Process, values: list[Any], first: int) -> pa.RecordBatch:
    """Readings of the source, normalized; those that cannot be have `reject` set."""
    (source,) = process.config.sources
    rows = Columns()
    tag = process.tags.intern(source.tag("plc", "plant/line1/t", "t"))
    for value in values:
        rows.add(tag, value)
    facts = rows.to_batch(np.full(len(values), 1_700_000_000_000_000), first).columns
    shard = repeat(process.journal.shard_name(4), len(values))
    value = numbers(*(facts[FACTS.get_field_index(name)] for name in ("type", "value_double", "value_int")))
    priority = pa.array(np.zeros(len(values), np.int32))
    raw = view(facts, repeat("gw", len(values)), shard, process.tags, value, priority)
    return process.normalizer(raw)


@contextmanager
def opened(config: Path) -> Iterator[Process]:
    process = Process(load(config))
    process.open_stores()
    try:
        yield process
    finally:
        process.close()


def fill(process: Process) -> None:
    """Two readings that the target refused, and one that could not be normalized."""
    spool = process.spools["files"]
    spool.append(readings(process, [1.5, 2.5, 3.5], 1))
    unit = spool.take(100, 2**30)
    assert unit is not None
    refused = unit.batch().take([0, 2])
    process.dead_letters.append(
        refused, ["value too long", "bad \x1b[2J type"], "files", 3, first=1e9, places=unit.places([0, 2])
    )
    process.dead_letters.wait()
    spool.reject(unit, [0, 2], rest_delivered=True)
    text = readings(process, ["warm"], 10)
    assert text.column("reject").null_count == 0
    process.dead_letters.append(text, text.column("reject").to_pylist())
    process.dead_letters.wait()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = write_config(tmp_path)
    with opened(path) as process:
        fill(process)
    return path


def dlq(config: Path, *words: str) -> tuple[int, str]:
    answer = CliRunner().invoke(app, ["dlq", *words, "-c", str(config)])
    return answer.exit_code, answer.output


def answered(config: Path, *words: str) -> Any:
    return json.loads(CliRunner().invoke(app, ["dlq", *words, "--json", "-c", str(config)]).stdout)


def check_the_verbs(config: Path) -> None:
    groups = answered(config, "list")["groups"]
    assert {(g["target"], g["error_class"], g["count"]) for g in groups} == {
        ("files", "data", 1),
        ("@flow", "normalize", 1),
    }
    assert len(groups) == 3
    code, said = dlq(config, "list", "--target", "files")
    assert (code, "3 dead letters in all" in said, "2001-09-09 01:46:40" in said) == (0, True, True)
    assert "\x1b" not in said
    code, said = dlq(config, "list", "--each", "--reason", "TYPE")
    assert (code, "line1" in said, "3.5" in said) == (0, True, True)
    shown = answered(config, "show", "1")
    assert (shown["value"], shown["sequence"], shown["dead_letter"]["attempts"]) == (1.5, 1, 3)
    assert shown["dead_letter"]["reason"] == "value too long"
    assert "error_class: data" in dlq(config, "show", "1")[1]
    assert dlq(config, "show", "99")[0] == 1
    exported = CliRunner().invoke(app, ["dlq", "export", "--target", "@flow", "-c", str(config)])
    (line,) = map(json.loads, exported.stdout.splitlines())
    assert (exported.exit_code, line["value"], line["dead_letter"]["target"]) == (0, "warm", "@flow")
    code, said = dlq(config, "purge", "--reason", "type")
    assert (code, "1 dead letters would be deleted for good; add --yes" in said) == (1, True)
    assert answered(config, "purge", "--reason", "type", "--yes")["purged"] == 1
    code, said = dlq(config, "replay")
    assert code == 1
    assert "1 are on their way again" in said
    assert "1 stay: they still cannot be decoded or normalized" in said
    assert answered(config, "list")["stored"] == 1


def test_the_verbs_work_on_the_stores_of_a_gateway_that_does_not_run(config: Path) -> None:
    check_the_verbs(config)
    with opened(config) as process:
        unit = process.spools["files"].take(100, 2**30)
        assert unit is not None
        assert unit.batch().column("value").to_pylist() == [1.5]
        assert process.account().targets["files"]["line1"].unaccounted == 0


def test_the_verbs_work_through_a_gateway_that_runs(tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, port=port)
    with opened(config) as process:
        fill(process)
        Port(process).start()
        until(lambda: ask(process.config, "/api/ledger"))
        check_the_verbs(config)
        assert process.dead_letters.total == 1


def test_another_gateway_on_the_port_is_told_nothing(tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, port=port)
    with opened(config) as process:
        fill(process)
        Port(process).start()
        until(lambda: ask(process.config, "/api/ledger"))
        other = tmp_path / "other.yaml"
        other.write_text(config.read_text().replace("name: gw", "name: other").replace("data", "elsewhere"))
        dlq(other, "purge", "--yes")
        assert process.dead_letters.total == 3


def test_a_directory_in_use_whose_gateway_does_not_answer_is_one_line(config: Path) -> None:
    lock = DirectoryLock(config.parent / "data")
    code, said = dlq(config, "list")
    lock.release()
    assert code == 1
    assert said.splitlines()[-1].endswith(
        f"belongs to process {os.getpid()}, and it does not answer on 127.0.0.1:1; stop it, or ask it there"
    )


def test_looking_makes_no_stores(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    assert answered(config, "list")["stored"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["gateway.yaml"]


def test_what_the_flow_could_not_normalize_goes_out_when_the_mapping_is_mended(config: Path) -> None:
    assert dlq(config, "replay", "--target", "@flow")[0] == 1
    mended = write_config(config.parent, "text")
    assert answered(mended, "replay", "--target", "@flow")["replay"]["moved"] == 1
    with opened(mended) as process:
        unit = process.spools["files"].take(100, 2**30)
        assert unit is not None
        batch = unit.batch()
        assert batch.column("value_text").to_pylist() == ["warm"]
        assert batch.column("sequence").to_pylist() == [10]
        assert batch.column("reject").null_count == 1
        line = process.account().targets["files"]["line1"]
        assert (line.routed, line.stored, line.unaccounted) == (4, 1, 0)


def test_a_replay_of_the_flow_that_a_crash_cut_short_is_ended_at_the_next_start(config: Path) -> None:
    mended = write_config(config.parent, "text")
    with opened(mended) as process:
        process.dead_letters.remove = lambda *_: 0  # type: ignore[method-assign]
        from delivery.letter import Selection
        from flows.replays import replay_letters

        replay_letters(process, Selection(target="@flow"))
    with opened(mended) as process:
        assert process.dead_letters.total == 2
        assert process.spools["files"].stored_rows == 1


def test_a_source_that_has_gone_keeps_the_mapping_of_its_letters(config: Path) -> None:
    from flows.replays import mapped

    source: SourceConfig = load(config).sources[0]
    tag = source.tag("plc", "plant/line1/t", "t", metadata={"line": "1"})
    assert mapped(tag, None) == tag
    assert mapped(tag, source) == tag


def test_times_are_told_as_durations_or_dates() -> None:
    assert moment("2h", 10_000.0) == 2_800.0
    assert moment("1970-01-01T00:01", 0.0) == moment("1970-01-01T01:01+01:00", 0.0) == 60.0
    assert moment(None, 1.0) is None


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=lambda number: " ".join(COMMANDS[number][1:4]))
def test_the_page_s_commands_work_as_printed(config: Path, number: int) -> None:
    words = COMMANDS[number]
    assert words[0] == "bifrost"
    answer = subprocess.run(
        [sys.executable, "-m", "bifrost", *words[1:]],
        env={**os.environ, "BIFROST_CONFIG": str(config), "PYTHONPATH": str(ROOT)},
        cwd=config.parent,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    refused = "@flow" in words  # nothing was mended
    assert answer.returncode == (1 if refused else 0), answer.stderr
    if "-o" in words:
        assert len((config.parent / "letters.jsonl").read_text().splitlines()) == 2


def test_the_page_s_configuration_is_sound(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "gateway.yaml"
    path.write_text(block)
    assert load(path).dead_letters.quota == 2 * 1024**3
    assert not load(path).dead_letters.drops_oldest


# ---------------------------------------------------------------------- bifrost spool


def spool(config: Path, *words: str) -> tuple[int, str]:
    answer = CliRunner().invoke(app, ["spool", *words, "-c", str(config)])
    return answer.exit_code, answer.output


def answered_spool(config: Path, *words: str) -> Any:
    return json.loads(CliRunner().invoke(app, ["spool", *words, "--json", "-c", str(config)]).stdout)


def spooled(process: Process) -> None:
    process.spools["files"].append(readings(process, [1.5, 2.5, 3.5], 1))
    process.spools["files"].snapshot()


@pytest.fixture
def waiting(tmp_path: Path) -> Path:
    """The configuration of a gateway with three readings in its spool."""
    path = write_config(tmp_path)
    with opened(path) as process:
        spooled(process)
    return path


def check_the_spool_s_verbs(config: Path) -> None:
    line = answered_spool(config, "ls")["spools"]["files"]
    assert (line["state"], line["readings"], line["lanes"]) == ("configured", 3, {"0": 3})
    assert line["oldest_age"] >= 0
    code, said = spool(config, "ls")
    assert (code, "files" in said) == (0, True)
    assert [one["value"] for one in answered_spool(config, "peek", "files", "--limit", "2")["readings"]] == [1.5, 2.5]
    assert "line1" in spool(config, "peek", "files")[1]
    assert spool(config, "peek", "nobody") == (1, "there is no spool `nobody`; there are files\n")
    exported = CliRunner().invoke(app, ["spool", "export", "files", "-c", str(config)])
    assert [json.loads(text)["sequence"] for text in exported.stdout.splitlines()] == [1, 2, 3]
    assert spool(config, "export", "nobody")[0] == 1
    assert spool(config, "purge", "files") == (1, "3 readings would be discarded for good; add --yes\n")
    assert answered_spool(config, "purge", "files", "--yes")["purged"] == 3
    assert answered_spool(config, "ls")["spools"]["files"]["readings"] == 0


def test_the_spool_s_verbs_work_on_the_stores_of_a_gateway_that_does_not_run(waiting: Path) -> None:
    check_the_spool_s_verbs(waiting)
    with opened(waiting) as process:
        line = process.account().targets["files"]["line1"]
    assert (line.discarded, line.unaccounted) == ({"purged": 3}, 0)


def test_the_spool_s_verbs_work_through_a_gateway_that_runs(tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, port=port)
    with opened(config) as process:
        spooled(process)
        Port(process).start()
        until(lambda: ask(process.config, "/api/ledger"))
        check_the_spool_s_verbs(config)
        code, said = spool(config, "attach", "files", "files")
        assert (code, said.startswith("the gateway runs")) == (1, True)


def renamed(config: Path) -> Path:
    """The same gateway with another target in place of `files`."""
    config.write_text(config.read_text().replace("{files:", "{others:"))
    return config


def test_a_removed_target_is_kept_named_and_can_be_attached_to_another(waiting: Path) -> None:
    renamed(waiting)
    line = answered_spool(waiting, "ls")["spools"]["files"]
    assert (line["state"], line["readings"]) == ("kept", 3)
    assert [one["value"] for one in answered_spool(waiting, "peek", "files")["readings"]] == [1.5, 2.5, 3.5]
    ledger = CliRunner().invoke(app, ["ledger", "-c", str(waiting)])
    assert (ledger.exit_code, "Kept (bifrost spool ls)" in ledger.stdout) == (0, True)
    assert spool(waiting, "attach", "files", "nobody")[0] == 1
    assert spool(waiting, "attach", "others", "others")[0] == 1
    assert answered_spool(waiting, "attach", "files", "others") == {
        "gateway": "gw",
        "moved": 3,
        "left": 0,
        "full": False,
    }
    with opened(waiting) as process:
        unit = process.spools["others"].take(100, 2**30)
        assert unit is not None
        assert unit.batch().column("sequence").to_pylist() == [1, 2, 3]
        assert process.account().unaccounted == 0
        assert process.kept == {}


def test_a_removed_target_that_comes_back_finds_its_readings(waiting: Path) -> None:
    renamed(waiting)
    answered_spool(waiting, "ls")
    waiting.write_text(waiting.read_text().replace("{others:", "{files:"))
    with opened(waiting) as process:
        assert process.spools["files"].stored_rows == 3
        assert process.kept == {}


def test_what_is_kept_can_be_purged(waiting: Path) -> None:
    renamed(waiting)
    assert answered_spool(waiting, "purge", "files", "--yes")["purged"] == 3
    assert answered_spool(waiting, "ls")["spools"].get("files", {"readings": 0})["readings"] == 0
