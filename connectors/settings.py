"""Settings that connectors share: durations, sizes, TLS, tag mappings, and what every source and target can be told."""

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow as pa
from pydantic import Field, SecretStr

from connectors.contract import Context, Reader, Writer
from connectors.dry_run import Captured, CapturedError, Sample, Written, columns_of
from connectors.fields import Duration, Settings, Size, seconds, size
from connectors.mapping import Mapping, Matcher, Place, Report, ReportSettings, TagMapping
from normalization.quality import text_quality
from normalization.reading import Columns, Quality, Tag, table


class TlsSettings(Settings):
    """TLS of a connection."""

    ca_file: Path | None = Field(None, description="PEM file of the authorities to trust; the system's when absent")
    cert_file: Path | None = Field(None, description="PEM file of the client certificate")
    key_file: Path | None = Field(None, description="PEM file of the client's private key")
    server_name: str | None = Field(None, description="name expected in the server's certificate, when not the host")
    verify: bool = Field(True, description="check the server's certificate and name; switch off in a laboratory only")
    alpn: list[str] = Field(
        [], description="protocols offered by ALPN, e.g. `x-amzn-mqtt-ca` where MQTT shares port 443 with others"
    )


_RULES = frozenset(Mapping.model_fields) - {"tag_name", "unit", "metadata"}


