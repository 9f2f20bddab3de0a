"""Telegraf's OPC UA and MQTT inputs as sources."""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from bifrost.convert.draft import Draft, Origin, Section
from bifrost.convert.telegraf_formats import subscription_of
from bifrost.convert.telegraf_tls import tls_of

_POLICIES: Final = {
    "none": "none", "auto": "auto", "basic256sha256": "basic256sha256", "basic256": "basic256",
    "basic128rsa15": "basic128rsa15", "aes128_sha256_rsaoaep": "aes128_sha256_rsaoaep",
    "aes256_sha256_rsapss": "aes256_sha256_rsapss", "aes128sha256rsaoaep": "aes128_sha256_rsaoaep",
    "aes256sha256rsapss": "aes256_sha256_rsapss",
}  # fmt: skip
_TRIGGERS: Final = {"status": "status", "statusvalue": "status_value", "statusvaluetimestamp": "status_value_timestamp"}
_PLACES: Final = frozenset(("site", "area", "line", "equipment", "signal_type", "device_id"))
FILTERS: Final = (
    "namepass", "namedrop", "fieldpass", "fieldinclude", "fielddrop", "fieldexclude", "tagpass", "tagdrop", "taginclude",
    "tagexclude", "metricpass",
)  # fmt: skip


def begin(origin: Origin, protocol: str, tags: Mapping[str, str], text: str) -> Section:
    """A source for an input, with what all inputs can be told.

    Args:
        origin: The input.
        protocol: Of the source.
        tags: Tags of all inputs.
        text: What its name is made from where the input has no alias.
    """
    source = origin.draft.source(origin.text("alias") or text, protocol)
    origin.into = source
    metadata = dict(tags) | origin.words("tags")
    if metadata:
        source["metadata"] = metadata
    for key in FILTERS:
        origin.lost(key, "readings are not filtered at the source; write routing_rules, or leave the tags out")
    for key in ("name_override", "name_prefix", "name_suffix"):
        origin.lost(key, "readings have a path instead of a measurement's name; see normalization.path_template")
    origin.needless("each source has a pace of its own", "collection_jitter", "collection_offset")
    origin.needless("times are kept as they come, in microseconds", "precision")
    return source


def host_of(url: str | None) -> str:
    """The host of a URL, to make a name from."""
    try:
        return urlsplit(url or "").hostname or ""
    except ValueError:
        return ""


# ---------------------------------------------------------------------- OPC UA


def opcua(origin: Origin, tags: Mapping[str, str], interval: str) -> None:
    """An OPC UA server that is polled."""
    source = _server(origin, tags)
    source.put(mode="polling", polling_interval=origin.duration("interval") or interval)
    for key in ("read_retry_timeout", "read_retry_count", "reconnect_error_threshold"):
        origin.needless("a read that fails is repeated with the next poll, and a lost connection is made anew", key)
    _nodes(origin, source, listens=False)


def opcua_listener(origin: Origin, tags: Mapping[str, str], interval: str) -> None:  # noqa: ARG001 - one signature
    """An OPC UA server that is subscribed to."""
    source = _server(origin, tags)
    source.put(mode="subscription", publishing_interval=origin.duration("subscription_interval") or "100ms")
    origin.needless("the server reports changes by itself", "interval")
    origin.needless("a lost connection is made anew for as long as it takes", "connect_fail_behavior")
    origin.lost("events", "events are read otherwise here; see `events` in docs/opcua.md")
    _nodes(origin, source, listens=True)


def _server(origin: Origin, tags: Mapping[str, str]) -> Section:
    endpoint = origin.text("endpoint") or "opc.tcp://localhost:4840"
    measurement = origin.text("name")
    source = begin(origin, "opcua", tags, measurement or host_of(endpoint))
    source["endpoint"] = endpoint
    _security(origin, source)
    user = origin.choice(
        "auth_method",
        {"anonymous": "", "username": "user", "certificate": "certificate"},
        "is not a way to log in here",
    )
    if user == "user":
        source.put(username=origin.text("username"), password=origin.secret("password", source["name"]))
    elif user == "certificate":
        source.put(user_cert_file=source.get("cert_file"), user_key_file=source.get("key_file"))
    origin.needless("the login is anonymous or by certificate", "username", "password") if user != "user" else None
    request, connect = origin.duration("request_timeout"), origin.duration("connect_timeout")
    source.put(timeout=request or connect)
    if request and connect and request != connect:
        source.lost(f"{origin.where}.connect_timeout = {connect}", "one `timeout` is for connections and answers")
    origin.needless("the session is kept alive by itself, see keep_alive_interval", "session_timeout")
    origin.needless("log_level: debug tells it", "client_trace")
    if (when := origin.text("timestamp")) in ("source", "server"):
        source["timestamps"] = when
    elif when == "gather":
        source.remark("note", "a reading has both times: that of the source, and when it was received (gather)")
    elif when:
        origin.lost("timestamp", "is no time that a reading can have; see `timestamps`")
    origin.lost("optional_fields", "the data type is not written beside a value; a value keeps its type")
    origin.lost("timestamp_format", "times are not text here; a target says how it writes them")
    return source


