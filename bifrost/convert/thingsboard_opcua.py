"""OPC UA connectors of ThingsBoard's gateway."""

import re
from typing import Final

from bifrost.convert.draft import Origin, Section
from bifrost.convert.thingsboard_parts import device, expression, profile, reporting, writing

_POLICIES: Final = {
    "none": "none", "basic256sha256": "basic256sha256", "basic256": "basic256", "basic128rsa15": "basic128rsa15",
    "aes128sha256rsaoaep": "aes128_sha256_rsaoaep", "aes256sha256rsapss": "aes256_sha256_rsapss",
}  # fmt: skip
_NODE_ID: Final = re.compile(r"(ns=\d+;)?[isgb]=.+")
_WILD: Final = re.compile(r"\(?(?:\.[*+]\??|\\d[*+]|\\w[*+]|\[[^\]]*\][*+])\)?")
_STRANGE: Final = re.compile(r"[\[\](){}*+?^$|]")


def opcua(origin: Origin, name: str) -> None:
    """A server and the nodes of its devices."""
    draft = origin.draft
    source = draft.source(name, "opcua")
    origin.into = source
    nodes: list[Section] = []
    include: list[str] = []
    for server in origin.sections("server"):
        server.into = source
        _server(server, source)
        for mapping in server.sections("mapping"):
            _mapping(mapping, source, nodes, include)
    for mapping in origin.sections("mapping"):
        _mapping(mapping, source, nodes, include)
    origin.needless("log_level at the gateway says it", "logLevel", "enableRemoteLogging")
    origin.needless("a name is given to the source", "name", "id")
    reporting(origin, source)
    source.put(nodes=nodes or None)
    if include:
        source["browse"] = Section(include=[*dict.fromkeys(include)])
    if not nodes and not include:
        draft.sources.remove(source)
        draft.root.remarks += source.remarks
        origin.into = draft.root
        draft.root.lost(origin.where, "no node of it can be read; a source without nodes would read all there are")


def _server(server: Origin, source: Section) -> None:
    source.put(endpoint=server.text("url"), timeout=server.duration("timeoutInMillis", "ms"))
    disabled, enabled = server.flag("disableSubscriptions"), server.flag("enableSubscriptions")
    polls = disabled if disabled is not None else enabled is False
    period = server.duration("pollPeriodInMillis", "ms")
    scan = server.duration("scanPeriodInMillis", "ms")
    check = server.duration("subCheckPeriodInMillis", "ms")
    if polls:
        source.put(mode="polling", polling_interval=period or scan)
    else:
        source.put(mode="subscription", publishing_interval=check)
    server.needless("nodes are looked for at each connect; see browse.rebrowse_interval", "scanPeriodInMillis")
    server.needless("how readings are put together is a matter of the target", "subDataMaxBatchSize",
        "subDataMinBatchCreationTimeMs", "subscriptionProcessBatchSize")  # fmt: skip
    server.needless("the session is kept alive by itself", "sessionTimeoutInMillis")
    server.needless("bifrost browse shows what a server has", "showMap")
    server.needless("a server has no name of its own", "name")
    policy = (server.text("security") or "none").lower().replace("_", "")
    if policy not in _POLICIES:
        server.lost("security", "no such policy; the strongest that the server has is taken")
    source["security_policy"] = _POLICIES.get(policy, "auto")
    if source["security_policy"] in ("basic256", "basic128rsa15"):
        source["allow_deprecated"] = True
    if source["security_policy"] != "none":
        source.remark("to do", f"trust the server's certificate once: bifrost certs --help (source {source['name']})")
    for identity in server.sections("identity"):
        identity.into = source
        kind = (identity.text("type") or "anonymous").lower()
        if kind in ("basic", "username"):
            source.put(username=identity.text("username"), password=identity.secret("password", source["name"]))
        elif kind in ("cert.pem", "certificate"):
            source.put(cert_file=identity.text("pathToClientCert"), key_file=identity.text("pathToPrivateKey"))
            source.put(username=identity.text("username"), password=identity.secret("password", source["name"]))
            mode = identity.choice("mode", {"sign": "sign", "signandencrypt": "sign_and_encrypt"}, "is no mode")
            source.put(security_mode=mode if source["security_policy"] != "none" else None)
            identity.lost("caCert", "put the server's certificate among the trusted ones: bifrost certs trust --help")
        elif kind != "anonymous":
            identity.lost("type", "log in with username and password, or with a certificate (user_cert_file)")


def _steps(pattern: str) -> list[str]:
    """The names of a path, whose dots are escaped (or, in older files, not)."""
    divided = pattern.split("\\.") if "\\." in pattern else pattern.split(".")
    steps = [step for step in divided if step]
    return steps[1:] if steps[:1] == ["Root"] else steps


def _browse(step: str) -> str | None:
    """A part of a pattern of ours for a part of a regular expression; None where it says more than that."""
    made = _WILD.sub("*", step)
    return None if _STRANGE.search(made.replace("*", "")) or "\\" in made else made


def _mapping(mapping: Origin, source: Section, nodes: list[Section], include: list[str]) -> None:
    mapping.into = source
    pattern = mapping.text("deviceNodePattern") or ""
    by_path = (mapping.text("deviceNodeSource") or "path").lower() != "identifier"
    told = device(mapping)
    older = mapping.text("deviceNamePattern")
    name = told.get("name", ("constant", older or ""))
    constant = name[1] if name[0] == "constant" and "${" not in name[1] else None
    if name[1] and constant is None:
        source.lost(
            f"{mapping.where}, the device's name", "a name that is read from a node; write `equipment` at its tags"
        )
    writing(mapping)
    for part in ("timeseries", "attributes"):
        for value in mapping.sections(part):
            value.into = source
            key = value.text("key") or value.text("tag")
            said = expression(value.text("value") or value.text("path"))
            kind = value.text("type")
            if key is None or said is None:
                value.drop(
                    f"{key or 'a value without a key'}: its value is no ${{node}}; write the node by hand", source
                )
                continue
            node = Section()
            if kind == "identifier" or (kind != "path" and _NODE_ID.fullmatch(said)):
                node.put(id=said, tag_name=key, equipment=constant)
            else:
                steps = _steps(said)
                absolute = said.startswith("Root")
                if not absolute and not by_path:
                    value.drop(f"{key}: a path below a node id; write the node's whole path or its id", source)
                    continue
                whole = [*([] if absolute else _steps(pattern)), *steps]
                if any(_STRANGE.search(step) or "\\" in step for step in whole):
                    parts = [_browse(step) for step in whole]
                    if whole[:1] != ["Objects"] or None in parts:
                        value.drop(f"{key}: its path is an expression that no pattern of `browse.include` is", source)
                        continue
                    include.append("/".join(part for part in parts[1:] if part))
                    source.remark("note", f"{key}: found by browsing, and named by its path")
                    continue
                node.put(
                    path="/" + "/".join(step.replace("/", "\\/") for step in whole), tag_name=key, equipment=constant
                )
            if part == "attributes":
                node["metadata"] = {"kind": "attribute"}
            profile(told, node)
            reporting(value, node)
            nodes.append(node)
