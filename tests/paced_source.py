"""A source that reads nothing: it gives numbered readings at a pace, and then no more."""

import asyncio
import time
from typing import Final, Literal

from typing_extensions import override

from connectors.contract import Context, Intake, Reader, SourceState
from connectors.settings import SourceConfig
from normalization.reading import Columns

_TAGS: Final = 100
_STEP: Final = 0.05  # seconds


class PacedSource(SourceConfig):
    """Readings that are counted up from 0."""

    protocol: Literal["opcua"] = "opcua"
    rate: int
    count: int

    @override
    def reader(self, context: Context) -> Reader:
        return _Paced(self)


class _Paced(Reader):
    def __init__(self, config: PacedSource) -> None:
        self._config = config

    @override
    async def run(self, intake: Intake, state: bytes | None) -> None:
        config = self._config
        tags = [intake.tag(config.tag("plc", f"ns=2;s={n}", f"temp_{n}", "°C")) for n in range(_TAGS)]
        done = int(state or b"0")
        intake.state(SourceState.CONNECTED)
        began = time.monotonic() - done / config.rate
        while done < config.count:
            due = min(int((time.monotonic() - began) * config.rate), config.count)
            if due > done:
                rows, now = Columns(), time.time_ns() // 1000
                for number in range(done, due):
                    rows.add(tags[number % _TAGS], float(number), source_time=now - (due - number))
                await intake.append(rows, b"%d" % due)
                done = due
            await asyncio.sleep(_STEP)
        await asyncio.Event().wait()
