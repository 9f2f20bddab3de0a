"""The options of `python -m bytewax.run`: what holds for a gateway, and why the rest is refused.

docs/bytewax.md has the table.
"""

import argparse
import os
import re
import shlex
import shutil
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from delivery.disk import make_directory, sync_directory
from delivery.journal import SHARDS
from flows.cluster import Members

_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+):[1-9]\d{0,4}")
_LONGEST: Final = 10  # seconds
_COMMAND: Final = "  python -m bytewax.run flows.gateway -r data/recovery -s 1 -b 0"


def check_bytewax_options(arguments: Sequence[str], environment: Mapping[str, str]) -> Path:
    """Refuse options of `bytewax.run` that would lose readings.

    Args:
        arguments: What stands behind `python -m bytewax.run`.
        environment: Environment variables; Bytewax takes its options from there too.

    Returns:
        The recovery directory.

    Raises:
        SystemExit: An option is refused; the message says why and what to do.
    """
    options = _parse(arguments, environment)
    if options.recovery is None:
        sys.exit(
            "Bifrost needs a recovery directory (-r), or a crash would lose what is inside the flow. Start it so:\n"
            + _COMMAND
        )
    if options.workers is not None and options.workers < 1:
        sys.exit(f"-w {options.workers}: a flow needs one worker at least")
    snapshots = options.snapshots
    if snapshots is not None and not 1 <= snapshots <= _LONGEST:
        reason = (
            "each turn of the flow would wait for the disk, and with -b Bytewax would keep every snapshot for ever"
            if snapshots < 1
            else "readings stay in the journal, and a crash repeats them, for as long as that"
        )
        sys.exit(f"-s {snapshots}: {reason}; give 1 to {_LONGEST} seconds:\n{_COMMAND}")
    if options.backup is not None and options.backup < 0:
        sys.exit(f"-b {options.backup}: the time to keep old snapshots for cannot be negative")
    return Path(options.recovery)


