"""A backup of a gateway that runs: nothing that was acknowledged before it is lost, and what comes after it has names of its own."""

import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bifrost.cli import app
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
LOAD = """
import sys
from bifrost import Gateway
with Gateway(sys.argv[1]) as gateway, open(sys.argv[2], "a", buffering=1) as acknowledged:
    first, last = int(sys.argv[3]), int(sys.argv[4])
    for number in range(first, last, 10):
        gateway.send([{"device_id": "counter", "tag_name": "number", "value": n} for n in range(number, number + 10)])
        print(number + 9, file=acknowledged)
    gateway.flush(3)
    account = gateway.account().to_dict()
    acknowledged.close()
import json
print(json.dumps(account))
"""


def written(folder: Path) -> Path:
    """The configuration of a gateway with one target that takes everything and one that nobody answers."""
    connectors = {
        "files": {"type": "file", "endpoint": str(folder / "files"), "format": "jsonl", "flush_interval": 0.05},
        "dead": {"type": "mqtt", "endpoint": f"mqtt://127.0.0.1:{free_port()}", "timeout": 1},
    }
    file = folder / "etc" / "gateway.yaml"
    file.parent.mkdir()
    configuration = {
        "gateway": {"name": "cell", "directory": str(folder / "data"), "cloud": {"connectors": connectors}},
        "routing_rules": [{"name": "all", "condition": "TRUE", "connectors": list(connectors)}],
        "web_ui": {"enabled": False},
    }
    file.write_text(json.dumps(configuration))
    return file


@contextmanager
def under_load(folder: Path, config: Path, first: int, last: int) -> "Iterator[subprocess.Popen[str]]":
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-c", LOAD, str(config), str(folder / "acknowledged"), str(first), str(last)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def acknowledged(folder: Path) -> int:
    """The newest number that the gateway promised."""
    path = folder / "acknowledged"
    lines = path.read_text().split() if path.exists() else []
    return int(lines[-1]) if lines else -1


def until(holds: Any, process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 60
    while not holds():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)


def done(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in sorted(folder.glob("**/*.jsonl")) for line in file.read_text().splitlines()]


def test_a_backup_under_load_holds_all_that_was_acknowledged_and_later_readings_are_no_repetitions(
    tmp_path: Path,
) -> None:
    config = written(tmp_path)
    backups: list[tuple[Path, int]] = []
    with under_load(tmp_path, config, 0, 10_000_000) as process:
        for number in range(2):
            newest = acknowledged(tmp_path)
            until(
                lambda newest=newest: acknowledged(tmp_path) > newest + 500, process
            )  # more than what an epoch lets go
            before = acknowledged(tmp_path)
            said = done("backup", str(tmp_path / f"{number}.tar.gz"), "-c", str(config))
            assert "stood still for" in said
            backups.append((tmp_path / f"{number}.tar.gz", before))
        newest = acknowledged(tmp_path)
        until(lambda: acknowledged(tmp_path) > newest, process)  # it went on
        process.kill()
    had = rows(tmp_path / "files")

    (tmp_path / "data").rename(tmp_path / "lost")
    for file, before in backups[-1:]:
        done("restore", str(file), "-c", str(config), "--directory", str(tmp_path / "data"))
        (tmp_path / "acknowledged").unlink()
        more = 20_000_000
        with under_load(tmp_path, config, more, more + 100) as process:
            answer, _ = process.communicate(timeout=60)
        assert process.returncode == 0, (tmp_path / "log").read_text()
        assert json.loads(answer.splitlines()[-1])["unaccounted"] == 0
        done("spool", "export", "dead", "-o", str(tmp_path / "waits"), "-c", str(config))
        waiting = [json.loads(line) for line in (tmp_path / "waits").read_text().splitlines()]
        found = {int(row["value"]) for row in waiting}
        assert set(range(before + 1)) <= found, "acknowledged before the backup, and lost"
        assert set(range(more, more + 100)) <= found, "taken for repetitions of what came after the backup"
        delivered = rows(tmp_path / "files")
        assert set(range(before + 1)) | set(range(more, more + 100)) <= {int(row["value"]) for row in delivered}
        names = {(row["shard"], row["sequence"]): row["value"] for row in had}
        others = [row for row in waiting if names.get((row["shard"], row["sequence"]), row["value"]) != row["value"]]
        assert not others, "two readings with one name"
        (tmp_path / "data").rename(tmp_path / f"data-{before}")


def test_a_gateway_that_stands_is_backed_up_with_its_secrets_but_not_their_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = written(tmp_path)
    with under_load(tmp_path, config, 0, 10) as process:
        process.communicate(timeout=60)
    key = tmp_path / "etc" / "key"
    key.write_text("correct horse battery staple")
    key.chmod(0o600)
    monkeypatch.setenv("BIFROST_SECRETS_KEY_FILE", str(key))
    (tmp_path / "etc" / "secrets.json").write_text("{}")
    (tmp_path / "etc" / "unnamed.pem").write_text("nobody named it")
    (tmp_path / "data" / "telemetry").mkdir()
    (tmp_path / "data" / "telemetry" / "waits").write_text("samples of the past")
    assert "no gateway runs" in done("backup", str(tmp_path / "b.tar"), "-c", str(config))
    with tarfile.open(tmp_path / "b.tar") as archive:
        names = archive.getnames()
    assert "configuration/gateway.yaml" in names and "configuration/secrets.json" in names
    assert not [
        name for name in names if "key" in name or "unnamed" in name or "telemetry" in name or name.endswith("/lock")
    ]
    assert (tmp_path / "b.tar").stat().st_mode & 0o777 == 0o600
    done("backup", str(tmp_path / "k.tar"), "-c", str(config), "--with-key")
    with tarfile.open(tmp_path / "k.tar") as archive:
        assert "configuration/secrets-key" in archive.getnames()

    said = done(
        "restore",
        str(tmp_path / "b.tar"),
        "-c",
        str(tmp_path / "new" / "gateway.yaml"),
        "--directory",
        str(tmp_path / "else"),
    )
    assert "10 files" not in said and (tmp_path / "new" / "gateway.yaml").read_text() == config.read_text()
    assert (tmp_path / "else").stat().st_mode & 0o777 == 0o700


def test_a_backup_that_was_cut_off_or_altered_is_refused_and_nothing_is_put_over_a_gateway(tmp_path: Path) -> None:
    config = written(tmp_path)
    with under_load(tmp_path, config, 0, 100) as process:
        process.communicate(timeout=60)
    file = tmp_path / "b.tar"
    done("backup", str(file), "-c", str(config))
    there = CliRunner().invoke(app, ["restore", str(file), "-c", str(config)])
    assert there.exit_code == 1 and "is not empty" in there.output

    whole = file.read_bytes()
    elsewhere = ["restore", str(file), "-c", str(config), "--directory", str(tmp_path / "else")]
    at = whole.index(b"\x00\x00\x00", whole.index(b"gateway/journal/") + 600)
    for damaged in (whole[: len(whole) // 2], whole[:at] + b"\x01" + whole[at + 1 :]):
        file.write_bytes(damaged)
        refused = CliRunner().invoke(app, elsewhere)
        assert refused.exit_code == 1 and "is no whole backup" in refused.output, refused.output
        assert not (tmp_path / "else").exists()
