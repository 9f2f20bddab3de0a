"""The command line as a user meets it: as a process, with its exit codes and what stands on which stream."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from delivery.disk import DirectoryLock

VERBS = [
    [],
    ["run"],
    ["demo"],
    ["check"],
    ["status"],
    ["ledger"],
    ["drain"],
    ["spool"],
    *(["spool", verb] for verb in ("ls", "peek", "export", "purge", "attach")),
    ["dlq"],
    ["dlq", "list"],
    ["dlq", "show"],
    ["dlq", "export"],
    ["dlq", "replay"],
    ["dlq", "purge"],
    ["browse"],
    ["convert"],
    ["certs"],
    *(["certs", verb] for verb in ("list", "trust", "reject", "export")),
    ["modbus"],
    ["modbus", "profile"],
    ["test"],
    ["sim"],
    ["sim", "all"],
    ["sim", "opcua"],
    ["sim", "mqtt"],
    ["sim", "modbus"],
    ["sim", "zerobus"],
    ["zerobus"],
    ["zerobus", "ddl"],
    ["delta"],
    ["delta", "ddl"],
]


def bifrost(*arguments: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bifrost", *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=cwd,
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **environment},
        check=False,
    )


def write_config(directory: Path, *, sources: str = "") -> Path:
    path = directory / "gateway.yaml"
    path.write_text(f"gateway:\n  name: gw\n  directory: {directory / 'data'}\n  port: 1\n{sources}")
    return path


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_every_verb_has_help(verb: Any) -> None:
    answer = bifrost(*verb, "--help")
    assert answer.returncode == 0
    assert "Usage: bifrost" in answer.stdout
    assert len(answer.stdout.splitlines()) > 5


def test_the_version_is_told() -> None:
    answer = bifrost("--version")
    assert (answer.returncode, answer.stdout) == (0, f"bifrost {version('bifrost-gateway')}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chek"], "Did you mean 'check'?"),
        (["run", "--for", "soon"], "`soon` is not a duration; write a number with a unit: 250ms, 5s, 10m, 24h"),
        (["run", "--for", "-5"], "`-5` is not a duration"),
        (["check", "more"], "unexpected extra argument"),
        (["test"], "Missing option '--source'"),
        (["zerobus", "ddl", "readings"], "readings"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_end_with_code_2_and_say_why(arguments: Any, said: Any) -> None:
    answer = bifrost(*arguments)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert said in answer.stderr


def test_a_wrong_configuration_ends_with_code_2_and_opens_nothing(tmp_path: Path) -> None:
    path = write_config(tmp_path, sources="sources:\n  - name: a\n    protocol: opcua\n    endpont: x\n")
    for verb in ("check", "run", "status", "ledger"):
        answer = bifrost(verb, "-c", str(path))
        assert answer.returncode == 2, verb
        assert f"{path}:8:5: sources.0.endpont: there is no key `endpont`; did you mean `endpoint`?" in answer.stderr
        assert answer.stdout == ""
    assert not (tmp_path / "data").exists()


def test_check_says_what_a_configuration_holds(tmp_path: Path) -> None:
    answer = bifrost("check", "-c", str(write_config(tmp_path)))
    assert answer.returncode == 0
    assert "delta (delta)" in answer.stdout


def test_status_of_a_gateway_that_does_not_run_ends_with_code_1(tmp_path: Path) -> None:
    answer = bifrost("status", "-c", str(write_config(tmp_path)))
    assert (answer.returncode, answer.stdout) == (1, "")
    assert re.search("no gateway `.+` answers", answer.stderr)


def test_the_ledger_of_a_gateway_that_does_not_run_comes_from_its_stores(tmp_path: Path) -> None:
    answer = bifrost("ledger", "--json", "-c", str(write_config(tmp_path)))
    assert answer.returncode == 0
    assert json.loads(answer.stdout) == {
        "gateway": "gw",
        "sources": {},
        "targets": {"delta": {}},
        "unaccounted": 0,
    }


def test_looking_at_the_ledger_makes_no_stores(tmp_path: Path) -> None:
    assert bifrost("ledger", "-c", str(write_config(tmp_path))).returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["gateway.yaml"]


@pytest.mark.parametrize("verb", [["run", "--for", "1s"], ["demo", "--for", "1s"]], ids=lambda verb: verb[0])
def test_a_directory_that_cannot_be_used_is_one_line_and_code_1(tmp_path: Path, verb: Any) -> None:
    (tmp_path / "data").write_text("a file where the stores should be")
    config = write_config(tmp_path)
    place = ["--data-dir", str(tmp_path / "data" / "demo")] if verb[0] == "demo" else ["-c", str(config)]
    answer = bifrost(*verb, *place)
    assert (answer.returncode, answer.stdout) == (1, "")
    (line,) = [line for line in answer.stderr.splitlines() if "lies under /tmp" not in line]
    assert str(tmp_path / "data") in line
    assert "Traceback" not in line


def test_the_ledger_of_a_gateway_that_runs_without_a_port_says_who_has_the_stores(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "gateway").write_text("gw")
    lock = DirectoryLock(tmp_path / "data")
    answer = bifrost("ledger", "-c", str(config))
    lock.release()
    assert (answer.returncode, answer.stdout) == (1, "")
    assert f"belongs to process {os.getpid()}" in answer.stderr.splitlines()[-1]


def test_a_demo_whose_plant_does_not_start_says_why(tmp_path: Path) -> None:
    answer = bifrost("demo", "--for", "1s", "--sources", "opcau=1", "--data-dir", str(tmp_path))
    assert (answer.returncode, answer.stdout) == (1, "")
    (line,) = answer.stderr.splitlines()
    assert "the plant did not start: " in line
    assert "opcau" in line
    assert line.endswith(f"(see {tmp_path / 'plant.log'})")


def test_a_second_demo_in_the_same_directory_touches_nothing(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    lock = DirectoryLock(tmp_path / "data")
    answer = bifrost("demo", "--for", "1s", "--data-dir", str(tmp_path))
    lock.release()
    assert (answer.returncode, answer.stdout) == (1, "")
    assert f"belongs to process {os.getpid()}" in answer.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_demo_goes_on_where_its_configuration_is_not_understood_any_more(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text("gateway: {an_older_key: 1}")
    answer = bifrost("demo", "--for", "1s", "--tags", "40", "--rate", "100", "--json", "--data-dir", str(tmp_path))
    assert answer.returncode == 0, answer.stderr
    assert json.loads(answer.stdout)["unaccounted"] == 0


def test_status_without_an_http_port_says_so(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    config.write_text(config.read_text() + "web_ui: {enabled: false}\n")
    answer = bifrost("status", "-c", str(config))
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "the configuration opens no HTTP port" in answer.stderr


@pytest.mark.parametrize("said", [b"HTTP/1.0 200 OK\r\n\r\n<html>", b"SSH-2.0-other\r\n"])
def test_another_server_on_the_port_is_not_taken_for_a_gateway(tmp_path: Path, said: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        config = write_config(tmp_path)
        config.write_text(config.read_text().replace("port: 1", f"port: {server.getsockname()[1]}"))

        def answer_once() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(said)

        thread = threading.Thread(target=answer_once)
        thread.start()
        answer = bifrost("status", "-c", str(config))
        thread.join()
    assert (answer.returncode, answer.stdout) == (1, "")
    assert re.search("no gateway `.+` answers", answer.stderr.splitlines()[-1])


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    answer = bifrost("test", "-s", "nope", "-c", str(write_config(tmp_path)))
    assert answer.returncode == 2
    assert "there is no source `nope`" in answer.stderr


def test_a_source_that_does_not_answer_ends_with_code_1(tmp_path: Path) -> None:
    source = "sources:\n  - {name: a, protocol: mqtt, endpoint: 'mqtt://127.0.0.1:1'}\n"
    answer = bifrost("test", "-s", "a", "--seconds", "1", "-c", str(write_config(tmp_path, sources=source)))
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "127.0.0.1:1" in answer.stderr


def test_ddl_prints_the_table_and_the_view_that_shows_each_reading_once() -> None:
    answer = bifrost("zerobus", "ddl", "main.plant.readings")
    assert answer.returncode == 0
    assert "CREATE TABLE IF NOT EXISTS `main`.`plant`.`readings`" in answer.stdout
    assert "COMMENT" in answer.stdout
    assert "CREATE OR REPLACE VIEW" in answer.stdout
    assert "MERGE INTO `main`.`plant`.`readings_merged`" in answer.stdout
    assert bifrost("zerobus", "ddl", "readings").returncode == 2


def test_ddl_of_delta_names_each_table_and_its_place(tmp_path: Path) -> None:
    config = tmp_path / "gateway.yaml"
    source = "{name: press 1, protocol: mqtt, endpoint: mqtt://localhost}".replace("press 1", "press.1")
    config.write_text(
        f"sources: [{source}]\n"
        "gateway: {cloud: {connectors: {lake: {type: delta, endpoint: s3://plant/lake, per: source}}}}\n"
    )
    answer = bifrost("delta", "ddl", "main.plant.readings", "-c", str(config))
    assert answer.returncode == 0, answer.stderr
    assert "CREATE TABLE IF NOT EXISTS `main`.`plant`.`readings_press_1`" in answer.stdout
    assert "LOCATION 's3://plant/lake/readings_press.1'" in answer.stdout
    assert "MERGE INTO" in answer.stdout
    config.write_text("gateway: {cloud: {connectors: {screen: {type: console}}}}\n")
    assert bifrost("delta", "ddl", "-c", str(config)).returncode == 2


def test_ddl_of_a_wide_table_has_the_signals_of_the_configuration_and_those_that_are_named(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "config" / "examples" / "lakehouse_wide.yaml"
    answer = bifrost("delta", "ddl", "main.plant.machines", "-c", str(example), "--signal", "Ram Speed")
    assert answer.returncode == 0, answer.stderr
    columns = dict(re.findall(r"^  `(\w+)` +(\w+)(?: NOT NULL)? COMMENT", answer.stdout, re.MULTILINE))
    assert {name: kind for name, kind in columns.items() if f"{name}_quality" in columns} == {
        "oil_temp": "DOUBLE", "stroke_count": "DOUBLE", "recipe": "STRING", "ram_speed": "DOUBLE",
    }  # fmt: skip
    assert "MERGE INTO `main`.`plant`.`machines_merged`" in answer.stdout
    config = tmp_path / "gateway.yaml"
    tables = "a: {catalog: c, schema: s, table: a}, b: {catalog: c, schema: s, table: b}"
    register = "{address: 40001, type: string, length: 4, name: %s}"
    source = "  - {name: %s, protocol: modbus, endpoint: 'tcp://127.0.0.1', registers: [" + register + "]}\n"
    config.write_text(
        "sources:\n"
        + source % ("a", "Name")
        + source % ("b", "Other")
        + f"zerobus:\n  layout: wide\n  source_targets: {{{tables}}}\n"
    )
    answer = bifrost("zerobus", "ddl", "-c", str(config))
    assert answer.returncode == 0, answer.stderr
    first, second = answer.stdout.split("CREATE TABLE IF NOT EXISTS `c`.`s`.`b` (")
    assert ("`name` " in first, "`other` " in first, "`name` " in second, "`other` " in second) == (
        True,
        False,
        False,
        True,
    )


@pytest.mark.parametrize(
    ("signals", "said"),
    [
        (["t", "n:text", "r:bytes"], ""),
        (["t:float"], "no type"),
        (["date"], "name of another column"),
        ([], "--signal NAME"),
    ],
)
def test_a_wide_table_can_be_named_with_its_signals(signals: list[str], said: str) -> None:
    given = [word for signal in signals for word in ("--signal", signal)]
    answer = bifrost("zerobus", "ddl", "main.plant.machines", "--layout", "wide", *given)
    assert (answer.returncode == 2) == (said not in {"", "--signal NAME"})
    assert said in " ".join((answer.stdout + answer.stderr).replace("│", "").split())
    if not said:
        assert re.findall(r"`([tnr])` +(\w+) COMMENT", answer.stdout) == [
            ("t", "DOUBLE"),
            ("n", "STRING"),
            ("r", "BINARY"),
        ]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["st"], ["status"]),
        (["run", "--"], ["--config", "--for", "--help"]),
        (["sim", ""], ["all", "opcua", "mqtt", "modbus", "zerobus"]),
        (["zerobus", ""], ["ddl"]),
        (["spool", ""], ["ls", "peek", "export", "purge", "attach"]),
        (["dlq", ""], ["list", "show", "export", "replay", "purge"]),
    ],
    ids=" ".join,
)
def test_bash_completes(tmp_path: Path, words: Any, offered: Any) -> None:
    script = tmp_path / "bifrost"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m bifrost "$@"\n')
    script.chmod(0o755)
    typed = " ".join(f"'{word}'" for word in ["bifrost", *words])
    typing = f"""
        source <(bifrost --show-completion bash)
        COMP_WORDS=({typed}); COMP_CWORD={len(words)}
        _bifrost_completion bifrost
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    answer = subprocess.run(
        ["bash", "--norc", "-c", typing],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SHELL": "/bin/bash"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert answer.stdout.split() == offered


def test_the_demo_delivers_everything_under_the_right_paths_and_goes_on_after_a_restart(tmp_path: Path) -> None:
    for _ in range(2):
        answer = bifrost("demo", "--for", "5s", "--json", "--data-dir", str(tmp_path / "demo"))
        assert answer.returncode == 0, answer.stderr[-2000:]
        summary = json.loads(answer.stdout.splitlines()[-1])
        assert set(summary) == {"seconds", "sources", "targets", "wrong_paths", "unaccounted", "delta"}
        assert summary["wrong_paths"] == summary["unaccounted"] == 0
        assert {line["protocol"] for line in summary["sources"].values()} == {"opcua", "mqtt", "sparkplug", "modbus"}
        assert all(line["received"] > 300 for line in summary["sources"].values())
        assert len(summary["targets"]) == 5
        assert all(line["delivered"] > 300 and line["stored"] == 0 for line in summary["targets"].values())
        assert Path(summary["delta"], "_delta_log").is_dir()


def test_a_demo_that_is_stopped_at_once_ends_with_a_summary_and_its_line_to_query(tmp_path: Path) -> None:
    place = tmp_path / "it's a demo"
    with subprocess.Popen(
        [sys.executable, "-m", "bifrost", "demo", "--data-dir", str(place)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stderr is not None
        first = demo.stderr.readline()
        demo.send_signal(signal.SIGINT)
        said, _ = demo.communicate(timeout=60)
    assert "plant, emulator and gateway started" in first
    assert demo.returncode == 0
    assert "wrong paths: 0, unaccounted: 0" in said
    line = said.splitlines()[-1]
    assert shlex.split(line)[:2] == [sys.executable, "-c"]
    assert "path" in subprocess.run(line, shell=True, capture_output=True, text=True, timeout=60, check=True).stdout


def test_the_demo_holds_with_five_thousand_tags_of_ten_sources(tmp_path: Path) -> None:
    many = ["--tags", "5000", "--sources", "opcua=4,mqtt=2,sparkplug=2,modbus=2"]
    answer = bifrost("demo", "--for", "10s", "--json", *many, "--data-dir", str(tmp_path))
    assert answer.returncode == 0, answer.stderr[-2000:]
    summary = json.loads(answer.stdout.splitlines()[-1])
    assert (len(summary["sources"]), len(summary["targets"])) == (10, 11)
    assert summary["wrong_paths"] == summary["unaccounted"] == 0
    assert all(line["received"] > 500 for line in summary["sources"].values())
    assert sum(line["received"] for line in summary["sources"].values()) / summary["seconds"] > 1_000