def cluster_options(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[int, tuple[str, ...]] | None:
    """Process id and addresses of the cluster that `bytewax.run` is to start in, as Bytewax itself finds them.

    Args:
        arguments: What stands behind `python -m bytewax.run`.
        environment: Environment variables.

    Returns:
        None where it is not started in a cluster.

    Raises:
        SystemExit: They make no cluster; the message says why and what to do.
    """
    options = _parse(arguments, environment)
    process, addresses = options.process_id, options.addresses
    pod, pods = environment.get("BYTEWAX_POD_NAME"), environment.get("BYTEWAX_STATEFULSET_NAME")
    if process is None and pod is not None and pods is not None:
        number = pod.replace(f"{pods}-", "")
        if not number.isdecimal():
            sys.exit(f"BYTEWAX_POD_NAME is `{pod}`, and not BYTEWAX_STATEFULSET_NAME (`{pods}`), a hyphen and a number")
        process = int(number)
    if process is None:
        if addresses is not None:
            sys.exit("-a: which of the addresses is this process's? Say it by -i, from 0")
        return None
    if addresses is None and (hosts := environment.get("BYTEWAX_HOSTFILE_PATH")) is not None:
        try:
            addresses = ";".join(line.strip() for line in Path(hosts).read_text().splitlines() if line.strip())
        except OSError as error:
            sys.exit(f"BYTEWAX_HOSTFILE_PATH: {error}")
    known = tuple((addresses or "").split(";"))
    wrong = [address for address in known if not _ADDRESS.fullmatch(address)]
    if wrong or len(set(known)) < len(known):
        said = f"`{wrong[0]}` is none" if wrong else "one of them is there twice"
        sys.exit(
            f'-i {process} needs the addresses of all members as -a "host:port;host:port", or one a line in the file '
            f"BYTEWAX_HOSTFILE_PATH: {said}"
        )
    if len(known) == 1:
        sys.exit("-i, -a: a cluster has two members at least; leave both out for a gateway that is alone")
    if not 0 <= process < len(known):
        sys.exit(f"-i {process}: there are {len(known)} addresses, so the process ids are 0 to {len(known) - 1}")
    if (options.workers or 1) > 1:
        sys.exit(
            f"-w {options.workers} with -i and -a: a worker that leaves the flow to begin it again would leave the others of its "
            "process waiting. Start more members instead"
        )
    return process, known


def prepare_recovery(directory: Path, gateway: str, cluster: Members | None = None) -> None:
    """Make a recovery store with one partition, unless there is one; in a cluster, the first member has it for all.

    Args:
        directory: Where it lies.
        gateway: Name of the gateway whose flow it belongs to.
        cluster: The members of the cluster that the gateway is in.

    Raises:
        SystemExit: Others may write it; or it is another gateway's, and Bytewax cannot start a flow whose partitions
            have gone.
    """
    from bytewax.recovery import init_db_dir

    make_directory(directory)
    _refuse_what_others_may_write(directory)
    draft = directory / "new"
    shutil.rmtree(draft, ignore_errors=True)
    made = any(directory.glob("part-*.sqlite3"))
    if cluster is not None and not cluster.keeps_state:
        if made:
            sys.exit(
                f"{directory} holds the state of a flow, and in a cluster that of all members lies with member 0. Start with a "
                "new recovery directory: what is in the journal is kept, what was inside windows is not"
            )
        return
    if not made:
        # Bytewax never starts on a store that was cut off while it was made.
        draft.mkdir(mode=0o700)
        init_db_dir(draft, 1)  # type: ignore[no-untyped-call]
        (draft / "part-0.sqlite3").rename(directory / "part-0.sqlite3")
        draft.rmdir()
        sync_directory(directory)
        return
    members = {gateway} if cluster is None else set(cluster.names)
    others = sorted(_gateways(directory) - members)
    if others and cluster is not None:
        sys.exit(
            f"{directory} holds the state of member `{others[0]}`, which is none of the {len(cluster.names)} members now, and "
            "Bytewax cannot start without its partitions. Start as many members as there were, or let them finish and stop "
            "(SIGTERM), and start all with a new recovery directory: what is in the journals is kept, what was inside "
            "windows is not"
        )
    if others:
        sys.exit(
            f"{directory} holds the state of gateway `{others[0]}`, and this one is `{gateway}`. Set gateway.name to "
            f"`{others[0]}`, or start with a new recovery directory: what is in the journal is kept, what was inside "
            "windows is not"
        )


def _refuse_what_others_may_write(directory: Path) -> None:
    """Bytewax keeps pickles: whoever writes them runs code in the gateway."""
    command = shlex.join(["chmod", "-R", "go-rwx", str(directory)])
    for path in (directory, *sorted(directory.glob("part-*.sqlite3*"))):
        found = path.stat()
        if found.st_uid not in (os.geteuid(), 0):
            owner = shlex.join(["chown", "-R", str(os.geteuid()), str(directory)])
            problem, command = f"{path} belongs to user {found.st_uid}", f"{owner} && {command}"
        elif found.st_mode & 0o022:
            problem = f"others may write {path} (mode {found.st_mode & 0o777:04o})"
        else:
            continue
        sys.exit(
            f"{problem}, and whoever can write to the recovery directory {directory} can run code in the gateway. "
            f"If you know what it holds:\n  {command}\nIf not, start with a new recovery directory: what is in the "
            "journal is kept, what was inside windows is not"
        )


def _gateways(directory: Path) -> set[str]:
    """Names of the gateways whose input partitions a recovery store remembers."""
    found: set[str] = set()
    for part in directory.glob("part-*.sqlite3"):
        try:
            with closing(sqlite3.connect(f"file:{part}?mode=ro", uri=True)) as store:
                keys = [key for (key,) in store.execute("SELECT DISTINCT state_key FROM snaps")]
        except sqlite3.Error:
            continue  # Bytewax itself says what is wrong with it
        found |= {name for name, _, shard in (key.rpartition("/") for key in keys) if name and shard in SHARDS}
    return found


def _parse(arguments: Sequence[str], environment: Mapping[str, str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False)

    def option(short: str, long: str, name: str, variable: str, kind: type[int] | type[str]) -> None:
        parser.add_argument(short, long, dest=name, type=kind, default=environment.get(variable))

    option("-r", "--recovery-directory", "recovery", "BYTEWAX_RECOVERY_DIRECTORY", str)
    option("-s", "--snapshot-interval", "snapshots", "BYTEWAX_SNAPSHOT_INTERVAL", int)
    option("-b", "--backup-interval", "backup", "BYTEWAX_RECOVERY_BACKUP_INTERVAL", int)
    option("-w", "--workers-per-process", "workers", "BYTEWAX_WORKERS_PER_PROCESS", int)
    option("-i", "--process-id", "process_id", "BYTEWAX_PROCESS_ID", int)
    option("-a", "--addresses", "addresses", "BYTEWAX_ADDRESSES", str)
    return parser.parse_known_args(arguments)[0]
