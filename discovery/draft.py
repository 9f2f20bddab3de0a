"""A server that was found as the draft of a source: a dictionary, and YAML with what is known as comments. Pure.

The draft connects to the address that was scanned. Of what a server says of itself only plain facts go into it, never a host.
"""

import re
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from discovery.servers import Server

_PATH: Final = re.compile(r"/[A-Za-z0-9._~/-]{1,100}")


@dataclass(frozen=True, slots=True)
class Draft:
    """A source to look through before it is used.

    Attributes:
        source: The source as a configuration takes it.
        notes: What is known of the server and what is left to do, in plain words.
    """

    source: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def yaml(self) -> str:
        """The same as a configuration file."""
        body = yaml.safe_dump({"sources": [self.source]}, sort_keys=False, allow_unicode=True, width=120)
        return "".join(f"# {note}\n" for note in self.notes) + body


def draft(server: Server) -> Draft | None:
    """The draft for a server; None where it is not known to speak its protocol."""
    if not server.detail.get("speaks"):
        return None
    host = f"[{server.host}]" if ":" in server.host else server.host
    name = re.sub("^mqtts-", "mqtt-", server.id)
    found = f"A draft by `bifrost discover`: seen at {server.host} on port {server.port}, {server.seen_time}."
    if server.protocol == "opcua":
        source, notes = _opcua(server.detail, f"opc.tcp://{host}:{server.port}")
    elif server.protocol == "modbus":
        source, notes = _modbus(server.detail, f"tcp://{host}:{server.port}")
    else:
        source, notes = _mqtt(server.detail, f"{server.protocol}://{host}:{server.port}")
    return Draft({"name": name, **source}, (found, *notes))


def _opcua(detail: dict[str, Any], endpoint: str) -> tuple[dict[str, Any], list[str]]:
    endpoints = [each for each in detail.get("endpoints", []) if each.get("mode") != "invalid"]
    secure = [each for each in endpoints if each.get("mode") in ("sign", "sign_and_encrypt")]
    best: dict[str, Any] = max(secure or endpoints, key=lambda each: each.get("level", 0), default={})
    path = urlsplit(str(best.get("url", ""))).path if "://" in str(best.get("url", "")) else ""
    source = {"protocol": "opcua", "endpoint": endpoint + (path if _PATH.fullmatch(path) else "")}
    offers = sorted({f"{each['policy']} ({each['mode']})" for each in endpoints})
    notes = [f"It calls itself {_said(detail, 'name')} ({_said(detail, 'application_uri')})."]
    notes.append(f"It offers {', '.join(offers) or 'no endpoint'}.")
    if secure:
        source["security_policy"] = "auto"
        notes.append("It must trust the gateway's certificate, and the gateway its own: see `bifrost certs`.")
    else:
        source["security_policy"] = "none"
        notes.append("It offers no security: whoever is on the way can read and change what it sends.")
    if "anonymous" not in best.get("users", []):
        notes.append(
            f"It wants a user ({', '.join(best.get('users', [])) or 'of no kind'}): add username and password."
        )
    notes.append("All its variables are read; `bifrost browse` shows them, `nodes` or `browse` chooses.")
    return source, notes


def _mqtt(detail: dict[str, Any], endpoint: str) -> tuple[dict[str, Any], list[str]]:
    source: dict[str, Any] = {"protocol": "mqtt", "endpoint": endpoint, "version": detail.get("version", "3.1.1")}
    notes = [f"Anonymous users: {detail.get('anonymous')} ({detail.get('answer')})."]
    if detail.get("anonymous") != "accepted":
        notes.append("Add username and password if it wants them.")
    shown = detail.get("tls", {}).get("certificate")
    if shown is not None:
        source["tls"] = {}
        notes.append(f"Its certificate is for {_said(shown, 'subject')}, issued by {_said(shown, 'issuer')}.")
        notes.append("It is checked: add tls.ca_file for an authority of your own, tls.server_name for its name.")
    spoken = detail.get("sparkplug", {})
    if spoken.get("present") is True:
        source["subscriptions"] = [{"topic": "spBv1.0/#", "format": "sparkplug"}]
        groups = ", ".join(f"{group} ({len(nodes)})" for group, nodes in spoken.get("groups", {}).items())
        notes.append(f"Sparkplug B was heard; groups with their edge nodes: {groups or 'none yet'}.")
        notes.append("Other topics are not read: add them to `subscriptions`.")
    else:
        source["subscriptions"] = [{"topic": "#"}]
        notes.append("`#` is everything: name the topics that are meant.")
    return source, notes


def _modbus(detail: dict[str, Any], endpoint: str) -> tuple[dict[str, Any], list[str]]:
    units = {unit: said for unit, said in detail.get("units", {}).items() if str(said.get("answers")).startswith("yes")}
    notes = []
    for unit, said in units.items():
        own = " ".join(str(said[key]) for key in ("vendor", "product", "revision") if said.get(key))
        notes.append(f"Unit {unit} answers" + (f", and says that it is {_plain(own)}." if own else "."))
    notes.append("A device cannot be asked what it holds: put in the registers of its manual,")
    notes.append(f"or let `bifrost modbus profile {endpoint}` look. The one below is a placeholder.")
    source = {
        "protocol": "modbus",
        "endpoint": endpoint,
        "unit_id": int(next(iter(units), 1)),
        "registers": [{"name": "register_0", "kind": "holding", "address": 0}],
    }
    return source, notes


def _said(detail: dict[str, Any], key: str) -> str:
    return _plain(str(detail.get(key) or "nothing"))


def _plain(said: str) -> str:
    """What a server says, fit for a line of comment."""
    return " ".join(said.split())
