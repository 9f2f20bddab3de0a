"""What a kill tears inside a write does not spoil what is written after it."""

import asyncio
import os
from pathlib import Path

import pytest

from connectors.contract import Context
from tests.appending import Appender, whole_numbers
from tests.chaos import numbered as chaos_numbered
from tests.flows import numbered
from tests.recording_intake import RecordingIntake


@pytest.mark.parametrize("torn", [b"", b'[1,"a', b'[1,"mqtt-0-a",1]', b"[2"])
def test_a_torn_last_line_goes_before_the_next_is_appended(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "lines"
    path.write_bytes(b'[0,"whole"]\n' + torn)
    with Appender(path) as file:
        file.append(b'[3,"next"]\n')
    assert numbered.read(path) == [[0, "whole"], [3, "next"]]


@pytest.mark.parametrize("torn", range(8))
def test_a_torn_last_number_goes_before_the_next_is_appended(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "numbers"
    path.write_bytes((5).to_bytes(8, "little") + (6).to_bytes(8, "little")[:torn])
    with Appender(path, whole_numbers) as file:
        file.append((7).to_bytes(8, "little"))
    assert chaos_numbered.last_number(path) == 7
    assert path.stat().st_size == 16


def test_a_file_without_any_whole_line_becomes_empty(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"12")
    Appender(tmp_path / "lines").close()
    assert (tmp_path / "lines").read_bytes() == b""


def test_what_the_disk_takes_in_part_only_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter([lambda fd, data: os.writev(fd, [data[:3]]), None])

    def write(fd: int, data: memoryview) -> int:
        call = next(calls)
        if call is None:
            raise OSError(28, "No space left on device")
        return call(fd, data)

    with Appender(tmp_path / "lines") as file:
        file.append(b"1\n")
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(OSError, match="No space"):
                file.append(b"2222\n")
        file.append(b"3\n")
    assert (tmp_path / "lines").read_bytes() == b"1\n3\n"


def test_a_closed_file_is_not_written_though_its_descriptor_may_be_another_files(tmp_path: Path) -> None:
    file = Appender(tmp_path / "lines")
    file.close()
    other = os.open(tmp_path / "other", os.O_WRONLY | os.O_CREAT)
    try:
        file.append(b"late\n")
    finally:
        os.close(other)
    assert (tmp_path / "other").read_bytes() == (tmp_path / "lines").read_bytes() == b""


async def test_the_numbered_target_goes_on_after_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "first.jsonl"
    path.write_bytes(b'[1, "mqtt-0-a", 1, 1, "p", 1.0, 5]\n[2, "mqtt-0-a", 2, 2, "p", 2.')
    writer = numbered.TellingConfig(path=path).writer(Context("gw", tmp_path))
    await writer.open()
    await writer.close()
    assert [row[0] for row in numbered.read(path)] == [1]
    assert path.read_bytes().endswith(b"]\n")


@pytest.mark.parametrize(
    ("config", "whole", "torn"),
    [(numbered.NumberedConfig, b"7\n", b"1"), (chaos_numbered.NumberedConfig, bytes([7, *[0] * 7]), b"\1\2")],
    ids=["flows", "chaos"],
)
async def test_a_numbered_source_cuts_the_acknowledgement_that_a_kill_tore(
    tmp_path: Path, config, whole: bytes, torn: bytes
) -> None:
    path = tmp_path / "line.acked"
    path.write_bytes(whole + torn)
    intake = RecordingIntake(hold=True)
    running = asyncio.create_task(config(name="line", acked=path).reader(Context("gw", tmp_path)).run(intake, None))
    try:
        async with asyncio.timeout(5):
            while not intake.appended:
                await asyncio.sleep(0.001)
        assert path.read_bytes() == whole
        assert intake.appended[0][0].source_time[0] == 8, "it goes on after what was acknowledged"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
