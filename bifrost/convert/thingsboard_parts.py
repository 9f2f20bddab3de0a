"""What the connectors of ThingsBoard's gateway have in common."""

import re
from typing import Any, Final

from bifrost.convert.draft import WRITES_NOTHING, Origin, Section

_WRITING: Final = (
    "attributeUpdates", "attributes_updates", "rpc", "rpc_methods", "serverSideRpc", "attributeRequests", "requestsMapping",
)  # fmt: skip
_EXPRESSION: Final = re.compile(r"\$\{([^${}]*)\}")


def writing(origin: Origin) -> None:
    """Tell what would write to devices; an empty list is nothing."""
    for key in _WRITING:
        if key in origin:
            origin.lost(key, WRITES_NOTHING)
        else:
            origin.take(key)


def expression(text: str | None) -> str | None:
    """What stands in ``${…}``; None when the text is more or less than that."""
    found = _EXPRESSION.fullmatch((text or "").strip())
    return found[1].strip() if found and found[1].strip() else None


def device(origin: Origin, key: str = "deviceInfo") -> dict[str, tuple[str, str]]:
    """Name and profile of a device, each as where it comes from and its expression."""
    found = {}
    for info in origin.sections(key):
        for part, name in (("deviceNameExpression", "name"), ("deviceProfileExpression", "profile")):
            where = info.text(f"{part}Source") or "constant"
            said = info.text(part)
            if said is not None:
                found[name] = (where, said)
    return found


def reporting(origin: Origin, into: Section) -> None:
    """Which values are sent: all, or those that changed."""
    if origin.flag("sendDataOnlyOnChange"):
        into["report"] = Section()
    for strategy in origin.sections("reportStrategy"):
        strategy.into = into
        kind = (strategy.text("type") or "").upper()
        period = strategy.duration("reportPeriod", "ms")
        if kind == "ON_CHANGE":
            into["report"] = Section()
        elif kind == "ON_CHANGE_OR_REPORT_PERIOD" and period:
            into["report"] = Section(max_interval=period)
        elif kind == "ON_RECEIVED":
            strategy.needless("every value is sent", "type")
        elif kind:
            strategy.lost("type", "values are sent when they come or when they change; see `report`")


def profile(told: dict[str, tuple[str, str]], into: Section) -> None:
    """The profile of a device as metadata, where it is a constant that says something."""
    where, name = told.get("profile", ("constant", "default"))
    if where == "constant" and name != "default":
        metadata: dict[str, Any] = into.setdefault("metadata", {})
        metadata["device_profile"] = name
    elif where != "constant":
        into.lost("deviceProfileExpression", "a profile that is read from data; write `metadata` at the tags")
