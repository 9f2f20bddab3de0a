"""What the answers of InfluxDB mean: each is one that a real server gave, or that its documentation shows."""

import json
from typing import Any

import pytest

from connectors.contract import AuthError, CapacityError, ConfigError, DeliveryError, RejectedRecords, TransientError
from connectors.targets.influxdb.errors import Answer, delivery_error, fault, read_answer

LINES = [b"m value=1 1\n", b"m value_int=2i 2\n", b'm value_text="a\nb" 3\n', b"m value_int=4i 4\n"]
BY_FIELD = {"value": [0], "value_int": [1, 3], "value_text": [2]}
CONFLICT = (
    'partial write: field type conflict: input field "value_int" on measurement "m" is type integer, already exists as '
    "type float dropped="
)


def answer(status: int, body: Any, **headers: str) -> Answer:
    said = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_answer(status, {k.replace("_", "-"): v for k, v in headers.items()}, said, now=1_700_000_000.0)


def at_fault(found: Answer) -> tuple[list[int], bool] | None:
    told = fault(found, lambda: LINES, lambda name: BY_FIELD.get(name, range(len(LINES))))
    return None if told is None else (sorted(told.reasons), told.rest_written)


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (401, {"error": "authorization failed"}, AuthError, "check username, password and token"),
        (401, {"code": "unauthorized", "message": "unauthorized access"}, AuthError, "check username"),
        (403, {"error": '"x" user is not authorized to write to database "d"'}, AuthError, "grant"),
        (404, {"error": 'database not found: "d"'}, ConfigError, "`create: auto`"),
        (404, {"code": "not found", "message": 'bucket "b" not found'}, ConfigError, "`bucket`"),
        (400, {"code": "invalid", "message": "invalid precision; valid precision units are ns, us, ms, and s"}, ConfigError, "settings"),
        (500, {"error": "retention policy not found: rp"}, ConfigError, "`retention_policy`"),
        (429, {"code": "too many requests", "message": "rate limited"}, CapacityError, "rate limited"),
        (503, b"<html>busy</html>", CapacityError, "busy"),
        (500, {"error": "engine: cache-max-memory-size exceeded: (1/2)"}, CapacityError, "cache"),
        (500, {"error": "write failed: no space left on device"}, CapacityError, "no space"),
        (500, {"error": "timeout"}, TransientError, "timeout"),
        (400, {"error": "partial write: shard 3 is pending deletion dropped=4"}, TransientError, "pending deletion"),
        (502, b"", TransientError, "without a word"),
        (302, b"", ConfigError, "elsewhere"),
        (200, b"<html>login</html>", ConfigError, "answers 204"),
        (400, b"<html>proxy</html>", ConfigError, "check `url`"),
        (405, b"", ConfigError, "`version`"),
    ],
)  # fmt: skip
def test_an_answer_that_is_not_about_lines_has_its_place_in_the_tree(
    status: int, body: Any, kind: type[DeliveryError], words: str
) -> None:
    found = answer(status, body)
    assert at_fault(found) is None
    error = delivery_error(found, "http://influx:8086")
    assert type(error) is kind
    assert words in str(error)
    assert str(error).startswith("http://influx:8086: HTTP ")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("120", 120.0), ("0.5", 0.5), ("Tue, 14 Nov 2023 22:13:30 GMT", 10.0), ("soon", None), (None, None)],
)
def test_a_throttled_write_waits_as_long_as_the_server_says(header: str | None, seconds: float | None) -> None:
    for status in (429, 503):
        error = delivery_error(answer(status, b"", **({"Retry_After": header} if header else {})), "x")
        assert isinstance(error, CapacityError)
        assert error.retry_after == seconds


def test_a_conflict_of_types_is_told_by_the_field_when_its_count_fits() -> None:
    assert at_fault(answer(400, {"error": f"{CONFLICT}2"})) == ([1, 3], True)
    message = f"failure writing points to database: {CONFLICT}2"
    assert at_fault(answer(422, {"code": "unprocessable entity", "message": message})) == ([1, 3], True)


def test_where_only_some_lines_of_a_field_were_dropped_it_is_not_told_which() -> None:
    assert at_fault(answer(400, {"error": f"{CONFLICT}1"})) == ([], True)


def test_all_lines_are_at_fault_when_all_were_dropped() -> None:
    beyond = "partial write: points beyond retention policy dropped=4"
    assert at_fault(answer(400, {"error": beyond})) == ([0, 1, 2, 3], True)
    beyond = "partial write: dropped 4 points outside retention policy of duration 1h0m0s dropped=4"
    assert at_fault(answer(422, {"message": beyond})) == ([0, 1, 2, 3], True)


def test_lines_that_cannot_be_parsed_are_known_by_their_text() -> None:
    both = "unable to parse 'm value=1 1': bad\nunable to parse 'm value_text=\"a\nb\" 3': worse"
    assert at_fault(answer(400, {"error": f"partial write: {both} dropped=0"})) == ([0, 2], True)
    found = answer(400, {"code": "invalid", "message": both})
    assert at_fault(found) == ([0, 2], False)  # 2.x writes nothing of the request
    told = fault(found, lambda: LINES, lambda _: [])
    assert told is not None
    assert told.reasons[0] == "unable to parse 'm value=1 1': bad"


def test_a_text_that_is_none_of_the_lines_names_none_of_them() -> None:
    """Else lines that were refused too would pass for written."""
    both = "unable to parse 'm value=1 1': bad\nunable to parse 'something else': worse"
    assert at_fault(answer(400, {"error": f"partial write: {both} dropped=0"})) == ([], True)


def test_lines_that_are_numbered_are_taken_by_their_number() -> None:
    data = [{"original_line": "", "line_number": n, "error_message": f"bad {n}"} for n in (2, 4)]
    found = answer(400, {"error": "partial write of line protocol occurred", "data": data})
    assert at_fault(found) == ([1, 3], True)
    one = answer(400, {"error": "parsing failed for write_lp endpoint", "data": data[0]})
    assert at_fault(one) == ([1], False)
    out = answer(400, {"error": "partial write of line protocol occurred", "data": [{"line_number": 9}]})
    assert at_fault(out) == ([], True)


def test_a_body_that_is_too_large_is_halved_until_one_line_is_left() -> None:
    found = answer(413, {"error": "Request Entity Too Large"})
    assert at_fault(found) == ([], True)
    told = fault(found, lambda: LINES[:1], lambda _: [])
    assert told is not None
    assert list(told.reasons) == [0]


def test_only_data_is_rejected() -> None:
    assert not isinstance(delivery_error(answer(400, {"error": "whatever"}), "x"), RejectedRecords)
    assert at_fault(answer(400, {"error": "whatever"})) == ([], False)
