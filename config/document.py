"""A configuration file that is being looked at: what is wrong with it, in words and with its place."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import TypeAdapter, ValidationError

from config.models import EMBEDDED, NAME_PATTERN, NO_TARGET, POSTED, ConfigFile
from config.schema import Spot, advice, follow, nearest, plain
from config.yaml_nodes import Place, Problem, dotted, find, place_of, text
from normalization.path import path_template
from normalization.rules import RuleError, compile_condition

_BOOL: Final = TypeAdapter(bool)


def _at(values: Any, *path: str | int) -> Any:
    """What stands at a path of plain values, None when there is nothing."""
    for part in path:
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return None
    return values


def _is_on(section: Any, *, default: bool = True) -> bool:
    value = section.get("enabled", default) if isinstance(section, Mapping) else False
    try:
        return _BOOL.validate_python(value)
    except ValidationError:
        return True


@dataclass
class Document:
    """A configuration file as nodes and as values, with what was found wrong so far."""

    root: yaml.MappingNode
    values: Any
    problems: list[Problem]
    warnings: list[str] = field(default_factory=list)

    def wrong(self, message: str, *path: str | int) -> None:
        """Note a problem."""
        self.problems.append(Problem(place_of(find(self.root, path)), dotted(path), message))

    def warn(self, message: str, *path: str | int) -> None:
        """Note what is allowed, but hardly meant."""
        self.warnings.append(str(Problem(place_of(find(self.root, path)), dotted(path), message)))

    # ------------------------------------------------------------------ what the models say

    def validated(self) -> ConfigFile | None:
        """The values as models; None when they are not sound, with the problems noted."""
        try:
            return ConfigFile.model_validate(self.values)
        except ValidationError as error:
            errors = error.errors(include_url=False)
        if self._take_as_text(errors):
            try:
                return ConfigFile.model_validate(self.values)
            except ValidationError as error:
                errors = error.errors(include_url=False)
        self.problems += [self._problem(error) for error in errors]
        return None

    def _take_as_text(self, errors: Sequence[Any]) -> bool:
        """Where text is wanted, give the scalar as it is written, so that ``012`` and ``1.10`` keep their digits."""
        taken = False
        for error in errors:
            if error["type"] not in ("string_type", "literal_error"):
                continue
            path = follow(error["loc"]).path
            said = text(find(self.root, path))
            holder = _at(self.values, *path[:-1])
            if said is not None and isinstance(_at(holder, path[-1]), int | float):
                holder[path[-1]] = said
                taken = True
        return taken

    def _problem(self, error: Any) -> Problem:
        location: tuple[str | int, ...] = error["loc"]
        kind, context = error["type"], error.get("ctx", {})
        if kind == "extra_forbidden":
            spot, key = follow(location[:-1]), str(location[-1])
            path = (*spot.path, key)
            return Problem(place_of(find(self.root, path, key=True)), dotted(path), self._unknown_key(path, spot))
        spot = follow(location)
        path = spot.path
        if kind == "missing":
            place = place_of(find(self.root, follow(location[:-1]).path))
            return Problem(place, dotted(path), f"is needed: {spot.description}")
        if kind in ("union_tag_invalid", "union_tag_not_found"):
            return self._unknown_choice(path, context)
        node = find(self.root, path)
        return Problem(place_of(node), dotted(path), self._words(error, spot, node))

    def _unknown_key(self, path: tuple[str | int, ...], spot: Spot) -> str:
        said = f"there is no key `{path[-1]}`"
        value = _at(self.values, *path)
        if len(path) == 1 and isinstance(value, dict) and "type" in value:
            return f"{said}; connectors belong under gateway.cloud.connectors"
        if len(path) == 1 and isinstance(value, dict) and "protocol" in value:
            return f"{said}; a source is an item of the list `sources`"
        hint = advice(str(path[-1]), spot)
        return f"{said}; {hint}" if hint else said

    def _unknown_choice(self, path: tuple[str | int, ...], context: Mapping[str, Any]) -> Problem:
        key = str(context["discriminator"]).strip("'")
        known = [*follow(path).schemas[0]["discriminator"]["mapping"]]
        there = ", ".join(known)
        node = find(self.root, (*path, key))
        if "tag" not in context:
            return Problem(place_of(node), dotted((*path, key)), f"is needed: one of {there}")
        if re.fullmatch(r"(google|gcp)[-_]?((cloud[-_]?)?(iot([-_]?core)?)|cloud)", str(context["tag"]).lower()):
            said = f"`{context['tag']}`: Google's IoT Core ended in August 2023; `google-pubsub` takes its place"
            return Problem(place_of(node), dotted((*path, key)), said)
        near = nearest(str(context["tag"]), known)
        said = f"`{context['tag']}` is not known; there are {there}" + (f"; did you mean `{near}`?" if near else "")
        return Problem(place_of(node), dotted((*path, key)), said)

    def _words(self, error: Any, spot: Spot, node: yaml.Node) -> str:
        kind = error["type"]
        said = node.value if isinstance(node, yaml.ScalarNode) else None
        shown = "" if said is None or spot.is_secret or kind == "value_error" else f", not {_shown(node)}"
        message = plain(error["msg"])
        if error["input"] is None:
            said = "is empty; write a value or remove the key"
            return f"{said}: {spot.description}" if spot.description else said
        if kind in ("model_type", "model_attributes_type", "dict_type"):
            message = "should be a mapping of keys"
        elif kind == "list_type":
            message = "should be a list, each item with a dash"
        elif kind == "string_pattern_mismatch" and error["ctx"]["pattern"] == NAME_PATTERN:
            message = "should be up to 63 letters, digits, `_`, `-` and `.`, and begin with a letter or digit"
        elif kind == "literal_error":
            message = f"should be {error['ctx']['expected']}"
            known = re.findall(r"'([^']+)'", error["ctx"]["expected"])
            near = nearest(said, known) if said else None
            shown += f"; did you mean `{near}`?" if near else ""
        resolved = text(node)
        if said is not None and resolved and resolved != said:  # what a reference stands for may be a secret
            message = message.replace(resolved, said)
        return message + shown

    # ------------------------------------------------------------------ what no single key can tell

    def check(self) -> None:
        """Compare what stands in different places; on plain values, so that one wrong key hides nothing else."""
        self._check_sources()
        self._check_templates()
        self._check_routing()
        self._check_listener()
        self._check_same(("gateway", "port"), ("web_ui", "port"))
        self._check_same(("gateway", "log_level"), ("connector", "log_level"))
        self._check_same(("gateway", "directory"), ("gateway", "cloud", "buffer", "persistent_path"))

    def _check_listener(self) -> None:
        """The port is reached from other machines with TLS, or because somebody said so."""
        listen, web = _at(self.values, "gateway", "listen"), _at(self.values, "web_ui")
        said = web if isinstance(web, dict) else {}
        if (
            not isinstance(listen, str)
            or said.get("enabled") is False
            or said.get("tls")
            or said.get("insecure") is True
        ):
            return
        try:
            alone = listen == "localhost" or ip_address(listen).is_loopback
        except ValueError:
            alone = False
        if not alone:
            message = (
                f"other machines reach the port at {listen or 'every address'}, and passwords would go there in clear: set "
                "web_ui.tls, or web_ui.insecure: true where a proxy before it has TLS"
            )
            self.wrong(message, "gateway", "listen")

    def _sources(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        sources = _at(self.values, "sources")
        for number, source in enumerate(sources if isinstance(sources, list) else ()):
            if isinstance(source, dict):
                yield number, source

    def _check_sources(self) -> None:
        names = Counter(str(source.get("name")) for _, source in self._sources() if source.get("name"))
        for number, source in self._sources():
            if source.get("name") == POSTED:
                self.wrong(
                    f"`{POSTED}` is the source of readings that are posted to the gateway; take another name",
                    "sources",
                    number,
                    "name",
                )
            if names[str(source.get("name"))] > 1:
                self.wrong(f"two sources are called `{source['name']}`", "sources", number, "name")
        tables = _at(self.values, "zerobus", "source_targets")
        for name in tables if isinstance(tables, dict) else ():
            if name not in names:
                self.wrong(_no_such("source", name, list(names)), "zerobus", "source_targets", name)

    def _check_templates(self) -> None:
        places: list[tuple[str | int, ...]] = [("sources", number, "path_template") for number, _ in self._sources()]
        for place in [*places, ("normalization", "path_template")]:
            template = _at(self.values, *place)
            if isinstance(template, str):
                try:
                    path_template(template)
                except ValueError as error:
                    self.wrong(str(error), *place)

    def _check_routing(self) -> None:
        connectors = _at(self.values, "gateway", "cloud", "connectors")
        known = {str(n): _is_on(c) for n, c in connectors.items()} if isinstance(connectors, dict) else {}
        tables = self._tables()
        known |= dict.fromkeys(tables.values(), True)
        if not any(known.values()):
            known[EMBEDDED] = True
        rules = _at(self.values, "routing_rules")
        named = Counter(_at(rule, "name") for rule in rules) if isinstance(rules, list) else Counter()
        for number, rule in enumerate(rules if isinstance(rules, list) else ()):
            name = _at(rule, "name")
            if isinstance(name, str) and named[name] > 1:
                self.wrong(f"two rules are called `{name}`", "routing_rules", number, "name")
            wanted = _at(rule, "connectors")
            for position, name in enumerate(wanted if isinstance(wanted, list) else ()):
                self._check_target(name, known, "routing_rules", number, "connectors", position)
            self._check_condition(number, _at(rule, "condition"))
        default = _at(self.values, "gateway", "cloud", "default_connector")
        if default is not None and default != NO_TARGET:
            self._check_target(default, known, "gateway", "cloud", "default_connector")
        if default is None and not rules:
            self._check_destinations([n for n, on in known.items() if on and n not in tables.values()], tables)

    def _tables(self) -> dict[str, str]:
        """The table of each source, as far as they can be told."""
        section = _at(self.values, "zerobus")
        listed = _at(section, "source_targets")
        if not _is_on(section) or not isinstance(listed, dict):
            return {}
        parts = {name: [str(_at(t, key)) for key in ("catalog", "schema", "table")] for name, t in listed.items()}
        return {name: f"zerobus:{'.'.join(part).lower()}" for name, part in parts.items()}

    def _check_target(self, name: Any, known: Mapping[str, bool], *path: str | int) -> None:
        if name not in known:
            self.wrong(_no_such("connector", str(name), list(known)), *path)
        elif not known[name]:
            self.wrong(f"the connector `{name}` is not enabled; enable it, or take it out here", *path)

    def _check_destinations(self, enabled: Sequence[str], tables: Mapping[str, str]) -> None:
        """Without a rule and a default, every reading needs one target that can only be meant."""
        if len(enabled) > 1:
            said = f"{len(enabled)} connectors, and nothing says which readings go where; write routing_rules"
            self.wrong(f"{said}, or a default_connector: {', '.join(enabled)}", "gateway", "cloud", "connectors")
        for number, source in self._sources():
            if not enabled and source.get("name") not in tables:
                message = (
                    f"`{source.get('name')}` has no table in zerobus.source_targets, no rule and no default_connector"
                )
                self.wrong(message, "sources", number, "name")

    def _check_condition(self, number: int, condition: Any) -> None:
        if not isinstance(condition, str):
            return
        try:
            compile_condition(condition)
        except RuleError as error:
            node = find(self.root, ("routing_rules", number, "condition"))
            place = _inside(node, condition, error.line, error.column)
            self.problems.append(Problem(place, f"routing_rules.{number}.condition", error.message))

    def _check_same(self, first: tuple[str, ...], second: tuple[str, ...]) -> None:
        values = [_at(self.values, *path) for path in (first, second)]
        if None not in values and str(values[0]).lower() != str(values[1]).lower():
            self.wrong(f"differs from {dotted(first)} ({values[0]}); they are one setting, keep one", *second)


def _no_such(kind: str, name: str, known: Sequence[str]) -> str:
    near = nearest(name, known)
    hint = f"did you mean `{near}`?" if near else f"there are {', '.join(known)}" if known else "there are none"
    return f"there is no {kind} `{name}`; {hint}"


def _shown(node: yaml.Node) -> str:
    """A scalar in a message; what was in quotes is told to be text."""
    quoted = isinstance(node, yaml.ScalarNode) and node.style in ("'", '"')
    return f"the text `{node.value}`" if quoted else f"`{node.value}`"


def _inside(node: yaml.Node, value: str, line: int, column: int) -> Place:
    """The place of a position in a scalar's text; that of the scalar where its lines were folded."""
    begin = place_of(node)
    style = node.style if isinstance(node, yaml.ScalarNode) else None
    if style == "|":
        return Place(begin.file, begin.line + line, _indent(node) + column)
    if line > 1 or style == ">" or node.value != value or node.end_mark.line != node.start_mark.line:
        return begin
    return Place(begin.file, begin.line, begin.column + column - 1 + (style in ("'", '"')))


def _indent(node: yaml.Node) -> int:
    """Columns by which the lines of a block scalar are indented, told from the file."""
    lines = Path(node.start_mark.name).read_text(encoding="utf-8-sig").splitlines()[node.start_mark.line + 1 :]
    first = next((line for line in lines if line.strip()), "")
    return len(first) - len(first.lstrip(" "))