def _security(origin: Origin, source: Section) -> None:
    policy = origin.choice("security_policy", _POLICIES, "no such policy; the strongest that the server has is taken")
    mode = origin.choice(
        "security_mode",
        {"none": "none", "sign": "sign", "signandencrypt": "sign_and_encrypt", "auto": None},
        "no such mode",
    )
    policy = "none" if mode == "none" else policy or "auto"
    source.put(security_policy=policy, security_mode=None if policy == "none" else mode)
    if policy in ("basic256", "basic128rsa15"):
        source["allow_deprecated"] = True
    if policy == "auto":
        source.remark(
            "note", "security_policy: auto is never none here; write none where the server offers nothing else"
        )
    if policy != "none":
        source.remark("to do", f"trust the server's certificate once: bifrost certs --help (source {source['name']})")
        source.put(cert_file=origin.text("certificate"), key_file=origin.text("private_key"))
    origin.needless(
        "without security there is no certificate", "certificate", "private_key"
    ) if policy == "none" else None
    origin.lost("remote_certificate", "put the server's certificate among the trusted ones: bifrost certs trust --help")


def _nodes(origin: Origin, source: Section, *, listens: bool) -> None:
    made: list[Section] = []
    for node in origin.sections("nodes"):
        _node(node, {}, source, made, listens=listens)
    for group in origin.sections("group"):
        defaults: dict[str, Any] = {
            "namespace": group.text("namespace"), "namespace_uri": group.text("namespace_uri"),
            "identifier_type": group.text("identifier_type"), "interval": group.duration("sampling_interval"),
            "metadata": group.words("tags") | group.words("default_tags"),
        }  # fmt: skip
        if (measurement := group.text("name")) is not None:
            defaults["metadata"]["measurement"] = measurement
        for node in group.sections("nodes"):
            _node(node, defaults, source, made, listens=listens)
    if made:
        source["nodes"] = made
    else:
        origin.draft.sources.remove(source)
        origin.into = origin.draft.root
        origin.draft.root.remarks += source.remarks
        origin.draft.root.lost(
            origin.where, "no node of it can be read; a source without nodes would read all there are"
        )


def _node(node: Origin, defaults: Mapping[str, Any], source: Section, made: list[Section], *, listens: bool) -> None:
    written = node.text("id")
    if written is None:
        kind = node.text("identifier_type") or defaults.get("identifier_type") or "s"
        own_uri, own = node.text("namespace_uri"), node.text("namespace")
        uri = own_uri or (None if own else defaults.get("namespace_uri"))
        space = own or defaults.get("namespace") or "0"
        identifier = node.text("identifier")
        if identifier is None:
            node.drop("it has neither `id` nor `identifier`; write the node id", source)
            return
        escaped = uri.replace("%", "%25").replace(";", "%3B") if uri else ""
        written = f"nsu={escaped};{kind}={identifier}" if uri else f"ns={space};{kind}={identifier}"
    found = Section(id=written, tag_name=node.text("name") or node.text("field_name"))
    node.into = found
    metadata = dict(defaults.get("metadata", {})) | node.words("tags") | node.words("default_tags")
    found.put(interval=defaults.get("interval"), metadata=metadata or None)
    if listens:
        for params in node.sections("monitoring_params"):
            _monitored(params, found)
    made.append(found)


