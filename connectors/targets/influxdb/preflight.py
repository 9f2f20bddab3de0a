"""Preflight: what stands between this gateway and the database, in plain words and with what to do about it."""

from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from connectors.contract import AuthError, ConfigError, DeliveryError, Finding
from connectors.targets.influxdb import bucket
from connectors.targets.influxdb.config import InfluxConfig
from connectors.targets.influxdb.errors import delivery_error
from connectors.targets.influxdb.server import Server

_LOCAL = {"localhost", "127.0.0.1", "::1"}


async def findings(server: Server, config: InfluxConfig) -> list[Finding]:
    """Look at everything that a write needs, from the server to the bucket; nothing is written."""
    return [finding async for finding in _findings(server, config)]


async def _findings(server: Server, config: InfluxConfig) -> AsyncIterator[Finding]:
    own = config.provider_config
    answer, version = await server.ping()
    if answer.status == 401 or answer.status >= 500:
        raise delivery_error(answer, server.where)
    yield _server(config, version)
    parts = urlsplit(config.address)
    if parts.scheme == "http" and parts.hostname not in _LOCAL:
        yield Finding(False, "encryption", "readings, and password or token, travel in clear; use an https URL")
    if own.token is None and own.username is None:
        yield Finding(True, "credentials", "none are given; that works where the server asks nobody who they are")
    try:
        kept = await bucket.look(server, own)
    except (AuthError, ConfigError) as error:
        yield Finding(not isinstance(error, AuthError), "database", f"cannot be looked at: {error}")
        return
    except DeliveryError as error:
        yield Finding(False, "database", str(error))
        return
    if kept.there:
        yield Finding(True, "database", f"{kept.name} is there")
    elif own.version == "3.x" or own.create == "auto":
        yield Finding(True, "database", f"{kept.name} is missing, or hidden from this user or token; it will be made")
    else:
        yield Finding(False, "database", f"{kept.name} is missing, or hidden from this user or token; make it, or set "
                      "`create: auto`")  # fmt: skip
    if kept.retention is not None:
        yield Finding(True, "retention", f"{kept.name} deletes readings after {kept.retention / 86_400:g} days, and refuses "
                      "older ones: those that waited longer here become dead letters")  # fmt: skip
    if own.precision != "ns" or own.same_time == "overwrite":
        yield Finding(True, "time", f"of two readings of one tag in one {own.precision} the later one stays; with `precision: "
                      "ns` and `same_time: spread` both do")  # fmt: skip


def _server(config: InfluxConfig, version: str) -> Finding:
    wanted = config.provider_config.version
    if not version:
        return Finding(True, "server", f"{config.address} answers, but does not tell its version")
    first = version.lstrip("v").partition(".")[0]
    if wanted != "victoriametrics" and first.isdigit() and first != wanted[0]:
        return Finding(False, "server", f"{config.address} is InfluxDB {version}; set `version: {first}.x`")
    return Finding(True, "server", f"{config.address} is version {version}")
