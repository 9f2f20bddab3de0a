"""The station and its roads: what a writer meets is what a network does."""

import asyncio
import socket
import time
from pathlib import Path

import numpy as np
import pytest

from connectors.contract import Context, TransientError
from tests.chaos.network import RemoteConfig, RemoteWriter, Road, Station
from tests.chaos.numbered import frames
from tests.delivery.stores import stream, tag_table

TIMEOUT = 0.3


def _writer(station: Station) -> RemoteWriter:
    config = RemoteConfig(port=station.port, remembers=True, timeout=TIMEOUT)
    writer = config.writer(Context("gw", Path()))
    assert isinstance(writer, RemoteWriter)
    return writer


def _units(path: Path) -> list[int]:
    return [unit for unit, _, _ in frames(path)]


async def test_a_write_returns_when_the_station_has_the_frame_and_a_unit_is_taken_once(tmp_path: Path) -> None:
    path, batch = tmp_path / "t.frames", stream(tag_table(), range(1, 101))
    with Station(path, remembers=True) as station:
        writer = _writer(station)
        await writer.open()
        for unit in (1, 2, 2):
            await writer.write(batch, unit)
        await writer.close()
    assert _units(path) == [1, 2]
    assert all(len(rows) == 100 and np.all(rows["sequence"] == np.arange(1, 101)) for _, _, rows in frames(path))


@pytest.mark.parametrize(
    ("road", "taken"), [("black_hole", False), ("half_open", False), ("unanswered", True), ("cut", False)]
)
async def test_a_write_fails_on_a_bad_road_and_is_made_good_after_it(
    tmp_path: Path, road: Road, *, taken: bool
) -> None:
    path, batch = tmp_path / "t.frames", stream(tag_table(), range(1, 11))
    with Station(path, remembers=True) as station:
        writer = _writer(station)
        await writer.open()
        await writer.write(batch, 1)
        station.take_road(road)
        with pytest.raises(TransientError):
            await writer.write(batch, 2)
        assert _units(path) == ([1, 2] if taken else [1])
        await writer.close()
        station.take_road("ok")
        await writer.open()
        await writer.write(batch, 2)
        await writer.close()
    assert _units(path) == [1, 2]


async def test_in_a_black_hole_nobody_answers_the_first_packet_either(tmp_path: Path) -> None:
    with Station(tmp_path / "t.frames", remembers=True) as station:
        station.take_road("black_hole")
        with socket.socket() as probe:
            probe.settimeout(TIMEOUT)
            with pytest.raises(TimeoutError):
                probe.connect(("127.0.0.1", station.port))
        station.take_road("half_open")
        with socket.create_connection(("127.0.0.1", station.port), 5):
            pass
        station.take_road("cut")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", station.port), 5)


async def test_a_slow_road_takes_its_time(tmp_path: Path) -> None:
    with Station(tmp_path / "t.frames", remembers=True) as station:
        writer = RemoteWriter(RemoteConfig(port=station.port, timeout=20))
        await writer.open()
        station.take_road("slow")
        began = time.monotonic()
        await asyncio.wait_for(writer.write(stream(tag_table(), range(1, 201)), 1), 10)
        assert time.monotonic() - began > 0.15, "8 kB at 40 kB/s"
        await writer.close()
