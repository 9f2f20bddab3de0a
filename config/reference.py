"""Writes docs/reference/configuration.md, gateway.schema.json and a page per target from the models; metrics.md too.

``python -m config.reference`` writes them; with ``--check`` it only compares, and ends with exit code 1 when one is stale.
"""

import argparse
import json
import re
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

import normalization.condition
import normalization.path
from config import events, metrics_page, models
from config.schema import schema
from config.target_pages import page as target_page
from connectors.settings import SourceConfig, TargetConfig, seconds, size
from connectors.targets.zerobus import ZeroBusSection

DIRECTORY: Final = Path(__file__).parent.parent / "docs" / "reference"
EXAMPLES: Final = Path(__file__).parent / "examples" / "minimal"

_INTRODUCTION: Final = """\
# Configuration

<!-- Written by `python -m config.reference` from the models; change those. -->

One YAML file, `config/gateway.yaml` unless `-c` or `BIFROST_CONFIG` names another, and all `conf.d/*.yaml` beside it:
mappings are joined, lists are appended, and a key that two files set is a problem. `bifrost check -c FILE` prints every
problem at once as `file:line:column: key: what is wrong, what would be right` and ends with exit code 2.

- **Durations** are numbers with a unit, `250ms`, `5s`, `1h30m`, or bare seconds. **Sizes** are `64KiB`, `512MiB`, `2GB`, or bare
  bytes.
- **References**: `${env:NAME}`, `${env:NAME:-default}`, `${file:/run/secrets/password}` (without its last line end),
  `${secret:name}` and `${vault:mount/path#key}` stand for their values, alone or inside a text; `$${` stands for `${`. They are resolved in values, never in the text of the file; inside
  `{…}` and `[…]` they need quotes, as every text with braces does.
- **YAML 1.2**: `no`, `012` and `12:30:00` are text where text is wanted; only `true` and `false` are booleans by themselves.
- **Files** that are named here (`registers_file`, `ca_file`, `${file:…}` …) are relative to the YAML file that names them;
  `gateway.directory` and the folders of targets are relative to the directory in which the gateway is started.
- **Secrets** are never shown in messages; write them as references, `${secret:name}` for the encrypted store of
  [`bifrost secrets`](../secrets.md), `${vault:mount/path#key}` for a Vault.

[gateway.schema.json](gateway.schema.json) describes the same for editors:
`# yaml-language-server: $schema=docs/reference/gateway.schema.json`.

Without a target, readings go to a Delta table under `gateway.directory`. The smallest configuration that reads something:

```yaml
sources:
  - name: plc
    protocol: opcua
    endpoint: opc.tcp://192.168.1.10:4840
```
"""

_RULES: Final = """\
A reading goes once to every target that a rule it matches names, with the largest priority of those rules. Readings that match
no rule go to `default_connector`. `condition` is a SQL boolean expression over the columns of a reading, such as
`quality = 'BAD' AND value > 80`, `path LIKE 'plant1/%'` or `tag_name=temperature`.

```yaml
gateway:
  cloud:
    default_connector: archive
    connectors:
      archive: {type: delta}
      alarms: {type: file, endpoint: data/alarms}
routing_rules:
  - name: alarms
    condition: quality = 'ALARM' OR signal_type = 'temperature' AND value > 90
    connectors: [alarms, archive]
    priority: 10
```
"""


_COLLISIONS: Final = """\
When two tags come out with one path, both are delivered under it; the gateway says so once in its log, with both addresses,
and counts the paths in the metric `bifrost_path_collisions`.
"""


# ---------------------------------------------------------------------- the page


def page() -> str:
    """The reference as Markdown."""
    out = [_INTRODUCTION]
    out += ["## Gateway and targets: `gateway`\n", *_tables(models.GatewaySection, "gateway")]
    out += ["## Sources: `sources`\n", "A list; each source has a `name`, a `protocol` and, of all sources:\n"]
    out += [_table(SourceConfig, "sources[]", skip=("protocol",)), *_inner(SourceConfig, "sources[]", set())]
    for protocol, config in choices(models.Source).items():
        out += _connector(protocol, config, SourceConfig, "sources[]", "protocol")
    out += [
        "## Equipment described once: `templates`\n",
        _docstring(models.TemplateSection),
        *_tables(models.TemplateSection, "templates.*"),
        "[Mapping](../mapping.md) has an example, and how tags get their names by pattern.\n",
    ]
    out += [
        "## Targets: `gateway.cloud.connectors`\n",
        "A mapping of names to targets; each has a `type` and, of all targets:\n",
    ]
    out += [_table(TargetConfig, "connectors.*", skip=("type",))]
    for kind, config in choices(models.Target).items():
        out += _connector(kind, config, TargetConfig, "connectors.*", "type")
    out += ["## One table per source: `zerobus`\n", _docstring(ZeroBusSection)]
    out += [_example("source_targets"), *_tables(ZeroBusSection, "zerobus")]
    out += ["## Routing: `routing_rules`\n", _RULES, *_tables(models.RuleSection, "routing_rules[]")]
    out += ["#### Conditions\n", _told(normalization.condition)]
    out += ["## Names: `normalization`\n", *_tables(models.NormalizationSection, "normalization")]
    out += ["#### Paths\n", _told(normalization.path), _COLLISIONS]
    out += [
        "## Other sections\n",
        *_tables(models.WebSection, "web_ui"),
        *_tables(models.ConnectorSection, "connector"),
    ]
    out += _tables(models.DiscoverySection, "discovery")
    return "\n".join(out).rstrip() + "\n"


