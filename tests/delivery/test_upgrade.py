"""Stores of every format that there was open with all that is in them, also when the process ends amid their upgrade."""

import json
import random
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from delivery.dead_letters import DeadLetterStore
from delivery.disk import StoreError
from delivery.entry import pack, unpack
from delivery.journal import Journal
from delivery.log import HEAD, Log
from delivery.spool import Spool
from delivery.upgrade import DAMAGED
from tests.chaos.recording import Recorded, calls, tracer
from tests.delivery.make_stores import GATEWAY, READERS, read_letters, read_spool
from tests.delivery.stores import deliver_all, own, stream, tag_table, unaccounted

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ARCHIVES = sorted(HERE.glob("stores_*.tar.xz"))
FIRST = HERE / "stores_1.tar.xz"


def _opened(store: str, place: Path) -> Journal | Spool | DeadLetterStore:
    match store:
        case "journal":
            return Journal(place, GATEWAY, tag_table(0))
        case "spool":
            return Spool(place, tag_table(0), own)
        case _:
            return DeadLetterStore(place, tag_table(0), own)


def unpacked(archive: Path, place: Path) -> dict[str, Any]:
    """The stores of an archive, in `place`; returns what is in them."""
    with tarfile.open(archive) as files:
        files.extractall(place, filter="data")
    return json.loads((place / "found.json").read_text())


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name.removesuffix(".tar.xz"))
@pytest.mark.parametrize("store", READERS)
def test_a_store_of_an_earlier_version_gives_all_that_it_gave_that_version(
    tmp_path: Path, archive: Path, store: str
) -> None:
    found = unpacked(archive, tmp_path)
    assert READERS[store](tmp_path / store) == found[store]


@pytest.mark.parametrize("store", READERS)
def test_an_upgraded_store_opens_again_and_nothing_else_is_left(tmp_path: Path, store: str) -> None:
    found = unpacked(FIRST, tmp_path)
    _opened(store, tmp_path / store).close()
    assert READERS[store](tmp_path / store) == found[store]
    assert {path.name for path in tmp_path.iterdir()} == {"found.json", *READERS}
    assert not list((tmp_path / "spool").glob("*.log")) or store != "spool"


def test_an_upgraded_spool_knows_what_it_had_and_takes_more(tmp_path: Path) -> None:
    found = unpacked(FIRST, tmp_path)["spool"]
    table = tag_table()
    spool = Spool(tmp_path / "spool", table, own)
    waiting = sum(found["account"]["stored"].values())
    for sequences in (range(1, 7), range(55, 61), [1000, 1002, 1005]):
        spool.append(stream(table, sequences))
    spool.snapshot()
    assert spool.stored_rows == waiting
    spool.append(stream(table, [3000]))
    assert deliver_all(spool)[-1] == 3000
    assert not unaccounted(spool)
    spool.close()


def test_an_upgraded_store_of_dead_letters_knows_what_it_had_and_lets_them_go(tmp_path: Path) -> None:
    found = unpacked(FIRST, tmp_path)["dead_letters"]
    table = tag_table()
    store = DeadLetterStore(tmp_path / "dead_letters", table, own)
    store.append(stream(table, [0, 1, 2]), ["again"] * 3)
    assert store.total == len(found)
    letters = list(store.letters())
    assert [(one.error_class, one.first <= one.last) for one in letters[:2]] == [("normalize", True), ("data", True)]
    store.remove(letters[:1], "purged")
    store.close()
    assert len(read_letters(tmp_path / "dead_letters")) == len(found) - len(letters[0])


@pytest.mark.parametrize("most", [4, pytest.param(12, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("store", ["spool", "dead_letters"])
def test_a_process_that_ends_anywhere_in_an_upgrade_leaves_a_store_with_everything(
    tmp_path: Path, store: str, most: int
) -> None:
    """Every state that a kill or a power cut may leave, from the first write of the upgrade to the last."""
    found = unpacked(FIRST, tmp_path / "origin")[store]
    lived, trace = tmp_path / "lived", tmp_path / "trace"
    shutil.copytree(tmp_path / "origin" / store, lived / store)
    disk = Recorded(lived)
    disk.begin()
    command = [*tracer(trace), sys.executable, "-m", "tests.delivery.test_upgrade", store, str(lived / store)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    chance, tried = random.Random(7), 0
    for call in calls(trace.read_text().splitlines()):
        changes = disk.apply(call)
        cuts = most if disk.uncertain_names else 1
        for kept in (True, *[False] * cuts) if changes else ():
            place = tmp_path / "state"
            shutil.rmtree(place, ignore_errors=True)
            for path, content in (disk.contents() if kept else disk.after_power_cut(chance)).items():
                copy = place / path.relative_to(lived)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(content)
            assert READERS[store](place / store) == found, f"after call {disk.ended}, {call.name} of {call.path}"
            tried += 1
    assert tried > 20
    assert not disk.learn(lived), "the recording explains what is on the disk"


def test_what_is_damaged_in_a_spool_of_the_first_format_is_counted_and_the_rest_is_there(tmp_path: Path) -> None:
    found = unpacked(FIRST, tmp_path)["spool"]
    (file,) = (tmp_path / "spool").glob("*.log")
    data = bytearray(file.read_bytes())
    at = data.index(b"source", len(data) // 2)
    data[at] ^= 1
    file.write_bytes(bytes(data))
    again = read_spool(tmp_path / "spool")
    lost = [row["sequence"] for row in found["rows"] if row not in again["rows"]]
    assert 0 < len(lost) <= 6
    assert all(row in found["rows"] for row in again["rows"])
    spool = Spool(tmp_path / "spool", tag_table(0), own)
    assert not unaccounted(spool)
    assert set(spool.discarded) <= {DAMAGED}
    assert any((tmp_path / "spool" / "quarantine").iterdir())
    spool.close()


def _head_of(place: Path) -> list[Any]:
    return unpack(next(record.payload for record in Log(place, bytes).recover() if record.kind == HEAD))


@pytest.mark.parametrize("store", READERS)
def test_a_store_of_a_newer_version_is_refused_and_stays_as_it_is(tmp_path: Path, store: str) -> None:
    """As it will be when this version is started on stores of one that comes."""
    place = tmp_path / store / ("p0" if store == "spool" else ".")
    _opened(store, tmp_path / store).close()
    version, *rest = _head_of(place)
    log = Log(place, lambda: pack([version + 1, *rest]))
    list(log.recover())
    log.begin()
    log.close()
    before = {path: path.read_bytes() for path in place.glob("*.log")}
    with pytest.raises(StoreError, match="newer version of Bifrost; start that version"):
        _opened(store, tmp_path / store)
    assert {path: path.read_bytes() for path in place.glob("*.log")} == before


if __name__ == "__main__":
    _opened(sys.argv[1], Path(sys.argv[2])).close()
