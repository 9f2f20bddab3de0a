"""SIGTERM and SIGINT: exit code 0 in under 5 s, nothing again at the next start."""

import os
import shutil
import signal
import subprocess

import pytest
from running import WAYS, acknowledged, check_account, missing, repeated, running, settle, written

LIMIT = 5.0


def nothing_lost_or_repeated(directory, targets=("first", "second")):
    settle(directory)
    want = acknowledged(directory)
    for target in targets:
        assert missing(directory, target, want) == {}
        assert repeated(directory, target) == 0
    check_account(directory)


def test_a_signal_under_load_drains_and_the_next_start_delivers_nothing_again(tmp_path):
    turns = [("bifrost_run", signal.SIGTERM), ("bytewax_run", signal.SIGINT), ("bytewax_run", signal.SIGTERM)]
    for way, number in [*turns, ("bifrost_run", signal.SIGINT)]:
        with running(tmp_path, way=way) as gateway:
            gateway.deliver(2000)
            assert gateway.stop(number) < LIMIT
    nothing_lost_or_repeated(tmp_path)
    assert min(acknowledged(tmp_path).values()) > 2000


def test_signals_again_while_it_drains_change_nothing(tmp_path):
    with running(tmp_path) as gateway:
        gateway.deliver(1000)
        os.kill(gateway.pid, signal.SIGINT)
        assert gateway.stop(signal.SIGTERM, times=3) < LIMIT
    nothing_lost_or_repeated(tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_pid_1_drains_too(tmp_path, way):
    prefix = ("unshare", "--pid", "--fork", "--kill-child")
    if (
        shutil.which("unshare") is None
        or subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs the right to make a pid namespace")
    with running(tmp_path, way=way, prefix=prefix) as gateway:
        gateway.until(lambda: gateway.pid != gateway.process.pid, "the gateway's own process")
        gateway.deliver(1000)
        assert gateway.stop() < LIMIT
    nothing_lost_or_repeated(tmp_path)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("broken", ["hang_second", "fail_second"])
def test_a_target_that_hangs_or_is_dead_does_not_delay_the_end(tmp_path, way, broken):
    with running(tmp_path, way=way, **{broken: True}) as gateway:
        gateway.deliver(1000, targets=("first",))
        assert gateway.stop() < LIMIT
    assert written(tmp_path, "second") == 0
    nothing_lost_or_repeated(tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_a_signal_during_start_up_ends_with_exit_code_0(tmp_path, way):
    for moment in (0.0, 0.4, 0.8):  # seconds after the handler is there: imports, stores, first epoch
        with running(tmp_path, way=way) as gateway:
            gateway.until(lambda gateway=gateway: gateway.handles(signal.SIGTERM), "a handler")
            with pytest.raises(subprocess.TimeoutExpired):
                gateway.process.wait(moment)
            assert gateway.stop() < LIMIT
    nothing_lost_or_repeated(tmp_path)


@pytest.mark.parametrize("way", WAYS)
def test_an_idle_gateway_ends_at_once(tmp_path, way):
    with running(tmp_path, way=way, idle=True) as gateway:
        gateway.opened()
        assert gateway.stop() < 3.0
