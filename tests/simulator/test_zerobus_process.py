"""The emulator as a process: SIGKILL, restart, SIGTERM, TLS, the command line."""

import json
import os
import random
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

os.environ["RUST_LOG"] = "off"
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"

import pyarrow as pa
import pytest
import trustme
import zerobus
from deltalake import DeltaTable
from typer import Typer
from typer.testing import CliRunner

from simulator.zerobus.cli import zerobus as command
from simulator.zerobus.process import EmulatorError, EmulatorProcess
from tests.ports import free_port

TABLE = "main.plant.readings"
DECLARATION = {
    "columns": [
        {"name": "gateway", "type": "string", "nullable": False},
        {"name": "sequence", "type": "bigint", "nullable": False},
    ]
}
ARROW = pa.schema([("gateway", pa.string()), ("sequence", pa.int64())])


@pytest.fixture
def declaration(tmp_path):
    path = tmp_path / "readings.json"
    path.write_text(json.dumps(DECLARATION))
    return path


class Sender(threading.Thread):
    """Sends numbered batches until told to stop; a new stream, and never the same rows again, after each failure."""

    def __init__(self, emulator: EmulatorProcess, kind: str) -> None:
        super().__init__(daemon=True)
        self.kind = kind
        self.emulator = emulator
        self.acknowledged: list[int] = []
        self.failures = 0
        self.stopping = False

    def run(self) -> None:
        sequence = 0
        while not self.stopping:
            try:
                stream = self.open()
                while not self.stopping:
                    batch = list(range(sequence, sequence + 50))
                    sequence += 50
                    if self.kind == "arrow":
                        stream.ingest_batch(pa.record_batch([pa.array(["arrow"] * 50), pa.array(batch)], schema=ARROW))
                    else:
                        stream.ingest_records_offset([json.dumps({"gateway": "json", "sequence": n}) for n in batch])
                    stream.flush()
                    self.acknowledged += batch
                stream.close()
            except zerobus.ZerobusException:
                self.failures += 1
                threading.Event().wait(0.05)

    def open(self):
        sdk = zerobus.ZerobusSdk(self.emulator.endpoint, self.emulator.unity_catalog_url)
        who = (self.emulator.client_id, self.emulator.client_secret)
        if self.kind == "arrow":
            options = zerobus.ArrowStreamConfigurationOptions(recovery=False, connection_timeout_ms=1000)
            return sdk.create_arrow_stream(TABLE, ARROW, *who, options)
        options = zerobus.StreamConfigurationOptions(recovery=False)
        return sdk.create_stream(*who, zerobus.TableProperties(TABLE), options)


@pytest.mark.kill
def test_sigkill_loses_no_acknowledged_row_and_doubles_none(tmp_path, declaration):
    seed = 20_240_817
    chance = random.Random(seed)
    ports = {"port": free_port(), "http_port": free_port()}
    data_dir = tmp_path / "data"

    def start():
        return EmulatorProcess(data_dir, {TABLE: declaration}, options=["--commit-seconds=0.1"], **ports)

    emulator = start()
    senders = [Sender(emulator, "json"), Sender(emulator, "arrow")]
    try:
        for sender in senders:
            sender.start()
        for _ in range(4):
            before = sum(len(sender.acknowledged) for sender in senders)
            deadline = time.monotonic() + 20
            while sum(len(sender.acknowledged) for sender in senders) < before + 2000:
                assert time.monotonic() < deadline
                threading.Event().wait(0.01)
            threading.Event().wait(chance.random() * 0.3)
            emulator.kill()
            emulator = start()
            assert emulator.endpoint == senders[0].emulator.endpoint
        for sender in senders:
            sender.stopping = True
        for sender in senders:
            sender.join(20)
            assert not sender.is_alive()
        emulator.count(TABLE)
    finally:
        emulator.stop()
    rows = DeltaTable(data_dir / "tables" / TABLE).to_pyarrow_table()
    stored = Counter(zip(rows["gateway"].to_pylist(), rows["sequence"].to_pylist(), strict=True))
    owed = {(sender.kind, sequence) for sender in senders for sequence in sender.acknowledged}
    assert min(sender.failures for sender in senders) >= 1
    assert len(owed) >= 8000
    assert not owed - stored.keys(), "an acknowledged row is missing"
    assert max(stored.values()) == 1, "a row is there twice"


def test_rows_that_delta_has_not_got_yet_are_there_after_a_restart(tmp_path, declaration):
    data_dir = tmp_path / "data"
    tables = {TABLE: declaration}
    with EmulatorProcess(data_dir, tables, options=["--commit-seconds=60"]) as emulator:
        stream = Sender(emulator, "json").open()
        stream.ingest_records_offset([json.dumps({"gateway": "g", "sequence": n}) for n in range(100)])
        stream.flush()
        emulator.kill()
    assert DeltaTable(data_dir / "tables" / TABLE).count() == 0
    with EmulatorProcess(data_dir, tables) as emulator:
        assert emulator.count(TABLE) == 100
        emulator.kill()
    with EmulatorProcess(data_dir, tables) as emulator:  # and only once
        assert emulator.count(TABLE) == 100


