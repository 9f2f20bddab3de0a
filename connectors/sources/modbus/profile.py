"""Finding out about a device that nobody has described: which units, tables and addresses answer, how much at once, how fast.

It asks with function codes 1 to 4, and 43/14 for the identification, and cannot ask with others (`protocol.Ask`, `Identify`). What it proposes is a draft: only who knows
the device can say what its values mean.
"""

import asyncio
import statistics
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from connectors.sources.modbus.config import ModbusConfig
from connectors.sources.modbus.endpoint import SCHEMES
from connectors.sources.modbus.line import Line
from connectors.sources.modbus.plan import Kind
from connectors.sources.modbus.plausible import Extent, Known, Match, Scored, match, orders
from connectors.sources.modbus.protocol import IDENTITY, Ask, BadReplyError, Identify, RefusedError, identity

UNITS: Final = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 247, 255, 0)
_MOST: Final = 125
_SIZES: Final = (_MOST, 100, 64, 32, 16, 8, 4, 2)
_STARTS: Final = (0, 1, 100, 256, 300, 1000, 2000, 3000, 4000, 4096, 5000, 8192, 10_000, 30_000, 40_000, 50_000)
_STRIDE: Final = 8  # addresses from one try to the next in a stretch that is refused as a whole
_EMPTY: Final = 3  # stretches without anything, after which strides are longer
_GATEWAY: Final = {10, 11}
_TRIES: Final = 12


@dataclass(frozen=True, slots=True)
class Search:
    """What is looked for.

    Attributes:
        units: Unit ids that are tried.
        last: Last address that is tried in each table.
        requests: Requests in sum, at most, besides the few that look again at what was found; shared by the units.
        wait: Seconds between the two looks at the values.
        known: Values that are known.
    """

    units: tuple[int, ...] = UNITS
    last: int = 9_999
    requests: int = 5_000
    wait: float = 1.0
    known: tuple[Known, ...] = ()


@dataclass(slots=True)
class Found:
    """What was found out.

    Attributes:
        endpoint: Where.
        units: Unit ids that answer, with what speaks for each, 0 to 1.
        identities: What units say they are: vendor, product and revision.
        any_unit: Whether the device answers whatever the unit id, with the same values.
        extents: What can be read.
        max_registers: Registers that the device gives in one request.
        orders: Orders of bytes and words, the most plausible first.
        matches: Where known values were found.
        answer: Seconds that an answer of that size takes: median and slowest of some.
        requests: Requests that were sent.
        complete: Whether everything was tried that was to be tried.
    """

    endpoint: str
    units: dict[int, float] = field(default_factory=dict)
    identities: dict[int, dict[str, str]] = field(default_factory=dict)
    any_unit: bool = False
    extents: list[Extent] = field(default_factory=list)
    max_registers: int = 125
    orders: list[Scored] = field(default_factory=list)
    matches: list[Match] = field(default_factory=list)
    answer: tuple[float, float] = (0.0, 0.0)
    requests: int = 0
    complete: bool = True

    @property
    def counted(self) -> tuple[int, str]:
        """What to add to the manual's addresses, and why."""
        if self.matches:
            shift = self.matches[0].counted
            return shift, f"a known value is at the manual's address{f' {shift:+d}' if shift else ''}"
        firsts = sorted({extent.address for extent in self.extents})
        if not firsts:
            return 0, "nothing can be read"
        if firsts[0] == 0:
            return -1, "address 0 can be read: manuals that begin with 1, 40001 or 30001 mean it"
        if firsts[0] == 1:
            return 0, "address 0 is refused and 1 is not: the device counts from 1 on the wire"
        return 0, f"the first address that can be read is {firsts[0]}"


class _Limit(Exception):
    """All requests have been used."""


