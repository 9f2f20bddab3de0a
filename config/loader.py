"""Loading a configuration: every problem at once, with its place, before any socket opens."""

import os
import platform
import sys
import uuid
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final, TypeVar

import structlog
import yaml
from pydantic import ValidationError

from config.document import Document
from config.logs import configure
from config.members import Membership, member_name, ordinal, own, owners
from config.models import (
    EMBEDDED,
    NAME_FILE,
    NO_TARGET,
    ConfigFile,
    Configuration,
    GatewaySection,
    buffer_policy,
    default_target,
)
from config.pending import texts as pending_texts
from config.schema import follow, plain
from config.templates import expand
from config.yaml_nodes import Place, Problem, ProblemsError, compose, construct, merge, place_of, text
from connectors.settings import SourceConfig, TargetConfig
from connectors.targets.zerobus import source_targets, targets
from delivery.dead_letters import LetterPolicy
from normalization.rules import Rule

log = structlog.get_logger()

_Target = TypeVar("_Target", bound=TargetConfig)
_ACCESS: Final = ("endpoint", "workspace_url", "client_id", "client_secret")  # without them ZeroBus cannot be reached


Texts = Mapping[str, str]  # of files, by their names below the configuration's folder: the main one, and ``conf.d/…``


def load(path: Path, texts: Texts | None = None) -> Configuration:
    """The configuration in `path` and in ``conf.d/*.yaml`` beside it; nothing is opened and nothing is logged.

    Args:
        path: The main file.
        texts: What is to be written into the files, which is looked at instead of what they hold.

    Raises:
        ProblemsError: All that is wrong with it.
    """
    root, problems = _root(path, texts)
    root = expand(root, problems)
    values, more = construct(root, lambda path: follow(path).is_file)
    document = Document(root, values, [*problems, *more])
    file = document.validated()
    document.check()
    if file is not None:
        configuration = _resolve(document, file)
        if not document.problems:
            return configuration
    raise ProblemsError(document.problems)


def places(path: Path, texts: Texts | None = None) -> dict[tuple[str, str], Place]:
    """Where each source, target and rule of the configuration in `path` stands, by kind and name; it must be a sound one."""
    root, _ = _root(path, texts)
    values = dict(_members(root))
    found = {("gateway", ""): place_of(root.value[0][0])} if root.value else {}
    for kind, key in (("source", "sources"), ("rule", "routing_rules")):
        for item in getattr(values.get(key), "value", ()):
            if (name := text(dict(_members(item)).get("name", item))) is not None:
                found[kind, name] = place_of(item)
    cloud = dict(_members(dict(_members(values.get("gateway"))).get("cloud")))
    for key, _ in getattr(cloud.get("connectors"), "value", ()):
        found["target", key.value] = place_of(key)
    return found


def files_of(path: Path) -> list[str]:
    """The files that make the configuration in `path`, by their names below its folder; the main one first."""
    more = sorted(file for file in (path.parent / "conf.d").glob("*.y*ml") if file.suffix in (".yaml", ".yml"))
    return [path.name, *(str(file.relative_to(path.parent)) for file in more)]


def _members(node: yaml.Node | None) -> list[tuple[str, yaml.Node]]:
    return [(key.value, value) for key, value in node.value] if isinstance(node, yaml.MappingNode) else []