def _told(module: types.ModuleType) -> str:
    """What a module says of itself, as Markdown, without its title."""
    _, _, text = (module.__doc__ or "").partition("\n\n")
    return re.sub(r"::$", ":", text.replace("``", "`"), flags=re.MULTILINE)


def choices(union: Any) -> dict[str, type[BaseModel]]:
    """The models of a union with a discriminator, by the value that chooses them."""
    members = typing.get_args(typing.get_args(union)[0])
    key = typing.get_args(union)[1].discriminator
    return {member.model_fields[key].default: member for member in members}


def _connector(name: str, config: type[BaseModel], base: type[BaseModel], path: str, key: str) -> list[str]:
    title = example_of(name) if key == "type" else name
    return [
        f"### {title.replace('_', ' ')}\n",
        _docstring(config),
        _example(title),
        *_own(name, config, base, path, key),
    ]


def _own(name: str, config: type[BaseModel], base: type[BaseModel], path: str, key: str) -> Iterator[str]:
    """The tables of what a connector has beside what all have."""
    said = base.model_fields
    same = [k for k, f in config.model_fields.items() if k in said and repr(f) == repr(said[k])]
    yield _table(config, path, skip=(*same, key))
    yield from _inner(config, path, {*same, key}, own_path=name)


def target_pages() -> dict[str, str]:
    """A page per target, by the name of its file."""
    made = {}
    for kind, config in choices(models.Target).items():
        example = (EXAMPLES / f"{example_of(kind)}.yaml").read_text(encoding="utf-8")
        own = "\n".join(_own(kind, config, TargetConfig, "connectors.*", "type"))
        made[f"{kind}.md"] = target_page(kind, typing.cast("type[TargetConfig]", config), example, own)
    return made


def example_of(target: str) -> str:
    """Name of the minimal example of a target: its type, with a word more where a source is called the same."""
    return f"{target}_target" if target in choices(models.Source) else target


def _docstring(model: type[BaseModel]) -> str:
    text = typing.cast("str", model.__doc__).replace("``", "`")
    return re.sub(r"\n +", "\n", text).strip() + "\n"


