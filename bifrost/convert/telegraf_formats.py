"""Telegraf's data formats of payloads as what a subscription says of them."""

import re
from typing import Any, Final

from bifrost.convert.draft import Origin, Section

_TIMES: Final = {"unix": "s", "unix_ms": "ms", "unix_us": "us", "unix_ns": "ns", "rfc3339": "iso", "rfc3339nano": "iso"}
_LAYOUT: Final = {
    "2006": "%Y", "06": "%y", "01": "%m", "Jan": "%b", "January": "%B", "02": "%d", "15": "%H", "03": "%I", "04": "%M",
    "05": "%S", "PM": "%p", "MST": "%Z", "Z07:00": "%z", "-0700": "%z", "-07:00": "%z", "Mon": "%a", "Monday": "%A",
}  # fmt: skip
_PART: Final = re.compile(
    r"2006|January|Jan|Monday|Mon|Z07:00|-07:00|-0700|MST|PM|06|01|02|15|03|04|05|[.,](?:0+|9+)(?!\d)|."
)
_SIMPLE: Final = re.compile(r"[A-Za-z0-9_ -]+(\.([A-Za-z0-9_ -]+|#))*")


def time_format(text: str) -> str | None:
    """A format of times as ours: a unit, `iso`, or one of strptime; None when there is none."""
    if text.lower() in _TIMES:
        return _TIMES[text.lower()]
    if text.startswith("2006-01-02T15:04:05"):
        return "iso"
    made = ""
    for part in _PART.findall(text):
        if re.fullmatch(r"[.,][09]+", part):
            made += part[0] + "%f"
        else:
            made += _LAYOUT.get(part, part.replace("%", "%%"))
    return made if "%" in made.replace("%%", "") else None


def path_of(gjson: str) -> str | None:
    """A simple GJSON path such as `data.0.v` as ours, `data[0].v`; None for one with queries and modifiers."""
    if not _SIMPLE.fullmatch(gjson):
        return None
    made = ""
    for step in gjson.split("."):
        if step.isdecimal():
            made += f"[{step}]"
        elif step == "#":
            made += "[*]"
        else:
            made += ("." if made else "") + (step if re.fullmatch(r"[\w-]+", step) else f'["{step}"]')
    return made.replace('.["', '["')


def subscription_of(origin: Origin, source: Section) -> Section | None:
    """What every subscription of an input says of its payloads; None when they cannot be read."""
    name = origin.text("data_format") or "influx"
    readers = {"value": _value, "json": _json, "json_v2": _json_v2, "csv": _csv}
    if name not in readers:
        have = "payloads can be plain, json, csv, cbor, msgpack, protobuf, sparkplug"
        source.lost(f"{origin.where}.data_format = {name}", f"{have}; see docs/mqtt.md")
        return None
    return readers[name](origin)


def _value(origin: Origin) -> Section:
    origin.needless("a payload is a number where it looks like one, else text", "data_type")
    origin.needless("the tag is named by the topic", "value_field_name")
    return Section(format="plain")


def _times(origin: Origin, made: Section, key: str, form: str, zone: str) -> None:
    """Time, its format and its zone."""
    if (path := origin.text(key)) is not None:
        made["timestamp"] = path_of(path) or path
    if (text := origin.text(form)) is not None:
        found = time_format(text)
        if found is None:
            origin.lost(form, "is no format that can be read; see `timestamp_format` in docs/mqtt.md")
        made.put(timestamp_format=found)
    if (named := origin.text(zone)) is not None and named.lower() not in ("", "utc", "local"):
        made["time_zone"] = named
    elif named is not None and named.lower() == "local":
        origin.lost(zone, "write the zone's name as `time_zone`, such as Europe/Berlin")


def _json(origin: Origin) -> Section:
    made = Section(format="json")
    _times(origin, made, "json_time_key", "json_time_format", "json_timezone")
    origin.lost("json_query", "name the values: `value: {name: path}` at the subscription")
    origin.lost("tag_keys", "say which key is the tag's name (`name`), or leave the values apart")
    origin.lost("json_name_key", "readings have no measurement; `name` at the subscription is a tag's name")
    origin.needless("texts are read as they are", "json_string_fields", "json_strict")
    return made


