"""Telegraf's configuration (TOML): the agent, and which plugin becomes what. Pure."""

import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any, Final

from bifrost.convert.draft import ConvertError, Draft, Origin, Ready, named
from bifrost.convert.telegraf_inputs import mqtt_consumer, opcua, opcua_listener
from bifrost.convert.telegraf_modbus import modbus
from bifrost.convert.telegraf_outputs import OUTPUTS

INPUTS: Final[Mapping[str, Callable[[Origin, "Mapping[str, str]", str], None]]] = {
    "modbus": modbus, "mqtt_consumer": mqtt_consumer, "opcua": opcua, "opcua_listener": opcua_listener,
}  # fmt: skip
_ENV: Final = re.compile(
    r"\$\{(?P<name>[A-Za-z_]\w*)(?::?(?P<kind>[-?])(?P<default>[^{}]*))?\}|\$(?P<bare>[A-Za-z_]\w*)|"
    r"@\{(?P<store>[\w-]+):(?P<key>[\w.-]+)\}"
)
_UNQUOTED: Final = re.compile(r"^(\s*[\w.-]+\s*=\s*)(\$\{[^{}\s]*\}|\$\w+)(\s*(?:#.*)?)$", re.MULTILINE)
_ELSEWHERE: Final = {
    "processors": "readings are not changed on their way; what a tag is called and how it is scaled stands at its source",
    "aggregators": "readings are not summed up on their way; `report` lets only changes through, the rest is for the target",
    "secretstores": "keep the secrets in the gateway's own store: bifrost secrets set NAME",
}


def words(text: str) -> str:
    """A text with its references to the environment and to secret stores as ours."""

    def ours(found: re.Match[str]) -> str:
        if found["key"]:
            return f"${{secret:{named(found['key'], otherwise='secret')}}}"
        default = f":-{found['default']}" if found["kind"] == "-" else ""
        return f"${{env:{found['name'] or found['bare']}{default}}}"

    parts = [*_ENV.finditer(text)]
    if not parts:
        return text
    made, at = "", 0
    for found in parts:
        made += text[at : found.start()].replace("${", "$${") + ours(found)
        at = found.end()
    return Ready(made + text[at:].replace("${", "$${"))


def parsed(text: str) -> Mapping[str, Any]:
    """The file's tables.

    Raises:
        ConvertError: It is no TOML.
    """
    try:
        return tomllib.loads(_UNQUOTED.sub(r'\1"\2"\3', text))
    except (ValueError, RecursionError) as error:
        raise ConvertError(f"not TOML: {error}") from error


def convert(draft: Draft, text: str) -> None:
    """Turn a configuration into a draft.

    Args:
        draft: Where it goes.
        text: The file.

    Raises:
        ConvertError: It is no TOML.
    """
    draft.words = words
    top = draft.read(parsed(text), "telegraf")
    tags = top.words("global_tags")
    interval = _agent(top.section("agent"))
    top.where = "telegraf"
    for kind, why in _ELSEWHERE.items():
        for name, plugins in _plugins(top, kind):
            for at, _ in enumerate(plugins, start=1):
                draft.root.lost(f"{kind}.{name}[{at}]", why)
    for name, plugins in _plugins(top, "inputs"):
        for at, plugin in enumerate(plugins, start=1):
            origin = draft.read(plugin, f"inputs.{name}[{at}]")
            if name in INPUTS:
                INPUTS[name](origin, tags, interval)
            else:
                origin.drop("Bifrost reads OPC UA, MQTT, Sparkplug B and Modbus; keep Telegraf for it", draft.root)
    for name, plugins in _plugins(top, "outputs"):
        for at, plugin in enumerate(plugins, start=1):
            origin = draft.read(plugin, f"outputs.{name}[{at}]")
            if name in OUTPUTS:
                OUTPUTS[name](origin)
            else:
                there = "see `bifrost create target --help` for the targets that there are"
                origin.drop(f"there is no such target; {there}", draft.root)


def _plugins(top: Origin, kind: str) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """The plugins of a kind by name, each with its tables."""
    value = top.take(kind)
    found = []
    for name, tables in value.items() if isinstance(value, Mapping) else ():
        listed = tables if isinstance(tables, list) else [tables]
        found.append((name, [table for table in listed if isinstance(table, Mapping)]))
        if odd := [table for table in listed if not isinstance(table, Mapping)]:
            top.into.lost(f"{kind}.{name}", f"{len(odd)} of its tables are none; write it by hand")
    if value is not None and not isinstance(value, Mapping):
        top.into.lost(kind, "is no table of plugins; write it by hand")
    return found


def _agent(agent: Origin) -> str:
    """What holds for all plugins; the interval of inputs that say none."""
    agent.where = "agent"
    gateway = agent.draft.root.inner("gateway")
    agent.into = gateway
    interval = agent.duration("interval") or "10s"
    gateway.put(name=agent.text("hostname"))
    if agent.flag("debug"):
        gateway["log_level"] = "debug"
    elif agent.flag("quiet"):
        gateway["log_level"] = "error"
    cloud = gateway.inner("cloud")
    cloud.put(batch_size=agent.number("metric_batch_size"), batch_timeout=agent.duration("flush_interval"))
    agent.needless("readings wait on disk, see docs/buffering.md", "metric_buffer_limit", "buffer_strategy")
    agent.needless("readings wait on disk, see gateway.directory", "buffer_directory")
    agent.needless("each source has a pace of its own", "round_interval", "collection_jitter", "flush_jitter")
    agent.needless("times are kept as they come, in microseconds", "precision")
    agent.needless("readings carry the name of the gateway", "omit_hostname")
    agent.needless("said above", "quiet")
    agent.lost("logfile", "logs go to standard error, where systemd or the shell keeps them")
    return interval