def _example(name: str) -> str:
    text = (EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8")
    return f"```yaml\n{text.strip()}\n```\n"


def _tables(model: type[BaseModel], path: str) -> list[str]:
    return [f"### `{path}`\n", _table(model, path), *_inner(model, path, set())]


def _inner(model: type[BaseModel], path: str, skip: set[str], own_path: str | None = None) -> Iterator[str]:
    """The tables of the models inside a model."""
    for key, field in model.model_fields.items():
        if key in skip:
            continue
        for inner, step in _models(field.annotation):
            if issubclass(inner, SourceConfig | TargetConfig):
                continue
            here = f"{path}.{field.alias or key}{step}"
            yield f"#### `{here}`{f' ({own_path})' if own_path else ''}\n"
            yield _table(inner, here)
            yield from _inner(inner, here, set(), own_path)


def _table(model: type[BaseModel], path: str, skip: Sequence[str] = ()) -> str:
    rows = [f"<!-- {path} -->", "| key | type | default | |", "|---|---|---|---|"]
    for key, field in model.model_fields.items():
        if key in skip:
            continue
        kind = type_words(field.annotation, [*field.metadata])
        default = default_words(field)
        described = _cell(field.description or "")
        rows.append(f"| `{field.alias or key}` | {kind} | {default} | {described} |")
    return "\n".join(rows[1:] if len(rows) > 3 else []) + "\n"


def _cell(text: str) -> str:
    """Text as Markdown shows it in a table: what is not code has no tags."""
    code = text.replace("|", "\\|").split("`")
    return "`".join(part if number % 2 else part.replace("<", "&lt;") for number, part in enumerate(code))


# ---------------------------------------------------------------------- types and defaults in words


def _parts(annotation: Any) -> tuple[Any, list[Any]]:
    """An annotation without what is written beside it, and that."""
    if typing.get_origin(annotation) is Annotated:
        inner, *beside = typing.get_args(annotation)
        flat: list[Any] = []
        for item in beside:
            flat += item.metadata if isinstance(item, FieldInfo) else [item]
        found, more = _parts(inner)
        return found, [*more, *flat]
    return annotation, []


def _models(annotation: Any) -> Iterator[tuple[type[BaseModel], str]]:
    """The models in an annotation, each with how it is reached: ``[]`` in a list, ``.*`` in a mapping."""
    annotation, _ = _parts(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, ""
        return
    origin = typing.get_origin(annotation)
    step = "[]" if origin is list else ".*" if origin is dict else ""
    for inner in typing.get_args(annotation):
        for model, deeper in _models(inner):
            yield model, step + deeper


def type_words(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """The type of a setting in words, as Markdown."""
    annotation, beside = _parts(annotation)
    metadata = [*beside, *metadata]
    functions = [item.func for item in metadata if isinstance(item, BeforeValidator)]
    if seconds in functions:
        return f"duration{_range(metadata, _as_duration)}"
    if size in functions:
        return f"size{_range(metadata, _as_size)}"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        wanted = [argument for argument in arguments if argument is not type(None)]
        return " or ".join(dict.fromkeys(type_words(argument, metadata) for argument in wanted))
    if origin is list:
        return f"list of {_plural(arguments[0])}"
    if origin is dict:
        return f"mapping of names to {_plural(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{member.value}`" for member in annotation)
    words = {str: "text", bool: "`true`, `false`", int: "integer", float: "number", SecretStr: "secret", Path: "path"}
    return f"{words.get(annotation, 'text')}{_range(metadata, str) if annotation in (int, float) else ''}"


def _plural(annotation: Any) -> str:
    if any(True for _ in _models(annotation)):
        return "sections"
    return {"text": "texts", "integer": "integers", "secret": "secrets"}.get(
        type_words(annotation), type_words(annotation)
    )


def _range(metadata: Sequence[Any], word: Any) -> str:
    bounds = {
        sign: [getattr(item, sign) for item in metadata if getattr(item, sign, None) is not None]
        for sign in ("ge", "gt", "le", "lt")
    }
    low = max([*bounds["ge"], *bounds["gt"]], default=None)
    if bounds["le"]:
        high = word(min(bounds["le"]))
        return f", up to {high}" if low is None else f", {word(low)} to {high}"
    if low is None or low < 0:
        return ""
    if low in bounds["gt"]:
        return f", more than {word(low)}"
    return f", {word(low)} or more" if low else ""


def default_words(field: FieldInfo) -> str:
    """The default of a setting as Markdown; ``**needed**`` where there is none, empty where nothing is the default."""
    value = field.get_default(call_default_factory=False)
    if value is PydanticUndefined:
        return "**needed**"
    if value is None or isinstance(value, BaseModel) or value in ({}, [], ""):
        return ""
    kind = type_words(field.annotation, [*field.metadata])
    if kind.startswith("duration"):
        return f"`{_as_duration(value)}`"
    if kind.startswith("size"):
        return f"`{_as_size(value)}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return ", ".join(f"`{item}`" for item in value)
    return f"`{value}`"


def _as_duration(value: float) -> str:
    for unit, factor in (("d", 86400), ("h", 3600), ("m", 60)):
        if value >= factor and value % factor == 0:
            return f"{value / factor:g}{unit}"
    return f"{value:g}s" if value >= 1 or not value else f"{value * 1000:g}ms"


def _as_size(value: int) -> str:
    for unit, factor in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if value >= factor and value % factor == 0:
            return f"{value // factor}{unit}"
    return str(value)


# ---------------------------------------------------------------------- the schema for editors

_REFERENCE: Final = {"type": "string", "pattern": r"\$\{"}


def editor_schema() -> dict[str, Any]:
    """The JSON schema of the file as it is written: references are allowed where a number or boolean is wanted."""
    written: dict[str, Any] = _with_references(schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Bifrost gateway"} | written


def _with_references(found: Any) -> Any:
    if isinstance(found, list):
        return [_with_references(item) for item in found]
    if not isinstance(found, dict):
        return found
    copied = {
        key: value if key in ("default", "const", "enum") else _with_references(value) for key, value in found.items()
    }
    if copied.get("type") in ("integer", "number", "boolean"):
        kept = {key: copied.pop(key) for key in ("description", "default", "title") if key in copied}
        return kept | {"anyOf": [copied, _REFERENCE]}
    return copied


def files() -> dict[Path, str]:
    """What is generated, by file."""
    return {
        **{DIRECTORY / "targets" / name: text for name, text in target_pages().items()},
        DIRECTORY / "configuration.md": page(),
        DIRECTORY / "metrics.md": metrics_page.page(),
        DIRECTORY / "events.md": events.page(),
        DIRECTORY / "gateway.schema.json": json.dumps(editor_schema(), indent=1, ensure_ascii=False) + "\n",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or compare; returns the exit code."""
    parser = argparse.ArgumentParser(description="Write the configuration reference from the models.")
    parser.add_argument("--check", action="store_true", help="compare only; exit code 1 when a file is stale")
    check = parser.parse_args(arguments).check
    made = files()
    stale = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if check:
            print(f"{path} is stale; run `python -m config.reference`", file=sys.stderr)  # noqa: T201
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(made[path], encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
