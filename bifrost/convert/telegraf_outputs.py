"""Telegraf's outputs as targets."""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from bifrost.convert.draft import Origin, Ready, Section, named
from bifrost.convert.telegraf_inputs import FILTERS
from bifrost.convert.telegraf_tls import tls_of

_CODECS: Final = {0: "none", 1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
_OURS: Final = "a reading is written as docs/reference/targets/ says; what reads it has to know that"
_LIBPQ: Final = re.compile(r"(\w+)\s*=\s*('(?:[^'\\]|\\.)*'|\S+)")


def _target(origin: Origin, type_: str) -> Section:
    made = origin.draft.target(origin.text("alias") or origin.where.split(".")[1].split("[")[0], type_)
    origin.into = made
    for key in FILTERS:
        origin.lost(key, "all readings go to every target; write routing_rules for what each gets")
    made.put(batch_size=origin.whole("metric_batch_size"), flush_interval=origin.duration("flush_interval"))
    origin.needless("readings wait on disk, see docs/buffering.md", "metric_buffer_limit")
    origin.needless("each target has a pace of its own", "flush_jitter")
    origin.needless("a target that fails is tried again", "startup_error_behavior")
    for key in ("name_override", "name_prefix", "name_suffix"):
        origin.lost(key, "readings have a path instead of a measurement's name")
    return made


def _owner(origin: Origin, made: Section) -> str:
    return next((name for name, target in origin.draft.targets.items() if target is made), "target")


def _format(origin: Origin, *known: str) -> None:
    """The format of messages, which is ours; another than those that come near is told."""
    name = origin.text("data_format")
    if name is None or name in known:
        if name is not None:
            origin.into.remark("note", f"{origin.where}.data_format = {name}: {_OURS}")
        return
    origin.lost("data_format", _OURS)
    origin.lost("influx_sort_fields", _OURS)


def _one_url(origin: Origin, key: str, otherwise: str) -> str:
    urls = origin.texts(key)
    for other in urls[1:]:
        said = "another one" if "@" in other else other
        origin.into.lost(f"{origin.where}.{key}", f"{said}: a target is one server; write a second one, or a balancer")
    return urls[0] if urls else otherwise


def _influxdb_v2(origin: Origin) -> None:
    made = _target(origin, "influxdb")
    own = made.inner("provider_config")
    made["endpoint"] = _one_url(origin, "urls", "http://localhost:8086")
    made.put(timeout=origin.duration("timeout"))
    own.put(version="2.x", organization=origin.text("organization"), bucket=origin.text("bucket"))
    own.put(token=origin.secret("token", _owner(origin, made), own))
    own.put(tls=tls_of(origin), compression=_encoding(origin))
    origin.lost("bucket_tag", "readings go to one bucket; write a target for each and routing_rules")
    origin.lost("exclude_bucket_tag", "readings go to one bucket")


def _influxdb(origin: Origin) -> None:
    made = _target(origin, "influxdb")
    own = made.inner("provider_config")
    made["endpoint"] = _one_url(origin, "urls", "http://localhost:8086")
    made.put(timeout=origin.duration("timeout"))
    own.put(version="1.x", database=origin.text("database") or "telegraf")
    own.put(retention_policy=origin.text("retention_policy"), username=origin.text("username"))
    own.put(password=origin.secret("password", _owner(origin, made), own), consistency=origin.text("write_consistency"))
    own.put(tls=tls_of(origin), compression=_encoding(origin))
    if origin.flag("skip_database_creation"):
        own["create"] = "never"
    for key in ("database_tag", "retention_policy_tag"):
        origin.lost(key, "readings go to one database; write a target for each and routing_rules")


def _encoding(origin: Origin) -> str | None:
    return {"gzip": "gzip", "identity": "none"}.get(origin.text("content_encoding") or "")


def _kafka(origin: Origin) -> None:
    made = _target(origin, "kafka")
    own = made.inner("provider_config")
    brokers = origin.texts("brokers")
    text = ",".join(brokers) or "localhost:9092"
    made["endpoint"] = Ready(text) if any(isinstance(broker, Ready) for broker in brokers) else text
    own.put(topic=origin.text("topic"), message_max_bytes=origin.number("max_message_bytes"))
    codec = origin.number("compression_codec")
    own.put(compression=_CODECS.get(codec) if isinstance(codec, int) else None)
    mechanism, user = origin.text("sasl_mechanism"), origin.text("sasl_username")
    if user is not None:
        own["sasl"] = Section(mechanism=(mechanism or "PLAIN").upper(), username=user)
        own["sasl"].put(password=origin.secret("sasl_password", _owner(origin, made), own))
    own.put(tls=tls_of(origin))
    origin.needless("every replica must have a message", "required_acks", "idempotent_writes")
    origin.needless("a target that fails is tried again", "max_retry")
    origin.needless("the protocol's version is found out", "version", "sasl_version")
    origin.lost("routing_tag", "the key of a message is the tag's path; see `key`")
    origin.lost("routing_key", "the key of a message is the tag's path; see `key`")
    origin.lost("topic_tag", "columns stand in braces: topic: plant.{site}")
    for suffix in origin.sections("topic_suffix"):
        suffix.drop("columns stand in braces: topic: plant.{site}", own)
    _format(origin, "json")


def _mqtt(origin: Origin) -> None:
    made = _target(origin, "mqtt")
    own = made.inner("provider_config")
    server = _one_url(origin, "servers", "localhost:1883")
    tls = tls_of(origin)
    scheme = "mqtts" if tls is not None else "mqtt"
    made["endpoint"] = server if "://" in server else type(server)(f"{scheme}://{server}")
    if tls is not None:
        made["endpoint"] = type(server)(re.sub(r"^(tcp|mqtt)://", "mqtts://", made["endpoint"]))
    made.put(timeout=origin.duration("timeout"))
    own.put(username=origin.text("username"), password=origin.secret("password", _owner(origin, made), own), tls=tls)
    own.put(client_id=origin.text("client_id"), keepalive=origin.duration("keep_alive"))
    own.put(version={"3.1.1": "3.1.1", "5": "5"}.get(origin.text("protocol") or ""), retain=origin.flag("retain"))
    qos = origin.whole("qos") or 0
    own["qos"] = qos
    if not qos:
        own.remark("note", "qos: 0 as before; with 1 a reading is delivered when the broker says so")
    prefix, topic = origin.text("topic_prefix"), origin.text("topic")
    if topic is not None:
        fixed, template, _ = topic.partition("{{")
        if template:
            origin.lost("topic", "a topic is topic_prefix, data_topic and topic here, with columns in braces as {path}")
        prefix = (type(topic)(fixed.strip("/")) or prefix) if not template or fixed else prefix
    if prefix:
        own.put(topic_prefix=prefix, data_topic="")
    origin.lost("layout", "a message is a reading, a JSON object; see `payload` and docs/mqtt-target.md")
    origin.needless("readings_per_message says it", "batch")
    _format(origin, "json")


def _postgresql(origin: Origin) -> None:
    made = _target(origin, "timescaledb")
    own = made.inner("provider_config")
    parts = _connection(origin)
    host, port = parts.pop("host", "localhost"), parts.pop("port", "5432")
    database = parts.pop("dbname", "")
    text = f"postgresql://{host}:{port}/{database}"
    made["endpoint"] = Ready(text) if "${" in text else text
    own.put(username=parts.pop("user", None))
    if password := parts.pop("password", None):
        words = origin.draft.words(password)
        own["password"] = words if isinstance(words, Ready) else _told(origin, made, own)
    mode = parts.pop("sslmode", None)
    if mode in ("verify-ca", "verify-full"):
        own["tls"] = Section(ca_file=parts.pop("sslrootcert", None))
    elif mode == "require":
        own["tls"] = Section(verify=False)
        own.remark("note", "sslmode=require: the server's certificate is not checked, as before")
    elif mode in ("prefer", "allow"):
        own.remark("note", f"sslmode={mode}: TLS is used where the server has it, without a check; see `tls` for one")
    elif mode is not None:
        own.lost(f"{origin.where}.connection, sslmode", "TLS is used where the server has it; see `tls`")
    for key in sorted(parts):
        own.lost(f"{origin.where}.connection, {key}", "it has a setting of its own, or stands under `parameters`")
    own.put(schema=origin.text("schema"))
    for key in (
        "create_templates",
        "add_column_templates",
        "tag_table_create_templates",
        "tag_table_add_column_templates",
    ):
        origin.lost(key, "the table is as docs/timescaledb.md shows it, made where it is missing")
    for key in (
        "tags_as_foreign_keys",
        "tags_as_jsonb",
        "fields_as_jsonb",
        "tag_table_suffix",
        "foreign_tag_constraint",
    ):
        origin.lost(key, "a row is a reading with its tag; with layout: wide a row is an equipment at a time")
    origin.needless("a target that fails is tried again", "retry_max_backoff")


def _told(origin: Origin, made: Section, own: Section) -> Ready:
    name = named(f"{_owner(origin, made)}-password")
    own.remark("to do", f"{origin.where}.connection holds the password in clear: bifrost secrets set {name}")
    return Ready(f"${{secret:{name}}}")


def _connection(origin: Origin) -> dict[str, str]:
    """What a connection string says, by libpq's words."""
    value = origin.take("connection")
    text = str(value or "")
    if "://" not in text:
        found = {key: said.strip("'") for key, said in _LIBPQ.findall(text)}
        return {key: origin.draft.words(said) if key != "password" else said for key, said in found.items()}
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        origin.into.lost(f"{origin.where}.connection", "is no URL; write endpoint, username and password by hand")
        return {}
    parts = {"host": url.hostname, "port": port, "dbname": url.path.strip("/"), "user": url.username}
    found = {key: origin.draft.words(unquote(str(said))) for key, said in parts.items() if said}
    if url.password:
        found["password"] = unquote(url.password)
    return found | {key: values[0] for key, values in parse_qs(url.query).items()}


def _amqp(origin: Origin) -> None:
    made = _target(origin, "amqp")
    own = made.inner("provider_config")
    brokers = origin.texts("brokers") or ([url] if (url := origin.text("url")) else ["amqp://localhost:5672"])
    schemes = {broker.partition("://")[0] for broker in brokers}
    hosts = ",".join(broker.partition("://")[2].partition("/")[0].rpartition("@")[2] for broker in brokers)
    vhost = brokers[0].partition("://")[2].partition("/")[2]
    text = f"{'amqps' if 'amqps' in schemes else 'amqp'}://{hosts}" + (f"/{vhost}" if vhost else "")
    made["endpoint"] = Ready(text) if any(isinstance(broker, Ready) for broker in brokers) else text
    if any("@" in broker.partition("://")[2].partition("/")[0] for broker in brokers):
        own.lost(f"{origin.where}.brokers", "user and password have settings of their own: username and password")
    made.put(timeout=origin.duration("timeout"))
    own.put(username=origin.text("username"), password=origin.secret("password", _owner(origin, made), own))
    own.put(exchange=origin.text("exchange"), exchange_type=origin.text("exchange_type"))
    own.put(routing_key=origin.text("routing_key"), tls=tls_of(origin))
    method = (origin.text("auth_method") or "PLAIN").upper()
    own.put(mechanism="external" if method == "EXTERNAL" else None)
    own.put(persistent={"transient": False, "persistent": True}.get(origin.text("delivery_mode") or ""))
    own["declare"] = "passive" if origin.flag("exchange_passive") else None
    if own["declare"] is None:
        del own["declare"]
    if origin.flag("use_batch_format"):
        own["message"] = "packed"
    origin.needless("what is made is durable", "exchange_durability")
    origin.lost("routing_tag", "columns stand in braces: routing_key: {site}.{tag_name}")
    origin.lost("headers", "a message has its identity and `headers`, which are columns of the tag")
    origin.lost("exchange_arguments", "make the exchange yourself, and write declare: passive")
    origin.needless("readings are not kept back by size", "max_messages")
    _format(origin, "json")


def _file(origin: Origin) -> None:
    files = origin.texts("files") or ["stdout"]
    form = origin.text("data_format") or "influx"
    for name in files:
        made = _target(origin, "console" if name == "stdout" else "file")
        if name == "stdout":
            continue
        folder = re.sub(r"/?[^/]*$", "", name) or "."
        made["endpoint"] = type(name)(folder)
        made.remark("note", f"{name}: a target is a folder, in which files follow one another")
        made["format"] = "line_protocol" if form == "influx" else "jsonl"
        made.put(rotate_interval=origin.duration("rotation_interval"))
        if (size := origin.take("rotation_max_size")) is not None:
            made["rotate_size"] = size
    if form not in ("influx", "json"):
        origin.into.lost(f"{origin.where}.data_format = {form}", "files hold jsonl, line_protocol or parquet")
    origin.lost("rotation_max_archives", "old files stay until somebody takes them away")
    origin.lost("compression_algorithm", "files are not compressed; format: parquet is small")
    origin.needless("readings of one write stay together", "use_batch_format")


def _cloud_pubsub(origin: Origin) -> None:
    made = _target(origin, "google-pubsub")
    own = made.inner("provider_config")
    own.put(
        project=origin.text("project"), topic=origin.text("topic"), credentials_file=origin.text("credentials_file")
    )
    if origin.flag("send_batched"):
        own["payload"] = "array"
    own.put(request_size=origin.number("publish_byte_threshold"))
    origin.lost("attributes", "attributes are columns of the tag; see `attributes`")
    origin.lost("base64_data", "a message is JSON as it is")
    origin.needless("a write is sent at once", "publish_count_threshold", "publish_timeout", "publish_num_go_routines")
    _format(origin, "json")


OUTPUTS: Final[Mapping[str, Callable[[Origin], Any]]] = {
    "influxdb": _influxdb, "influxdb_v2": _influxdb_v2, "kafka": _kafka, "mqtt": _mqtt, "postgresql": _postgresql,
    "amqp": _amqp, "file": _file, "cloud_pubsub": _cloud_pubsub,
}  # fmt: skip
