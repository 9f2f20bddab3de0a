"""ThingsBoard's IoT gateway (JSON): its main file, and those of its OPC UA, Modbus and MQTT connectors. Pure."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from bifrost.convert.draft import ConvertError, Draft, Origin
from bifrost.convert.thingsboard_modbus import modbus
from bifrost.convert.thingsboard_mqtt import mqtt
from bifrost.convert.thingsboard_opcua import opcua

_TYPES: Final[Mapping[str, Callable[[Origin, str], None]]] = {"opcua": opcua, "modbus": modbus, "mqtt": mqtt}
_SAME: Final = {"opcua_asyncio": "opcua", "opc-ua": "opcua", "opc_ua": "opcua"}


def convert(draft: Draft, values: Any, beside: Callable[[str], str | None]) -> None:
    """Turn a file into a draft.

    Args:
        draft: Where it goes.
        values: The file: the gateway's main one, or that of one connector.
        beside: Reads the file of a connector; None when there is none.

    Raises:
        ConvertError: It is neither.
    """
    if not isinstance(values, Mapping):
        raise ConvertError("is no JSON object; a gateway's file or a connector's is one")
    kind = _kind(values)
    if kind is not None:
        _TYPES[kind](draft.read(values, kind), draft.origin.rpartition(".")[0] or kind)
        return
    if "connectors" not in values and "thingsboard" not in values:
        raise ConvertError(
            "is neither a gateway's file (`thingsboard`, `connectors`) nor one of an opcua, modbus or mqtt connector"
        )
    top = draft.read(values, "tb_gateway")
    for server in top.sections("thingsboard"):
        server.drop(
            "ThingsBoard is no target here; send to it by an MQTT target and a rule chain, or choose another",
            draft.root,
        )
    top.needless("readings wait on disk, see docs/buffering.md", "storage")
    for grpc in top.sections("grpc"):
        if not grpc.flag("enabled"):
            grpc.skip("it is off")
        else:
            grpc.drop("connectors of your own are entry points here; see docs/own-target.md", draft.root)
    for connector in top.sections("connectors"):
        _connector(connector, beside)


def _kind(values: Mapping[str, Any]) -> str | None:
    if "master" in values or "slave" in values:
        return "modbus"
    if "broker" in values:
        return "mqtt"
    return "opcua" if isinstance(values.get("server"), Mapping) and "url" in values["server"] else None


def _connector(connector: Origin, beside: Callable[[str], str | None]) -> None:
    draft = connector.draft
    said = (connector.text("type") or "").lower()
    kind = _SAME.get(said, said)
    name = connector.text("name") or kind
    if kind not in _TYPES:
        connector.drop(
            f"Bifrost reads OPC UA, MQTT and Modbus, no {said or 'such thing'}; keep the gateway for it", draft.root
        )
        return
    inline = connector.take("configurationJson")
    file = connector.text("configuration")
    if isinstance(inline, Mapping):
        values: Any = inline
    elif file is None or (text := beside(file)) is None:
        connector.drop(f"its file {file or ''} is not there; convert it by itself", draft.root)
        return
    else:
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            connector.drop(f"{file}: not JSON: {error}", draft.root)
            return
    if not isinstance(values, Mapping):
        connector.drop("its configuration is no JSON object", draft.root)
        return
    connector.needless("`enabled` at the source says it", "enabled")
    connector.needless("log_level at the gateway says it", "logLevel", "enableRemoteLogging")
    _TYPES[kind](draft.read(values, f"{kind} {name}"), name)
