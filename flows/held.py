"""What a gateway still holds: nothing of it may be forgotten when the gateway goes for good."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.process import Process


def held(process: "Process") -> dict[str, Any]:
    """What waits in journal and spools, by target, and why; dead letters besides.

    Args:
        process: The gateway, whether it runs or its stores alone are open.
    """
    # Before the spools: what leaves the journal is in them by then.
    flow = process.journal.oldest_received() is not None if process.loop is not None else _waits(process)
    targets = {
        name: {
            "readings": spool.stored_rows,
            "last_error": process.forwarders[name].status.last_error if name in process.forwarders else "",
        }
        for name, spool in process.spools.items()
    }
    rest = {name: {"readings": line["readings"], "last_error": ""} for name, line in process.kept.items()}
    return {
        "held": process.held,
        "flow": flow,
        "targets": targets,
        "kept": rest,
        "readings": sum(line["readings"] for line in (targets | rest).values()),
        "dead_letters": process.dead_letters.total,
    }


def _waits(process: "Process") -> bool:
    """Whether the journal of a gateway that does not run holds what no spool has."""
    return any(line.waiting for line in process.account().sources.values())
