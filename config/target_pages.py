"""A reference page per target, docs/reference/targets/<type>.md: the models, the writer's limits, its guide and the evidence.

What only people can tell (what a reading becomes, what is guaranteed) stands once, in the guide of the target, and is taken from
there; what the suite saw is taken from `docs/evidence/targets.json`.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

from connectors.contract import Context, Limits
from connectors.settings import TargetConfig
from normalization.reading import TABLE

DOCS: Final = Path(__file__).parent.parent / "docs"
_GUIDES: Final = {
    "amqp": ("amqp.md", ("A message",)),
    "aws-iot": ("aws-iot.md", ("Messages and limits", "Device shadow")),
    "azure-iot-hub": ("azure-iot-hub.md", ("Messages and limits", "Twin")),
    "delta": ("lakehouse.md", ()),
    "google-pubsub": ("pubsub.md", ("What a reading becomes",)),
    "influxdb": ("influxdb.md", ("What a reading becomes",)),
    "kafka": ("kafka.md", ("A message",)),
    "mqtt": ("mqtt-target.md", ("Topics", "Payload")),
    "timescaledb": ("timescaledb.md", ("The table", "A row per equipment")),
    "zerobus": ("lakehouse.md", ()),
}
_PLAIN: Final = {
    "console": "A line per reading: time, quality, path, value and unit; with `format: jsonl` the JSON object that files have.",
    "file": "With `format: jsonl` a line per reading, a JSON object whose keys are the columns below, without those that are empty; "
    "with `line_protocol` what [InfluxDB](../../influxdb.md) gets; with `parquet` a column for each of:",
}
_REFERENCE: Final = re.compile(r"\$\{env:\w+\}")


def page(kind: str, config: type[TargetConfig], example: str, settings: str) -> str:
    """The page of a target, as Markdown.

    Args:
        kind: Type of the target.
        config: Its model.
        example: Its smallest configuration.
        settings: The tables of its own settings.
    """
    guide, becomes = _GUIDES.get(kind, ("", ()))
    told = re.sub(r"\n +", "\n", (config.__doc__ or "").replace("``", "`")).strip()
    out = [
        f"# `{kind}`\n",
        "<!-- Written by `python -m config.reference` from the models, the guides and the evidence; change those. -->\n",
        f"{told}\n",
        *([f"The guide is [{guide}](../../{guide}).\n"] if guide else []),
        "The smallest configuration, which `tests/test_minimal_examples.py` runs before the counterpart:\n",
        f"```yaml\n{example.strip()}\n```\n",
        "## Settings\n",
        "Beside those [of all targets](../configuration.md#targets-gatewaycloudconnectors):\n",
        settings,
        "## What a reading becomes\n",
        *([_PLAIN[kind] + "\n"] if kind in _PLAIN else []),
        *(_sections(guide, becomes) if becomes else [] if kind == "console" else [_columns()]),
        "## Guarantee\n",
        *(_sections(guide, ("Guarantee",), titles=False) if becomes else [_guarantee(kind, _limits(config, example))]),
        "## Limits of a unit\n",
        _limits_table(_limits(config, example)),
        "## What it was tested against\n",
        _seen(kind),
        *_sections(guide, ("What it was tested against",), titles=False),
    ]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).rstrip() + "\n"


def _limits(config: type[TargetConfig], example: str) -> Limits:
    (found,) = yaml.safe_load(_REFERENCE.sub("c2VjcmV0", example))["gateway"]["cloud"]["connectors"].values()
    return config.model_validate(found).writer(Context("gateway", Path("connector"))).limits


def _guarantee(kind: str, limits: Limits) -> str:
    if kind == "file":
        return "Parquet: a unit that is sent again replaces its file. Text: at least once, a unit that is sent again is there twice.\n"
    if limits.remembers_units:
        return "Exactly once: the target remembers the number of the last unit that it took.\n"
    if limits.has_key:
        return (
            "Every reading once: it is sent at least once, and the target knows one that comes again by its identity.\n"
        )
    return "At least once: a reading that comes again, after a crash or a lost answer, has the same identity.\n"


def _limits_table(limits: Limits) -> str:
    rows = [
        ("readings in a unit, at most (`batch_size`)", f"{limits.rows:,}"),
        ("bytes in a unit, about, before encoding", f"{limits.bytes // 1024**2} MiB"),
        ("time that a reading waits for a unit to fill (`flush_interval`)", f"{limits.linger:g} s"),
        ("units under way at once", f"{limits.writes_in_flight}"),
    ]
    return (
        "\n".join(["| | as configured above |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]) + "\n"
    )


def _seen(kind: str) -> str:
    evidence = json.loads((DOCS / "evidence" / "targets.json").read_text(encoding="utf-8"))
    mine = {name: one for name, one in sorted(evidence.items()) if one["type"] == kind}
    rows = ["| way of using it | tested against | behaviours | hold |", "|---|---|---|---|"]
    for name, one in mine.items():
        hold = sum(result == "pass" for result in one["behaviours"].values())
        against = f"{one['counterpart']} {one['version']}".strip()
        rows.append(f"| {name} | {against} | {len(one['behaviours'])} | {hold} |")
    return "\n".join([*rows, "", "Which those are is in [the table of all targets](../../targets.md).\n"])


def _columns() -> str:
    rows = ["| column | |", "|---|---|"]
    rows += [f"| `{field.name}` | {(field.metadata or {}).get(b'comment', b'').decode()} |" for field in TABLE]
    return "\n".join(rows) + "\n"


def _sections(guide: str, wanted: tuple[str, ...], *, titles: bool = True) -> Iterator[str]:
    """Sections of a guide, with its links as they are from here."""
    text = (DOCS / guide).read_text(encoding="utf-8") if guide else ""
    for title in wanted:
        _, found, rest = text.partition(f"\n## {title}\n")
        if titles and not found:
            raise ValueError(f"docs/{guide} has no section `{title}`")
        body = re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0].strip()
        body = re.sub(r"\]\((?!https?:|#)", "](../../", body)
        yield f"### {title}\n\n{body}\n" if titles else f"{body}\n"
