"""Whatever is asked, and in whatever order: no answer is a mistake of the gateway, and each is as the OpenAPI says."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.running_gateway import gateway, until
from tests.web.served import Client, write_config
from web.access.cli_token import cli_token

_STREAMS = "follow|/api/events|/api/tail"  # without an end


@pytest.mark.threat(20)
async def test_any_request_to_a_running_gateway_is_answered_as_documented(tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, port, "web_ui: {rate: 100000}\n")

    def ready() -> bool:
        try:
            return Client(port).get("/readyz").status == 200
        except OSError:
            return False

    with gateway(config):
        await until(ready, config)
        assert Client(port).get("/livez").status == 200
        before = {path for path in tmp_path.parent.rglob("*") if not path.is_relative_to(tmp_path)}
        shown = await asyncio.to_thread(
            subprocess.run,
            [
                Path(sys.executable).parent / "st",
                "run",
                f"http://127.0.0.1:{port}/openapi.json",
                *("--header", f"Authorization: Bearer {cli_token(tmp_path / 'data')}"),
                *("--phases", "examples,fuzzing,stateful", "--max-examples", "2", "--seed", "1"),
                *("--exclude-path-regex", _STREAMS, "--exclude-checks", "positive_data_acceptance"),
                *("--continue-on-failure", "--request-timeout", "15", "--no-color", "--warnings", "off"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert shown.returncode == 0, shown.stdout[-6000:] + shown.stderr[-2000:]
        assert re.search(r"[1-9]\d* generated", shown.stdout)
        assert Client(port).get("/livez").status == 200
        assert {path for path in tmp_path.parent.rglob("*") if not path.is_relative_to(tmp_path)} == before
    said = (tmp_path / "log").read_text()
    assert '"level": "error"' not in said, said[-3000:]
    assert "Traceback" not in said