def _json_v2(origin: Origin) -> Section | None:
    made, values = Section(format="json"), dict[str, str]()
    for rules in origin.sections("json_v2"):
        _times(rules, made, "timestamp_path", "timestamp_format", "timestamp_timezone")
        rules.lost("measurement_name_path", "readings have no measurement; `name` at the subscription is a tag's name")
        rules.needless("a reading has a path instead", "measurement_name")
        for field in rules.sections("field"):
            path = field.text("path") or ""
            _add(field, values, path, field.text("rename") or path.rpartition(".")[2])
        for tag in rules.sections("tag"):
            tag.drop("parts of a payload do not become tags; `name` takes a tag's name from one", origin.into)
        for thing in rules.sections("object"):
            _object(thing, values, made)
    if not values:
        origin.into.lost(f"{origin.where}.json_v2", "none of its paths can be read; write `value` at a subscription")
        return None
    made["value"] = values
    return made


def _object(thing: Origin, values: dict[str, str], made: Section) -> None:
    begin = (thing.text("path") or "").removeprefix("@this").removeprefix(".")
    renames: dict[str, Any] = thing.words("renames")
    included = thing.texts("included_keys")
    fields = thing.words("fields")
    names = [*dict.fromkeys([*included, *fields])]
    when = thing.text("timestamp_key")
    if when is not None:
        made["timestamp"] = path_of(f"{begin}.{when}" if begin else when) or when
    if (form := thing.text("timestamp_format")) is not None and (found := time_format(form)) is not None:
        made["timestamp_format"] = found
    thing.lost("tags", "parts of a payload do not become tags; `name` takes a tag's name from one")
    if not names:
        thing.drop("name its values in `value: {name: path}`, or leave `value` out for one tag of each key", thing.into)
        return
    for name in names:
        if name != when:
            _add(thing, values, f"{begin}.{name}" if begin else name, renames.get(name, name))


def _add(origin: Origin, values: dict[str, str], path: str, name: str) -> None:
    found = path_of(path)
    if found is None:
        origin.drop(f"the path {path or 'that is missing'} has more than keys and numbers; see `value`", origin.into)
    elif name in values:
        origin.drop(f"there are two values called {name}; give one another name", origin.into)
    else:
        values[name] = found
        origin.needless("a value keeps the type that it has in JSON", "type")
        origin.needless("a value that is missing is left out", "optional")


def _csv(origin: Origin) -> Section:
    csv = Section(delimiter=origin.text("csv_delimiter"), skip_rows=origin.whole("csv_skip_rows"))
    names = origin.texts("csv_column_names")
    rows = origin.whole("csv_header_row_count") or 0
    csv.put(columns=names or None, header=rows > 0)
    if not rows and not names:
        csv["header"] = True
        origin.into.lost(f"{origin.where}.csv_column_names", "are missing, and there is no header; write `csv.columns`")
    made = Section(format="csv", csv=csv)
    when = origin.text("csv_timestamp_column")
    made.put(timestamp=when)
    if (form := origin.text("csv_timestamp_format")) is not None:
        made.put(timestamp_format=time_format(form))
        if time_format(form) is None:
            origin.lost("csv_timestamp_format", "is no format that can be read; see `timestamp_format` in docs/mqtt.md")
    made.put(time_zone=origin.text("csv_timezone"))
    tags = origin.texts("csv_tag_columns")
    if tags:
        origin.into.lost(
            f"{origin.where}.csv_tag_columns", "columns do not become tags; `name` takes the tag's name from one"
        )
    if names:
        made["value"] = [name for name in names if name not in (when, *tags)] or None
        if made["value"] is None:
            del made["value"]
    origin.needless("a cell is a number where it looks like one", "csv_column_types", "csv_trim_space")
    return made
