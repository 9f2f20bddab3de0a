"""Stand-ins for AWS IoT Core and Azure IoT Hub: MQTT servers that enforce the limits which the services document.

They have a packet loop of their own, and share no code with ours. A limit that is broken ends the connection without a word,
as the services do; why is kept in `broken`. Each runs in a thread of its own, so that tests can look at it and stop it.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import ssl
import threading
import time
import urllib.parse
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from tests.certificates import IDENTITY, Authority


@dataclass
class Published:
    topic: str
    payload: bytes
    qos: int
    retain: bool


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.client_id = ""
        self.v5 = False
        self.username = self.password = ""
        self.filters: list[str] = []
        self.times: deque[float] = deque()
        tls = writer.get_extra_info("ssl_object")
        peer = tls.getpeercert() if tls is not None else None
        self.common_name = next(
            (v for part in (peer or {}).get("subject", ()) for k, v in part if k == "commonName"), None
        )
        self.alpn = tls.selected_alpn_protocol() if tls is not None else None

    async def packet(self) -> tuple[int, bytes] | None:
        """The next packet: its first byte and its content."""
        try:
            head = (await self.reader.readexactly(1))[0]
            size = shift = 0
            while True:
                byte = (await self.reader.readexactly(1))[0]
                size |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            return head, await self.reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            return None

    def send(self, head: int, content: bytes) -> None:
        size, length = len(content), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        if not self.writer.is_closing():
            self.writer.write(bytes([head]) + length + bytes([size]) + content)

    def publish(self, topic: str, payload: bytes) -> None:
        name = topic.encode()
        self.send(0x30, len(name).to_bytes(2, "big") + name + (b"\0" if self.v5 else b"") + payload)

    def connect(self, content: bytes) -> None:
        at = 2 + int.from_bytes(content[:2], "big")
        self.v5 = content[at] == 5
        flags = content[at + 1]
        at += 4
        if self.v5:
            at += 1 + content[at]

        def text() -> str:
            nonlocal at
            size = int.from_bytes(content[at : at + 2], "big")
            at += 2 + size
            return content[at - size : at].decode()

        self.client_id = text()
        if flags & 4:
            if self.v5:
                at += 1 + content[at]
            text(), text()
        self.username = text() if flags & 0x80 else ""
        self.password = text() if flags & 0x40 else ""


class Break(Exception):
    """A client does what the service does not allow."""


class IotService:
    """What both have in common: connections, subscriptions, PUBACK.

    Attributes:
        port: Where it listens.
        published: Messages that it has taken.
        broken: Limits that clients have broken.
        refuse: Reason code that answers publishes to a topic, by its beginning (MQTT 5).
    """

    v5_connack = b"\x00\x00\x00"

    def __init__(self, certificates: Authority | None = None) -> None:
        self.certificates = certificates
        self.published: list[Published] = []
        self.broken: list[str] = []
        self.refuse: dict[str, int] = {}
        self.connects: list[float] = []
        self.clients: dict[str, Client] = {}
        self.alpn: list[str | None] = []
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: asyncio.Server | None = None
        self.start()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def start(self) -> None:
        self._do(self._start())

    async def _start(self) -> None:
        context = None
        if self.certificates is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificates.server_cert, self.certificates.server_key)
            context.load_verify_locations(self.certificates.ca)
            context.verify_mode = ssl.CERT_OPTIONAL
            context.set_alpn_protocols(["x-amzn-mqtt-ca"])
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        self._do(self._stop())

    async def _stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for client in list(self.clients.values()):
            client.writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def end(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def call(self, act: Callable[[], None]) -> None:
        """Do something in the service's thread."""

        async def work() -> None:
            act()

        self._do(work())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        client = Client(reader, writer)
        self.alpn.append(client.alpn)
        try:
            first = await client.packet()
            if first is None or first[0] != 0x10:
                return
            client.connect(first[1])
            code = self.login(client)
            client.send(0x20, bytes([0, code]) + (self.v5_connack[2:] if client.v5 else b""))
            if code:
                await writer.drain()
                return
            self.clients[client.client_id] = client
            while (packet := await client.packet()) is not None:
                self._take(client, *packet)
                await writer.drain()
        except Break as error:
            self.broken.append(str(error))
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            if self.clients.get(client.client_id) is client:
                del self.clients[client.client_id]
            writer.transport.abort()
            self._tasks.discard(task)

    def _take(self, client: Client, head: int, content: bytes) -> None:
        match head & 0xF0:
            case 0x30:
                self._publish(client, head, content)
            case 0x80:
                at, filters = 2, []
                if client.v5:
                    at += 1 + content[at]
                while at < len(content):
                    size = int.from_bytes(content[at : at + 2], "big")
                    filters.append(content[at + 2 : at + 2 + size].decode())
                    at += 3 + size
                client.filters += filters
                client.send(0x90, content[:2] + (b"\0" if client.v5 else b"") + bytes([1] * len(filters)))
            case 0xC0:
                client.send(0xD0, b"")
            case 0xE0:
                raise ConnectionError
            case _:
                pass

    def _publish(self, client: Client, head: int, content: bytes) -> None:
        size = int.from_bytes(content[:2], "big")
        topic = content[2 : 2 + size].decode()
        qos, at = head >> 1 & 3, 2 + size
        packet_id = content[at : at + 2] if qos else b""
        at += len(packet_id)
        if client.v5:
            length = shift = 0
            while True:
                byte = content[at]
                at += 1
                length |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            at += length
        if qos == 2:
            raise Break("QoS 2")
        message = Published(topic, content[at:], qos, bool(head & 1))
        self.check(client, message)
        code = next((code for start, code in self.refuse.items() if topic.startswith(start)), 0)
        if not code:
            self.published.append(message)
        if qos:
            client.send(0x40, packet_id + (bytes([code]) if code else b""))
        if not code:
            self.react(client, message)

    def login(self, client: Client) -> int:
        """Code of CONNACK."""
        raise AssertionError

    def check(self, client: Client, message: Published) -> None:
        """Raise `Break` for what the service does not take."""

    def react(self, client: Client, message: Published) -> None:
        """What the service does with a message."""


