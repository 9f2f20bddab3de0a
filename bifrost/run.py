"""Running the flow in this process, and looking at a gateway that runs or has run."""

import http.client
import json
import threading
import urllib.request
from datetime import timedelta
from typing import Any

from config.models import NAME_FILE, Configuration
from delivery.account import Account
from flows.process import Process, prepare_recovery, recovery_directory

EPOCH = timedelta(seconds=1)


def run(config: Configuration, seconds: float | None = None) -> int:
    """Run the gateway until SIGTERM or SIGINT, or for `seconds`; returns the exit code if the flow could not go on."""
    import os

    from bytewax.recovery import RecoveryConfig
    from bytewax.run import cli_main

    from flows.gateway import gateway

    os.environ.pop("BYTEWAX_DATAFLOW_API_ENABLED", None)  # any value would open a port without authentication
    process = Process(config)
    process.on_signals()
    directory = recovery_directory(config)
    prepare_recovery(directory, config.gateway)
    if seconds is not None:
        timer = threading.Timer(seconds, process.drain)
        timer.daemon = True
        timer.start()
    recovery = RecoveryConfig(directory, timedelta(0))  # type: ignore[no-untyped-call]
    flow = gateway(process)
    process.run(lambda: cli_main(flow, epoch_interval=EPOCH, recovery_config=recovery))  # type: ignore[no-untyped-call]
    return 1


def ask(config: Configuration, path: str) -> dict[str, Any] | None:
    """What the running gateway of this name answers to GET `path`; None when none runs."""
    host = "127.0.0.1" if config.listen in ("", "0.0.0.0", "::") else config.listen
    try:
        with urllib.request.urlopen(f"http://{host}:{config.port}{path}", timeout=5) as answer:
            found = json.load(answer)
            return found if isinstance(found, dict) and found.get("gateway") == config.gateway else None
    except (OSError, http.client.HTTPException, ValueError):  # nobody, or not a gateway
        return None


def account(config: Configuration) -> dict[str, Any]:
    """The account of a gateway, from the gateway itself or, when none runs, from its stores."""
    running = ask(config, "/api/ledger") if config.port is not None else None
    if running is not None:
        return running
    if not (config.directory / NAME_FILE).exists():  # no gateway has run; looking must not make its stores
        return {"gateway": config.gateway, **Account(targets={name: {} for name in config.targets}).to_dict()}
    process = Process(config)
    process.open_stores()
    try:
        return {"gateway": config.gateway, **process.account().to_dict()}
    finally:
        process.close()
