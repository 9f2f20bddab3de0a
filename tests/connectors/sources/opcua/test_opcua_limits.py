"""What a server takes in one request is learnt where it does not say it, and kept."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.ua.uaerrors import BadTooManyOperations, BadUserAccessDenied

from connectors.sources.opcua.limits import DEFAULT, OperationLimits
from tests.connectors.sources.opcua.conftest import PlantServer, Reading, source
from tests.ports import free_port


class Picky:
    """Takes a few at once, and counts how often it was asked."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.sizes: list[int] = []

    async def __call__(self, part: Sequence[int]) -> list[int]:
        self.sizes.append(len(part))
        if len(part) > self.most:
            raise BadTooManyOperations
        return [2 * n for n in part]


async def test_what_is_too_much_is_asked_for_in_halves_and_remembered(tmp_path: Path) -> None:
    limits, server = OperationLimits(tmp_path), Picky(30)
    limits.stated("plc", read=100)
    assert await limits.ask("read", range(100), server) == [2 * n for n in range(100)]
    assert server.sizes == [100, 50, 25, 25, 25, 25]
    again = OperationLimits(tmp_path)
    again.stated("plc", read=100)
    assert again.size("read") == 25
    other = OperationLimits(tmp_path)
    other.stated("another server", read=None)
    assert other.size("read") == DEFAULT


@pytest.mark.parametrize(
    "kept", [b"", b"[]", b"{", b'{"server": "plc", "at_once": {"read": "x"}}', b'{"server": "plc"}']
)
def test_what_was_kept_and_makes_no_sense_is_left_aside(tmp_path: Path, kept: bytes) -> None:
    (tmp_path / "limits.json").write_bytes(kept)
    limits = OperationLimits(tmp_path)
    limits.stated("plc", read=0, browse=7)
    assert (limits.size("read"), limits.size("browse"), limits.size("items")) == (DEFAULT, 7, DEFAULT)


async def test_one_that_is_too_much_is_the_server_s_error(tmp_path: Path) -> None:
    limits = OperationLimits(tmp_path)
    with pytest.raises(BadTooManyOperations):
        await limits.ask("read", range(9), Picky(0))


async def test_other_errors_teach_nothing(tmp_path: Path) -> None:
    async def refusing(_: Sequence[int]) -> list[int]:
        raise BadUserAccessDenied

    limits = OperationLimits(tmp_path)
    with pytest.raises(BadUserAccessDenied):
        await limits.ask("read", range(9), refusing)
    assert limits.size("read") == DEFAULT
    with pytest.raises(ConnectionError, match="0 answers to 9 questions"):
        await limits.ask("read", range(9), _silent)


async def _silent(_: Sequence[int]) -> list[int]:
    return []


@pytest.fixture
def picky() -> Iterator[PlantServer]:
    """A server that states no limit and takes four nodes at once."""
    running = PlantServer(free_port()).start()
    service = running.server.iserver.attribute_service
    read = service.read

    def refusing(parameters: Any, *more: Any) -> Any:
        if len(parameters.NodesToRead) > 4:
            raise ServiceError(ua.StatusCodes.BadTooManyOperations)
        return read(parameters, *more)

    service.read = refusing
    yield running
    running.stop()


@pytest.mark.parametrize("mode", ["subscription", "polling"])
async def test_a_server_that_takes_little_at_once_is_read_whole(picky: PlantServer, tmp_path: Path, mode: str) -> None:
    for _ in range(2):
        async with Reading(source(picky.endpoint, mode=mode, polling_interval=0.1), tmp_path) as intake:
            await intake.until(lambda intake=intake: len({r.tag.tag_name for r in intake.readings()}) == 11)
            assert not intake.gaps
        assert json.loads((tmp_path / "limits.json").read_text())["at_once"]["read"] <= 4