def _monitored(params: Origin, found: Section) -> None:
    params.into = found
    found.put(interval=params.duration("sampling_interval"), queue_size=params.number("queue_size"))
    found.put(discard_oldest=params.flag("discard_oldest"))
    for change in params.sections("data_change_filter"):
        change.into = found
        found.put(trigger=change.choice("trigger", _TRIGGERS, "is no trigger") or "status")
        kind, size = change.text("deadband_type"), change.number("deadband_value")
        if kind and kind.lower() in ("absolute", "percent") and isinstance(size, int | float) and size >= 0:
            found["server_deadband"] = float(size) if kind.lower() == "absolute" else f"{size:g}%"
        elif kind and kind.lower() != "none":
            change.lost("deadband_type", "no deadband can be made of it; see server_deadband")


# ---------------------------------------------------------------------- MQTT


def mqtt_consumer(origin: Origin, tags: Mapping[str, str], interval: str) -> None:  # noqa: ARG001 - one signature
    """A broker that is subscribed to."""
    servers = origin.texts("servers")
    source = begin(origin, "mqtt", tags, host_of(servers[0] if servers else "") or "broker")
    endpoints = [_broker(server) for server in servers] or ["mqtt://localhost:1883"]
    tls = tls_of(origin)
    if tls is not None:
        endpoints = [re.sub(r"^(tcp|mqtt)://", "mqtts://", re.sub(r"^ws://", "wss://", one)) for one in endpoints]
    source.put(endpoint=endpoints[0], fallback=endpoints[1:] or None, tls=tls)
    source.put(version={"3.1.1": "3.1.1", "5": "5"}.get(origin.text("protocol") or ""))
    source.put(client_id=origin.text("client_id"), username=origin.text("username"))
    source.put(password=origin.secret("password", source["name"]), keepalive=origin.duration("keepalive"))
    source.put(connect_timeout=origin.duration("connection_timeout"))
    if not origin.flag("persistent_session"):
        source["clean_session"] = True
        source.remark("note", "clean_session: true as before; without it nothing is lost while the gateway is away")
    qos = origin.whole("qos") or 0
    if not qos:
        source.remark("note", "qos: 0 as before; with 1 a message is acknowledged when it is on disk")
    origin.needless("a broker is acknowledged when readings are on disk", "max_undelivered_messages")
    origin.needless("the topic is the address of a tag", "topic_tag")
    origin.needless("a lost connection is made anew", "startup_error_behavior", "ping_timeout")
    origin.needless("the broker sends by itself", "interval")
    template = subscription_of(origin, source)
    made: list[Section] = []
    seen: set[str] = set()
    if template is not None:
        for topic in origin.texts("topics"):
            if topic in seen:
                source.lost(f"{origin.where}.topics", f"{topic} stands there twice")
                continue
            seen.add(topic)
            one = Section(topic=topic, qos=qos)
            one.update(template)
            made.append(one)
    for parsing in origin.sections("topic_parsing"):
        _topic(parsing, made, source)
    if made:
        source["subscriptions"] = made
        return
    _give_up(origin, source)


def _give_up(origin: Origin, source: Section) -> None:
    draft: Draft = origin.draft
    draft.sources.remove(source)
    origin.into = draft.root
    draft.root.remarks += source.remarks
    origin.drop("nothing is left to subscribe to; a source without subscriptions would read everything", draft.root)


def _broker(server: str) -> str:
    return server if "://" in server else type(server)(f"mqtt://{server}")


def _topic(parsing: Origin, made: list[Section], source: Section) -> None:
    """What the levels of a topic mean."""
    topic = parsing.text("topic") or ""
    levels = topic.split("/")
    pattern = ["+"] * len(levels)
    parsing.into = source
    for key in ("measurement", "tags", "fields"):
        said = parsing.text(key)
        names = said.split("/") if said else []
        if names and len(names) != len(levels):
            parsing.lost(
                key, f"it has {len(names)} levels, the topic {len(levels)}; write `pattern` at the subscription"
            )
            continue
        for at, name in enumerate(names):
            if name not in ("_", ""):
                known = name in _PLACES and key == "tags"
                pattern[at] = f"{{{name}}}" if known else f"{{metadata.{re.sub(r'[^A-Za-z0-9_-]', '_', name)}}}"
    parsing.needless("parts of a topic are text", "types")
    fitting = [one for one in made if one["topic"].split("/") == levels]
    if not fitting:
        parsing.drop(f"no subscription has the topic {topic}; write `pattern` at the one that is meant", source)
    elif pattern != ["+"] * len(levels):
        for one in fitting:
            one["pattern"] = "/".join(pattern)
