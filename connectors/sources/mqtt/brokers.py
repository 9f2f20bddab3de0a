"""The reader: brokers one after the other, until one takes the connection."""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from dataclasses import replace
from typing import Final

from typing_extensions import override

from connectors.contract import Context, Counts, Finding, Intake, Reader
from connectors.sources.mqtt.config import MqttConfig
from connectors.sources.mqtt.layout import Layout
from connectors.sources.mqtt.reader import Connection, session_settings, subscriptions
from connectors.wire.mqtt import ClosedError, MqttSession
from connectors.wire.mqtt_status import status_topic

_log = logging.getLogger(__name__)

_BRIEF = 10.0  # seconds; a connection that ends sooner is brief
_SUSPICIOUS = 3  # brief connections in a row


class MqttReader(Reader, Counts):
    """Reads one broker, or of several the first that can be connected to.

    Attributes:
        counts: What the Sparkplug host met since the process began, by reason; see `SparkplugHost.counts`.
    """

    def __init__(self, config: MqttConfig, context: Context) -> None:
        """A reader of the source `config`."""
        self.config: Final = config
        self._client_id = config.client_id or f"{context.gateway}-{config.name}"
        said = config.status_topic
        self._status = status_topic(said, gateway=context.gateway, source=config.name) if said else None
        self.counts: Counter[str] = Counter()
        self._brief = 0  # connections in a row that soon came to an end

    @override
    async def run(self, intake: Intake, state: bytes | None) -> None:
        earlier: list[str] = []
        for endpoint in self.config.endpoints:
            connection = Connection(
                self.config, endpoint, self._client_id, intake, state, self.counts, status=self._status
            )
            going_back = asyncio.create_task(self._go_back(earlier, connection))
            try:
                await connection.run()
            except ConnectionError as error:
                if connection.began is not None:
                    raise self._explained(error, connection.began) from error
                if endpoint == self.config.endpoints[-1]:
                    raise
                _log.warning("source %s: %s; the next broker is tried", self.config.name, error)
            finally:
                going_back.cancel()
            earlier.append(endpoint)

    def _explained(self, error: ConnectionError, began: float) -> ConnectionError:
        """The end of a connection; of brief ones in a row with what is the likely cause."""
        brief = isinstance(error, ClosedError) and time.monotonic() - began < _BRIEF
        self._brief = self._brief + 1 if brief else 0
        if self._brief < _SUSPICIOUS:
            return error
        return ConnectionError(
            f"{error}; connections end soon after they began: is the client id `{self._client_id}` used twice?"
        )

    async def _go_back(self, earlier: list[str], connection: Connection) -> None:
        """End a connection to a fallback when a broker before it answers again."""
        while earlier and self.config.failback:
            await asyncio.sleep(self.config.failback)
            for endpoint in earlier:
                settings = replace(session_settings(self.config, endpoint, f"{self._client_id}-probe"), clean=True)
                session = MqttSession(settings, lambda _: None, lambda _, __: None)
                with contextlib.suppress(ConnectionError):
                    await session.open()
                    connection.end(f"{endpoint} answers again")
                await session.close()

    async def check(self) -> list[Finding]:
        """Connect beside the running session, subscribe and leave again; so at each broker."""
        try:
            for rule in self.config.subscriptions:
                Layout(rule)
        except ValueError as error:
            return [Finding(False, self.config.name, str(error))]
        return [finding for endpoint in self.config.endpoints for finding in await self._check(endpoint)]

    async def _check(self, endpoint: str) -> list[Finding]:
        settings = replace(session_settings(self.config, endpoint, f"{self._client_id}-check"), clean=True)
        wanted = subscriptions(self.config)
        session = MqttSession(settings, lambda _: None, lambda _, __: None)
        try:
            await session.open()
            findings = [Finding(True, endpoint, f"answers as MQTT {self.config.version}")]
            for (name, qos), answer in zip(wanted, await session.subscribe(wanted), strict=False):
                granted = not answer.is_failure
                detail = (
                    f"granted at QoS {answer.value}" if granted else f"refused: {answer}; ask for the right to read it"
                )
                findings.append(Finding(granted and answer.value >= qos, f"subscription `{name}`", detail))
            return findings
        except ConnectionError as error:
            return [Finding(False, endpoint, str(error))]
        finally:
            await session.close()
