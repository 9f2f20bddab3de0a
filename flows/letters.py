"""What can be asked of the dead letters, whether the gateway runs or only its stores are open."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from connectors.wire.json_lines import JsonLinesEncoder
from delivery import replay
from delivery.letter import FLOW_WORD, DeadLetters, Selection, grouped
from flows.replays import replay_letters

if TYPE_CHECKING:
    from flows.process import Process


def groups(process: "Process", selection: Selection) -> dict[str, Any]:
    """The groups that the dead letters fall into; the limit is one of groups."""
    store = process.dead_letters
    found = grouped(replace(selection, limit=None).among(store.letters()))
    shown = found if selection.limit is None else found[: selection.limit]
    return {
        "groups": [group.to_dict() for group in shown],
        "more_groups": len(found) - len(shown),
        "selected": sum(group.count for group in found),
        "stored": store.total,
        "bytes": store.size,
        "discarded": store.discarded,
        "alarm": store.alarm,
    }


def each(process: "Process", selection: Selection) -> dict[str, Any]:
    """Single readings, with what is known of each."""
    return {"letters": [json.loads(line) for line in export(process, selection)], "stored": process.dead_letters.total}


def export(process: "Process", selection: Selection) -> Iterator[bytes]:
    """Dead letters as JSON lines: the reading as targets get it, with what is known of the dead letter before it."""
    encoder = JsonLinesEncoder()
    for letters in selection.among(process.dead_letters.letters()):
        lines = encoder.encode(letters.batch).splitlines()
        for row, line in enumerate(lines):
            described = json.dumps(_about(letters, row), ensure_ascii=False, separators=(",", ":"))
            yield b'{"dead_letter":' + described.encode() + b"," + line[1:] + b"\n"


def _about(letters: DeadLetters, row: int) -> dict[str, Any]:
    return {
        "number": int(letters.numbers[row]),
        "target": letters.target or FLOW_WORD,
        "error_class": letters.error_class,
        "reason": letters.reasons[row],
        "attempts": letters.attempts,
        "first": letters.first,
        "last": letters.last,
    }


def send_again(process: "Process", selection: Selection) -> dict[str, Any]:
    """Send dead letters again; what became of them."""
    return {"replay": replay_letters(process, selection).to_dict(), "stored": process.dead_letters.total}


def purge(process: "Process", selection: Selection) -> dict[str, Any]:
    """Delete dead letters; how many."""
    store = process.dead_letters
    with store.moving:
        gone = sum(
            replay.purge(store, process.spools, chunk) for chunk in replay.chunks(selection.among(store.letters()))
        )
        store.wait()
    return {"purged": gone, "stored": store.total}
