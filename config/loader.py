"""Loading a configuration: every problem at once, with its place, before any socket opens."""

import difflib
import os
import platform
import sys
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
import yaml
from pydantic import ValidationError

from config.models import ConfigFile, Configuration, default_target
from config.yaml_nodes import Place, Problem, ProblemsError, compose, construct, find, merge, place_of
from connectors.settings import SourceConfig, TargetConfig
from connectors.targets.zerobus import source_targets, targets
from normalization.path import path_template
from normalization.rules import Rule, RuleError, compile_condition

log = structlog.get_logger()

_LEVELS = ("debug", "info", "warning", "error")


def load(path: Path) -> Configuration:
    """The configuration in `path` and in ``conf.d/*.yaml`` beside it.

    Raises:
        ProblemsError: All that is wrong with it.
    """
    root = _root(path)
    values, problems = construct(root)
    try:
        file = ConfigFile.model_validate(values)
    except ValidationError as error:
        raise ProblemsError([*problems, *(_problem(root, item) for item in error.errors())]) from error
    problems += _check(root, file)
    if problems:
        raise ProblemsError(problems)
    return _resolve(file)


def load_or_exit(path: Path) -> Configuration:
    """`load`, but problems are printed and end the process with exit code 2."""
    try:
        return load(path)
    except ProblemsError as error:
        count = len(error.problems)
        print(error, file=sys.stderr)  # noqa: T201 - the answer to a command
        print(f"{count} problem{'s' if count > 1 else ''} in the configuration", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from error


def _root(path: Path) -> yaml.MappingNode:
    root = yaml.MappingNode("", [], yaml.Mark(str(path), 0, 0, 0, None, 0))
    problems: list[Problem] = []
    for file in [path, *sorted((path.parent / "conf.d").glob("*.yaml"))]:
        node = compose(file)
        if isinstance(node, yaml.MappingNode):
            problems += merge(root, node)
        elif node is not None:
            problems.append(Problem(place_of(node), "", "the file must be a mapping: gateway:, sources: …"))
    if problems:
        raise ProblemsError(problems)
    return root


# ---------------------------------------------------------------------- problems in words


def _problem(root: yaml.MappingNode, error: Any) -> Problem:
    location: Sequence[str | int] = error["loc"]
    unknown = error["type"] == "extra_forbidden"
    node, taken = find(root, location, key=unknown)
    path = ".".join(str(part) for part in taken)
    if unknown:
        near = difflib.get_close_matches(
            str(location[-1]), _fields(ConfigFile.model_json_schema(), taken[:-1], location), 1
        )
        hint = f"; did you mean `{near[0]}`?" if near else ""
        return Problem(place_of(node), path, f"there is no such key{hint}")
    if error["type"] == "missing":
        return Problem(place_of(node), ".".join([*([path] if path else []), str(location[-1])]), "is needed")
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        key = error["ctx"]["discriminator"].strip("'")
        expected = error["ctx"].get("expected_tags", "")
        tagged, _ = find(node, [key])
        said = f"`{error['ctx']['tag']}` is none of {expected}" if "tag" in error["ctx"] else "is needed"
        return Problem(place_of(tagged), f"{path}.{key}", said)
    message = error["msg"].removeprefix("Value error, ")
    return Problem(place_of(node), path, message[:1].lower() + message[1:])


def _fields(schema: dict[str, Any], path: Sequence[str | int], location: Sequence[str | int]) -> list[str]:
    """The keys that are known where `path` leads."""
    definitions = schema.get("$defs", {})
    choices = [schema]
    for part in path:
        following: list[dict[str, Any]] = []
        for choice in _choices(choices, definitions):
            if isinstance(part, int):
                following.append(choice.get("items", {}))
            elif part in choice.get("properties", {}):
                following.append(choice["properties"][part])
            elif isinstance(choice.get("additionalProperties"), dict):
                following.append(choice["additionalProperties"])
        choices = following
    found = [choice for choice in _choices(choices, definitions) if "properties" in choice]
    tagged = [c for c in found if any(p.get("const") in location for p in c["properties"].values() if "const" in p)]
    return [name for choice in tagged or found for name in choice["properties"]]


def _choices(schemas: Sequence[dict[str, Any]], definitions: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for schema in schemas:
        if "$ref" in schema:
            found += _choices([definitions[schema["$ref"].rsplit("/", 1)[1]]], definitions)
        elif "anyOf" in schema or "oneOf" in schema:
            found += _choices(schema.get("anyOf", []) + schema.get("oneOf", []), definitions)
        else:
            found.append(schema)
    return found


# ---------------------------------------------------------------------- what no single key can tell


def _check(root: yaml.MappingNode, file: ConfigFile) -> list[Problem]:
    problems: list[Problem] = []

    def wrong(message: str, *location: str | int) -> None:
        node, taken = find(root, location)
        problems.append(Problem(place_of(node), ".".join(str(part) for part in taken), message))

    names = Counter(source.name for source in file.sources)
    for number, source in enumerate(file.sources):
        if names[source.name] > 1:
            wrong(f"two sources are called `{source.name}`", "sources", number, "name")
        if source.path_template is not None:
            _try_template(source.path_template, wrong, "sources", number, "path_template")
    _try_template(file.normalization.path_template, wrong, "normalization", "path_template")
    if not file.normalization.enabled:
        wrong("every reading is normalized; remove this key or set it to true", "normalization", "enabled")

    known = _targets(file, Path())
    for number, rule in enumerate(file.routing_rules):
        for position, connector in enumerate(rule.connectors):
            if connector not in known:
                wrong(_unknown(connector, known), "routing_rules", number, "connectors", position)
        problems += _try_condition(root, rule.condition, number)
    default = file.gateway.cloud.default_connector
    if default is not None and default not in known:
        wrong(_unknown(default, known), "gateway", "cloud", "default_connector")
    for source_name in file.zerobus.source_targets if file.zerobus else ():
        if source_name not in names:
            wrong(f"there is no source `{source_name}`", "zerobus", "source_targets", source_name)

    gateway, web = file.gateway, file.web_ui
    if gateway.port is not None and web.port is not None and gateway.port != web.port:
        wrong(f"differs from gateway.port ({gateway.port}); they are one setting", "web_ui", "port")
    levels = [(("gateway", "log_level"), gateway.log_level), (("connector", "log_level"), file.connector.log_level)]
    for location, level in levels:
        if level is not None and level.lower() not in _LEVELS:
            wrong(f"`{level}` is none of {', '.join(_LEVELS)}", *location)
    given = {level.lower() for _, level in levels if level is not None}
    if len(given) > 1:
        wrong("differs from gateway.log_level; they are one setting", "connector", "log_level")
    path = gateway.cloud.buffer.persistent_path
    if path is not None and gateway.directory is not None and path != gateway.directory:
        wrong("differs from gateway.directory; they are one setting", "gateway", "cloud", "buffer", "persistent_path")
    return problems


def _unknown(connector: str, known: dict[str, TargetConfig]) -> str:
    near = difflib.get_close_matches(connector, known, 1)
    return f"there is no connector `{connector}`" + (f"; did you mean `{near[0]}`?" if near else "")


def _try_template(template: str, wrong: Any, *location: str | int) -> None:
    try:
        path_template(template)
    except ValueError as error:
        wrong(str(error), *location)


def _try_condition(root: yaml.MappingNode, condition: str, number: int) -> list[Problem]:
    try:
        compile_condition(condition)
    except RuleError as error:
        node, taken = find(root, ["routing_rules", number, "condition"])
        begin = place_of(node)
        inside = error.line == 1 and isinstance(node, yaml.ScalarNode) and node.style not in ("|", ">")
        quoted = isinstance(node, yaml.ScalarNode) and node.style in ("'", '"')
        column = begin.column + error.column - 1 + int(quoted) if inside else error.column
        line = begin.line if inside else begin.line + error.line
        return [Problem(Place(begin.file, line, column), ".".join(str(part) for part in taken), error.message)]
    return []


# ---------------------------------------------------------------------- resolving


def _targets(file: ConfigFile, directory: Path) -> dict[str, TargetConfig]:
    cloud = file.gateway.cloud
    linger = cloud.batch_timeout if cloud.batch_timeout is not None else cloud.buffer.flush_interval
    general = {"batch_size": cloud.batch_size, "flush_interval": linger}
    found: dict[str, TargetConfig] = {}
    for name, target in cloud.connectors.items():
        if target.enabled:
            filled = {k: v for k, v in general.items() if v is not None and getattr(target, k) is None}
            found[name] = target.model_copy(update={**filled, "name": target.name or name})
    if file.zerobus is not None and file.zerobus.enabled:
        found |= targets(file.zerobus)
    return found or {"delta": default_target(directory)}


def _sources(file: ConfigFile) -> tuple[SourceConfig, ...]:
    template = file.normalization.path_template
    filled = [s if s.path_template else s.model_copy(update={"path_template": template}) for s in file.sources]
    return tuple(s for s in filled if s.enabled)


def _resolve(file: ConfigFile) -> Configuration:
    gateway = file.gateway
    path = gateway.cloud.buffer.persistent_path or gateway.directory or Path("data")
    if path.is_relative_to("/tmp"):  # noqa: S108 - this is the warning about it
        log.warning("journal and spools lie under /tmp, which a restart of the machine empties", directory=str(path))
    if file.discovery.enabled:
        log.warning("discovery is not part of this version; no network is scanned")
    found = _targets(file, path)
    default = gateway.cloud.default_connector
    tables = source_targets(file.zerobus) if file.zerobus is not None and file.zerobus.enabled else {}
    routed = {name for rule in file.routing_rules for name in rule.connectors} | set(tables.values())
    if default is None and len(found) == 1 and not routed:
        default = next(iter(found))
    port = gateway.port if gateway.port is not None else file.web_ui.port
    level = gateway.log_level or file.connector.log_level or "info"
    return Configuration(
        gateway=gateway.name or _machine_name(),
        directory=path,
        sources=_sources(file),
        targets=found,
        rules=tuple(Rule(r.name, r.condition, tuple(r.connectors), r.priority) for r in file.routing_rules),
        default=(default,) if default else (),
        source_targets=tables,
        path_template=file.normalization.path_template,
        listen=gateway.listen,
        port=(8080 if port is None else port) if file.web_ui.enabled else None,
        log_level=level.lower(),
        memory_rows=gateway.cloud.buffer.max_size,
        probe_interval=gateway.cloud.health_check_interval or 60.0,
    )


def _machine_name() -> str:
    """A name that is this machine's alone: its host name and part of its machine id."""
    host = "".join(c if c.isalnum() or c in "-." else "-" for c in platform.node())[:40].strip("-.") or "gateway"
    try:
        machine = uuid.uuid5(uuid.NAMESPACE_OID, Path("/etc/machine-id").read_text(encoding="ascii").strip()).hex
    except OSError:
        machine = f"{uuid.getnode():012x}"
    return f"{host}-{machine[:6]}" if not os.environ.get("BIFROST_NAME") else os.environ["BIFROST_NAME"]
