"""Sends units to Azure IoT Hub within its limits, and reports the newest values as properties of the twin before that."""

import asyncio
import contextlib
import itertools
import json
import logging
import re
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, Final
from urllib.parse import parse_qs, quote

import msgspec
import numpy as np
import pyarrow as pa
from typing_extensions import override

from connectors.contract import (
    AuthError,
    CapacityError,
    ConfigError,
    DeliveryError,
    Finding,
    Limits,
    TransientError,
    Writer,
)
from connectors.dry_run import Written
from connectors.settings import SecretStr
from connectors.targets.azure_iot_hub.config import AzureIotHubConfig, AzureIotHubSettings, DpsSettings
from connectors.targets.azure_iot_hub.tokens import device_key, token
from connectors.wire.mqtt_messages import MessageEncoder, MessageForm
from connectors.wire.mqtt_outgoing import topic_fields
from connectors.wire.mqtt_packets import Publishes
from connectors.wire.mqtt_publisher import Messages, Publisher
from connectors.wire.mqtt_settings import SessionSettings
from connectors.wire.newest import Newest

_log = logging.getLogger(__name__)
_API: Final = "2021-04-12"
_DPS_API: Final = "2019-03-31"
_MOST_BYTES: Final = 256 * 1024  # of a message with its properties
_TWIN_BYTES: Final = 32 * 1024  # of all reported properties
_TWIN_VALUE: Final = 4 * 1024
_IN_FLIGHT: Final = 100
_RENEW: Final = 0.8  # of a token's life, after which the connection is begun anew
_ANSWER: Final = re.compile(r"\$(?:iothub/twin|dps/registrations)/res/(\d+)/\?(.*)", re.DOTALL)


def _escaped(_column: str, text: str) -> str:
    return quote(text, safe="")


def twin_name(_column: str, text: str) -> str:
    """What may stand in the name of a property."""
    return re.sub(r"[.$\s\x00-\x1f\x7f-\x9f]", "_", text)


def topic(device: str, module: str | None, properties: dict[str, str]) -> str:
    """Template of the topic of messages, with content type, encoding and properties as its bag."""
    place = f"devices/{device}" + (f"/modules/{module}" if module else "")
    bag = {"$.ct": quote("application/json", safe=""), "$.ce": "utf-8"}
    bag |= {name: "".join(_pieces(text)) for name, text in properties.items()}
    return f"{place}/messages/events/" + "&".join(f"{quote(name, safe='')}={text}" for name, text in bag.items())


def _pieces(text: str) -> Iterator[str]:
    """A template whose own text is escaped, and its places are not."""
    for at, piece in enumerate(re.split(r"(\{[^{}]*\})", text)):
        yield piece if at % 2 else quote(piece, safe="")


