"""Running the flow in this process, and looking at a gateway that runs or has run."""

import http.client
import json
import shutil
import ssl
import threading
import time
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO

import structlog

from config.history import finish, record
from config.models import NAME_FILE, Configuration
from delivery.account import Account
from delivery.disk import StoreError
from flows.process import Process, prepare_recovery, recovery_directory

EPOCH = timedelta(seconds=1)


log = structlog.get_logger()


def run(config: Configuration, seconds: float | None = None, path: Path | None = None) -> int:
    """Run the gateway until SIGTERM or SIGINT, or for `seconds`; returns the exit code if the flow could not go on.

    Args:
        config: Its configuration.
        seconds: How long; None for ever.
        path: What it was loaded from, which is kept in the gateway's history.
    """
    return run_process(Process(config), seconds, path)


def run_process(process: Process, seconds: float | None = None, path: Path | None = None) -> int:
    """Run a gateway on the main thread; see `run`."""
    import os

    from bytewax.recovery import RecoveryConfig
    from bytewax.run import cli_main

    from flows.gateway import gateway

    os.environ.pop("BYTEWAX_DATAFLOW_API_ENABLED", None)  # any value would open a port without authentication
    process.on_signals()
    process.claim()
    if path is not None:
        _remember(path, process.config)
        process.configured_in(path)
    directory = recovery_directory(process.config)
    prepare_recovery(directory, process.config.gateway)
    if seconds is not None:
        timer = threading.Timer(seconds, process.drain)
        timer.daemon = True
        timer.start()
    recovery = RecoveryConfig(directory, timedelta(0))  # type: ignore[no-untyped-call]
    process.run(
        lambda: cli_main(gateway(process), epoch_interval=EPOCH, recovery_config=recovery),  # type: ignore[no-untyped-call]
        EPOCH.total_seconds(),
        rebuilds=True,
    )
    return 1


def _remember(path: Path, config: Configuration) -> None:
    try:
        finish(path)
        number = record(path, config, time.time())
    except OSError as error:
        log.warning("the configuration is not kept in the history", path=str(path), error=str(error))
        return
    if number is not None:
        log.info("configuration kept in the history", number=number)


def address(config: Configuration) -> str:
    """Where the HTTP port of a gateway of this configuration is reached."""
    host = "127.0.0.1" if config.listen in ("", "0.0.0.0", "::") else config.listen
    return f"[{host}]:{config.port}" if ":" in host else f"{host}:{config.port}"


class RefusedError(StoreError):
    """A running gateway does not do what it is asked; the message says why."""


def ask(
    config: Configuration, path: str, order: dict[str, Any] | None = None, patience: float = 5.0
) -> dict[str, Any] | None:
    """What the running gateway of this name answers; None when none runs.

    Args:
        config: Its configuration.
        path: What is asked for.
        order: What is to be done; None to look only.
        patience: Seconds that the answer may take.

    Raises:
        RefusedError: It does not do it.
    """
    body = None if order is None else json.dumps({**order, "gateway": config.gateway}).encode()
    try:
        with _opened(config, path, body, patience) as answer:
            found = json.load(answer)
            return found if isinstance(found, dict) and found.get("gateway") == config.gateway else None
    except urllib.error.HTTPError as error:
        with error:
            if error.headers.get("bifrost-gateway") != config.gateway:
                return None
            raise RefusedError(_reason(config, error)) from None
    except (OSError, http.client.HTTPException, ValueError):  # nobody, or not a gateway
        return None


def fetch(config: Configuration, path: str, out: BinaryIO, patience: float) -> bool:
    """Write what the running gateway of this name answers, however long it is; False when none runs.

    Raises:
        RefusedError: It does not do it.
    """
    if config.port is None or ask(config, "/health") is None:
        return False
    try:
        with _opened(config, path, None, patience) as answer:
            shutil.copyfileobj(answer, out)
    except urllib.error.HTTPError as error:
        with error:
            raise RefusedError(_reason(config, error)) from None
    return True


def _opened(config: Configuration, path: str, body: bytes | None, patience: float) -> Any:
    from web.access.cli_token import cli_token

    headers = {"content-type": "application/json"} if body is not None else {}
    token = cli_token(config.directory)
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    tls = config.web.tls
    context = None
    if tls is not None:  # whatever the name in it: this very certificate is the gateway's
        context = ssl.create_default_context(cafile=str(tls.cert_file))
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    url = f"{'http' if tls is None else 'https'}://{address(config)}{path}"
    request = urllib.request.Request(url, body, headers)  # noqa: S310 - http or https
    return urllib.request.urlopen(request, timeout=patience, context=context)  # noqa: S310 - http or https


def _reason(config: Configuration, error: urllib.error.HTTPError) -> str:
    if error.code == 401:
        return (
            f"gateway `{config.gateway}` wants to know who asks, and {config.directory / 'cli-token'} cannot be read or is of "
            "another start: run this as the gateway's user, or set BIFROST_TOKEN to an API token"
        )
    try:
        said = json.load(error)
        return "; ".join([str(said["detail"]), *(f"{p['where']}: {p['message']}" for p in said.get("problems", ()))])
    except (ValueError, KeyError, TypeError, OSError):
        return f"gateway `{config.gateway}` answers {error.code}"


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
        kept = {"kept": process.kept} if process.kept else {}
        return {"gateway": config.gateway, **process.account().to_dict(), **kept}
    finally:
        process.close()
