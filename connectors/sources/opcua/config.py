"""What an OPC UA source can be told."""

import math
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, field_validator, model_validator
from typing_extensions import override

from connectors.contract import Context, Reader
from connectors.dry_run import Captured
from connectors.settings import Duration, Mapping, SecretStr, Settings, Size, SourceConfig
from connectors.sources.opcua.names import PathFilter, parse_node_id, parse_path
from normalization.reading import Columns, Tag

_Trigger = Literal["status", "status_value", "status_value_timestamp"]


def _deadband(value: object) -> object:
    number = str(value).removesuffix("%").strip()
    try:
        size = float(number)
    except ValueError:
        size = -1.0
    percent = isinstance(value, str) and value.strip().endswith("%")
    if isinstance(value, bool) or not 0 <= size < math.inf or (percent and size > 100):
        msg = (
            f"`{value}` is not a deadband; write a number in the unit of the value, or percent of its range such as 2%"
        )
        raise ValueError(msg)
    return f"{size:g}%" if percent else size


_Deadband = Annotated[float | str, BeforeValidator(_deadband)]


class NodeConfig(Mapping):
    """A node that is read by its id or its browse path."""

    id: str | None = Field(None, description="node id: ns=2;s=Pump.Speed, i=2258, or nsu=http://vendor/ns;s=Pump.Speed")
    path: str | None = Field(
        None,
        description="browse path instead of the id, looked up at each connect: /Objects/Plant/Line 1/Temperature, or with the "
        "namespaces of the names /Objects/2:Plant/2:Temperature",
    )
    interval: Duration | None = Field(
        None, description="time between samples or polls of this node, instead of the source's, in seconds or as 100ms"
    )

    queue_size: int | None = Field(
        None, ge=1, le=1_000_000, description="values that the server keeps of this node, instead of the source's"
    )
    discard_oldest: bool | None = Field(None, description="what goes when that is full, instead of the source's")
    trigger: _Trigger | None = Field(None, description="what is a change of this node, instead of the source's")
    server_deadband: _Deadband | None = Field(None, description="deadband of this node, instead of the source's")
    watchdog: Duration | None = Field(
        None, ge=0, description="time within which this node must change, instead of the source's; 0 = it need not"
    )

    @model_validator(mode="before")
    @classmethod
    def _bare_id(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return {"path" if value.startswith("/") else "id": value}

    @field_validator("id")
    @classmethod
    def _sound_id(cls, value: str | None) -> str | None:
        if value is not None:
            parse_node_id(value)
        return value

    @field_validator("path")
    @classmethod
    def _sound_path(cls, value: str | None) -> str | None:
        if value is not None:
            parse_path(value)
        return value

    @model_validator(mode="after")
    def _one(self) -> "NodeConfig":
        if (self.id is None) == (self.path is None):
            msg = "a node has an `id` or a `path`, and not both"
            raise ValueError(msg)
        return self


class BrowseConfig(Settings):
    """Which nodes are read because a browse finds them.

    Patterns are matched against the browse path below a root, names joined by `/`, e.g. `Plant/Line 1/Temperature`:
    `*` is any part of one name, `**` any number of names, `?` one character, `[ab]` one of these.
    """

    roots: list[str] = Field(["i=85"], min_length=1, description="node ids to begin at; i=85 is the Objects folder")
    include: list[str] = Field(["**"], min_length=1, description="patterns of the variables to read")
    exclude: list[str] = Field([], description="patterns of what is left out; a folder that matches is not entered")
    types: list[str] = Field(
        [],
        description="data types of the variables to read, with their subtypes: names such as Double or Number, or node ids",
    )
    type_definitions: list[str] = Field(
        [],
        description="type definitions of the variables to read, with their subtypes, e.g. AnalogItemType; or node ids",
    )
    rebrowse_interval: Duration | None = Field(
        None,
        gt=0,
        description="time between looks for nodes that came or went, in seconds or as 10m; a server that reports changes of its "
        "model is looked at then in any case",
    )
    max_depth: int = Field(20, ge=1, le=100, description="levels below a root that are browsed")
    max_nodes: int = Field(50_000, ge=1, description="variables that are read at most; more are reported and left out")
    nodeset_files: list[Path] = Field(
        [],
        description="NodeSet2 files (XML) that describe the nodes; they are looked through instead of browsing the server, which "
        "spares a slow one. What a file refers to and is not in the files is not found",
    )
    properties: bool = Field(False, description="read properties (HasProperty) of objects as well")
    tag_name: Literal["path", "name"] = Field(
        "path", description="name of a tag: its browse path joined by dots, or the browse name alone"
    )

    @field_validator("roots")
    @classmethod
    def _sound(cls, value: list[str]) -> list[str]:
        for root in value:
            parse_node_id(root)
        return value

    @field_validator("include", "exclude")
    @classmethod
    def _patterns(cls, value: list[str]) -> list[str]:
        for glob in value:
            try:
                PathFilter([glob], [])
            except re.error as error:
                msg = f"`{glob}` is not a pattern: {error}"
                raise ValueError(msg) from None
        return value


class HistoryConfig(Settings):
    """What is read from the server's history: `history: 24h` is a back-fill of that long, `history: false` is nothing."""

    gaps: bool = Field(
        True,
        description="read what was missed while there was no connection, of the nodes whose history the server keeps",
    )
    backfill: Duration | None = Field(
        None, gt=0, description="how far back a node is read that is read for the first time, in seconds or as 24h"
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return {"gaps": value}
        return {"backfill": value} if isinstance(value, str | int | float) else value


class EventConfig(Settings):
    """Events, alarms and conditions that are read as readings."""

    node: str = Field("i=2253", description="node id of what reports them; i=2253 is the server, which reports all")
    types: list[str] = Field(
        [],
        description="event types, with their subtypes: names such as AlarmConditionType, or node ids; all when empty",
    )
    sources: list[str] = Field(
        [], description="names of sources (SourceName) whose events are read, `*` for any part; all when empty"
    )
    severity_min: int = Field(1, ge=1, le=1000, description="severity from which on they are read")
    fields: list[str] = Field([], description="further fields for the properties, by browse path, such as 2:BatchId")
    refresh: bool = Field(True, description="ask for the state of all conditions at each connect (ConditionRefresh)")
    queue_size: int = Field(1000, ge=1, le=1_000_000, description="events that the server keeps between notifications")

    @field_validator("node")
    @classmethod
    def _sound(cls, value: str) -> str:
        parse_node_id(value)
        return value

    @field_validator("types")
    @classmethod
    def _types(cls, value: list[str]) -> list[str]:
        for text in value:
            if not re.fullmatch(r"[A-Za-z]+Type", text):
                parse_node_id(text)
        return value


class OpcUaConfig(SourceConfig):
    """An OPC UA server that is read; with neither `nodes`, `browse` nor `events`, all variables outside namespace 0."""

    protocol: Literal["opcua"] = Field("opcua", description="protocol of the source")
    endpoint: str = Field(description="URL of the server, e.g. opc.tcp://10.1.1.100:4840")
    endpoints: list[str] = Field(
        [], description="further servers of a redundant set; the one with the highest ServiceLevel is read"
    )
    mode: Literal["subscription", "polling"] = Field("subscription", description="the server reports changes, or polls")
    nodes: list[NodeConfig] = Field([], description="nodes to read, by id")
    browse: BrowseConfig | None = Field(None, description="nodes to read, by browsing")
    events: list[EventConfig] = Field(
        [], description="events, alarms and conditions to read; with mode subscription only"
    )
    publishing_interval: Duration = Field(
        0.5, gt=0, description="time between notifications of a subscription, in seconds or as 500ms"
    )
    sampling_interval: Duration | None = Field(
        None, description="time between the server's samples of a node, 0 = as fast as it can; the publishing interval"
    )
    polling_interval: Duration = Field(1.0, gt=0, description="time between polls, in seconds or as 1s")
    queue_size: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="values that the server keeps per node between notifications; twice as many as it samples in that time, and 10 "
        "at least, when absent",
    )
    discard_oldest: bool = Field(
        True, description="when there are more, the oldest go; when false, the newest is replaced by what comes"
    )
    trigger: _Trigger = Field(
        "status_value",
        description="what the server reports as a change: of the status, of the value too, of the time too",
    )
    server_deadband: _Deadband | None = Field(
        None,
        description="change of a number below which the server does not report it: in the unit of the value, or in percent of "
        "the range that the node states (EURange), such as 2%",
    )
    watchdog: Duration | None = Field(
        None,
        gt=0,
        description="time within which every node must change, in seconds or as 1m; one that does not is read, and is STALE when "
        "the server has nothing else to say of it, else the server is asked anew to report it; with mode subscription only",
    )
    publish_requests: int = Field(
        10, ge=1, le=500, description="requests that wait for notifications at the server at once; it may take fewer"
    )
    values_per_notification: int = Field(
        10_000, ge=1, le=1_000_000, description="values that the server puts into one notification at most"
    )
    subscription_lifetime: Duration = Field(
        60.0,
        ge=1,
        description="time that the server keeps a subscription whose client is away, and collects values for it, in seconds",
    )
    timestamps: Literal["source", "server"] = Field("source", description="whose timestamp is the time of a reading")
    history: HistoryConfig = Field(HistoryConfig(), description="what is read from the server's history")
    security_policy: Literal[
        "none",
        "auto",
        "aes256_sha256_rsapss",
        "basic256sha256",
        "aes128_sha256_rsaoaep",
        "basic256",
        "basic128rsa15",
    ] = Field(
        "none",
        description="security policy; `auto` is the strongest that the server offers and never none, `none` sends everything in "
        "clear and is logged as a warning, the last two are deprecated",
    )
    security_mode: Literal["sign", "sign_and_encrypt"] | None = Field(
        None,
        description="whether messages are signed, or encrypted as well (the default; with `auto` the better one that is offered); "
        "not with policy `none`",
    )
    allow_deprecated: bool = Field(
        False,
        description="allow the deprecated security policies, to `auto` as well when the server offers nothing better",
    )
    trust: Literal["folder", "all"] = Field(
        "folder",
        description="accept servers whose certificates lie in the source's folder `trusted` or come from an authority there, or "
        "`all` (a laboratory only)",
    )
    require_crl: bool = Field(
        False,
        description="refuse a server whose authority has no current list of revoked certificates in the source's folders",
    )
    cert_file: Path | None = Field(
        None, description="certificate of the source (DER or PEM) instead of the one that it makes; needs `key_file`"
    )
    key_file: Path | None = Field(None, description="private key of `cert_file` (DER or PEM)")
    key_password: SecretStr | None = Field(None, description="password of `key_file`")
    certificate_hosts: list[str] = Field(
        [],
        description="host names and IP addresses in the certificate that the source makes, beside the host's own name",
    )
    username: str | None = Field(None, min_length=1, description="user name; anonymous when absent")
    password: SecretStr | None = Field(None, description="password of the user")
    allow_clear_password: bool = Field(
        False, description="send the password although neither the channel nor the token would encrypt it"
    )
    user_cert_file: Path | None = Field(
        None, description="certificate to log in with (DER or PEM), instead of a user name; needs `user_key_file`"
    )
    user_key_file: Path | None = Field(None, description="private key of `user_cert_file` (DER or PEM)")
    user_key_password: SecretStr | None = Field(None, description="password of `user_key_file`")
    timeout: Duration = Field(5.0, gt=0, description="time for a connection and for an answer, in seconds or as 5s")
    keep_alive_interval: Duration = Field(
        2.0,
        gt=0,
        description="time after which a silent connection is asked for a sign of life; after twice that it is replaced, in seconds",
    )
    max_message_size: Size = Field(
        16 * 1024 * 1024, ge=65536, description="largest message taken from the server, in bytes or as 16MiB"
    )
    max_chunk_count: int = Field(256, ge=1, description="chunks of one message taken from the server, at most")

    @field_validator("certificate_hosts")
    @classmethod
    def _hosts(cls, value: list[str]) -> list[str]:
        for host in value:
            if not re.fullmatch(r"[A-Za-z0-9._:-]+", host):
                msg = f"`{host}` is not a host name or an IP address"
                raise ValueError(msg)
        return value

    @field_validator("endpoints")
    @classmethod
    def _urls(cls, value: list[str]) -> list[str]:
        return [cls._url(one) for one in value]

    @field_validator("endpoint")
    @classmethod
    def _url(cls, value: str) -> str:
        url = urlsplit(value)
        if url.scheme != "opc.tcp" or not url.hostname:
            msg = f"`{value}` is not the URL of an OPC UA server; write opc.tcp://HOST:PORT/PATH"
            raise ValueError(msg)
        if "@" in url.netloc:
            msg = "credentials do not belong into the URL; write `username` and `password`"
            raise ValueError(msg)
        if url.port is None:
            value = url._replace(netloc=f"{url.netloc.rstrip(':')}:4840").geturl()
        return value

    @model_validator(mode="after")
    def _complete(self) -> "OpcUaConfig":
        if self.password is not None and self.username is None:
            msg = "`password` without `username`"
            raise ValueError(msg)
        if self.events and self.mode != "subscription":
            msg = "`events` come by subscription only; write mode: subscription"
            raise ValueError(msg)
        watched = self.watchdog or any(node.watchdog for node in self.nodes)
        if watched and self.mode != "subscription":
            msg = "`watchdog` is for what a server reports; with mode: polling each poll is a reading"
            raise ValueError(msg)
        if self.history.backfill is not None and self.timestamps != "source":
            msg = "`history.backfill` needs the source's timestamps; write timestamps: source"
            raise ValueError(msg)
        if self.security_mode is not None and self.security_policy == "none":
            msg = "`security_mode` needs a `security_policy`; write security_policy: auto"
            raise ValueError(msg)
        if self.security_policy in ("basic256", "basic128rsa15") and not self.allow_deprecated:
            msg = f"security_policy {self.security_policy} is deprecated, since it can be broken; to use it all the same, write allow_deprecated: true"
            raise ValueError(msg)
        for certificate, key, password in (
            ("cert_file", "key_file", "key_password"),
            ("user_cert_file", "user_key_file", "user_key_password"),
        ):
            given = [getattr(self, name) is not None for name in (certificate, key)]
            if any(given) and not all(given):
                msg = f"`{certificate}` and `{key}` belong together"
                raise ValueError(msg)
            if getattr(self, password) is not None and not any(given):
                msg = f"`{password}` without `{key}`"
                raise ValueError(msg)
        if self.username is not None and self.user_cert_file is not None:
            msg = "log in with `username` or with `user_cert_file`, not both"
            raise ValueError(msg)
        return self

    @override
    def named_tags(self) -> bool:
        self.named_rows()
        return False  # the server knows further names of these, and further nodes may be browsed

    @override
    def named_rows(self) -> list[Tag]:
        from connectors.sources.opcua.captured import rows

        return [tag for _, tag in rows(self)]

    @override
    def row_of(self, address: str, device: str = "", unit: str = "", tag_name: str = "") -> Tag | None:
        from connectors.sources.opcua.captured import row

        return row(self, address, device, unit, tag_name)

    @override
    def decode_captured(self, captured: Sequence[Captured], intern: Callable[[Tag], int]) -> list[Columns]:
        from connectors.sources.opcua.captured import decode

        return [decode(self, one, intern) for one in captured]

    @override
    def trial(self) -> Self:
        return self.model_copy(update={"history": HistoryConfig(gaps=False)})

    @property
    def wanted_mode(self) -> str | None:
        """The security mode to ask for; None for the better one that the server offers."""
        return self.security_mode or (None if self.security_policy == "auto" else "sign_and_encrypt")

    @cached_property
    def browsing(self) -> BrowseConfig | None:
        """The browse that is done: the one that is written, or all variables when neither nodes nor events are written."""
        if self.browse is not None or self.nodes or self.events:
            return self.browse
        return BrowseConfig.model_validate({})

    @override
    def reader(self, context: Context) -> Reader:
        from connectors.sources.opcua.reader import OpcUaReader

        return OpcUaReader(self, context)