def load_or_exit(path: Path) -> Configuration:
    """`load`, with logging set up for it; problems are printed and end the process with exit code 2."""
    try:
        configuration = load(path)
    except ProblemsError as error:
        count = len(error.problems)
        print(error, file=sys.stderr)  # noqa: T201 - the answer to a command
        print(f"{count} problem{'s' if count > 1 else ''} in the configuration", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from error
    configure(configuration.log_level, configuration.log_format)
    for warning in configuration.warnings:
        log.warning("allowed in the configuration, but hardly meant", problem=warning)
    return configuration


def _root(path: Path, texts: Texts | None) -> tuple[yaml.MappingNode, list[Problem]]:
    """All files as one node."""
    root = yaml.MappingNode("", [], yaml.Mark(str(path), 0, 0, 0, None, 0))
    problems: list[Problem] = []
    unreadable: list[Problem] = []
    names = files_of(path) if texts is None else texts
    if texts is None and (pending := pending_texts(path, names)) is not None:
        names = texts = pending
    for name in sorted(names, key=lambda name: (name != path.name, name)):
        try:
            node, found = compose(path.parent / name, None if texts is None else texts[name])
        except ProblemsError as error:
            unreadable += error.problems
            continue
        problems += found
        if isinstance(node, yaml.MappingNode):
            root = merge(root, node, "", problems)
        elif node is not None:
            problems.append(Problem(place_of(node), "", "the file must be a mapping: gateway:, sources: …"))
    if unreadable:
        raise ProblemsError([*unreadable, *problems])
    return root, problems


# ---------------------------------------------------------------------- resolving


def _filled(document: Document, file: ConfigFile, name: str, target: _Target) -> _Target:
    """A target with what ``gateway.cloud`` says for those that do not say it themselves."""
    cloud = file.gateway.cloud
    linger, key = (
        (cloud.batch_timeout, "batch_timeout")
        if cloud.batch_timeout is not None
        else (cloud.buffer.flush_interval, "buffer.flush_interval")
    )
    general = {"batch_size": (cloud.batch_size, "batch_size"), "flush_interval": (linger, key)}
    given = {key: getattr(target, key) for key in target.model_fields_set if getattr(target, key) is not None}
    missing = {key: value for key, (value, _) in general.items() if value is not None and key not in given}
    try:
        return type(target).model_validate({**given, **missing, "name": target.name or name})
    except ValidationError as error:
        for item in error.errors(include_url=False):
            path = ("gateway", "cloud", *general[str(item["loc"][0])][1].split("."))
            document.wrong(f"for the connector `{name}`: {plain(item['msg'])}", *path)
        return target


def _targets(document: Document, file: ConfigFile, directory: Path) -> dict[str, TargetConfig]:
    found: dict[str, TargetConfig] = {n: t for n, t in file.gateway.cloud.connectors.items() if t.enabled}
    for name, target in found.items():
        for message, keys in target.remarks():
            document.warn(message, "gateway", "cloud", "connectors", name, *keys)
    if file.zerobus is not None and file.zerobus.enabled:
        found |= targets(file.zerobus)
    found = found or {EMBEDDED: default_target(directory)}
    return {name: _filled(document, file, name, target) for name, target in found.items()}


def _sources(file: ConfigFile) -> tuple[SourceConfig, ...]:
    template = file.normalization.path_template
    filled = [s if s.path_template else s.model_copy(update={"path_template": template}) for s in file.sources]
    return tuple(s for s in filled if s.enabled)


def _default(document: Document, file: ConfigFile, found: Mapping[str, TargetConfig], tables: set[str]) -> list[str]:
    said = file.gateway.cloud.default_connector
    if said is not None:
        return [] if said == NO_TARGET else [said]
    others = [name for name in found if name not in tables]
    if len(others) == 1:
        return others
    if file.routing_rules:
        message = "readings that match no rule are left out; name a default_connector, or `none` if that is meant"
        document.warn(message, "routing_rules")
    return []


def _resolve(document: Document, file: ConfigFile) -> Configuration:
    gateway = file.gateway
    path = gateway.cloud.buffer.persistent_path or gateway.directory or Path("data")
    if path.absolute().is_relative_to("/tmp"):  # noqa: S108 - this is the warning about it
        key = ("cloud", "buffer", "persistent_path") if gateway.cloud.buffer.persistent_path else ("directory",)
        message = f"{path} lies under /tmp, which a restart of the machine may empty: readings that wait there are lost"
        document.warn(message, "gateway", *key)
    if file.discovery.enabled and not file.discovery.network.subnets:
        document.warn("no network may be scanned: network.subnets is empty", "discovery", "enabled")
    if file.zerobus is not None and file.zerobus.enabled:
        unset = [key for key in _ACCESS if not getattr(file.zerobus, key)]
        if unset:
            document.warn(
                f"{', '.join(unset)} not set; readings for these tables wait on disk until they are", "zerobus"
            )
    if file.web_ui.oidc is not None and find_spec("jwt") is None:
        said = "nobody can log in by it, a package is missing: pip install 'bifrost-gateway[oidc]'"
        document.warn(said, "web_ui", "oidc")
    found = _targets(document, file, path)
    tables = source_targets(file.zerobus) if file.zerobus is not None and file.zerobus.enabled else {}
    default = _default(document, file, found, set(tables.values()))
    port = gateway.port if gateway.port is not None else file.web_ui.port
    sources = _sources(file)
    membership = _membership(document, gateway, sources)
    return Configuration(
        gateway=_name(gateway.name, path, membership),
        directory=path,
        sources=own(sources, membership),
        targets=found,
        rules=tuple(Rule(r.name, r.condition, tuple(r.connectors), r.priority) for r in file.routing_rules),
        default=tuple(default),
        plant=tuple(sources),
        membership=membership,
        leases=gateway.leases,
        source_targets=tables,
        path_template=file.normalization.path_template,
        listen=gateway.listen,
        port=(8080 if port is None else port) if file.web_ui.enabled else None,
        log_level=gateway.log_level or file.connector.log_level or "info",
        log_format=gateway.log_format,
        telemetry=gateway.telemetry,
        memory_rows=gateway.cloud.buffer.max_size,
        buffers={
            name: buffer_policy(target.buffer, gateway.cloud.buffer, persistent=target.disk_persistent)
            for name, target in found.items()
        },
        dead_letters=LetterPolicy(gateway.dead_letters.quota, gateway.dead_letters.overflow == "drop_oldest"),
        commit_interval=gateway.commit_interval,
        report_interval=gateway.report_interval or None,
        endurance=gateway.endurance,
        probe_interval=gateway.cloud.health_check_interval or 60.0,
        web=file.web_ui,
        discovery=file.discovery,
        warnings=tuple(document.warnings),
    )


def _membership(document: Document, gateway: GatewaySection, sources: Sequence[SourceConfig]) -> Membership | None:
    """What the gateway is among its plant's gateways."""
    members = gateway.members
    pinned = [source for source in sources if source.member is not None]
    if members is None:
        if gateway.member is not None:
            document.wrong("of how many members? set gateway.members", "gateway", "member")
        if pinned:
            named = ", ".join(source.name for source in pinned)
            document.warn(f"means nothing without gateway.members: {named}", "sources", 0, "member")
        return None
    member = ordinal(os.environ) if gateway.member is None else gateway.member
    if member is None:
        message = "which of them is this gateway? set gateway.member, or POD_NAME to the name of its pod, as bifrost-0"
        document.wrong(message, "gateway", "members")
        return None
    beyond = [source for source in pinned if (source.member or 0) >= members]
    for source in beyond:
        said = f"source `{source.name}` wants member {source.member}; there are {members}, 0 to {members - 1}"
        document.wrong(said, "gateway", "members")
    found = Membership(member, members, {} if beyond else owners(sources, members))
    if found.leaves:
        document.warn(found.told(), "gateway", "members")
    return None if beyond else found


def _name(said: str | None, directory: Path, membership: Membership | None) -> str:
    """The gateway's name; one that ran alone keeps its own when it becomes a member."""
    known = remembered_name(directory)
    if membership is None or said is None or said == known:
        return said or known or machine_name()
    return member_name(said, membership.member)


def remembered_name(directory: Path) -> str | None:
    """The name that the stores in `directory` were begun under: a new host name must not make it another gateway."""
    try:
        return (directory / NAME_FILE).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def machine_name() -> str:
    """A name that is this machine's alone: its host name and part of its machine id."""
    host = "".join(c if (c.isalnum() and c.isascii()) or c in "-." else "-" for c in platform.node())[:40].strip("-.")
    try:
        machine = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except OSError:
        machine = ""
    unique = uuid.uuid5(uuid.NAMESPACE_OID, machine or f"{uuid.getnode():012x}").hex
    return f"{host or 'gateway'}-{unique[:6]}"
