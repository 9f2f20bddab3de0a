"""A source is read only while its lease is held, against a server that speaks the Lease API."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme

from config.models import LeaseSection
from flows.kubernetes_leases import KubernetesLeases
from flows.leases import ConflictError, Leases, LeaseStoreError
from tests.lease_server import LeaseServer

SECONDS = 2.0


OPEN: list[KubernetesLeases] = []


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LeaseServer]:
    found = LeaseServer(tmp_path)
    yield found
    while OPEN:
        OPEN.pop().close()
    found.close()


def store(server: LeaseServer, **more: str) -> KubernetesLeases:
    OPEN.append(KubernetesLeases(LeaseSection.model_validate(server.section(**more))))
    return OPEN[-1]


@dataclass
class Plant:
    """Who reads the source at the moment, and who ever read it beside another."""

    reading: set[str] = field(default_factory=set)
    together: list[set[str]] = field(default_factory=list)
    waits: dict[str, str] = field(default_factory=dict)

    async def read(self, member: str) -> None:
        self.reading.add(member)
        if len(self.reading) > 1:
            self.together.append(set(self.reading))
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)  # a device is not let go at once
            self.reading.discard(member)

    @asynccontextmanager
    async def member(
        self, server: LeaseServer, name: str, source: str = "press"
    ) -> AsyncIterator["asyncio.Task[None]"]:
        leases = Leases(store(server), name, SECONDS)
        held = leases.while_held(source, lambda: self.read(name), lambda why: self.waits.update({name: why}))
        task = asyncio.create_task(held)
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])


async def until(holds: Callable[[], object], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not holds():
            await asyncio.sleep(0.01)


async def test_one_member_reads_and_the_next_begins_when_it_lets_go(server: LeaseServer) -> None:
    plant = Plant()
    async with plant.member(server, "bifrost-0"):
        await until(lambda: plant.reading == {"bifrost-0"})
        async with plant.member(server, "bifrost-1") as second:
            await until(lambda: plant.waits.get("bifrost-1") == "gateway `bifrost-0` reads it")
            assert plant.reading == {"bifrost-0"}
            assert not second.done()
        assert server.holders() == {"press": "bifrost-0"}, "who only waited lets nothing go"
    assert server.holders() == {"press": ""}
    async with plant.member(server, "bifrost-1"):
        await until(lambda: plant.reading == {"bifrost-1"}, SECONDS)
    assert plant.together == []


async def test_a_member_that_is_killed_loses_the_source_after_the_leases_time_and_gets_it_again_at_once(
    server: LeaseServer,
) -> None:
    plant = Plant()
    dead = store(server)
    await dead.put("press", "bifrost-0", int(SECONDS), None)  # and then it was killed
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with plant.member(server, "bifrost-1"):
        await until(lambda: plant.reading)
        assert loop.time() - began > SECONDS
    await dead.put("press", "bifrost-0", int(SECONDS), await dead.get("press"))
    began = loop.time()
    async with plant.member(server, "bifrost-0"):
        await until(lambda: plant.reading == {"bifrost-0"})
        assert loop.time() - began < SECONDS / 2


async def test_a_member_that_cannot_renew_stops_reading_before_another_may_begin(server: LeaseServer) -> None:
    plant = Plant()
    async with plant.member(server, "bifrost-0"), plant.member(server, "bifrost-1"):
        await until(lambda: len(plant.reading) == 1)
        server.away = True
        loop = asyncio.get_running_loop()
        began = loop.time()
        await until(lambda: not plant.reading)
        assert loop.time() - began < SECONDS
        assert any("unable to handle" in said for said in plant.waits.values())
        server.away = False
        await until(lambda: len(plant.reading) == 1)
    assert plant.together == []


async def test_a_member_whose_lease_was_taken_stops_reading(server: LeaseServer) -> None:
    plant, thief = Plant(), store(server)
    async with plant.member(server, "bifrost-0"):
        await until(lambda: plant.reading)
        await thief.put("press", "somebody", 60, await thief.get("press"))
        await until(lambda: not plant.reading, SECONDS)
        await until(lambda: plant.waits.get("bifrost-0") == "gateway `somebody` reads it")
    assert server.holders() == {"press": "somebody"}


async def test_a_lease_that_somebody_edits_or_deletes_is_renewed_all_the_same(server: LeaseServer) -> None:
    plant, editor = Plant(), store(server)
    async with plant.member(server, "bifrost-0"):
        await until(lambda: plant.reading)
        await editor.put("press", "bifrost-0", 2, await editor.get("press"))
        version = await editor.get("press")
        await until(lambda: server.leases[editor.name("press")]["metadata"]["resourceVersion"] != version)
        server.leases.clear()
        await until(lambda: server.holders() == {"press": "bifrost-0"}, SECONDS)
        assert plant.reading == {"bifrost-0"}


async def test_what_has_changed_since_it_was_seen_is_a_conflict(server: LeaseServer) -> None:
    first, second = store(server), store(server)
    seen = await first.put("press", "a", 15, None)
    assert (await first.get("press")) == seen
    with pytest.raises(ConflictError):
        await second.put("press", "b", 15, None)
    renewed = await first.put("press", "a", 15, seen)
    assert (renewed.acquired, renewed.transitions) == (seen.acquired, 0)
    with pytest.raises(ConflictError):
        await second.put("press", "b", 15, seen)
    taken = await second.put("press", "b", 15, renewed)
    assert (taken.holder, taken.transitions) == ("b", 1)


async def test_names_are_those_of_objects_and_each_source_has_its_own(server: LeaseServer) -> None:
    leases = store(server, prefix="plant1")
    names = {leases.name(source) for source in ("Press_1", "press-1", "press.1", "PRESS-1", "_", "x" * 63)}
    assert len(names) == 6
    for name in names:
        assert len(name) <= 63
        assert all(c.isalnum() or c == "-" for c in name)
        assert name == name.lower()
        assert name.startswith("plant1-")


async def test_what_the_api_does_not_take_is_told_in_words(server: LeaseServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of another")
    with pytest.raises(LeaseStoreError, match="answers 401: Unauthorized"):
        await store(server).get("press")
    with pytest.raises(LeaseStoreError, match="no service account"):
        await store(server, token_file=str(tmp_path / "none")).get("press")
    other = tmp_path / "other.crt"
    trustme.CA().cert_pem.write_to_path(str(other))
    with pytest.raises(LeaseStoreError, match=r"cannot be asked.*certificate verify failed"):
        await store(server, ca_file=str(other)).get("press")
    with pytest.raises(LeaseStoreError, match=r"none.crt holds no certificates"):
        await store(server, ca_file=str(tmp_path / "none.crt")).get("press")
    nowhere = LeaseSection(store="kubernetes", token_file=tmp_path / "token", namespace="plant")
    with pytest.raises(LeaseStoreError, match="KUBERNETES_SERVICE_HOST is not set"):
        await KubernetesLeases(nowhere, {}).get("press")
