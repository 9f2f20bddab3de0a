"""Publishes units, lane by lane; returns when the service has given an id to every message.

It calls the service's own `Publish` and not the publisher client of the library: that batches what comes in
threads of its own and repeats it for a minute, while here units are whole, requests are awaited, and the forwarder repeats.
For the same reason nothing has to be resumed after an error: a key's messages follow each other in one lane, a lane ends with
the request that failed, and the unit is sent again from its beginning.
"""

import asyncio
import contextlib
import logging
import os
from typing import Any, Final
from urllib.parse import quote

import grpc
import pyarrow as pa
from typing_extensions import override

from connectors.contract import ConfigError, DeliveryError, Finding, Limits, RejectedRecords, TransientError, Writer
from connectors.targets.pubsub.config import SERVICE, PubSubConfig
from connectors.targets.pubsub.encode import MessageEncoder, Request
from connectors.targets.pubsub.errors import about_messages, credentials_error, delivery_error

logging.getLogger("google.auth").setLevel(logging.ERROR)  # the forwarder tells what fails, once
_SCOPES: Final = ["https://www.googleapis.com/auth/pubsub"]
_OPTIONS: Final = [
    ("grpc.use_local_subchannel_pool", 1),  # a new channel does not inherit the back-off of the last
    ("grpc.enable_retries", 0),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.max_receive_message_length", -1),
]


class _CallFailedError(Exception):
    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code, self.details = code, details


