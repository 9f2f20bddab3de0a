"""A mosquitto of its own for a test: started on a free port, killed and restarted at will, its log readable."""

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from tests.orphans import Server
from tests.ports import free_port

INSTALLER = Path(__file__).parent / "counterparts" / "mosquitto.sh"


def program() -> str:
    """The broker's program, installed if it is missing."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = shutil.which("mosquitto", path=path)
    if found is None or shutil.which("mosquitto_pub") is None:
        subprocess.run(["sh", str(INSTALLER)], check=True, capture_output=True, timeout=300)
        found = shutil.which("mosquitto", path=path)
    assert found is not None
    return found


class Broker:
    """One broker; `async with` starts and ends it."""

    def __init__(self, directory: Path, settings: Sequence[str] = ("allow_anonymous true",)) -> None:
        self.port = free_port()
        self._ports = [self.port, *(int(line.split()[1]) for line in settings if line.startswith("listener "))]
        self._directory = directory
        self._log = directory / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None
        lines = [
            f"listener {self.port} 127.0.0.1",
            *settings,
            "persistence true",
            f"persistence_location {directory}/",
            "log_type all",
            "log_dest stderr",
            "set_tcp_nodelay true",
        ]
        if os.getuid() == 0:
            lines.append("user root")
        (directory / "mosquitto.conf").write_text("\n".join(lines) + "\n")

    async def __aenter__(self) -> "Broker":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    async def start(self) -> None:
        with self._log.open("ab") as log:
            command = [program(), "-c", str(self._directory / "mosquitto.conf")]
            self._process = await asyncio.to_thread(Server, command, stdout=log, stderr=log)
        async with asyncio.timeout(10):
            for port in self._ports:
                while not await self._answers(port):
                    await asyncio.sleep(0.02)

    async def _answers(self, port: int) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log()
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True

    async def stop(self) -> None:
        """Shut down in order: persistent sessions are written to disk."""
        assert self._process is not None
        self._process.terminate()
        await asyncio.to_thread(self._process.wait)

    async def kill(self) -> None:
        """End at once: nothing is written to disk."""
        assert self._process is not None
        self._process.kill()
        await asyncio.to_thread(self._process.wait)

    def freeze(self) -> None:
        """Keep all connections and do nothing, until `thaw`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def log(self) -> str:
        return self._log.read_text(errors="replace")

    async def until_logged(self, condition: Callable[[str], bool]) -> None:
        """Wait until the log so far fulfils a condition."""
        try:
            async with asyncio.timeout(10):
                while not condition(self.log()):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(self.log()[-3000:]) from None

    async def publish(self, topic: str, *messages: str | bytes, options: Sequence[str] = ()) -> None:
        """Publish with mosquitto_pub, one run per message."""
        for message in messages:
            process = await asyncio.create_subprocess_exec(
                "mosquitto_pub", "-h", "127.0.0.1", "-p", str(self.port), "-t", topic, "-s" if message else "-n", *options,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            output, _ = await process.communicate(message.encode() if isinstance(message, str) else message)
            assert process.returncode == 0, output.decode()

    async def publish_lines(self, topic: str, messages: Sequence[str], options: Sequence[str] = ()) -> None:
        """Publish many messages without line breaks in one run of mosquitto_pub."""
        process = await asyncio.create_subprocess_exec(
            "mosquitto_pub", "-h", "127.0.0.1", "-p", str(self.port), "-t", topic, "-l", *options,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate("".join(f"{message}\n" for message in messages).encode())
        assert process.returncode == 0, output.decode()


class Onlooker:
    """mosquitto_sub on one topic."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def line(self) -> list[str]:
        """Retained flag, QoS and content of the next message, which must come."""
        assert self._process.stdout is not None
        async with asyncio.timeout(20):
            return (await self._process.stdout.readline()).decode().rstrip("\n").split(" ", 2)


@asynccontextmanager
async def onlooker(broker: Broker, topic: str, name: str = "onlooker") -> AsyncIterator[Onlooker]:
    """Somebody subscribed to a topic."""
    before = broker.log().count(f"Sending SUBACK to {name}")
    process = await asyncio.create_subprocess_exec(
        "mosquitto_sub", "-h", "127.0.0.1", "-p", str(broker.port), "-i", name, "-q", "1", "-t", topic, "-F", "%r %q %p",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        await broker.until_logged(lambda log: log.count(f"Sending SUBACK to {name}") > before)
        yield Onlooker(process)
    finally:
        process.kill()
        await process.wait()
