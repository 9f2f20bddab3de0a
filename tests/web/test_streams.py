"""Event streams share what is made, keep a pace, and bear readers who are slow."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from typing_extensions import override

from web import streams as streams_module
from web.errors import ApiError
from web.streams import ALIVE, Feed, Pace, Streams, event


class Counted(Feed):
    """Says how often it was asked."""

    def __init__(self) -> None:
        self.asked = self.came = 0
        self.size = 1

    @override
    def whole(self) -> bytes:
        self.came += 1
        return event("whole", self.asked)

    @override
    def changes(self) -> bytes:
        self.asked += 1
        return event("change", "x" * self.size + str(self.asked))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "wait", lambda _: 0.01)


def opened(streams: Streams, feed: Feed) -> AsyncIterator[Any]:
    return streams.open({"one": lambda: feed}).body_iterator


async def take(stream: AsyncIterator[Any], count: int) -> list[bytes]:
    async with asyncio.timeout(10):
        return [await anext(stream) for _ in range(count)]


@pytest.mark.usefixtures("quick")
async def test_a_feed_is_asked_once_for_everybody_who_watches_it() -> None:
    streams, feed = Streams(), Counted()
    watched = [opened(streams, feed) for _ in range(5)]
    told = await asyncio.gather(*(take(stream, 4) for stream in watched))
    assert all(one[0].startswith(b"event: whole") for one in told)
    assert told[0][1:] == told[4][1:]
    assert feed.came == 5
    assert feed.asked <= 6
    for stream in watched:
        await stream.aclose()  # type: ignore[attr-defined]
    asked = feed.asked
    await asyncio.sleep(0.1)
    assert feed.asked == asked, "nobody watches any more"


@pytest.mark.usefixtures("quick")
async def test_who_is_too_slow_gets_everything_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "_AHEAD", 1_000)
    streams, feed = Streams(), Counted()
    feed.size = 400
    slow, quick = opened(streams, feed), opened(streams, feed)
    await take(slow, 1)
    await take(quick, 6)
    (late,) = await take(slow, 1)
    assert late.startswith(b"event: whole")
    assert (await take(slow, 1))[0].startswith(b"event: change")


@pytest.mark.usefixtures("quick")
@pytest.mark.threat(26)
async def test_there_are_no_more_streams_than_can_be_borne(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "_MOST", 2)
    streams, feed = Streams(), Counted()
    watched = [opened(streams, feed) for _ in range(2)]
    for stream in watched:
        await take(stream, 1)
    with pytest.raises(ApiError) as refused:
        opened(streams, feed)
    assert refused.value.status == 429
    await watched[0].aclose()  # type: ignore[attr-defined]
    assert (await take(opened(streams, feed), 1))[0]


@pytest.mark.usefixtures("quick")
async def test_a_stream_on_which_nothing_happens_says_that_it_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "_SILENT", 0.05)

    class Silent(Feed):
        @override
        def whole(self) -> bytes:
            return b""

        @override
        def changes(self) -> bytes:
            return b""

    assert await take(opened(Streams(), Silent()), 3) == [ALIVE] * 3


def test_the_pace_lies_between_four_times_and_once_a_second_and_falls_when_turns_are_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = iter([(0.0, 0.0, 0.0), (1.0, 1.001, 0.001), (2.0, 1.003, 0.002), (3.0, 2.103, 0.102)])
    monkeypatch.setattr(Pace, "_look", lambda _: next(looks))
    pace = Pace()
    assert pace.wait() == 0.25  # the gateway takes a core, and the turn took a millisecond of it
    assert pace.wait() == 1.0  # the gateway sleeps
    assert pace.wait() == 5.0  # a turn of a tenth of a second
