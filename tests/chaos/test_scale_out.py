"""The oracle of `scale` sees a source that two gateways read."""

import asyncio
from pathlib import Path

from connectors.contract import Context
from tests.chaos.members import LockedConfig, twice_file
from tests.recording_intake import RecordingIntake


async def test_a_source_that_two_read_at_a_time_is_noted_and_one_after_the_other_is_not(tmp_path: Path) -> None:
    config = LockedConfig(name="press", acked=tmp_path / "press.acked")

    async def read(seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await config.reader(Context("gw", tmp_path)).run(RecordingIntake(), None)
        except TimeoutError:
            pass

    await read(0.1)
    await read(0.1)
    assert not twice_file(tmp_path, "press").exists()
    await asyncio.gather(read(0.3), read(0.2))
    assert twice_file(tmp_path, "press").read_bytes() == b"!"
