"""What would become of a reading: every step, as `bifrost explain` tells it."""

import base64
import binascii
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Protocol

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from connectors.dry_run import Captured, CapturedError, Message, Registers, Sample, Table
from flows.explain import explain, plain, source_named, sources_of
from normalization.reading import TagTable
from web.errors import ApiError

if TYPE_CHECKING:
    from config.models import Configuration
    from connectors.settings import SourceConfig

Text = Annotated[str, Field(max_length=2_000)]


class Configured(Protocol):
    """What has a configuration."""

    config: "Configuration"


class CapturedMessage(BaseModel):
    """A message of a topic."""

    model_config = ConfigDict(extra="forbid")

    topic: Text
    payload: Annotated[str, Field(max_length=500_000)] = Field(
        description="the payload as text, or base64 of its bytes"
    )
    base64: StrictBool = Field(False, description="whether `payload` is base64")
    retained: StrictBool = False


class CapturedRegisters(BaseModel):
    """What a Modbus device answered."""

    model_config = ConfigDict(extra="forbid")

    first: int = Field(ge=0, le=65_535, strict=True, description="the first address")
    words: list[Annotated[int, Field(ge=0, le=65_535, strict=True)]] = Field(min_length=1, max_length=2_000)
    table: Table = "holding"
    unit_id: Annotated[int, Field(ge=0, le=255, strict=True)] | None = None


class Question(BaseModel):
    """One of: a tag with a value, a message with those before it, registers."""

    model_config = ConfigDict(extra="forbid")

    tag: Text | None = Field(None, description="address, name, device/address or path of a tag")
    source: Text = Field(
        "",
        description="name of the source; needed for what was captured where there are several, and for what is posted: `api`, "
        "or `api/` and the connector that it is posted for",
    )
    device: Text = Field(
        "", description="the device as its protocol names it, where the name of the tag leaves it open"
    )
    value: Any = Field(1, description="the tag's value")
    quality: str | StrictInt = Field("", description="its quality in words, or as the protocol's number")
    time: datetime | None = Field(None, description="when it was measured; null where the device does not say")
    message: CapturedMessage | None = None
    before: list[CapturedMessage] = Field([], max_length=50, description="messages that came before")
    registers: CapturedRegisters | None = None


def explain_router(gateway: Configured) -> APIRouter:
    """The route that explains.

    Args:
        gateway: Whose configuration decides.
    """
    router = APIRouter(tags=["explain"])

    @router.post("/api/explain", responses={404: {"description": "no source reads such a tag"}})
    def explained(order: Question) -> dict[str, Any]:
        """Every step that a reading takes: raw, parsed, path, rules, targets, bytes written or the refusal."""
        given = [part for part in (order.tag, order.message, order.registers) if part is not None]
        if len(given) != 1:
            raise ApiError(
                422, "say what to explain: a tag, or a message, or registers", [("/body", "one of the three")]
            )
        source, captured = _captured(gateway.config, order)
        try:
            found = explain(gateway.config, source, captured, TagTable(), time.time_ns() // 1000)
        except CapturedError as error:
            raise ApiError(422, str(error)) from error
        return plain(found)

    return router


def _captured(config: "Configuration", order: Question) -> "tuple[SourceConfig, Sequence[Captured]]":
    when = None if order.time is None else round(order.time.timestamp() * 1e6)
    if order.tag is not None:
        found = sources_of(config, order.tag, order.source, order.device)
        if not found:
            raise ApiError(404, f"no source reads `{order.tag}`")
        if len(found) > 1:
            names = ", ".join(f"{one.name} ({row.device_id}/{row.address})" for one, row in found)
            raise ApiError(422, f"`{order.tag}` may be meant in several places, say more, or the source: {names}")
        (one, row), *_ = found
        return one, [Sample(row, order.value, order.quality, when)]
    alone = len(config.sources) == 1 and not order.source
    source = config.sources[0] if alone else source_named(config, order.source)
    if source is None:
        known = ", ".join(one.name for one in config.sources) or "none"
        raise ApiError(422, f"name the source; the configuration has: {known}", [("/body/source", "is needed")])
    if order.message is not None:
        return source, [_message(one) for one in [*order.before, order.message]]
    registers = order.registers
    assert registers is not None  # noqa: S101 - one of the three is given
    return source, [Registers(registers.first, tuple(registers.words), registers.table, registers.unit_id, when)]


def _message(said: CapturedMessage) -> Message:
    try:
        payload = base64.b64decode(said.payload, validate=True) if said.base64 else said.payload.encode()
    except (binascii.Error, ValueError) as error:
        raise ApiError(422, "the payload is not base64", [("/body/message/payload", str(error))]) from error
    return Message(said.topic, payload, said.retained)
