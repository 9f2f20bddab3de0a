"""Messages that wait on disk: in order, once each, over restarts and kills, within their bytes."""

import subprocess
import sys
from pathlib import Path

import pytest

from delivery.disk import StoreError
from delivery.outbox import Message, Outbox

ROOT = Path(__file__).parents[2]
QUOTA = 1024**2


def taken(outbox: Outbox) -> list[Message]:
    """Everything that waits, settled one by one."""
    found = []
    while (message := outbox.front()) is not None:
        found.append(message)
        outbox.settle(message)
    return found


def test_messages_come_out_in_order_and_once_also_after_a_restart(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, QUOTA)
    assert outbox.front() is None
    assert outbox.oldest is None
    for number in range(10):
        assert outbox.put(f"message {number}".encode(), number, 1000.0 + number) == 0
    for number in range(4):
        message = outbox.front()
        assert message is not None
        assert (message.body, message.points, message.time) == (f"message {number}".encode(), number, 1000.0 + number)
        assert outbox.front() is message
        outbox.settle(message)
    assert outbox.oldest == 1004.0 or outbox.front() is not None
    outbox.close()

    outbox = Outbox(tmp_path, QUOTA)
    assert outbox.newest == 1009.0
    outbox.put(b"another", 1, 1010.0)
    assert [message.body for message in taken(outbox)] == [*(f"message {n}".encode() for n in range(4, 10)), b"another"]
    outbox.close()
    outbox = Outbox(tmp_path, QUOTA)
    assert outbox.front() is None
    assert outbox.newest == 1010.0
    outbox.close()


@pytest.mark.parametrize("settled", [0, 1, 57])
def test_a_killed_process_leaves_what_it_put_in_and_what_it_settled(tmp_path: Path, settled: int) -> None:
    program = f"""
import os, signal
from pathlib import Path
from delivery.outbox import Outbox
outbox = Outbox(Path({str(tmp_path)!r}), {QUOTA})
for number in range(100):
    outbox.put(os.urandom(5000) + number.to_bytes(2, "big"), 3, 1000.0 + number)
for _ in range({settled}):
    outbox.settle(outbox.front())
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False, timeout=60).returncode == -9
    outbox = Outbox(tmp_path, QUOTA)
    assert [int.from_bytes(message.body[-2:], "big") for message in taken(outbox)] == list(range(settled, 100))
    assert outbox.damaged == 0
    outbox.close()


def test_the_oldest_go_first_when_there_is_no_room_and_each_is_counted(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, QUOTA)
    lost, settled = 0, 0
    for number in range(600):
        lost += outbox.put(bytes(9998) + number.to_bytes(2, "big"), 7, float(number))
        if number in (20, 130):
            message = outbox.front()  # it is being sent when its segment goes
            assert message is not None
        elif number in (100, 150):
            assert message is not None
            outbox.settle(message)
            settled += 1
        if number == 300:
            outbox.close()
            outbox = Outbox(tmp_path, QUOTA)
        assert outbox.size <= QUOTA + 80_000
    rest = taken(outbox)
    numbers = [int.from_bytes(message.body[-2:], "big") for message in rest]
    assert numbers == list(range(600 - len(rest), 600))
    assert len(rest) > 80
    assert lost == 7 * (600 - len(rest) - settled)
    outbox.close()


def test_what_was_taken_leaves_the_disk(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, QUOTA)
    for number in range(1000):
        assert outbox.put(bytes(5000), 1, float(number)) == 0
        taken(outbox)
    assert outbox.size < 3 * 65_536 + 20_000
    outbox.close()


def test_a_damaged_message_is_left_out_and_the_others_come(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, QUOTA)
    for number in range(40):
        outbox.put(b"%04d" % number * 1000, 1, float(number))
    outbox.sync()
    outbox.close()
    file = min(tmp_path.glob("*.log"))
    raw = file.read_bytes()
    at = raw.index(b"0007" * 10)
    file.write_bytes(raw[:at] + b"x" * 100 + raw[at + 100 :])
    outbox = Outbox(tmp_path, QUOTA)
    assert [int(message.body[:4]) for message in taken(outbox)] == [*range(7), *range(8, 40)]
    assert outbox.front() is None
    outbox.close()


def test_an_outbox_of_a_newer_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("delivery.outbox._FORMAT", 2)
        Outbox(tmp_path, QUOTA).close()
    with pytest.raises(StoreError, match="newer version"):
        Outbox(tmp_path, QUOTA)
