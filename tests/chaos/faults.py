"""What can go wrong in the world of numbered sources, by the names that scenarios use."""

import contextlib
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.chaos.gateway import RuleSetup, SourceSetup, TargetSetup, applied_file, frames_file
from tests.chaos.lives import LOOK, ChaosError, Life, pause, until
from tests.chaos.numbered import FRAME, frames
from tests.chaos.numbered_world import BEFORE, DURING, BeforeFault, World, copy_tree, free_bytes, set_way
from tests.wall_clock import WallClock

_TRACED: Final = 12.0  # seconds until a traced life that met no fault is ended
_BLOCK: Final = 64 * 1024
_YOUNG: Final = 1_000_000  # µs: a reading that arrives so soon is live


def _before(function: BeforeFault) -> BeforeFault:
    BEFORE[function.__name__] = function
    return function


def _during(function: BeforeFault) -> BeforeFault:
    DURING[function.__name__] = function
    return function


# ---------------------------------------------------------------------- ends of a life


@_during
def kill(world: World, options: dict[str, Any]) -> None:
    """SIGKILL now."""
    world.running.delivers()
    world.running.kill()
    world.figures.kills += 1


@_before
def as_process_1(world: World, options: dict[str, Any]) -> None:
    """The next life is process 1 of a space of its own, as in a container."""
    world.prefix = ["unshare", "--pid", "--fork"]


@_during
def stop(world: World, options: dict[str, Any]) -> None:
    """SIGTERM now; the exit code must be 0. As process 1 a gateway ignores it until it has a handler."""
    life = world.life
    if life is not None and world.prefix:
        until(lambda: life.handles_sigterm() or not life.alive(), 20, "a handler")
    world.stop()


# ---------------------------------------------------------------------- system calls


def _trace(world: World, calls: str, inject: str, when: int) -> None:
    world.traced = True
    world.prefix = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        f"trace={calls}",
        "-e",
        f"inject={calls}:{inject}:when={when}",
    ]


def _drawn(world: World, options: dict[str, Any]) -> tuple[str, int]:
    """Which calls, in turn, and which of them, small numbers more often; `first` is what only a first start does."""
    first, number = options.get("first", []), options["round"]
    calls, low, high = first[number] if number < len(first) else options["calls"][number % len(options["calls"])]
    return calls, round(math.exp(world.chance.uniform(math.log(low), math.log(high))))


@_before
def kill_at_call(world: World, options: dict[str, Any]) -> None:
    """The next life is killed as a thread enters its k-th call of a kind."""
    calls, when = _drawn(world, options)
    _trace(world, calls, "signal=KILL", when)
    world.figures.kills += 1