def per_second(client: Client, most: int) -> None:
    now = time.monotonic()
    client.times.append(now)
    while client.times and client.times[0] < now - 1:
        client.times.popleft()
    if len(client.times) > most:
        raise Break(f"more than {most} messages a second")


class AwsIot(IotService):
    """AWS IoT Core: 128 KB, 7 slashes, 256 bytes of topic, 100 messages a second, a connection a second, shadows."""

    v5_connack = b"\x00\x00\x09\x24\x01\x21\x00\x64\x25\x00\x2a\x01"  # QoS 1, 100 at once, no retain

    def __init__(self, certificates: Authority | None = None) -> None:
        self.shadows: dict[str, dict[str, Any]] = {}
        self.shadow_code = 0
        self.connect_pace = 1.0
        super().__init__(certificates)

    @override
    def login(self, client: Client) -> int:
        now = time.monotonic()
        if client.common_name != IDENTITY:
            return 0x87 if client.v5 else 5
        if self.connects and now - self.connects[-1] < self.connect_pace:
            raise Break("more than one connection a second")
        self.connects.append(now)
        if (other := self.clients.pop(client.client_id, None)) is not None:
            if other.v5:
                other.send(0xE0, b"\x8e\x00")
            other.writer.close()
        return 0

    @override
    def check(self, client: Client, message: Published) -> None:
        if len(message.payload) > 128 * 1024:
            raise Break("payload above 128 KB")
        if message.topic.count("/") > 7 or len(message.topic.encode()) > 256:
            raise Break("topic")
        per_second(client, 100)

    @override
    def react(self, client: Client, message: Published) -> None:
        if not message.topic.startswith("$aws/things/"):
            return
        assert message.topic.endswith("/update")
        request = json.loads(message.payload)
        token = request["clientToken"]
        shadow = self.shadows.get(message.topic, {}) | request["state"]["reported"]
        code = self.shadow_code or (413 if len(json.dumps({"reported": shadow})) > 8 * 1024 else 0)
        kind, said = "accepted", {"state": request["state"], "version": 1, "clientToken": token}
        if code:
            kind, said = "rejected", {"code": code, "message": "no", "clientToken": token}
        else:
            self.shadows[message.topic] = shadow
        assert any(one.endswith(f"update/{kind}") for one in client.filters)
        client.publish(f"{message.topic}/{kind}", json.dumps(said).encode())


