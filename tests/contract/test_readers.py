"""The contract of readers, over every reader: `connectors.contract.Reader`, `Intake` and `Checks`.

What a protocol can say (which types, acknowledgements, users) is told by its provider; a relay stands between reader and
device, so that the device can go away in every way that a network knows.
"""

import asyncio
import contextlib
import json
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from itertools import count, groupby
from pathlib import Path
from typing import Any, Self, get_args

import pytest
from pydantic import SecretStr

from connectors.contract import Checks, Context, Finding, Reader, SourceState
from connectors.settings import SourceConfig
from normalization.reading import Quality, ValueType
from tests.contract import asked
from tests.contract.device import (
    NUMBER,
    Device,
    Known,
    Provider,
    configured_protocols,
    implemented_protocols,
    providers,
)
from tests.ports import free_port
from tests.recording_intake import Recorded, RecordingIntake

PROVIDERS = providers()
PASSWORD = "Tr0ub4dor-and-3"
WITHIN = 1.0  # seconds that a cancelled reader may take
NOTICE = 4.0  # seconds in which a reader must notice that its device is gone, with the short times of the providers


@pytest.fixture(params=PROVIDERS, ids=lambda p: p.name)
def provider(request: pytest.FixtureRequest) -> Provider:
    chosen: Provider = request.param
    return chosen


@pytest.fixture
async def device(provider: Provider, tmp_path: Path) -> AsyncIterator[Device]:
    folder = tmp_path / "device"
    folder.mkdir()
    async with provider.start(folder) as running:
        yield running
        assert asked.not_reading(provider.protocol, running.relay.streams) == []


def reader_of(config: SourceConfig, folder: Path) -> Reader:
    directory = folder / "source"
    directory.mkdir(exist_ok=True)
    return config.reader(Context("gateway", directory))


class Reading:
    """A reader at work. Leaving the ``async with`` block cancels it; if it ended by itself, its error fails the test."""

    def __init__(self, reader: Reader, intake: RecordingIntake, state: bytes | None = None) -> None:
        self.intake = intake
        self.first = len(intake.states)
        self.task = asyncio.create_task(reader.run(intake, state))
        self.task.add_done_callback(lambda _: intake._changed.set())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def until(self, condition: Callable[[], Any], within: float = 5.0) -> None:
        await self.intake.until(lambda: self.task.done() or condition(), within)
        if not condition():
            await self.task
            raise AssertionError("the reader ended without an error")

    def states(self) -> list[SourceState]:
        return [state for state, _ in self.intake.states[self.first :]]

    async def connected(self, device: Device) -> None:
        await self.until(lambda: SourceState.CONNECTED in self.states())
        await device.welcome()

    async def sees(self, number: int) -> None:
        await self.until(lambda: number in numbers(self.intake))

    async def fails(self, within: float) -> Exception:
        """The error with which it ends by itself."""
        started = time.monotonic()
        done, _ = await asyncio.wait({self.task}, timeout=within)
        assert done, f"it still runs after {time.monotonic() - started:.1f} s; states {self.intake.states}"
        error = self.task.exception()
        assert isinstance(error, Exception), error
        self.task = asyncio.create_task(asyncio.sleep(0))
        return error


def numbers(intake: RecordingIntake) -> list[int]:
    """The values of the tag `NUMBER`, in order."""
    sound = [r for r in intake.readings(NUMBER) if r.reject is None and r.value is not None]
    return [int(r.value) for r in sound]


def last_state(intake: RecordingIntake, appends: int | None = None) -> bytes | None:
    """The state that was committed with the first `appends` appends, or with all."""
    return next((state for _, state in reversed(intake.appended[:appends]) if state is not None), None)


@dataclass
class Shown:
    """A number, and from when until when the device had it, µs since the epoch."""

    number: int
    start: int
    end: int


