"""Preflight: what stands between this gateway and the table, in plain words and with what to do about it."""

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

from connectors.contract import AuthError, ConfigError, Context, DeliveryError, Finding
from connectors.targets.zerobus.catalog import Catalog, privileges
from connectors.targets.zerobus.config import ZeroBusConfig, ZeroBusSettings
from connectors.targets.zerobus.errors import HttpError, failure
from connectors.targets.zerobus.schema import Plan, columns, grants, plan
from connectors.targets.zerobus.writer import Access, access
from connectors.wire.lakehouse import IDENTITY, add_columns, quoted
from connectors.wire.wide_tables import KEY, WIDE
from normalization.reading import TABLE


async def findings(config: ZeroBusConfig, context: Context) -> list[Finding]:
    """Look at everything that a write needs, from the network to the columns; stops where the next step cannot succeed."""
    table = config.provider_config.table
    try:
        where = access(config)
    except ConfigError as error:
        return [Finding(False, "settings", f"{error}; set them in the configuration")]
    found = [
        await _reachable("endpoint", where.endpoint, config.timeout),
        await _reachable("workspace_url", where.workspace_url, config.timeout),
    ]
    found += [_clear(url) for url in {where.endpoint, where.workspace_url} if not _private(url)]
    catalog = Catalog(where.workspace_url, where.client_id, where.client_secret, config.timeout)
    if not found[1].ok:
        return found
    found.append(await _token(catalog, where))
    if not found[-1].ok:
        return found
    try:
        answer = await asyncio.to_thread(catalog.table, table)
        fitting = plan(columns(answer), config.provider_config.layout)
    except (HttpError, OSError) as error:
        return [*found, _no_table(table, where, error)]
    found += [*_table(table, answer), *_columns(config.provider_config, fitting), await _granted(catalog, where, table)]
    if all(finding.ok for finding in found):
        found.append(await _stream(config, context, where))
    return found


async def _reachable(setting: str, url: str, timeout: float) -> Finding:  # noqa: ASYNC109
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(timeout):
            _, connection = await asyncio.open_connection(host, port)
        connection.close()
    except (OSError, TimeoutError) as error:
        return Finding(
            False,
            setting,
            f"{host}:{port} cannot be reached ({error or 'no answer in time'}); check `{setting}`, DNS, the firewall "
            "and, behind a proxy, HTTPS_PROXY",
        )
    return Finding(True, setting, f"{host}:{port} answers")


def _private(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in {"localhost", "127.0.0.1", "::1"}


def _clear(url: str) -> Finding:
    return Finding(False, "encryption", f"{url} is not encrypted: the client secret travels in clear; use https://")


async def _token(catalog: Catalog, where: Access) -> Finding:
    try:
        await asyncio.to_thread(catalog.token)
    except (HttpError, OSError) as error:
        advice = (
            "check client_id and client_secret, and that the service principal is in this workspace"
            if isinstance(failure(error, ""), AuthError)
            else "check `workspace_url`"
        )
        return Finding(False, "token", f"no token for `{where.client_id}`: {error}; {advice}")
    return Finding(True, "token", f"the workspace gives `{where.client_id}` a token")


def _no_table(table: str, where: Access, error: HttpError | OSError) -> Finding:
    kind = failure(error, table)
    if isinstance(kind, AuthError):
        return _lacking(table, where, error)
    if isinstance(kind, ConfigError):
        advice = f"create it with the SQL that `bifrost zerobus ddl {table}` prints, or correct the name"
    else:
        advice = "try again"
    return Finding(False, "table", f"{table}: {error}; {advice}")


def _lacking(table: str, where: Access, error: Exception) -> Finding:
    """A grant is missing: those that the answer mentions, or all when it mentions none, are in the advice."""
    statements = dict(zip((p[0] for p in privileges(table)), grants(table, where.client_id), strict=True))
    absent = [name for name in statements if name in str(error)] or list(statements)
    return Finding(
        False,
        "grants",
        f"`{where.client_id}` lacks {', '.join(absent)} for {table} ({error}); "
        f"run as its owner: {' '.join(statements[name] for name in absent)}",
    )


def _table(table: str, answer: dict[str, Any]) -> list[Finding]:
    kind, form = answer.get("table_type"), answer.get("data_source_format")
    if kind not in {None, "MANAGED"} or form not in {None, "DELTA"}:
        return [
            Finding(
                False,
                "table",
                f"{table} is {json.dumps(kind)} in format {json.dumps(form)}; ZeroBus takes managed Delta tables only",
            )
        ]
    return [Finding(True, "table", f"{table} is there")]


def _columns(own: ZeroBusSettings, fitting: Plan) -> list[Finding]:
    table = own.table
    found = [Finding(False, "columns", f"{table}: {problem}") for problem in fitting.problems]
    key, of = (IDENTITY, TABLE) if own.layout == "narrow" else (KEY, WIDE)
    if identity := [name for name in key if name in fitting.left_out]:
        found.append(
            Finding(
                False,
                "columns",
                f"{table} lacks {', '.join(identity)}: readings that are delivered twice cannot be told apart; run "
                f"{add_columns(quoted(table), identity, of)}",
            )
        )
    if others := [name for name in fitting.left_out if name not in key]:
        lacks = f"{table} lacks {', '.join(others)}"
        if own.schema_evolution == "leave_out":
            found.append(Finding(True, "columns", f"{lacks}: these are not stored"))
        else:
            what = "readings that have values for them wait; run"
            found.append(Finding(False, "columns", f"{lacks}: {what} {add_columns(quoted(table), others, of)}"))
    if fitting.not_ours:
        count = f"{len(fitting.not_ours)} columns that readings leave null"
        found.append(Finding(True, "columns", f"{table} has {count}: {', '.join(fitting.not_ours)}"))
    return found or [Finding(True, "columns", f"{table} has all columns of a reading")]


async def _granted(catalog: Catalog, where: Access, table: str) -> Finding:
    """Ask for the token that the SDK will ask for."""
    try:
        await asyncio.to_thread(catalog.table_token, where.endpoint, table)
    except (HttpError, OSError) as error:
        if isinstance(failure(error, table), AuthError):
            return _lacking(table, where, error)
        return Finding(False, "grants", f"{table}: {error}; try again")
    return Finding(True, "grants", f"`{where.client_id}` may write to {table}")


async def _stream(config: ZeroBusConfig, context: Context, where: Access) -> Finding:
    writer = config.writer(context)
    try:
        await writer.open()
    except DeliveryError as error:
        advice = {
            AuthError: "run: " + " ".join(grants(config.provider_config.table, where.client_id)),
            ConfigError: "compare the table with what `bifrost zerobus ddl` prints, and its region with ZeroBus's",
        }.get(type(error), "try again; the gateway does so by itself")
        return Finding(False, "stream", f"the service refuses a stream: {error}; {advice}")
    await writer.close()
    return Finding(True, "stream", "the service opens a stream for it")
