"""The HTTP API of a server: where its versions take lines, and how they are asked. One session, bounded connections.

Plain HTTP by aiohttp, and not the library influxdb-client, which knows neither the 1.x nor the 3.x API, and whose writing
joins and compresses each request once more. aiohttp ends a request's connection when it is cancelled, and sends no
POST twice.
"""

import asyncio
import json
import time
import zlib
from collections.abc import Mapping
from typing import Any, Final, Self
from urllib.parse import urlencode

import aiohttp

from connectors.contract import ConfigError, DeliveryError, TransientError
from connectors.targets.influxdb.config import InfluxConfig, Version
from connectors.targets.influxdb.errors import Answer, delivery_error, read_answer
from connectors.wire.tls import tls_context

_WRITE: Final[Mapping[Version, str]] = {
    "1.x": "/write",
    "2.x": "/api/v2/write",
    "3.x": "/api/v3/write_lp",
    "victoriametrics": "/write",
}
_PRECISION: Final[Mapping[Version, Mapping[str, str]]] = {
    "1.x": {"ns": "ns", "us": "u", "ms": "ms", "s": "s"},
    "2.x": {"ns": "ns", "us": "us", "ms": "ms", "s": "s"},
    "3.x": {"ns": "nanosecond", "us": "microsecond", "ms": "millisecond", "s": "second"},
    "victoriametrics": {"ns": "ns", "us": "u", "ms": "ms", "s": "s"},
}
_GZIP: Final = 16 + zlib.MAX_WBITS


def write_target(config: InfluxConfig) -> str:
    """Path and query of a write."""
    own = config.provider_config
    asked: dict[str, str | None] = {"precision": _PRECISION[own.version][own.precision]}
    match own.version:
        case "2.x":
            asked |= {"org": own.organization, "bucket": own.bucket}
        case "3.x":
            asked |= {"db": own.database, "accept_partial": "true", "no_sync": "false"}
        case _:
            asked |= {"db": own.database, "rp": own.retention_policy, "consistency": own.consistency}
    return f"{_WRITE[own.version]}?{urlencode({key: value for key, value in asked.items() if value is not None})}"


def credentials(config: InfluxConfig) -> dict[str, str]:
    """The headers that say who asks."""
    own = config.provider_config
    if own.token is not None:
        kind = "Token" if own.version in ("1.x", "2.x") else "Bearer"
        return {"Authorization": f"{kind} {own.token.get_secret_value()}"}
    if own.username is not None:
        password = own.password.get_secret_value() if own.password is not None else ""
        return {"Authorization": aiohttp.encode_basic_auth(own.username, password)}
    return {}


class Server:
    """One server, between `connect` and `close`."""

    def __init__(self, config: InfluxConfig) -> None:
        self.where: Final = config.address
        self._config = config
        self._write = config.address + write_target(config)
        self._session: aiohttp.ClientSession | None = None
        self._ssl: dict[str, Any] = {}

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connect(self) -> None:
        """Read the certificates; connections are made when they are needed."""
        own = self._config.provider_config
        self._ssl = {}
        if self.where.startswith("https:") and own.tls is not None:
            try:
                self._ssl = {"ssl": await asyncio.to_thread(tls_context, own.tls)}
            except OSError as error:
                raise ConfigError(f"{self.where}: {error} (check `tls`)") from error
            if own.tls.server_name:
                self._ssl["server_hostname"] = own.tls.server_name
        try:
            headers = credentials(self._config)
        except ValueError as error:
            raise ConfigError(
                f"{self.where}: username and password must be Latin-1, and the username without a colon"
            ) from error
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=own.pool_size),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=True,
        )

    async def close(self) -> None:
        """Close all connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def write(self, lines: bytes) -> Answer:
        """Send lines; returns what the server says."""
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        if self._config.provider_config.compression == "gzip":
            headers["Content-Encoding"] = "gzip"
            packer = zlib.compressobj(1, zlib.DEFLATED, _GZIP)
            lines = packer.compress(lines) + packer.flush()
        return (await self._ask("POST", self._write, data=lines, headers=headers))[0]

    async def ping(self) -> tuple[Answer, str]:
        """Ask whether it is there; returns what it says and its version, empty where it does not tell."""
        answer, headers, body = await self._request("GET", f"{self.where}/ping")
        version = headers.get("X-Influxdb-Version", "")
        if not version and isinstance(body, dict):
            version = str(body.get("version", ""))
        return answer, version

    async def ask(self, method: str, path: str, **given: Any) -> Any:
        """Ask the server's API; returns the JSON that it answers with, None when it answers with 404.

        Raises:
            DeliveryError: The answer was an error.
        """
        answer, body = await self._ask(method, self.where + path, **given)
        if answer.status == 404:
            return None
        if not 200 <= answer.status < 300:
            raise delivery_error(answer, self.where)
        return body

    async def query(self, statement: str, **given: str) -> list[list[Any]]:
        """Run a statement of InfluxQL; returns the rows of its first series."""
        asked = {"q": statement} | given
        body = await self.ask("POST", "/query", data=urlencode(asked), headers={"Content-Type": _FORM})
        results = body.get("results", []) if isinstance(body, dict) else []
        result = results[0] if results else {}
        if error := result.get("error"):
            raise ConfigError(f"{self.where}: {error}")
        series = result.get("series") or [{}]
        rows: list[list[Any]] = series[0].get("values") or []
        return rows

    async def _ask(self, method: str, url: str, **given: Any) -> tuple[Answer, Any]:
        answer, _, body = await self._request(method, url, **given)
        return answer, body

    async def _request(self, method: str, url: str, **given: Any) -> tuple[Answer, Mapping[str, str], Any]:
        if self._session is None:
            raise TransientError(f"{self.where}: not open")
        timeout = self._config.timeout
        try:
            async with (
                asyncio.timeout(timeout),
                self._session.request(method, url, allow_redirects=False, **self._ssl, **given) as found,
            ):
                body = await _bounded(found)
        except TimeoutError as error:
            raise TransientError(f"{self.where}: no answer in {timeout:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreached(error) from error
        answer = read_answer(found.status, found.headers, body, time.time())
        return answer, found.headers, _json(body)

    def _unreached(self, error: Exception) -> DeliveryError:
        text = f"{self.where}: {' '.join(str(error).split()) or type(error).__name__}"
        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
            return ConfigError(f"{text} (check `tls`, and whether a certificate has run out)")
        if isinstance(error, aiohttp.InvalidURL):
            return ConfigError(f"{text} (check `url`)")
        return TransientError(text)


_FORM: Final = "application/x-www-form-urlencoded"
_LARGEST: Final = 16 * 1024**2  # bytes of an answer


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    """The body of an answer, of which no more is kept than any server has to say."""
    parts, size = [], 0
    async for part in answer.content.iter_chunked(65_536):
        size += len(part)
        if size > _LARGEST:
            answer.close()
            break
        parts.append(part)
    return b"".join(parts)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
