"""From the bytes of a payload to a document: JSON, plain text, CBOR, MessagePack. Pure."""

import io
import json
import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from connectors.sources.mqtt.paths import MISSING

MOST_READINGS: Final = 250_000
"""Readings of one message. One with more is a reject, so that a few bytes a reading do not fill the memory."""
_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_WORDS: Final = {
    "true": True, "false": False, "nan": math.nan, "inf": math.inf, "infinity": math.inf, "-inf": -math.inf,
    "-infinity": -math.inf, "+inf": math.inf, "null": None,
}  # fmt: skip
_CBOR_DEPTH: Final = 64
_LONGEST_NUMBER: Final = 128


def parse_json(payload: bytes) -> Any:
    """The JSON document in `payload`; NaN and Infinity, which JSON does not have, are taken as well.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        return msgspec.json.decode(payload)
    except (msgspec.DecodeError, RecursionError) as error:
        try:
            document = json.loads(payload)
            json.dumps(document, ensure_ascii=False).encode()  # half a surrogate pair is no text that can be stored
            return document
        except (ValueError, RecursionError):
            raise ValueError(f"not JSON: {error}") from None


def parse_plain(payload: bytes) -> Any:
    """The number, boolean or text in `payload`.

    Raises:
        ValueError: It is not UTF-8.
    """
    try:
        return parse_text(payload.decode())
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None


def parse_text(text: str) -> Any:
    """The number, boolean or text that `text` is."""
    word = text.strip()
    if _NUMBER.fullmatch(word):
        if word.lstrip("+-").isdigit() and len(word) < 400:
            return int(word)
        number = float(word)
        return number if math.isfinite(number) else text
    known = _WORDS.get(word.lower(), MISSING)
    return text if known is MISSING else known


def parse_auto(payload: bytes) -> Any:
    """JSON where the payload looks like it, else plain text.

    Raises:
        ValueError: It is neither.
    """
    first = payload.lstrip()[:1]
    if first in {b"{", b"["}:
        return parse_json(payload)
    if first == b'"':
        try:
            return parse_json(payload)
        except ValueError:
            pass  # text that begins with a quotation mark
    return parse_plain(payload)


def parse_msgpack(payload: bytes) -> Any:
    """The MessagePack document in `payload`.

    Raises:
        ValueError: It is none.
    """
    try:
        return msgspec.msgpack.decode(payload)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise ValueError(f"not MessagePack: {error}") from None


def parse_cbor(payload: bytes) -> Any:
    """The CBOR document in `payload`. Tags that only say what kind of text or number follows are left out.

    Raises:
        ValueError: It is none.
    """
    import cbor2

    stream = io.BytesIO(payload)
    try:
        document = cbor2.CBORDecoder(
            stream, tag_hook=_untagged, semantic_decoders=_CBOR_TAGS, max_depth=_CBOR_DEPTH
        ).decode()
    except (cbor2.CBORError, ValueError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"not CBOR: {error}") from None
    if stream.tell() != len(payload):
        raise ValueError(f"not CBOR: {len(payload) - stream.tell()} more bytes at its end")
    return document


def _untagged(tag: Any, _immutable: bool) -> Any:
    return _thawed(tag.value)


def _as_it_is(value: Any, _immutable: bool) -> Any:
    return _thawed(value)


def _thawed(value: Any) -> Any:
    """What cbor2 makes of a document within a tag, as it is made without."""
    if isinstance(value, Mapping):
        return {key: _thawed(item) for key, item in value.items()}
    return [_thawed(item) for item in value] if isinstance(value, tuple) else value


def _natural(value: Any, _immutable: bool) -> int:
    if not isinstance(value, bytes) or len(value) > _LONGEST_NUMBER:
        raise ValueError(f"a number of more than {_LONGEST_NUMBER} bytes")
    return int.from_bytes(value)


def _negative(value: Any, immutable: bool) -> int:
    return -1 - _natural(value, immutable)


def _refused(_value: Any, _immutable: bool) -> Any:
    raise ValueError("references within a document")


# numbers of any length take any time, references make documents that contain themselves, and patterns, messages and sets are
# not wanted as Python's objects
_CBOR_TAGS: Final[dict[int, Callable[[Any, bool], Any]]] = {
    2: _natural,
    3: _negative,
    **dict.fromkeys((25, 28, 29, 256), _refused),
    **dict.fromkeys((35, 36, 258), _as_it_is),
}

PARSERS: Final[dict[str, Callable[[bytes], Any]]] = {
    "auto": parse_auto,
    "json": parse_json,
    "plain": parse_plain,
    "cbor": parse_cbor,
    "msgpack": parse_msgpack,
}


def storable(value: Any) -> Any:
    """A value as readings can have it, where a format knows more types than JSON."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, msgspec.msgpack.Ext):
        return bytes(value.data)
    if value is None or isinstance(value, bool | int | float | str | bytes | bytearray | list | tuple | dict):
        return value
    import cbor2

    if value is cbor2.undefined:
        return None
    return value.value if isinstance(value, cbor2.CBORSimpleValue) else str(value)
