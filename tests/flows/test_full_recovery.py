"""A full disk under the flow's recovery store: the process lives, and the flow goes on when there is room."""

import subprocess
import threading

import pytest
from running import WAYS, recovery, running


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MiB for the recovery store."""
    place = recovery(tmp_path)
    place.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def keep_full(filler, ended):
    """Fill every bit of room that comes, until `ended`."""
    with filler.open("wb", buffering=0) as file:
        while not ended.wait(0.002):
            try:
                file.write(bytes(4096))
            except OSError:
                continue
    filler.unlink()


@pytest.mark.parametrize("way", WAYS)
def test_a_full_disk_under_the_snapshots_ends_no_process(tmp_path, small_disk, way):
    with running(tmp_path, way=way) as gateway:
        gateway.deliver(500)
        ended = threading.Event()
        filling = threading.Thread(target=keep_full, args=(small_disk / "filler", ended))
        filling.start()
        try:
            gateway.until(lambda: "no room for the flow's snapshots" in gateway.said(), "the log")
        finally:
            ended.set()
            filling.join()
        gateway.deliver(2000)
        assert gateway.stop() < 6.0