class AzureHub(IotService):
    """Azure IoT Hub: SAS tokens and certificates, 256 KB, device topics, twins, and the Device Provisioning Service."""

    def __init__(self, keys: dict[str, str], certificates: Authority | None = None, hub: str = "hub.example") -> None:
        self.hub = hub
        self.keys = keys  # of devices and modules, by `device` or `device/module`; of an enrollment by its registration
        self.twins: dict[str, dict[str, Any]] = {}
        self.twin_code = 204
        self.passwords: list[str] = []
        self.registered: list[str] = []
        super().__init__(certificates)

    @override
    def login(self, client: Client) -> int:
        if "/registrations/" in client.username:
            scope, _, rest = client.username.partition("/registrations/")
            return self._sas(client, f"{scope}/registrations/{client.client_id}") if rest else 5
        if not client.username.startswith(f"{self.hub}/{client.client_id}/?api-version="):
            return 5
        device, _, module = client.client_id.partition("/")
        place = f"{self.hub}/devices/{device}" + (f"/modules/{module}" if module else "")
        return self._sas(client, place)

    def _sas(self, client: Client, place: str) -> int:
        if not client.password:
            return 0 if client.common_name == IDENTITY else 5
        self.passwords.append(client.password)
        kind, _, rest = client.password.partition(" ")
        fields = dict(urllib.parse.parse_qsl(rest, strict_parsing=True))
        key = base64.b64decode(self.keys.get(client.client_id, ""))
        quoted = rest.partition("sr=")[2].partition("&")[0]
        signed = hmac.new(key, f"{quoted}\n{fields['se']}".encode(), hashlib.sha256).digest()
        sound = (
            kind == "SharedAccessSignature"
            and fields["sr"] == place
            and hmac.compare_digest(base64.b64encode(signed).decode(), fields["sig"])
            and int(fields["se"]) > time.time()
        )
        if sound:  # the service ends the connection when the token has run out
            left = int(fields["se"]) - time.time()
            self._loop.call_later(left, client.writer.transport.abort)
        return 0 if sound else 5

    @override
    def check(self, client: Client, message: Published) -> None:
        if len(message.payload) + len(message.topic.encode()) > 256 * 1024:
            raise Break("message above 256 KB")
        device, _, module = client.client_id.partition("/")
        own = f"devices/{device}/" + (f"modules/{module}/" if module else "") + "messages/events/"
        if not message.topic.startswith((own, "$iothub/twin/PATCH/properties/reported/?$rid=", "$dps/registrations/")):
            raise Break(f"topic {message.topic}")

    @override
    def react(self, client: Client, message: Published) -> None:
        rid = message.topic.partition("$rid=")[2].partition("&")[0]
        if message.topic.startswith("$iothub/twin/PATCH"):
            assert "$iothub/twin/res/#" in client.filters
            if self.twin_code == 204:
                self.twins.setdefault(client.client_id, {}).update(json.loads(message.payload))
            client.publish(f"$iothub/twin/res/{self.twin_code}/?$rid={rid}&$version=2", b"")
        elif message.topic.startswith("$dps/registrations/PUT/iotdps-register/"):
            assert json.loads(message.payload)["registrationId"] == client.client_id
            client.publish(
                f"$dps/registrations/res/202/?$rid={rid}&retry-after=0", b'{"operationId":"op","status":"assigning"}'
            )
        elif message.topic.startswith("$dps/registrations/GET/iotdps-get-operationstatus/"):
            assert "operationId=op" in message.topic
            self.registered.append(client.client_id)
            said = {"operationId": "op", "status": "assigned",
                    "registrationState": {"assignedHub": self.hub, "deviceId": client.client_id}}  # fmt: skip
            client.publish(f"$dps/registrations/res/200/?$rid={rid}", json.dumps(said).encode())