class SourceConfig(Place):
    """What every source can be told; each protocol adds its own."""

    name: str = Field(description="name of the source, unique", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")
    protocol: str = Field(description="protocol of the source")
    enabled: bool = Field(True, description="whether the source is read")
    member: int | None = Field(
        None,
        ge=0,
        lt=1000,
        description="number of the member that reads the source where there are several gateways (gateway.members); the "
        "members tell by its name when absent",
    )
    path_template: str | None = Field(None, description="path of this source's tags, instead of the general template")
    metadata: dict[str, str] = Field({}, description="free text by key, carried along with every tag of the source")
    tags: list[TagMapping] = Field(
        [], description="mappings of tags; one without wildcards goes first, then the first pattern that matches"
    )
    report: Report | None = Field(
        None, description="report by exception: which readings of the source's tags go on, where a tag does not say"
    )

    def reader(self, context: Context) -> Reader:  # noqa: ARG002 - each protocol's config overrides it
        """The reader of this source; each protocol's config returns its own."""
        raise TypeError(f"{type(self).__name__} has no reader")

    def named_tags(self) -> bool:
        """Make each tag that the configuration names, by `tag`, without a connection.

        Returns:
            Whether those are all, and all of their names are known.
        """
        return False

    def trial(self) -> Self:
        """The source for a look that must leave nothing behind at the device and disturb no gateway that reads it."""
        return self

    def named_rows(self) -> list[Tag]:
        """The rows of the tags that the configuration names, as far as they are known without a connection."""
        return []

    def row_of(self, address: str, device: str = "", unit: str = "", tag_name: str = "") -> Tag | None:
        """The row of a tag that the source would give this address; None where it would never read it.

        Args:
            address: The tag as its protocol names it.
            device: The device as its protocol names it; the source's own when empty.
            unit: The unit that its protocol gives.
            tag_name: The name that its protocol gives; made from the address when empty.
        """
        known = next((row for row in self.named_rows() if address in (row.address, row.tag_name)), None)
        return known or self.tag(device or self.name, address, tag_name or address, unit)

    def decode_captured(self, captured: Sequence[Captured], intern: Callable[[Tag], int]) -> list[Columns]:
        """The readings that the source's reader makes of what came from the device, in this order; nothing is connected.

        Args:
            captured: What came.
            intern: Gives a tag its row of the tag table.

        Returns:
            The readings of each, as many as there are `captured`.

        Raises:
            CapturedError: This source gets no such thing.
        """
        return [self.decode_sample(one, intern) for one in captured]

    def decode_sample(self, captured: Captured, intern: Callable[[Tag], int]) -> Columns:
        """The reading of one value, for protocols whose readers are handed values."""
        if not isinstance(captured, Sample):
            raise CapturedError(f"a source of the protocol {self.protocol} is given by a tag and a value")
        rows = Columns()
        quality = Quality.GOOD if captured.quality == "" else text_quality(captured.quality)
        rows.add(intern(captured.tag), captured.value, quality=quality, source_time=captured.time)
        return rows

    @cached_property
    def matcher(self) -> Matcher:
        """Finds what `tags` says of a tag."""
        return Matcher(self.tags)

    def mapping(self, names: Sequence[str]) -> Mapping | None:
        """What `tags` says of a tag with these names: a match without wildcards goes first, then the first pattern."""
        return self.matcher.find(names)

    def tag(
        self,
        device_id: str,
        address: str,
        tag_name: str,
        unit: str = "",
        metadata: dict[str, str] | None = None,
        *,
        own: Mapping | None = None,
        places: dict[str, str] | None = None,
        names: Sequence[str] = (),
    ) -> Tag:
        """The row of the tag table for one tag of this source.

        What is said in several places is taken, from weak to strong, from the source's context, `places`, the source's
        `tags`, and `own`.

        Args:
            device_id: The device as its protocol names it.
            address: The tag as its protocol names it.
            tag_name: The name that its protocol gives.
            unit: The unit that its protocol gives.
            metadata: What its protocol says about it.
            own: What the entry that asks for this very tag says.
            places: Places (site, area, signal_type …) that its protocol tells.
            names: Further names by which `tags` may match it.
        """
        rules: dict[str, Any] = {"template": self.path_template} if self.path_template else {}
        rules |= {p: v for p in Place.model_fields if (v := getattr(self, p)) is not None}
        rules |= places or {}
        extra = dict(self.metadata) | (metadata or {})
        if self.report is not None:
            rules |= self.model_dump(include={"report"}, exclude_none=True)
        for mapping in (self.mapping([f"{device_id}/{address}", address, tag_name, *names]), own):
            if mapping is not None:
                given = mapping.model_dump(include=mapping.model_fields_set & _RULES, exclude_none=True)
                rules |= given
                extra |= mapping.metadata
                tag_name = mapping.tag_name or tag_name
                unit = mapping.unit if mapping.unit is not None else unit
        return Tag(
            source=self.name,
            protocol=self.protocol,
            device_id=device_id,
            address=address,
            tag_name=tag_name,
            unit=unit,
            metadata=json.dumps(extra, ensure_ascii=False, sort_keys=True),
            mapping=json.dumps(rules, ensure_ascii=False, sort_keys=True),
        )


class BufferSettings(Settings):
    """How readings wait for a target that cannot take them; a connector's own goes before ``gateway.cloud.buffer``."""

    quota: Size | None = Field(
        None, description="bytes that may wait per target (default 8GiB; 256MiB when they wait in memory)"
    )
    quota_readings: int | None = Field(None, ge=1, description="readings that may wait per target (default: no bound)")
    free_disk: Size | None = Field(
        None, description="bytes that stay free on the disk: below it what waits does not grow (default 512MiB)"
    )
    overflow: Literal["drop_oldest", "drop_newest", "drop_lowest_priority", "downsample", "block"] | None = Field(
        None,
        description="what goes when it is full: the oldest of the lowest priority (the default), what comes, what comes "
        "unless something less urgent waits, all but every n-th reading of a tag from four fifths of the quota on, or "
        "nothing: `block` stops the reading of every source until there is room",
    )
    keep_every: int | None = Field(
        None,
        ge=2,
        description="of how many readings of a tag `downsample` keeps one (default 10); changes of quality stay",
    )
    expiry: Duration | None = Field(
        None, description="age at which readings are discarded, in seconds or as 7d (default: never)"
    )
    expiry_by_priority: dict[int, Duration] = Field(
        {}, description="another age for readings of this priority and more urgent ones"
    )
    drain: Literal["oldest_first", "newest_first", "live_first"] | None = Field(
        None,
        description="order in which readings of one priority go out after an outage (default oldest_first); with "
        "live_first live readings go out beside those that waited",
    )
    live_share: float | None = Field(
        None, gt=0, lt=1, description="share of the live readings while others wait too, with live_first (default 0.5)"
    )
    compression: Literal["lz4", "zstd"] | None = Field(
        None, description="how what waits is compressed: zstd (the default) writes about half of what lz4 does"
    )


class RateSettings(Settings):
    """What a target may get per second."""

    rows: float | None = Field(None, gt=0, description="readings per second")
    bytes: Size | None = Field(None, gt=0, description="bytes per second, before they are encoded")
    messages: float | None = Field(None, gt=0, description="writes per second")


class TargetConfig(Settings):
    """What every target can be told; each type adds its own under `provider_config`."""

    name: str = Field("", description="name shown to people; the key of the connector when absent")
    type: str = Field(description="type of the target")
    enabled: bool = Field(True, description="whether the target is written to")
    endpoint: str | None = Field(None, description="where the target is; a broker or url in provider_config wins")
    timeout: Duration = Field(30.0, description="time for one request, in seconds or as 30s")
    retry_count: int = Field(
        5, ge=1, description="failures in a row that open the circuit breaker; nothing is ever dropped by it"
    )
    retry_delay: Duration = Field(
        0.5, description="first back-off after a failure, in seconds or as 2s; doubled up to 60 s"
    )
    batch_size: int | None = Field(None, ge=1, description="readings in one write, at most")
    flush_interval: Duration | None = Field(None, description="time that a reading may wait for a batch to fill")
    buffer_size: int | None = Field(None, ge=1, description="readings held in memory; the rest waits on disk")
    disk_persistent: bool = Field(
        True,
        description="whether readings wait on disk; when false they wait in memory, and those that wait are lost when the "
        "gateway ends",
    )
    buffer: BufferSettings = Field(BufferSettings(), description="how readings wait for this target")
    rate_limit: RateSettings = Field(RateSettings(), description="what the target may get per second")

    def trial(self) -> Self:
        """The target for a look that must disturb no gateway that writes to it."""
        return self

    def writer(self, context: Context) -> Writer:  # noqa: ARG002 - each type's config overrides it
        """The writer of this target; each type's config returns its own."""
        raise TypeError(f"{type(self).__name__} has no writer")

    def written(self, batch: pa.RecordBatch, context: Context) -> list[Written]:  # noqa: ARG002 - see `writer`
        """What the writer would send of a batch of `normalization.reading.stream_schema`; nothing is connected.

        Raises:
            DeliveryError: What the writer would raise before it sends anything.
        """
        return columns_of(table(batch), self.endpoint or self.name)

    def authorities(self) -> dict[str, Path]:
        """Files of authorities that it trusts though no field names them, by what does."""
        return {}

    def remarks(self) -> list[tuple[str, tuple[str, ...]]]:
        """What is allowed but hardly meant, in words, each with the key that it is about."""
        own = getattr(self, "provider_config", None)
        for key in ("url", "broker"):
            place = getattr(own, key, None)
            if place is not None and "endpoint" in self.model_fields_set and place != self.endpoint:
                return [(f"differs from provider_config.{key} ({place}), which wins", ("endpoint",))]
        return []


class TlsTargetConfig(TargetConfig):
    """A target whose TLS can be told beside its endpoint; `provider_config.tls` knows more, and goes before it."""

    tls_enabled: bool | None = Field(
        None, description="whether the connection is encrypted; what the endpoint's scheme says when absent"
    )
    ca_file: Path | None = Field(None, description="PEM file of the authorities to trust; the system's when absent")
    cert_file: Path | None = Field(None, description="PEM file of the client certificate")
    key_file: Path | None = Field(None, description="PEM file of the client's private key")

    def tls_settings(self, own: TlsSettings | None) -> TlsSettings:
        """TLS as both places say together.

        Args:
            own: What `provider_config.tls` says.
        """
        files = {key: path for key in ("ca_file", "cert_file", "key_file") if (path := getattr(self, key)) is not None}
        said = own.model_dump(exclude_unset=True) if own is not None else {}
        return TlsSettings.model_validate(files | said)


__all__ = [
    "BufferSettings",
    "Duration",
    "Mapping",
    "Place",
    "RateSettings",
    "Report",
    "ReportSettings",
    "SecretStr",
    "Settings",
    "Size",
    "SourceConfig",
    "TagMapping",
    "TargetConfig",
    "TlsSettings",
    "TlsTargetConfig",
    "seconds",
    "size",
]