class Display:
    """Shows numbers at a device, each once."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._numbers = count(1)
        self.shown: list[Shown] = []

    async def next(self) -> int:
        number = next(self._numbers)
        start = time.time_ns() // 1000
        if self.shown:
            self.shown[-1].end = start
        self.shown.append(Shown(number, start, start))
        await self._device.show(number)
        self.shown[-1].end = time.time_ns() // 1000
        return number


def unaccounted(shown: list[Shown], read: set[int], *intakes: RecordingIntake) -> list[Shown]:
    """What was shown and neither read nor said to be missing."""
    gaps = [gap for intake in intakes for gap in intake.gaps if NUMBER in {tag.tag_name for tag in gap.tags}]
    return [
        one
        for one in shown
        if one.number not in read and not any(gap.start <= one.end and one.start <= gap.end for gap in gaps)
    ]


def means(reading: Recorded, known: Known) -> bool:
    """Whether a reading is what the device gave."""
    if (reading.reject, reading.type, reading.quality) != (None, known.type, known.quality):
        return False
    value = json.loads(reading.value) if known.type is ValueType.JSON else reading.value
    if isinstance(known.value, float) and math.isnan(known.value):
        return isinstance(value, float) and math.isnan(value)
    return bool(value == known.value) and type(value) is type(known.value)


def missing(device: Device, intake: RecordingIntake) -> list[str]:
    return [
        known.tag_name
        for known in device.known
        if not any(means(reading, known) for reading in intake.readings(known.tag_name))
    ]


def changes(states: list[SourceState]) -> list[SourceState]:
    """The states without repetitions, which bring another detail."""
    return [state for state, _ in groupby(states)]


def ours(task: "asyncio.Task[Any]") -> bool:
    """Whether a task was not made by the tests themselves."""
    code = getattr(task.get_coro(), "cr_code", None)  # a relay's listener runs in this loop, too
    return code is None or ("/tests/" not in code.co_filename and code.co_name != "_accept_connection2")


class Leftovers:
    """Tasks and threads that are there already, and the connections of a relay."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._tasks = asyncio.all_tasks()
        self._threads = set(threading.enumerate())

    async def check(self) -> None:
        """Nothing else is there any more."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await self._device.relay.without_connections.wait()
        assert self._device.relay.connections == 0
        assert [task for task in asyncio.all_tasks() - self._tasks if ours(task)] == []
        others = set(threading.enumerate()) - self._threads
        assert [thread for thread in others if not thread.name.startswith("asyncio")] == []  # the loop's own


@contextlib.asynccontextmanager
async def listener(*, says: bytes = b"", ends: bool = False) -> AsyncIterator[int]:
    """Something that takes connections and is no device: it says nothing, or something else."""
    open_ones: set[asyncio.StreamWriter] = set()

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.add(writer)
        if says:
            writer.write(says)
        if ends:
            writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in open_ones:
            writer.transport.abort()
        await asyncio.sleep(0)


def endpoint(device: Device, port: int) -> str:
    return f"{device.scheme}://127.0.0.1:{port}"


# Who takes part


def test_every_source_has_a_provider() -> None:
    assert {p.protocol for p in PROVIDERS} == implemented_protocols()


def test_every_source_can_be_configured() -> None:
    assert configured_protocols() == implemented_protocols()


async def test_the_provider_is_of_its_protocol(provider: Provider, device: Device) -> None:
    assert device.config().protocol == provider.protocol


# Readings


async def test_known_values_of_every_type_are_read(device: Device, tmp_path: Path) -> None:
    intake = RecordingIntake()
    async with Reading(reader_of(device.config(), tmp_path), intake) as reading:
        await reading.connected(device)
        await reading.until(lambda: len(intake.readings()) >= len(device.known))
        with contextlib.suppress(AssertionError):
            await reading.until(lambda: not missing(device, intake), 2)
        assert {name: intake.readings(name) for name in missing(device, intake)} == {}
    assert [r for r in intake.readings() if r.reject is not None] == []
    assert {(r.tag.source, bool(r.tag.device_id), bool(r.tag.address)) for r in intake.readings()} == {
        ("source", True, True)
    }


async def test_readings_come_in_the_order_in_which_the_device_gave_them(device: Device, tmp_path: Path) -> None:
    intake, display = RecordingIntake(), Display(device)
    async with Reading(reader_of(device.config(), tmp_path), intake) as reading:
        await reading.connected(device)
        for _ in range(20):
            await display.next()
        await reading.sees(20)
    read = [number for number in numbers(intake) if 1 <= number <= 20]
    assert read == sorted(read)
    if device.pushes:
        assert read == list(range(1, 21))


# The state of the connection


async def test_connected_is_said_once_it_is_and_connecting_before(device: Device, tmp_path: Path) -> None:
    intake, display = RecordingIntake(), Display(device)
    device.relay.freeze()
    async with Reading(reader_of(device.config(), tmp_path), intake) as reading:
        await asyncio.sleep(0.1)
        assert SourceState.CONNECTED not in reading.states()
        device.relay.thaw()
        await reading.connected(device)
        await reading.sees(await display.next())
        assert changes(reading.states()) == [SourceState.CONNECTING, SourceState.CONNECTED]


NOT_A_DEVICE: dict[str, dict[str, Any]] = {
    "silent": {},
    "closing": {"ends": True},
    "http": {"says": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"},
    "closing http": {"says": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "ends": True},
    "zeros": {"says": bytes(4096)},
    "ones": {"says": b"\xff" * 4096},
}


@pytest.mark.parametrize("kind", NOT_A_DEVICE)
async def test_what_is_not_a_device_ends_the_run_with_its_endpoint_named_and_never_counts_as_connected(
    device: Device, tmp_path: Path, kind: str
) -> None:
    intake = RecordingIntake()
    async with listener(**NOT_A_DEVICE[kind]) as port:
        config = device.config(endpoint=endpoint(device, port))
        async with Reading(reader_of(config, tmp_path), intake) as reading:
            error = await reading.fails(NOTICE)
    assert f"127.0.0.1:{port}" in str(error), repr(error)
    assert SourceState.CONNECTED not in reading.states()


async def test_a_wrong_endpoint_is_an_error_that_names_it(device: Device, tmp_path: Path) -> None:
    wrong = endpoint(device, free_port())
    intake = RecordingIntake()
    async with Reading(reader_of(device.config(endpoint=wrong), tmp_path), intake) as reading:
        error = await reading.fails(1)
    assert wrong.removeprefix(device.scheme) in str(error), repr(error)
    assert SourceState.CONNECTED not in reading.states()
    assert intake.readings() == []


@pytest.mark.parametrize(
    ("how", "same"), [("cut", False), ("freeze", True)], ids=["cut, new reader", "freeze, same one"]
)
async def test_a_device_that_goes_away_and_comes_back_is_read_again(
    device: Device, tmp_path: Path, how: str, same: bool
) -> None:
    intake, display = RecordingIntake(), Display(device)
    reader = reader_of(device.config(), tmp_path)
    async with Reading(reader, intake) as reading:
        await reading.connected(device)
        await reading.sees(await display.next())
        getattr(device.relay, how)()
        await reading.fails(NOTICE)
        assert SourceState.CONNECTED in reading.states()
    device.relay.cut()
    await display.next()
    async with Reading(reader_of(device.config(), tmp_path), intake, last_state(intake)) as reading:
        await reading.fails(NOTICE)
        assert SourceState.CONNECTED not in reading.states()
    device.relay.thaw()
    await device.relay.restore()
    reader = reader if same else reader_of(device.config(), tmp_path)
    async with Reading(reader, intake, last_state(intake)) as reading:
        await reading.connected(device)
        await reading.sees(await display.next())
    assert unaccounted(display.shown, set(numbers(intake)), intake) == []


# Nothing before it is on disk


async def test_nothing_is_acknowledged_before_it_is_on_disk(device: Device, tmp_path: Path) -> None:
    if device.acknowledged() is None:
        return  # the protocol has no acknowledgement
    intake, display = RecordingIntake(hold=True), Display(device)
    async with Reading(reader_of(device.config(), tmp_path), intake) as reading:
        await reading.connected(device)
        for _ in range(4):
            await reading.sees(await display.next())
        assert device.acknowledged() == 0
        released = 1 + next(at for at, (rows, _) in enumerate(intake.appended) if len(rows))
        intake.release(released)
        await _until(lambda: (device.acknowledged() or 0) > 0, display, intake)
        assert (device.acknowledged() or 0) <= sum(max(1, len(rows)) for rows, _ in intake.appended[:released])
        intake.hold = False
        intake.release()
        await reading.sees(await display.next())


async def _until(condition: Callable[[], bool], display: Display, intake: RecordingIntake) -> None:
    """Wait for what another process writes, while the device goes on."""
    async with asyncio.timeout(5):
        while not condition():
            await display.next()
            await asyncio.sleep(0.02)


async def test_what_was_not_on_disk_comes_again_or_is_said_to_be_missing(device: Device, tmp_path: Path) -> None:
    before, display = RecordingIntake(hold=True), Display(device)
    async with Reading(reader_of(device.config(), tmp_path), before) as reading:
        await reading.connected(device)
        await reading.sees(await display.next())
        on_disk = len(before.appended)
        before.release(on_disk)
        committed = set(numbers(before))
        for _ in range(3):
            await reading.sees(await display.next())
    await display.next()
    after = RecordingIntake()
    async with Reading(reader_of(device.config(), tmp_path), after, last_state(before, on_disk)) as reading:
        await reading.connected(device)
        await reading.sees(await display.next())
    assert unaccounted(display.shown, committed | set(numbers(after)), after) == []


async def test_a_full_journal_pauses_the_reader_and_nothing_is_lost(device: Device, tmp_path: Path) -> None:
    intake, display = RecordingIntake(), Display(device)
    async with Reading(reader_of(device.config(), tmp_path), intake) as reading:
        await reading.connected(device)
        await reading.sees(await display.next())
        intake.hold, taken = True, 0
        for _ in range(40):
            taken = len(intake.appended)
            for _ in range(10 if device.pushes else 1):  # who polls sees what stays for a while
                await display.next()
                await asyncio.sleep(0.01 if device.pushes else 0.15)
            if len(intake.appended) == taken:
                break
        assert len(intake.appended) == taken, "it goes on reading although nothing gets to the disk"
        assert not reading.task.done()
        intake.hold = False
        intake.release()
        await reading.sees(await display.next())
        await reading.until(lambda: unaccounted(display.shown, set(numbers(intake)), intake) == [])


async def test_a_journal_that_fails_ends_the_run(device: Device, tmp_path: Path) -> None:
    intake, display = RecordingIntake(hold=True), Display(device)
    async with Reading(reader_of(device.config(), tmp_path), intake) as reading:
        await reading.connected(device)
        await display.next()
        await reading.until(lambda: intake.open)
        for future in intake.open:
            future.set_exception(OSError("no space left on device"))
        intake.open.clear()
        intake.hold = False
        shown = asyncio.create_task(_go_on(display))
        error = await reading.fails(NOTICE)
        shown.cancel()
        await asyncio.gather(shown, return_exceptions=True)
    assert "no space left on device" in str(error), repr(error)


async def _go_on(display: Display) -> None:
    while True:
        await display.next()
        await asyncio.sleep(0.02)


# The end


@pytest.mark.parametrize("when", ["connecting", "reading", "journal full", "device frozen", "at once"])
async def test_a_cancelled_reader_ends_within_a_second_and_leaves_nothing(
    device: Device, tmp_path: Path, when: str
) -> None:
    intake, display = RecordingIntake(hold=when == "journal full"), Display(device)
    left = Leftovers(device)
    if when == "connecting":
        device.relay.freeze()
    reading = Reading(reader_of(device.config(**device.patience), tmp_path), intake)
    match when:
        case "connecting":
            async with asyncio.timeout(2):
                await device.relay.with_connections.wait()
        case "at once":
            await asyncio.sleep(0)
        case _:
            await reading.connected(device)
            await reading.sees(await display.next())
    if when == "journal full":
        for _ in range(20):
            await display.next()
            await asyncio.sleep(0.02)
    if when == "device frozen":
        device.relay.freeze()
        await asyncio.sleep(0.05)
    started = time.monotonic()
    reading.task.cancel()
    await asyncio.wait({reading.task}, timeout=10)
    took = time.monotonic() - started
    assert reading.task.cancelled(), reading.task
    assert took < WITHIN
    await left.check()


async def test_a_reader_that_fails_leaves_nothing(device: Device, tmp_path: Path) -> None:
    intake = RecordingIntake()
    left = Leftovers(device)
    async with Reading(reader_of(device.config(), tmp_path), intake) as reading:
        await reading.connected(device)
        device.relay.cut()
        await reading.fails(NOTICE)
    await left.check()


# Bad input


async def test_malformed_data_becomes_a_reject_with_reason_and_bytes_and_stops_nothing(
    device: Device, tmp_path: Path
) -> None:
    intake, display = RecordingIntake(), Display(device)
    async with Reading(reader_of(device.config(), tmp_path), intake) as reading:
        await reading.connected(device)
        await reading.sees(await display.next())
        evidence = await device.corrupt()
        await reading.until(lambda: any(r.reject is not None for r in intake.readings()))
        await reading.sees(await display.next())
    rejects = [r for r in intake.readings() if r.reject is not None]
    assert any(evidence in r.value for r in rejects), rejects
    for reject in rejects:
        assert (reject.type, reject.quality, reject.tag.source) == (ValueType.BYTES, Quality.BAD, "source")
        assert len(reject.reject or "") > 10


# State


def spoilt(state: bytes) -> list[bytes]:
    """States that no reader has written, or that were spoilt on the way."""
    half = len(state) // 2
    return [
        b"",
        b"\x00",
        b"not a state",
        b"null",
        b"[]",
        b"{}",
        b"9" * 40,
        b"9" * 5000,
        b'{"last_reading":' + b"9" * 40 + b"}",
        b'{"last_reading":-1}',
        b"\x95\x90\xc4\x01a\xc4\x03abc\xc4\x02no\xa0",  # msgpack of the right shape with parts that do not fit
        b"\xdd\xff\xff\xff\xff",
        state[:half],
        state[:half] + bytes([state[half] ^ 0xFF]) + state[half + 1 :],
        state + state,
    ]


async def test_a_spoilt_state_does_not_stop_the_reader(device: Device, tmp_path: Path) -> None:
    intake, display = RecordingIntake(), Display(device)
    async with Reading(reader_of(device.config(), tmp_path), intake) as reading:
        await reading.connected(device)
        await reading.sees(await display.next())
    state = last_state(intake)
    assert state
    for given in [*spoilt(state), state]:
        intake = RecordingIntake()
        async with Reading(reader_of(device.config(), tmp_path), intake, given) as reading:
            await reading.connected(device)
            await reading.sees(await display.next())
        now = time.time_ns() // 1000
        assert all(0 <= gap.start <= gap.end <= now for gap in intake.gaps), (given, intake.gaps)


# Secrets


async def test_a_password_is_never_shown(
    device: Device, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    login = device.login(PASSWORD)
    secrets = [
        name for name, f in type(device.config()).model_fields.items() if SecretStr in (*get_args(f.annotation),)
    ]
    assert bool(secrets) == bool(login)
    if login is None:
        return  # the protocol knows no users
    caplog.set_level(logging.DEBUG)
    said: list[Any] = []
    for more in ({}, {"endpoint": endpoint(device, free_port())}):
        config = device.config(**login, **more)
        reader = reader_of(config, tmp_path)
        intake = RecordingIntake()
        async with Reading(reader, intake) as reading:
            error: BaseException | None = await reading.fails(NOTICE)
        assert SourceState.CONNECTED not in reading.states()
        assert isinstance(reader, Checks)
        said += [repr(config), str(config), config.model_dump_json(), repr(reader), intake.states, await reader.check()]
        while error is not None:
            said.append(repr(error))
            error = error.__cause__ or error.__context__
    output = capfd.readouterr()
    assert PASSWORD not in f"{said}{caplog.text}{output.out}{output.err}"
    assert login["username"] in repr(device.config(**login))


# Checks


async def findings(device: Device, tmp_path: Path, **settings: Any) -> list[Finding]:
    reader = reader_of(device.config(**settings), tmp_path)
    assert isinstance(reader, Checks)
    left = Leftovers(device)
    async with asyncio.timeout(NOTICE):
        found = await reader.check()
    await left.check()
    assert all(f.subject and f.detail for f in found)
    return found


async def test_a_check_finds_nothing_wrong_with_a_sound_source(device: Device, tmp_path: Path) -> None:
    found = await findings(device, tmp_path)
    assert found
    assert [f for f in found if not f.ok] == []


async def test_a_check_names_an_endpoint_where_nobody_answers(device: Device, tmp_path: Path) -> None:
    port = free_port()
    found = await findings(device, tmp_path, endpoint=endpoint(device, port))
    assert [f for f in found if not f.ok and f"127.0.0.1:{port}" in f.subject + f.detail]
    async with listener() as port:
        found = await findings(device, tmp_path, endpoint=endpoint(device, port))
    assert [f for f in found if not f.ok]
    assert [f for f in found if f"127.0.0.1:{port}" in f.subject + f.detail]


async def test_a_check_names_what_the_device_does_not_have(device: Device, tmp_path: Path) -> None:
    settings, word = device.wrong()
    found = await findings(device, tmp_path, **settings)
    assert [f for f in found if not f.ok and word in f.subject + f.detail], found


async def test_a_check_does_not_disturb_a_reader_at_work(device: Device, tmp_path: Path) -> None:
    intake, display = RecordingIntake(), Display(device)
    async with Reading(reader_of(device.config(), tmp_path), intake) as reading:
        await reading.connected(device)
        await reading.sees(await display.next())
        other = reader_of(device.config(), tmp_path)
        assert isinstance(other, Checks)
        assert all(f.ok for f in await other.check())
        await reading.sees(await display.next())
        assert changes(reading.states()) == [SourceState.CONNECTING, SourceState.CONNECTED]


@pytest.mark.threat(9)
async def test_a_device_is_asked_for_nothing_but_reading(provider: Provider, device: Device, tmp_path: Path) -> None:
    """The same is looked at after each test of this file; here is a life in which all that readers do is seen."""
    intake, display = RecordingIntake(), Display(device)
    reader = reader_of(device.config(), tmp_path)
    assert isinstance(reader, Checks)
    await reader.check()
    async with Reading(reader_of(device.config(), tmp_path), intake) as reading:
        await reading.connected(device)
        await reading.sees(await display.next())
        await device.corrupt()
        await reading.until(lambda: any(one.reject for one in intake.readings()))
    async with Reading(reader_of(device.config(), tmp_path), intake, last_state(intake)) as reading:
        await reading.connected(device)
        await reading.sees(await display.next())
    found = asked.functions(provider.protocol, device.relay.streams)
    assert found >= asked.LEAST[provider.protocol], found
    assert asked.not_reading(provider.protocol, device.relay.streams) == []
