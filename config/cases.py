"""Tests of a configuration, as a user writes them: what comes from a source, and what is expected to become of it."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from config.schema import plain
from config.yaml_nodes import Place, Problem, ProblemsError, compose, construct, dotted, find, place_of
from connectors.dry_run import Table
from connectors.fields import Settings

RECEIVED: Final = datetime(2026, 1, 1, tzinfo=UTC)


class RegistersGiven(Settings):
    """What a Modbus device answers."""

    first: int = Field(ge=0, le=65535, description="first address, from 0 as on the wire")
    words: list[int] = Field(min_length=1, description="what stands there and behind: registers of 16 bits, or bits")
    table: Table = Field("holding", description="table that they are of: holding, input, coil or discrete")
    unit_id: int | None = Field(None, ge=0, le=255, description="device on the line; the source's when absent")


class Given(Settings):
    """What comes from a device: a tag with a value, a message of a topic, or registers."""

    tag: str | None = Field(None, description="address, name, device/address or ISA-95 path of a tag; with `value`")
    value: Any = Field(None, description="its value")
    quality: str | int = Field("", description="its quality in words or as the protocol's number; good when absent")
    type: str = Field("", description="type that OPC UA gives the value, e.g. Float; by the value when absent")
    unit: str = Field("", description="unit that the device gives")
    device: str = Field("", description="device as its protocol names it; needed for Sparkplug metrics only")
    topic: str | None = Field(None, description="topic of a message; with a payload")
    payload: Any = Field(None, description="its payload: a text as it is, anything else as JSON")
    payload_base64: str | None = Field(None, description="its payload in base64, instead")
    payload_file: Path | None = Field(None, description="file with its payload, instead")
    retained: bool = Field(False, description="whether the broker had kept the message")
    registers: RegistersGiven | None = Field(None, description="captured Modbus registers")
    time: datetime | None = Field(None, description="when it was measured, as far as the payload does not say; UTC")
    received: datetime = Field(RECEIVED, description="when the gateway receives it; UTC where no zone is said")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [key for key in ("tag", "topic", "registers") if getattr(self, key) is not None]
        if len(kinds) != 1:
            raise ValueError("needs one of `tag`, `topic` and `registers`")
        payloads = {"payload", "payload_base64", "payload_file"} & self.model_fields_set
        if len(payloads) != (self.topic is not None):
            raise ValueError("a `topic` has one of `payload`, `payload_base64` and `payload_file`, nothing else has")
        if (self.tag is None) == ("value" in self.model_fields_set):
            raise ValueError("`value` goes with `tag`, and `tag` with `value`; write `value: null` for none")
        _ = self.payload_bytes if self.payload_base64 is not None else b""
        return self

    @property
    def payload_bytes(self) -> bytes:
        """The payload of the message.

        Raises:
            ValueError: It is not base64.
            OSError: Its file cannot be read.
        """
        if self.payload_file is not None:
            return self.payload_file.read_bytes()
        if self.payload_base64 is not None:
            try:
                return base64.b64decode(self.payload_base64, validate=True)
            except binascii.Error:
                raise ValueError("`payload_base64` is not base64") from None
        if isinstance(self.payload, str):
            return self.payload.encode()
        import msgspec

        return msgspec.json.encode(self.payload)


class Input(Given):
    """What comes from which source."""

    source: str = Field(
        "", description="name of the source; the one that reads such a tag, or the only one, when absent"
    )


class WrittenExpected(Settings):
    """What a target is expected to be given; what is not said is not looked at."""

    place: str | None = Field(None, description="topic, table, file or address")
    payload: Any = Field(
        None,
        description="a text: the whole payload, but for a line feed at its end; a mapping or list: what the payload says as "
        "JSON, of mappings the keys that are named",
    )
    payload_base64: str | None = Field(None, description="the whole payload in base64")
    fields: dict[str, Any] = Field(
        {}, description="columns of the row, or what goes beside the payload (key, headers …)"
    )


class Expected(Settings):
    """What is expected of one reading; what is not said is not looked at."""

    path: str | None = Field(None, description="ISA-95 path")
    tag_name: str | None = Field(None, description="name of the tag")
    device: str | None = Field(None, description="device")
    value: Any = Field(None, description="value after normalizing; numbers may differ by a billionth")
    unit: str | None = Field(None, description="unit; empty for none")
    type: str | None = Field(None, description="type: NULL, BOOLEAN, INT64, UINT64, DOUBLE, TEXT, BYTES or JSON")
    quality: str | None = Field(None, description="quality: GOOD, UNCERTAIN, BAD, STALE or ALARM")
    status: int | None = Field(None, description="the protocol's own status code")
    time: datetime | None = Field(None, description="when it was measured; UTC where no zone is said")
    priority: int | None = Field(None, description="priority that the rules give")
    pattern: str | None = Field(None, description="`match` of the mapping that took the tag")
    rules: list[str] | None = Field(None, description="rules that match, all of them, in any order")
    targets: list[str] | None = Field(None, description="targets that get it, all of them, in any order")
    written: dict[str, WrittenExpected] = Field({}, description="by target: something that it is given")
    refused: dict[str, str] = Field({}, description="by target: a part of why it can never be written there")
    dead_letter: str | None = Field(None, description="a part of why it becomes a dead letter")
    left_out: str | None = Field(
        None, description="a part of why it goes nowhere: `report by exception: deadband`, or `no rule`"
    )


class Case(Settings):
    """One test: what comes in, and what is expected to come of it."""

    name: str = Field(min_length=1, description="what holds, in words; unique in its file")
    given: Input = Field(description="what comes from the device")
    before: list[Given] = Field(
        [], description="what came from the same source before, e.g. births or values that passed"
    )
    expect: Expected | list[Expected] = Field(
        description="what is expected of the reading; a list where there are several, in their order, empty for none"
    )


class CasesFile(Settings):
    """A file of tests."""

    config_tests: list[Case] = Field(min_length=1, description="the tests")


@dataclass(frozen=True, slots=True)
class Cases:
    """A file of tests that has been checked.

    Attributes:
        path: The file.
        cases: Its tests.
        root: Its nodes, which know their places.
    """

    path: Path
    cases: tuple[Case, ...]
    root: yaml.Node

    def place(self, number: int, *path: str | int) -> Place:
        """Where something stands that belongs to a case, or the last on the way there that does."""
        return place_of(find(self.root, ("config_tests", number, *path)))


def load_cases(path: Path) -> Cases:
    """The tests in a file.

    Raises:
        ProblemsError: All that is wrong with it.
    """
    root, problems = compose(path)
    if not isinstance(root, yaml.MappingNode):
        place = Place(str(path), 1, 1)
        raise ProblemsError([*problems, Problem(place, "", "the file must be a mapping with the key `config_tests`")])
    values, more = construct(root, lambda _: True)
    problems += more
    try:
        file = CasesFile.model_validate(values)
    except ValidationError as error:
        raise ProblemsError([*problems, *(_problem(root, one) for one in error.errors(include_url=False))]) from error
    names = [case.name for case in file.config_tests]
    for number, name in enumerate(names):
        if name in names[:number]:
            where = ("config_tests", number, "name")
            problems.append(Problem(place_of(find(root, where)), dotted(where), f"`{name}` stands twice"))
    if problems:
        raise ProblemsError(problems)
    return Cases(path, tuple(file.config_tests), root)


def _problem(root: yaml.Node, error: Any) -> Problem:
    """What pydantic says, at its place; the names of the kinds that `expect` may have are left out of the path."""
    path: Sequence[str | int] = [part for part in error["loc"] if part not in ("Expected", "list[Expected]")]
    extra = error["type"] == "extra_forbidden"
    said = f"there is no key `{path[-1]}`" if extra else plain(error["msg"])
    return Problem(place_of(find(root, path, key=extra)), dotted(path), said)
