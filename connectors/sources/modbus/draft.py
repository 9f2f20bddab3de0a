"""What was found out about a device as the draft of a configuration (pure)."""

from collections.abc import Iterable
from typing import Any, Final

import yaml

from connectors.sources.modbus.plausible import Extent, Scored, runs
from connectors.sources.modbus.profile import Found

_NICE: Final = (0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)


def nice(seconds: float) -> float:
    """The next longer time that a person would write."""
    return next((time for time in _NICE if time >= seconds), _NICE[-1])


def draft(found: Found, name: str = "device") -> dict[str, Any]:
    """The source that a user would write: a dictionary that a configuration takes."""
    best = found.orders[0] if found.orders else Scored("big", "big", 0.25, 0)
    registers = [entry for extent in found.extents for entry in _entries(extent, best)]
    blocks = sum(-(-len(e.before) // (2000 if e.kind.is_bits else found.max_registers)) for e in found.extents)
    median, slowest = found.answer
    source: dict[str, Any] = {"name": name, "protocol": "modbus", "endpoint": found.endpoint}
    units = sorted({extent.unit_id for extent in found.extents})
    if len(units) == 1:
        source["unit_id"] = units[0]
    return source | {
        "timeout": nice(max(0.2, 5 * slowest)),
        "interval": nice(max(1.0, 2 * blocks * median)),
        "byte_order": best.byte_order,
        "word_order": best.word_order,
        "max_registers": found.max_registers,
        "max_gap": 0,
        "registers": registers if len(units) == 1 else [{"unit_id": e["unit_id"], **e} for e in registers],
    }


def _entries(extent: Extent, best: Scored) -> Iterable[dict[str, Any]]:
    kind = extent.kind.name.lower()
    for type_, address, count in runs(extent, best.byte_order, best.word_order, with_floats=best.floats > 0):
        entry: dict[str, Any] = {"name": f"{kind}_{{address}}", "unit_id": extent.unit_id, "kind": kind}
        entry["address"] = address
        if type_ == "string":
            entry |= {"type": type_, "length": count, "encoding": "latin-1"}
        else:
            entry |= ({} if type_ == "bit" else {"type": type_}) | ({"count": count} if count > 1 else {})
        yield entry


def draft_yaml(found: Found, name: str = "device") -> str:
    """The draft of a configuration file, with what speaks for it as comments."""
    shift, why = found.counted
    lines = [
        "# A draft by `bifrost modbus profile`: names, units and scales are yours to add, and types are guesses.",
        f"# Answers: {_units(found)}",
        *(
            f"# Unit {unit} says it is: {', '.join(f'{k} {v}' for k, v in of.items() if v)}"
            for unit, of in found.identities.items()
        ),
        f"# Addresses: {why}" + (f"; manual {shift:+d} = wire" if shift else ""),
        *(
            f"# Order bytes {o.byte_order}, words {o.word_order}: {o.score:.2f} ({o.floats} plausible floats)"
            for o in found.orders
        ),
        *(
            f"# Known value: {m.kind.name.lower()} {m.address} as {m.type}, bytes {m.byte_order}, words {m.word_order}, "
            f"scale {m.scale:g}"
            for m in found.matches[:5]
        ),
    ]
    median, slowest = (1000 * seconds for seconds in found.answer)
    lines.append(
        f"# {found.max_registers} registers a request, {median:.1f} ms an answer ({slowest:.1f} ms the slowest)"
    )
    if not found.complete:
        lines.append(f"# Not everything was tried: the limit of requests was reached ({found.requests}).")
    body = yaml.safe_dump({"sources": [draft(found, name)]}, sort_keys=False, allow_unicode=True, width=120)
    return "\n".join(lines) + "\n" + body


def _units(found: Found) -> str:
    if found.any_unit:
        return "whatever the unit id"
    return ", ".join(f"unit {unit} ({score:.1f})" for unit, score in found.units.items()) or "no unit"