class PubSubWriter(Writer):
    """Publishes to the topics of one project; see the module."""

    def __init__(self, config: PubSubConfig) -> None:
        own = config.provider_config
        self.limits = Limits(
            rows=config.batch_size or 10_000,
            bytes=16 * 1024**2,
            linger=0.1 if config.flush_interval is None else config.flush_interval,
            writes_in_flight=1 if own.ordering_key else 2,
        )
        self._config = config
        self._encoder = MessageEncoder(own)
        self._channel: grpc.Channel | None = None
        self._project = own.project or ""
        self._known: set[str] = set()

    @override
    async def open(self) -> None:
        """Read the credentials, connect, and look at the topic or make it; see `Writer.open`."""
        await self.close()
        self._channel, project = await asyncio.to_thread(_connect, self._config)
        self._project = self._config.provider_config.project or project
        if not self._project:
            raise ConfigError("the credentials name no project; set `project`")
        if "{" not in self._config.provider_config.topic:
            await self._look(self._config.provider_config.topic)

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        """Publish the unit; return when every message has its id. See `Writer.write`."""
        found = self._encoder.encode(batch)
        rejected = found.rejected
        for topic in sorted({request.topic for lane in found.lanes for request in lane} - self._known):
            await self._look(topic)
        ended = await asyncio.gather(*(self._publish(lane, rejected) for lane in found.lanes), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error
        if rejected:
            indices = sorted(rejected)
            raise RejectedRecords(indices, [rejected[row] for row in indices], rest_written=True)

    @override
    async def close(self) -> None:
        """Close the channel; see `Writer.close`."""
        channel, self._channel = self._channel, None
        self._known.clear()
        if channel is not None:
            await asyncio.to_thread(channel.close)

    async def check(self) -> list[Finding]:
        """What stands between this gateway and the topics; see `contract.Checks`. Publishes nothing."""
        looking, own = PubSubWriter(self._config), self._config.provider_config
        try:
            looking._channel, project = await asyncio.to_thread(_connect, self._config)
            looking._project = own.project or project
            findings = [
                Finding(True, "credentials", _who(self._config)),
                Finding(bool(looking._project), "project", looking._project or "set `project`"),
            ]
            if looking._project and "{" not in own.topic:
                findings.append(await looking._seen(own.topic))
            return findings
        except DeliveryError as problem:
            return [Finding(False, "connection", str(problem))]
        finally:
            await looking.close()

    async def _seen(self, topic: str) -> Finding:
        name = self._name(topic)
        try:
            await self._get(topic)
        except _CallFailedError as error:
            if error.code is grpc.StatusCode.PERMISSION_DENIED:
                return Finding(
                    True,
                    "topic",
                    f"{name} cannot be looked at with these credentials; publishing may be granted all the same",
                )
            if error.code is grpc.StatusCode.NOT_FOUND and self._config.provider_config.create == "auto":
                return Finding(True, "topic", f"{name} is missing; it will be made")
            return Finding(False, "topic", str(delivery_error(error.code, error.details, name)))
        return Finding(True, "topic", f"{name} is there")

    def _name(self, topic: str) -> str:
        return f"projects/{self._project}/topics/{topic}"

    async def _look(self, topic: str) -> None:
        """See that a topic is there, or make it; what these credentials may not see is left to the first publish."""
        from google.pubsub_v1.types import Topic

        name = self._name(topic)
        try:
            try:
                await self._get(topic)
            except _CallFailedError as error:
                if error.code is not grpc.StatusCode.NOT_FOUND or self._config.provider_config.create == "never":
                    raise
                with _already_there():
                    await self._call("CreateTopic", Topic.pb()(name=name).SerializeToString(), f"name={quote(name)}")
        except _CallFailedError as error:
            if error.code is not grpc.StatusCode.PERMISSION_DENIED:
                raise delivery_error(error.code, error.details, name) from error
        self._known.add(topic)

    async def _get(self, topic: str) -> None:
        from google.pubsub_v1.types import GetTopicRequest

        name = self._name(topic)
        await self._call("GetTopic", GetTopicRequest.pb()(topic=name).SerializeToString(), f"topic={quote(name)}")

    async def _publish(self, lane: list[Request], rejected: dict[int, str]) -> None:
        """Send the requests of a lane one after the other; halve one that is refused for its messages."""
        waiting = lane[::-1]
        while waiting:
            request = waiting.pop()
            name = self._name(request.topic)
            try:
                await self._call("Publish", request.message(self._project), f"topic={quote(name)}")
            except _CallFailedError as error:
                if not about_messages(error.code, error.details):
                    raise delivery_error(error.code, error.details, name) from error
                if len(request) > 1:
                    waiting += request.halves()[::-1]
                else:
                    rejected |= dict.fromkeys(request.rows[request.first].tolist(), error.details)

    async def _call(self, method: str, request: bytes, routing: str) -> None:
        """Call a method of the publisher service, once; the call ends when it is cancelled."""
        if self._channel is None:
            raise TransientError("Pub/Sub: not open")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def tell() -> None:
            if not done.done():
                done.set_result(None)

        def ended(_: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has closed
                loop.call_soon_threadsafe(tell)

        call = self._channel.unary_unary(f"/google.pubsub.v1.Publisher/{method}").future(
            request, timeout=self._config.timeout, metadata=[("x-goog-request-params", routing)]
        )
        call.add_done_callback(ended)
        try:
            await done
        finally:
            if not done.done() or done.cancelled():
                call.cancel()
        if call.code() is not grpc.StatusCode.OK:
            raise _CallFailedError(call.code(), call.details() or "")


@contextlib.contextmanager
def _already_there() -> Any:
    """Another gateway may make the same topic at the same time."""
    try:
        yield
    except _CallFailedError as error:
        if error.code is not grpc.StatusCode.ALREADY_EXISTS:
            raise


def emulator(config: PubSubConfig) -> str | None:
    """Address of the emulator, where one is meant."""
    if config.endpoint is None:
        return os.environ.get("PUBSUB_EMULATOR_HOST") or None
    return config.endpoint.removeprefix("http://") if config.endpoint.startswith("http://") else None


def _who(config: PubSubConfig) -> str:
    if address := emulator(config):
        return f"none are needed: {address} is an emulator"
    file = config.provider_config.credentials_file
    return f"those of {file}" if file else "the application default credentials"


def _connect(config: PubSubConfig) -> tuple[grpc.Channel, str]:
    """A channel, and the project of the credentials, empty where they name none."""
    if address := emulator(config):
        return grpc.insecure_channel(address, options=_OPTIONS), ""
    import google.auth
    from google.api_core import grpc_helpers
    from google.auth.exceptions import GoogleAuthError
    from google.oauth2.service_account import Credentials

    file = config.provider_config.credentials_file
    try:
        if file is not None:
            found = Credentials.from_service_account_file(str(file), scopes=_SCOPES)  # type: ignore[no-untyped-call]
            project = found.project_id
        else:
            found, project = google.auth.default(scopes=_SCOPES)
        authorities = config.provider_config.ca_file
        trusted = grpc.ssl_channel_credentials(authorities.read_bytes() if authorities else None)
    except (GoogleAuthError, OSError, ValueError) as error:
        raise credentials_error(error) from error
    if isinstance(found, Credentials):  # a service account signs its tokens itself
        found = found.with_always_use_jwt_access(True)  # type: ignore[no-untyped-call]
    target = (config.endpoint or SERVICE).removeprefix("https://")
    if ":" not in target.rpartition("]")[2]:
        target += ":443"
    channel = grpc_helpers.create_channel(
        target, credentials=found, ssl_credentials=trusted, default_host=SERVICE.partition(":")[0], options=_OPTIONS
    )
    return channel, project or ""
