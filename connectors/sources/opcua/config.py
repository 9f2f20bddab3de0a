"""What an OPC UA source can be told."""

import re
from functools import cached_property
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from typing_extensions import override

from connectors.contract import Context, Reader
from connectors.settings import Duration, Mapping, SecretStr, Settings, Size, SourceConfig
from connectors.sources.opcua.names import PathFilter, parse_node_id


class NodeConfig(Mapping):
    """A node that is read by its id."""

    id: str = Field(description="node id: ns=2;s=Pump.Speed, i=2258, or nsu=http://vendor/ns;s=Pump.Speed")
    interval: Duration | None = Field(
        None, description="time between samples or polls of this node, instead of the source's, in seconds or as 100ms"
    )

    @model_validator(mode="before")
    @classmethod
    def _bare_id(cls, value: Any) -> Any:
        return {"id": value} if isinstance(value, str) else value

    @field_validator("id")
    @classmethod
    def _sound(cls, value: str) -> str:
        parse_node_id(value)
        return value


class BrowseConfig(Settings):
    """Which nodes are read because a browse finds them.

    Patterns are matched against the browse path below a root, names joined by `/`, e.g. `Plant/Line 1/Temperature`:
    `*` is any part of one name, `**` any number of names, `?` one character, `[ab]` one of these.
    """

    roots: list[str] = Field(["i=85"], min_length=1, description="node ids to begin at; i=85 is the Objects folder")
    include: list[str] = Field(["**"], min_length=1, description="patterns of the variables to read")
    exclude: list[str] = Field([], description="patterns of what is left out; a folder that matches is not entered")
    max_depth: int = Field(20, ge=1, le=100, description="levels below a root that are browsed")
    max_nodes: int = Field(50_000, ge=1, description="variables that are read at most; more are reported and left out")
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


class OpcUaConfig(SourceConfig):
    """An OPC UA server that is read; with neither `nodes` nor `browse`, all variables outside namespace 0."""

    protocol: Literal["opcua"] = Field("opcua", description="protocol of the source")
    endpoint: str = Field(description="URL of the server, e.g. opc.tcp://10.1.1.100:4840")
    mode: Literal["subscription", "polling"] = Field("subscription", description="the server reports changes, or polls")
    nodes: list[NodeConfig] = Field([], description="nodes to read, by id")
    browse: BrowseConfig | None = Field(None, description="nodes to read, by browsing")
    publishing_interval: Duration = Field(
        0.5, gt=0, description="time between notifications of a subscription, in seconds or as 500ms"
    )
    sampling_interval: Duration | None = Field(
        None, description="time between the server's samples of a node, 0 = as fast as it can; the publishing interval"
    )
    polling_interval: Duration = Field(1.0, gt=0, description="time between polls, in seconds or as 1s")
    queue_size: int = Field(
        10, ge=1, le=1_000_000, description="values that the server keeps per node between notifications"
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
    security_policy: Literal["none", "basic256sha256"] = Field(
        "none", description="security policy; `none` sends everything in clear and is logged as a warning"
    )
    security_mode: Literal["sign", "sign_and_encrypt"] = Field(
        "sign_and_encrypt", description="whether messages are signed, or encrypted as well; not with policy `none`"
    )
    trust: Literal["folder", "all"] = Field(
        "folder",
        description="accept server certificates that lie in the source's folder `trusted`, or `all` (a laboratory only)",
    )
    username: str | None = Field(None, min_length=1, description="user name; anonymous when absent")
    password: SecretStr | None = Field(None, description="password of the user")
    allow_clear_password: bool = Field(
        False, description="send the password although neither the channel nor the token would encrypt it"
    )
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
        if "security_mode" in self.model_fields_set and self.security_policy == "none":
            msg = "`security_mode` needs a `security_policy`; write security_policy: basic256sha256"
            raise ValueError(msg)
        return self

    @cached_property
    def browsing(self) -> BrowseConfig | None:
        """The browse that is done: the one that is written, or all variables when no nodes are written either."""
        return self.browse if self.browse is not None or self.nodes else BrowseConfig.model_validate({})

    @override
    def reader(self, context: Context) -> Reader:
        from connectors.sources.opcua.reader import OpcUaReader

        return OpcUaReader(self, context)