@_before
def error_at_call(world: World, options: dict[str, Any]) -> None:
    """In the next life each thread's k-th call of a kind fails."""
    calls, when = _drawn(world, options)
    error = options["errors"][(options["round"] + options["round"] // len(options["calls"])) % len(options["errors"])]
    _trace(world, calls, f"error={error}", when)


@_during
def await_end(world: World, options: dict[str, Any]) -> None:
    """Let a traced life meet its fault; end it when it has lived on with it, or never met it."""
    life, most = world.life, float(options.get("most", _TRACED))
    assert life is not None
    began = time.monotonic()
    lived = float(options.get("lives", 3.0))
    while life.alive() and time.monotonic() - began < most:
        if life.delivers() and time.monotonic() - life.started > (life.first_delivery or 0) + lived:
            break
        pause(LOOK)
    if life.alive():
        life.kill()
        world.figures.not_hit += 1
    else:
        world.note_end()


# ---------------------------------------------------------------------- targets


@_during
def behave(world: World, options: dict[str, Any]) -> None:
    """A target behaves in another way, for some seconds or for good."""
    target = options["target"]
    set_way(world, target, options["way"])
    if "seconds" in options:
        other = next(t.name for t in world.setup.targets if t.name != target)
        world.figures.stall_s.append(world.silence(float(options["seconds"]), other))
        set_way(world, target, "ok")
        world.figures.recovered_s.append(round(world.fresh(target), 2))


@_before
def behave_from_start(world: World, options: dict[str, Any]) -> None:
    """A target behaves in another way from its first moment on."""
    set_way(world, options["target"], options["way"])


@_during
def network(world: World, options: dict[str, Any]) -> None:
    """What lies between the gateway and a target, or the target's end, fails for some seconds, or until it is mended."""
    name, road = options["target"], options["road"]
    station = world.stations[name]
    if "seconds" not in options:
        station.take_road(road)
        return
    other = next(target.name for target in world.setup.targets if target.name != name)
    seconds, every = float(options["seconds"]), float(options.get("flaps", 0))
    station.take_road(road)
    for part in range(round(seconds / every) if every else 1):
        world.figures.stall_s.append(world.silence(every or seconds, other))
        if every:
            station.take_road("ok" if part % 2 == 0 else road)
    station.take_road("ok")
    world.figures.recovered_s.append(round(world.fresh(name), 2))


# ---------------------------------------------------------------------- overload


@_before
def bound(world: World, options: dict[str, Any]) -> None:
    """A target takes little at once, and its spool holds little; what happens then is drawn in turn from `policies`."""
    target = next(target for target in world.setup.targets if target.name == options["target"])
    target.rows, target.quota_readings = int(options["rows"]), int(options["quota_readings"])
    target.overflow = options["policies"][options["round"] % len(options["policies"])]


@_during
def overload(world: World, options: dict[str, Any]) -> None:
    """A target is slow for as long as the load says, while sources give much more than it takes; then it is well again."""
    setup = next(target for target in world.setup.targets if target.name == options["target"])
    other = next(target.name for target in world.setup.targets if target is not setup)
    set_way(world, setup.name, "slow")
    silence = world.silence(float(world.load["seconds"]), other)
    if setup.overflow != "block":  # which holds the others too
        world.figures.stall_s.append(silence)
    status = Path(f"/proc/{world.running.pid}/status").read_text()
    world.figures.memory_mib = max(world.figures.memory_mib, int(status.split("VmHWM:")[1].split()[0]) // 1024)
    set_way(world, setup.name, "ok")
    path, began = frames_file(world.directory, setup.name), time.monotonic()
    seen = path.stat().st_size

    def up_to_date() -> bool:
        nonlocal seen
        found = frames(path, seen)
        seen += sum(FRAME.size + rows.nbytes for _, _, rows in found)
        return any(time.time_ns() // 1000 - rows["received"].max() < _YOUNG for _, _, rows in found if len(rows))

    until(up_to_date, float(options.get("patience", 120)), "the target gets live readings again")
    world.figures.recovered_s.append(round(time.monotonic() - began, 2))


# ---------------------------------------------------------------------- disks


@_during
def fill(world: World, options: dict[str, Any]) -> None:
    """Fill the small disk up, keep it full, then give the room back and see how long the gateway takes to go on."""
    place = world.mounts[0]
    filler = place / "filler"

    def keep_full() -> None:
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
            while (left := free_bytes(place)) > 0:
                file.write(bytes(_BLOCK if left > _BLOCK else 4096))

    _keep(world, options, keep_full)
    filler.unlink()
    _recover(world, options)


@_during
def fill_inodes(world: World, options: dict[str, Any]) -> None:
    """Use every inode of the small disk, keep it so, then give them back."""
    place = world.mounts[0] / "inodes"
    place.mkdir()

    def keep_full() -> None:
        with contextlib.suppress(OSError):
            while True:
                (place / str(time.monotonic_ns())).touch()

    _keep(world, options, keep_full)
    shutil.rmtree(place)
    _recover(world, options)


def _keep(world: World, options: dict[str, Any], keep_full: Callable[[], None]) -> None:
    """Hold the disk full for the time of the fault; the gateway may end by it, and is started again."""
    end = time.monotonic() + float(options["seconds"])
    while time.monotonic() < end:
        keep_full()
        world.supervise()
        pause(0.05)
    if options.get("then") == "kill":
        assert world.life is not None
        world.life.kill()
        world.figures.kills += 1


def _recover(world: World, options: dict[str, Any]) -> None:
    if world.life is None or not world.life.alive():
        world.life = None
        world.start_blind()
    took = world.fresh("units", float(options.get("patience", 20.0)))
    world.figures.recovered_s.append(round(took, 2))


# ---------------------------------------------------------------------- clocks


@_before
def false_clock(world: World, options: dict[str, Any]) -> None:
    """The next life sees a wall clock that `step` can set."""
    world.clock = WallClock(world.directory)
    world.environment = world.clock.environment


@_during
def step(world: World, options: dict[str, Any]) -> None:
    """Set the wall clock, by `seconds` or `to` a year, and see how long nothing is acknowledged or delivered."""
    offset = float(options.get("seconds", 0))
    if "to" in options:
        offset = datetime(int(options["to"]), 1, 2, tzinfo=UTC).timestamp() - time.time()
    life = world.running
    sources = [source.name for source in world.setup.sources]
    watched: list[Callable[[], int]] = [lambda t=t.name: life.taken(t) for t in world.setup.targets]  # type: ignore[misc]
    from tests.chaos.lives import acked_bytes

    watched += [lambda s=s: acked_bytes(world.directory, s) for s in sources]  # type: ignore[misc]
    before = [look() for look in watched]
    assert world.clock is not None, "a scenario with `step` and without `false_clock`"
    world.clock.set(round(offset))
    began = time.monotonic()
    last, sizes, longest = [began] * len(watched), before, [0.0] * len(watched)
    while (now := time.monotonic()) < began + float(options.get("watch", 6.0)) and life.alive():
        for index, look in enumerate(watched):
            size = look()
            longest[index] = max(longest[index], now - last[index])
            if size != sizes[index]:
                sizes[index], last[index] = size, now
        pause(LOOK)
    world.figures.stall_s.append(round(max(longest), 2))
    world.say(f"    clock {offset:+.0f} s through {life.way}: stalled {max(longest):.2f} s")
    if not life.alive():
        world.note_end()


# ---------------------------------------------------------------------- what changes between starts


@_before
def change(world: World, options: dict[str, Any]) -> None:
    """Add, rename or remove a source, a target or a rule; the sources and targets that are watched stay."""
    world.figures.changes += 1
    setup, chance, number = world.setup, world.chance, world.figures.changes
    sources = [
        s for s in setup.sources if s.name not in {f"{protocol}_line" for protocol in ("mqtt", "modbus", "opcua")}
    ]
    targets = [t for t in setup.targets if t.name not in ("plain", "units")]
    doable: list[str] = []
    for kind, present, most in (("source", sources, 4), ("target", targets, 3), ("rule", setup.rules, 4)):
        doable += [f"add {kind}"] * (len(present) < most) + [f"remove {kind}", f"rename {kind}"] * bool(present)
    verb, kind = chance.choice(doable).split()
    match kind:
        case "source":
            if verb != "add":
                setup.sources.remove(chance.choice(sources))
            if verb != "remove":
                protocol = chance.choice(("mqtt", "modbus", "opcua"))
                setup.sources.append(SourceSetup(f"spare_{number}", protocol, 100))  # type: ignore[arg-type]
                world.ever.append(f"spare_{number}")
            chance.shuffle(setup.sources)
        case "target":
            if verb != "add":
                setup.targets.remove(chance.choice(targets))
            name = chance.choice([f"extra_{number}", "extra_again"])
            if verb != "remove" and all(t.name != name for t in setup.targets):
                setup.targets.append(TargetSetup(name))
        case _:
            if verb != "add":
                setup.rules.remove(chance.choice(setup.rules))
            if verb != "remove":
                setup.rules.append(_rule(world, f"rule_{number}"))


@_during
def change_live(world: World, options: dict[str, Any]) -> None:
    """The same while the gateway runs; it must have done so within `seconds`, or be killed inside when `killed_after` says."""
    done = applied_file(world.directory)
    before = done.stat().st_size if done.exists() else 0
    change(world, options)
    world.setup.save(world.directory)
    life, began = world.running, time.monotonic()
    os.kill(life.pid, signal.SIGHUP)
    if "killed_after" in options:
        pause(world.chance.uniform(*options["killed_after"]))
        kill(world, options)
        return
    until(
        lambda: not life.alive() or (done.exists() and done.stat().st_size > before),
        float(options.get("seconds", 5)),
        f"the change is made: {life.said()}",
    )
    if not life.alive():
        raise ChaosError(f"the gateway ended over a change: {life.said()}")
    world.figures.applied_s.append(round(time.monotonic() - began, 2))


def _rule(world: World, name: str) -> RuleSetup:
    """A rule that makes some readings more urgent, or sends them where they go already."""
    chance = world.chance
    condition = chance.choice(["value >= 0", "tag_name LIKE 'tag_1%'", "source = 'mqtt_line'", "quality = 'BAD'"])
    targets = [target.name for target in world.setup.targets]
    return RuleSetup(name, condition, chance.sample(targets, chance.randint(1, len(targets))), chance.randint(0, 3))


@_before
def old_recovery(world: World, options: dict[str, Any]) -> None:
    """Every third start has the recovery directory of an earlier one, or none at all."""
    kept, recovery = world.directory / "kept_recovery", world.stores / "recovery"
    match options["round"] % 3:
        case 0:
            copy_tree(recovery, kept)
        case 1:
            shutil.rmtree(recovery, ignore_errors=True)
        case _:
            if kept.exists():
                copy_tree(kept, recovery)


@_during
def second_gateway(world: World, options: dict[str, Any]) -> None:
    """Another process on the same directory must be refused, and the first goes on."""
    _refused(world, "belongs to process")
    world.fresh("plain")


@_before
def foreign_directory(world: World, options: dict[str, Any]) -> None:
    """A gateway of another name on this directory must be refused."""
    if options["round"]:
        world.setup.gateway = "stranger"
        world.setup.save(world.directory)
        _refused(world, "stranger")
        world.setup.gateway = "chaos"
        world.setup.save(world.directory)


def _refused(world: World, word: str) -> None:
    way = world.chance.choice(("bifrost_run", "bytewax_run"))
    life = Life(world.directory, way)  # type: ignore[arg-type]
    try:
        until(lambda: not life.alive(), 20, "a refusal")
        code, said = life.process.wait(), life.said()
    except ChaosError:
        life.kill()
        code, said = 0, ""
    world.figures.refusals += 1
    if code == 0 or word not in said:
        world.figures.not_refused += 1
        world.say(f"    not refused through {way}: code {code}, {said[-300:]}")


def missing(need: str) -> str:
    """Why a scenario that needs this cannot run here; empty when it can."""
    match need:
        case "root":
            return "" if os.getuid() == 0 and _can_mount() else "no right to mount a file system"
        case "raw_socket":
            return "" if os.getuid() == 0 else "no right to listen on the wire"
        case "mosquitto":
            return ""  # installed by the broker of the tests
        case _:
            return "" if shutil.which(need) else f"{need} is not installed"


def _can_mount() -> bool:
    tried = subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True)
    return tried.returncode == 0
