"""MQTT connectors of ThingsBoard's gateway."""

import re
from typing import Final

from bifrost.convert.draft import Origin, Section
from bifrost.convert.thingsboard_parts import device, expression, reporting, writing
from connectors.sources.mqtt.paths import parse_path

_BETWEEN: Final = re.compile(r"(?:\(\?<=(?P<before>[^()]*)\))?\(\.[*+]\??\)(?:\(\?=(?P<after>[^()]*)\))?")
_FILES: Final = {"pathToCACert": "ca_file", "pathToClientCert": "cert_file", "pathToPrivateKey": "key_file",
    "caCert": "ca_file", "cert": "cert_file", "privateKey": "key_file"}  # fmt: skip


def mqtt(origin: Origin, name: str) -> None:
    """A broker and what it is asked for."""
    draft = origin.draft
    source = draft.source(name, "mqtt")
    origin.into = source
    for broker in origin.sections("broker"):
        _broker(broker, source)
    origin.needless("log_level at the gateway says it", "logLevel", "enableRemoteLogging")
    origin.needless("a name is given to the source", "name", "id")
    reporting(origin, source)
    made: list[Section] = []
    topics: set[str] = set()
    for key in ("mapping", "dataMapping"):
        for mapping in origin.sections(key):
            one = _mapping(mapping, source)
            if one is not None and one["topic"] in topics:
                mapping.drop(f"{one['topic']} is subscribed to above; put its values there", source)
            elif one is not None:
                topics.add(one["topic"])
                made.append(one)
    writing(origin)
    for key in ("connectRequests", "disconnectRequests"):
        origin.lost(key, "devices are not announced here; a tag appears with its first value")
    if made:
        source["subscriptions"] = made
        return
    draft.sources.remove(source)
    draft.root.remarks += source.remarks
    origin.into = draft.root
    draft.root.lost(
        origin.where, "nothing is left to subscribe to; a source without subscriptions would read everything"
    )


def _broker(broker: Origin, source: Section) -> None:
    broker.into = source
    host, port = broker.text("host") or "localhost", broker.whole("port")
    tls = Section()
    source.put(endpoint="", client_id=broker.text("clientId"), version={"5": "5"}.get(broker.text("version") or ""))
    for security in broker.sections("security"):
        security.into = source
        kind = (security.text("type") or "anonymous").lower()
        source.put(username=security.text("username"), password=security.secret("password", source["name"]))
        for theirs, ours in _FILES.items():
            tls.put(**{ours: security.text(theirs)})
        if kind not in ("anonymous", "basic", "certificates", "tls"):
            security.lost("type", "log in with username and password, or a client certificate (`tls`)")
    secure = bool(tls) or port == 8883
    source["endpoint"] = f"{'mqtts' if secure else 'mqtt'}://{host}:{port or (8883 if secure else 1883)}"
    source.put(tls=tls or None, keepalive=broker.duration("keepAlive"))
    clean, start = broker.flag("cleanSession"), broker.flag("cleanStart")
    if clean or start or (clean is None and start is None):
        source["clean_session"] = True
        source.remark("note", "clean_session: true as before; without it nothing is lost while the gateway is away")
        broker.needless("the session is forgotten at each connect", "sessionExpiryInterval")
    else:
        source.put(session_expiry=broker.duration("sessionExpiryInterval"))
    broker.needless("messages are taken as fast as the disk does", "maxMessageNumberPerWorker", "maxNumberOfWorkers")
    broker.needless("a broker has no name of its own", "name")


def _mapping(mapping: Origin, source: Section) -> Section | None:
    topic = mapping.text("topicFilter")
    qos = mapping.whole("subscriptionQos")
    converters = mapping.sections("converter")
    if topic is None or not converters:
        mapping.drop("it has no topicFilter or no converter", source)
        return None
    converter = converters[0]
    kind = (converter.text("type") or "json").lower()
    made = Section(topic=topic, qos=1 if qos is None else qos)
    if kind != "json":
        why = "payloads that code takes apart are not read; docs/mqtt.md says which formats are"
        mapping.drop(f"{topic}: a {kind} converter: {why}", source)
        converter.drop(f"a {kind} converter: {why}", Section())
        return None
    mapping.into = converter.into = made
    values: dict[str, str] = {}
    for part in ("timeseries", "attributes"):
        for value in converter.sections(part):
            _value(value, values, made)
    if not values:
        mapping.drop(f"{topic}: it has no value that can be read", source)
        converter.drop("it has no value that can be read", Section())
        source.remarks += made.remarks
        return None
    made.put(format="json", value=values)
    _name(converter, topic, made)
    reports = Section()
    reporting(converter, reports)
    if "report" in reports:
        source.setdefault("tags", []).append(Section(match=_glob(topic), report=reports["report"]))
    converter.needless("a device does not time out", "timeout")
    when = expression(converter.text("tsField"))
    made.put(timestamp=when)
    return made


def _glob(topic: str) -> str:
    return topic.replace("+", "*").replace("#", "*").rstrip("/") + "*"


def _value(value: Origin, values: dict[str, str], made: Section) -> None:
    value.into = made
    key, said = value.text("key"), value.text("value")
    path = expression(said)
    if key is None or path is None:
        value.drop(
            f"{key or 'a value without a key'}: its value is no single ${{path}}; see `value` in docs/mqtt.md", made
        )
        return
    try:
        parse_path(path)
    except ValueError as error:
        value.drop(f"{key}: {error}", made)
        return
    key = expression(key) or key
    if key in values:
        value.drop(f"{key} stands there twice; give one another name", made)
        return
    values[key] = path
    value.needless("a value keeps the type that it has in JSON", "type")


def _name(converter: Origin, topic: str, made: Section) -> None:
    """What the device is called."""
    told = device(converter)
    for older, source in (("deviceNameJsonExpression", "message"), ("deviceNameTopicExpression", "topic")):
        if (said := converter.text(older)) is not None:
            told.setdefault("name", (source, said))
    for older in ("deviceTypeJsonExpression", "deviceTypeTopicExpression"):
        if (said := converter.text(older)) is not None and said != "default":
            made.lost(older, "a profile that is read from data; write `metadata` at the tags")
    profiled = told.get("profile", ("constant", "default"))
    if profiled != ("constant", "default"):
        made.lost(
            f"{converter.where}.deviceProfileExpression = {profiled[1]}",
            "write it as `metadata` at the source's `tags`",
        )
    where, said = told.get("name", ("constant", ""))
    levels = topic.split("/")
    if where == "constant" and said and not re.search(r"[{}$]", said):
        made["device_id"] = said
    elif where == "topic" and (found := _BETWEEN.fullmatch(said)) and levels.count("+") >= 1:
        before = (found["before"] or "").strip("/")
        at = len(before.split("/")) if before else 0
        if at < len(levels) and levels[at] == "+":
            made["device_id"] = f"{{{at + 1}}}"
        else:
            made.lost(f"{converter.where}.deviceNameExpression", 'say which level it is: device_id: "{2}"')
    elif said:
        made.lost(
            f"{converter.where}.deviceNameExpression", 'a device is named by levels of the topic: device_id: "{2}"'
        )