def test_sigterm_writes_everything_and_exits_0(tmp_path, declaration):
    data_dir = tmp_path / "data"
    ready = tmp_path / "ready.json"
    options = ["--commit-seconds=60", f"--ready-file={ready}"]
    with EmulatorProcess(data_dir, {TABLE: declaration}, options=options) as emulator:
        assert json.loads(ready.read_text())["endpoint"] == emulator.endpoint
        stream = Sender(emulator, "json").open()
        stream.ingest_records_offset([json.dumps({"gateway": "g", "sequence": n}) for n in range(100)])
        stream.flush()
        started = time.monotonic()
        assert emulator.stop() == 0
        assert time.monotonic() - started < 5
    assert DeltaTable(data_dir / "tables" / TABLE).count() == 100


def test_it_stops_by_itself_after_the_seconds_it_was_given(tmp_path):
    emulator = EmulatorProcess(tmp_path / "data", options=["--seconds=0.2"])
    assert emulator._process.wait(20) == 0
    emulator.stop()


def test_a_data_directory_belongs_to_one_emulator(tmp_path):
    with EmulatorProcess(tmp_path / "data"):
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        second = subprocess.run(
            [sys.executable, "-m", "simulator.zerobus", f"--data-dir={tmp_path / 'data'}", "--port=0", "--http-port=0"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert second.returncode == 1
    assert "in use by another emulator" in second.stderr


@pytest.mark.parametrize("which", ["port", "http_port"])
def test_a_port_that_is_taken_is_said_in_one_line(tmp_path, which, capfd):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EmulatorError, match="exit code 1"):
            EmulatorProcess(tmp_path / "data", **{which: port})
    assert capfd.readouterr().err == f"zerobus: 127.0.0.1:{port} cannot be used: Address already in use\n"


def test_the_sdk_works_over_tls_with_a_private_authority(tmp_path, declaration):
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    paths = {name: tmp_path / f"{name}.pem" for name in ("ca", "cert", "key")}
    authority.cert_pem.write_to_path(str(paths["ca"]))
    certificate.cert_chain_pems[0].write_to_path(str(paths["cert"]))
    certificate.private_key_pem.write_to_path(str(paths["key"]))
    command_line = [sys.executable, "-m", "simulator.zerobus", "--host=localhost", "--port=0", "--http-port=0"]
    command_line += [f"--tls-cert={paths['cert']}", f"--tls-key={paths['key']}", f"--data-dir={tmp_path / 'data'}"]
    root = str(Path(__file__).parents[2])
    # the SDK reads the authority when it is first used, so it needs a process of its own
    client = """
import json, sys, zerobus
sdk = zerobus.ZerobusSdk(sys.argv[1], sys.argv[2])
properties = zerobus.TableProperties("main.plant.readings")
stream = sdk.create_stream("simulator", "simulator-secret", properties)
stream.ingest_records_offset([json.dumps({"gateway": "g", "sequence": n}) for n in range(10)])
stream.flush()
stream.close()
"""
    environment = {**os.environ, "PYTHONPATH": root, "SSL_CERT_FILE": str(paths["ca"])}
    with subprocess.Popen(
        [*command_line, f"--table={TABLE}={declaration}"], env=environment, stdout=subprocess.PIPE, text=True
    ) as emulator:
        try:
            facts = json.loads(emulator.stdout.readline().removeprefix("ready "))
            assert facts["endpoint"].startswith("https://")
            urls = [facts["endpoint"], facts["unity_catalog_url"]]
            subprocess.run([sys.executable, "-c", client, *urls], env=environment, timeout=60, check=True)
            context = ssl.create_default_context(cafile=str(paths["ca"]))
            host, _, port = urls[1].removeprefix("https://").partition(":")
            with socket.create_connection((host, int(port))) as plain:
                context.wrap_socket(plain, server_hostname=host).close()
        finally:
            emulator.terminate()
        assert emulator.wait(20) == 0
    assert DeltaTable(tmp_path / "data" / "tables" / TABLE).count() == 10


@pytest.fixture
def cli():
    app = Typer()
    app.command()(command)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def test_every_option_has_help(cli):
    result = cli("--help")
    assert result.exit_code == 0
    for option in ("--host", "--port", "--http-port", "--data-dir", "--table", "--client-id", "--client-secret"):
        assert option in result.output
    for option in ("--tls-cert", "--tls-key", "--ready-file", "--seconds", "--commit-seconds"):
        assert option in result.output


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--table=readings"], "catalog.schema.table=FILE"),
        (["--table=a.b.c=/nowhere.json"], "No such file"),
        (["--port=70000"], "65535"),
    ],
)
def test_bad_options_are_exit_code_2(cli, arguments, word):
    result = cli(*arguments)
    assert result.exit_code == 2
    assert word in " ".join(result.output.replace("│", " ").split())


def test_a_bad_declaration_is_exit_code_2_and_says_where(cli, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text('{"columns": [{"name": "a", "type": "colour"}]}')
    result = cli(f"--table=a.b.c={path}", f"--data-dir={tmp_path}")
    assert result.exit_code == 2
    assert "'colour' is not a Delta type" in " ".join(result.output.replace("│", " ").split())