class Conversation:
    """Requests over MQTT that are answered by topics with a status and the request's number."""

    def __init__(self, where: str, timeout: float) -> None:
        self.publisher = Publisher(where, timeout)
        self._timeout = timeout
        self._where = where
        self._numbers = itertools.count(1)
        self._waiting: dict[str, asyncio.Future[tuple[int, dict[str, list[str]], bytes]]] = {}

    def hear(self, messages: Publishes) -> None:
        """Take answers."""
        for name, payload in zip(messages.topics, messages.payloads, strict=True):
            found = _ANSWER.fullmatch(name.decode("utf-8", "replace"))
            told = parse_qs(found[2]) if found else {}
            future = self._waiting.get(told.get("$rid", [""])[0])
            if found and future is not None and not future.done():
                future.set_result((int(found[1]), told, payload))

    async def ask(self, prefix: str, payload: bytes, more: str = "") -> tuple[int, dict[str, list[str]], bytes]:
        """Publish a request and wait for its answer: status, what its topic tells, and payload."""
        number = str(next(self._numbers))
        name = f"{prefix}?$rid={number}{more}"
        answer: asyncio.Future[tuple[int, dict[str, list[str]], bytes]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            one = Messages(topic_fields([name]), [name], np.zeros(1, np.int64), pa.array([payload], pa.binary()))
            await self.publisher.publish(one, qos=1)
            lost = self.publisher.session.lost
            waited: set[asyncio.Future[Any]] = {answer, lost}
            await asyncio.wait(waited, timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED)
            if lost.done():
                raise TransientError(f"{self._where}: {lost.exception()}")
            if not answer.done():
                raise TransientError(f"{self._where}: no answer to a request to {prefix}")
            return answer.result()
        finally:
            self._waiting.pop(number, None)


def refusal(status: int, what: str) -> DeliveryError:
    """The place of a status in the tree."""
    text = f"{what} is refused with status {status}"
    if status in {401, 403, 404}:
        return AuthError(f"{text} (check the identity, and that it is enabled)")
    if status == 429:
        return CapacityError(f"{text}: the hub is throttling")
    return TransientError(text) if status >= 500 else ConfigError(text)


def message_form(own: AzureIotHubSettings, device: str) -> MessageForm:
    """How readings become messages.

    Args:
        own: The target's settings.
        device: The device, as the settings or the provisioning service say.
    """
    return MessageForm(
        [topic(device, own.part("module_id"), own.properties)],
        readings=own.readings_per_message,
        arrays=True,
        clean=_escaped,
        fault=lambda name: "its properties are too long" if len(name) > 60_000 else None,
    )


def written(config: AzureIotHubConfig, batch: pa.RecordBatch) -> list[Written]:
    """The telemetry that would be sent; nothing is connected. A twin is told apart from it and only what has changed."""
    own = config.provider_config
    device = own.part("device_id") or (own.dps.registration_id if own.dps is not None else "")
    messages, wrong = MessageEncoder(message_form(own, device)).encode(batch, _MOST_BYTES)
    return messages.written(wrong, qos=own.qos)


class AzureIotHubWriter(Writer):
    """Writes to one hub as one device or module."""

    def __init__(self, config: AzureIotHubConfig) -> None:
        own = config.provider_config
        self.limits = Limits(
            rows=config.batch_size or 10_000,
            bytes=8 * 1024**2,
            linger=1.0 if config.flush_interval is None else config.flush_interval,
        )
        self._config = config
        self._assigned: tuple[str, str] | None = None
        self._encoder: MessageEncoder | None = None
        self._twin = Newest(own.twin_key, _TWIN_VALUE, twin_name) if own.twin_update else None
        self._twin_size: dict[str, int] = {}
        self._twin_used = 0
        self._left_out: set[str] = set()
        self._line = Conversation(config.url(), config.timeout)
        self._renew_at = float("inf")

    @override
    async def open(self) -> None:
        """Register if need be, and connect with a new token; see `Writer.open`."""
        config, own = self._config, self._config.provider_config
        await self.close()
        if own.dps is not None and self._assigned is None:
            self._assigned = await self._register(own.dps)
        hub, device = self._assigned or (config.hub(), own.part("device_id") or "")
        module = own.part("module_id")
        self._encoder = MessageEncoder(message_form(own, device))
        client_id = f"{device}/{module}" if module else device
        place = f"{hub}/devices/{quote(device, safe='')}" + (f"/modules/{quote(module, safe='')}" if module else "")
        key = own.part("shared_access_key") or (_dps_key(own.dps) if own.dps else None)
        self._line = Conversation(config.url(hub), config.timeout)
        try:
            await self._connect(
                self._line, config.url(hub), client_id, f"{hub}/{client_id}/?api-version={_API}", place, key
            )
        except AuthError:
            self._assigned = None  # the device may belong to another hub by now
            raise
        if self._twin is not None:
            self._twin.forget()
            await self._line.publisher.subscribe([("$iothub/twin/res/#", 0)])

    async def _connect(
        self, line: Conversation, url: str, client_id: str, username: str, place: str, key: str | None, policy: str = ""
    ) -> None:
        own, now = self._config.provider_config, time.time()
        await line.publisher.open(
            SessionSettings(
                endpoint=url,
                client_id=client_id,
                clean=True,
                username=username,
                password=token(place, key, int(now + own.token_lifetime), policy) if key else None,
                tls=self._config.tls_settings(own.tls),
                keepalive=round(own.keepalive),
                connect_timeout=self._config.timeout,
            ),
            window=_IN_FLIGHT,
            rate=own.messages_per_second,
            qos=own.qos,
            on_messages=line.hear,
        )
        self._renew_at = time.monotonic() + own.token_lifetime * _RENEW if key else float("inf")

    async def _register(self, dps: DpsSettings) -> tuple[str, str]:
        """Hub and device id, as the provisioning service says."""
        url = f"mqtts://{dps.endpoint}"
        if self._config.provider_config.transport == "websocket":
            url = f"wss://{dps.endpoint}/$iothub/websocket"
        place = f"{dps.id_scope}/registrations/{dps.registration_id}"
        line = Conversation(url, self._config.timeout)
        try:
            username = f"{place}/api-version={_DPS_API}"
            await self._connect(line, url, dps.registration_id, username, place, _dps_key(dps), "registration")
            await line.publisher.subscribe([("$dps/registrations/res/#", 1)])
            request = json.dumps({"registrationId": dps.registration_id}).encode()
            status, told, answer = await line.ask("$dps/registrations/PUT/iotdps-register/", request)
            async with asyncio.timeout(self._config.timeout):
                while status == 202:  # the service says when to ask again
                    await asyncio.sleep(float(told.get("retry-after", ["2"])[0]))
                    operation = quote(str(json.loads(answer)["operationId"]), safe="")
                    status, told, answer = await line.ask(
                        "$dps/registrations/GET/iotdps-get-operationstatus/", b"", f"&operationId={operation}"
                    )
            said = json.loads(answer) if answer else {}
            if status >= 300 or said.get("status") != "assigned":
                error = refusal(status, f"the registration `{dps.registration_id}`")
                raise error if status >= 300 else ConfigError(f"{url}: the registration is {said.get('status')}")
            found = said["registrationState"]
            return str(found["assignedHub"]), str(found["deviceId"])
        except TimeoutError:
            raise TransientError(f"{url}: the registration is not done after {self._config.timeout:g} s") from None
        except (ValueError, KeyError, TypeError) as error:
            raise TransientError(
                f"{url}: the provisioning service answers what is not understood: {error!r}"
            ) from error
        finally:
            await line.publisher.close()

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        """Report the newest values, then send the readings; return when the hub has them. See `Writer.write`."""
        if time.monotonic() > self._renew_at:
            await self.open()  # the hub would end the connection with its token
        if self._encoder is None:
            raise TransientError(f"{self._config.url()}: not open")
        if self._twin is not None and len(batch):
            await self._report(self._twin, batch)
        encode = partial(self._encoder.encode, most_bytes=_MOST_BYTES)
        refused = await self._line.publisher.publish_all(
            encode, batch, qos=self._config.provider_config.qos, most_bytes=_MOST_BYTES
        )
        refused.settle()

    async def check(self) -> list[Finding]:
        """Log in as the device, send nothing and leave again; see `contract.Checks`.

        The hub knows one connection of a device: a gateway that runs meanwhile connects again.
        """
        where = self._config.url()
        try:
            await self.open()
            hub = self._assigned[0] if self._assigned else self._config.hub()
            text = "the device's identity; a gateway that runs as this device had to connect again for this look"
            return [Finding(True, where, f"{hub} takes {text}")]
        except DeliveryError as error:
            return [Finding(False, where, str(error))]
        finally:
            await self.close()

    async def _report(self, twin: Newest, batch: pa.RecordBatch) -> None:
        changed = twin.changes(batch)
        fits = {key: text for key, text in changed.items() if self._fits(key, text)}
        if new := (set(changed) - set(fits) | twin.long) - self._left_out:
            self._left_out |= new
            _log.warning("values that do not fit into the twin are left out of it: %s", ", ".join(sorted(new)))
        if not fits:
            return
        pairs = ",".join(f"{msgspec.json.encode(key).decode()}:{text}" for key, text in fits.items())
        status, *_ = await self._line.ask("$iothub/twin/PATCH/properties/reported/", f"{{{pairs}}}".encode())
        if status >= 300:
            raise refusal(status, "an update of the reported properties")
        twin.accepted(fits)

    def _fits(self, key: str, text: str) -> bool:
        """Whether the twin has room for it beside the others."""
        size = len(key.encode()) + len(text.encode()) + 4
        more = size - self._twin_size.get(key, 0)
        if self._twin_used + more > _TWIN_BYTES:
            return False
        self._twin_used += more
        self._twin_size[key] = size
        return True

    @override
    async def close(self) -> None:
        """Disconnect; see `Writer.close`."""
        self._renew_at = float("inf")
        with contextlib.suppress(DeliveryError):
            await self._line.publisher.close()


def _dps_key(dps: DpsSettings) -> str | None:
    def told(secret: SecretStr | None) -> str | None:
        return secret.get_secret_value() if secret else None

    group = told(dps.group_key)
    return device_key(group, dps.registration_id) if group else told(dps.symmetric_key)