class Profiler:
    """Asks one device.

    Args:
        endpoint: As in a configuration; a bare host is ``tcp://host``.
        search: What is looked for.
        timeout: Seconds for one answer.
        tell: Is told what is going on, in plain words.
    """

    def __init__(
        self, endpoint: str, search: Search, timeout: float = 1.0, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        scheme, colon, _ = endpoint.partition("://")
        self._config = ModbusConfig.model_validate(
            {
                "name": "profile",
                "endpoint": endpoint if colon and scheme in SCHEMES else f"tcp://{endpoint}",
                "tls": {},
                "timeout": timeout,
                "registers": [{"address": 0}],
            }
        )
        self._search, self._tell = search, tell
        self._found = Found(self._config.endpoint)
        self._limit: int | None = search.requests

    async def run(self) -> Found:
        """Look at everything.

        Raises:
            OSError: There is no connection.
        """
        self._line = Line(self._config)
        found = self._found
        try:
            await self._line.open()
            try:
                await self._find_units()
            except _Limit:
                found.complete = False
            units = [*found.units][: 1 if found.any_unit else None]
            for left, unit_id in zip(range(len(units), 0, -1), units, strict=True):
                self._limit = found.requests + (self._search.requests - found.requests) // left
                try:
                    await self._find_addresses(unit_id)
                except _Limit:
                    found.complete = False
            self._limit = None  # few are needed for what was found
            await self._measure()
            await self._look_again()
            await self._identify(units)
        finally:
            self._line.abort()
        found.extents.sort(key=lambda extent: (extent.unit_id, extent.kind, extent.address))
        found.orders = orders(found.extents)
        found.matches = [m for known in self._search.known for m in match(found.extents, known)]
        if found.matches:
            best = found.matches[0]
            found.orders.sort(key=lambda o: (o.byte_order, o.word_order) != (best.byte_order, best.word_order))
        return found

    async def _ask(self, unit_id: int, kind: Kind, address: int, count: int) -> bytes | Exception:
        """The data, or what came instead; a lost connection is opened again once."""
        if self._limit is not None and self._found.requests >= self._limit:
            raise _Limit
        self._found.requests += 1
        try:
            if self._line.broken:
                await self._line.open()
            return await self._line.ask(Ask(unit_id, kind, address, count))
        except ConnectionError as error:
            await self._line.open()
            return error
        except (RefusedError, BadReplyError, TimeoutError) as error:
            return error

    async def _identify(self, units: Sequence[int]) -> None:
        """Ask units what they are; last, since a device may not like what it does not know."""
        for unit_id in units:
            said: dict[str, str] = {}
            first: int | None = 0
            for _ in IDENTITY:
                if first is None:
                    break
                self._found.requests += 1
                try:
                    if self._line.broken:
                        await self._line.open()
                    part, first = identity(await self._line.ask(Identify(unit_id, first)))
                except (RefusedError, BadReplyError, TimeoutError):
                    break  # some do not answer what they do not know; the next unit may be of another make
                except OSError:
                    return
                said |= part
            if any(said.values()):
                self._found.identities[unit_id] = said
                self._tell(f"unit {unit_id} is {' '.join(filter(None, said.values()))}")

    async def _find_units(self) -> None:
        answers: dict[int, bytes] = {}
        for unit_id in self._search.units:
            score, data = await self._unit(unit_id)
            if score:
                self._found.units[unit_id] = score
                answers[unit_id] = data
                self._tell(f"unit {unit_id} answers")
        values = set(answers.values())
        self._found.any_unit = len(answers) == len(self._search.units) > 3 and len(values) == 1
        if self._found.any_unit:
            self._tell("it answers whatever the unit id")

    async def _unit(self, unit_id: int) -> tuple[float, bytes]:
        """How sure it is that there is such a unit, and what it holds at its beginning."""
        refused = 0.0
        for kind, address in (
            (Kind.HOLDING, 0),
            (Kind.INPUT, 0),
            (Kind.HOLDING, 1),
            (Kind.COIL, 0),
            (Kind.DISCRETE, 0),
        ):
            answer = await self._ask(unit_id, kind, address, 1)
            if isinstance(answer, bytes):
                return 1.0, answer
            if isinstance(answer, RefusedError) and answer.code not in _GATEWAY:
                refused = 0.9  # it is there, and does not have this
            elif isinstance(answer, TimeoutError) or refused == 0.0:
                break
        return refused, b""

    async def _find_addresses(self, unit_id: int) -> None:
        found = self._found
        for kind in (Kind.HOLDING, Kind.INPUT, Kind.COIL, Kind.DISCRETE):
            most, limited = (2000, False) if kind.is_bits else await self._size(unit_id, kind)
            if limited:
                found.max_registers = min(found.max_registers, most)
            for start, end in await self._stretches(unit_id, kind, most) if most else ():
                data = await self._values(unit_id, kind, start, end, most)
                found.extents.append(Extent(unit_id, kind, start, data, data))
                self._tell(f"unit {unit_id}: {kind.name.lower()} {start} to {end - 1}")

    async def _size(self, unit_id: int, kind: Kind) -> tuple[int, bool]:
        """The largest request that the device grants, 0 when none; and whether it is the size that it will not go beyond."""
        best = 0
        for start in _STARTS:
            if start > self._search.last:
                break
            if not await self._grants(unit_id, kind, start, 1):
                continue
            size, refused = 1, _MOST + 1
            for more in _SIZES:
                if await self._grants(unit_id, kind, start, more):
                    size = more
                    break
                refused = more
            while refused - size > 1:
                middle = (size + refused) // 2
                if await self._grants(unit_id, kind, start, middle):
                    size = middle
                else:
                    refused = middle
            if size == _MOST:
                return size, False
            if await self._grants(unit_id, kind, start + size, 1):  # there is more, but not in one request
                return size, True
            best = max(best, size)
        return best, False

    async def _grants(self, unit_id: int, kind: Kind, address: int, count: int) -> bool:
        return isinstance(await self._ask(unit_id, kind, address, count), bytes)

    async def _stretches(self, unit_id: int, kind: Kind, most: int) -> list[tuple[int, int]]:
        """Which addresses can be read, as (first, one behind the last)."""
        readable: list[tuple[int, int]] = []
        size = min(most, 1000)
        pieces = [(at, min(at + size, self._search.last + 1)) for at in range(0, self._search.last + 1, size)]
        pieces += [(at, at + 1) for at in _STARTS if at > self._search.last]
        nothing = 0
        for start, end in pieces:
            if await self._grants(unit_id, kind, start, end - start):
                got = [(start, end)]
            else:
                stride = _STRIDE * (2 if kind.is_bits else 1) * (1 if nothing < _EMPTY else 8)
                got = await self._islands(unit_id, kind, start, end, stride, most)
            nothing = 0 if got else nothing + 1
            readable += got
        merged: list[tuple[int, int]] = []
        for start, end in sorted(readable):
            if merged and merged[-1][1] >= start:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return merged

    async def _islands(
        self, unit_id: int, kind: Kind, start: int, end: int, stride: int, most: int
    ) -> list[tuple[int, int]]:
        """What can be read in a stretch that is refused as a whole: tried in strides, and followed to its ends."""
        found: list[tuple[int, int]] = []
        at, behind = start, start
        while at < end:
            if not await self._grants(unit_id, kind, at, 1):
                at = min(at + stride, end - 1) if at < end - 1 else end
                continue
            first, last = max(behind, at - stride + 1), at
            while first < last:  # the first address from which on all can be read
                middle = (first + last) // 2
                if await self._grants(unit_id, kind, middle, at - middle):
                    last = middle
                else:
                    first = middle + 1
            behind = await self._end(unit_id, kind, at, end, most)
            found.append((last, behind))
            at = behind + 1
        return found

    async def _end(self, unit_id: int, kind: Kind, at: int, end: int, most: int) -> int:
        """The address behind the last one that can be read together with `at`, which can be."""
        size, limit = 1, min(most, end - at)
        while size < limit and await self._grants(unit_id, kind, at, min(2 * size, limit)):
            size = min(2 * size, limit)
        refused = min(2 * size, limit) if size < limit else size + 1
        while refused - size > 1:
            middle = (size + refused) // 2
            if await self._grants(unit_id, kind, at, middle):
                size = middle
            else:
                refused = middle
        return at + size

    async def _values(self, unit_id: int, kind: Kind, start: int, end: int, most: int) -> tuple[int, ...]:
        values: list[int] = []
        for at in range(start, end, most):
            count = min(most, end - at)
            answer = await self._ask(unit_id, kind, at, count)
            if not isinstance(answer, bytes):
                values += [0] * count
            elif kind.is_bits:
                values += [answer[bit // 8] >> bit % 8 & 1 for bit in range(count)]
            else:
                values += struct.unpack(f">{count}H", answer)
        return tuple(values)

    async def _measure(self) -> None:
        """How fast answers of the size that will be used come."""
        extents = [extent for extent in self._found.extents if not extent.kind.is_bits] or self._found.extents
        if not extents:
            return
        largest = max(extents, key=lambda extent: len(extent.before))
        count = min(len(largest.before), self._found.max_registers)
        took = []
        loop = asyncio.get_running_loop()
        for _ in range(_TRIES):
            began = loop.time()
            if await self._grants(largest.unit_id, largest.kind, largest.address, count):
                took.append(loop.time() - began)
        if took:
            self._found.answer = statistics.median(took), max(took)

    async def _look_again(self) -> None:
        await asyncio.sleep(self._search.wait)
        again = []
        for extent in self._found.extents:
            most = 2000 if extent.kind.is_bits else self._found.max_registers
            after = await self._values(extent.unit_id, extent.kind, extent.address, extent.end, most)
            again.append(Extent(extent.unit_id, extent.kind, extent.address, extent.before, after))
        self._found.extents = again


def unit_ids(text: str) -> tuple[int, ...]:
    """Unit ids from text such as ``1-10,247``.

    Raises:
        ValueError: It is not one.
    """
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not first.isdecimal() or not last.isdecimal() or int(last) > 255:
            raise ValueError(f"`{part.strip()}` is not a unit id or a range of them, 0 to 255")
        found += range(int(first), int(last) + 1)
    return tuple(dict.fromkeys(found))


def known_values(texts: Sequence[str]) -> tuple[Known, ...]:
    """Known values from texts such as ``100=230.1``.

    Raises:
        ValueError: One is not.
    """
    found = []
    for text in texts:
        address, _, value = text.partition("=")
        try:
            found.append(Known(int(address), float(value)))
        except ValueError:
            raise ValueError(f"`{text}` is not an address and a value, such as 100=230.1") from None
    return tuple(found)
