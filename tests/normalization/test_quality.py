from typing import Any

import pytest
from asyncua.ua.status_codes import StatusCodes, get_name_and_doc
from hypothesis import given
from hypothesis import strategies as st

from normalization.quality import modbus_quality, opcua_quality, sparkplug_quality, text_quality
from normalization.reading import Quality

GOOD, UNCERTAIN, BAD, STALE, ALARM = Quality


@pytest.mark.parametrize(
    ("status", "quality"),
    [
        (StatusCodes.Good, GOOD),
        (StatusCodes.GoodLocalOverride, GOOD),
        (StatusCodes.GoodClamped, GOOD),
        (StatusCodes.Uncertain, UNCERTAIN),
        (StatusCodes.UncertainLastUsableValue, UNCERTAIN),
        (StatusCodes.UncertainSubstituteValue, UNCERTAIN),
        (StatusCodes.UncertainSensorNotAccurate, UNCERTAIN),
        (StatusCodes.UncertainNoCommunicationLastUsableValue, STALE),
        (StatusCodes.Bad, BAD),
        (StatusCodes.BadWaitingForInitialData, BAD),
        (StatusCodes.BadNotConnected, BAD),
        (StatusCodes.BadOutOfService, BAD),
        (StatusCodes.BadSensorFailure, BAD),
        (StatusCodes.BadNoCommunication, STALE),
        (StatusCodes.BadTimeout, STALE),
        (StatusCodes.BadConnectionClosed, STALE),
        (StatusCodes.BadServerNotConnected, STALE),
        (0xC0000000, BAD),
    ],
)
def test_opcua_status_codes(status: Any, quality: Any) -> None:
    assert opcua_quality(status) is quality


@given(st.integers(0, 2**32 - 1))
def test_opcua_severity_is_never_softened_and_info_bits_do_not_count(status: Any) -> None:
    quality = opcua_quality(status)
    severity = status >> 30
    assert (quality is GOOD) == (severity == 0)
    assert quality is not ALARM
    if quality is UNCERTAIN:
        assert severity == 1
    assert opcua_quality(status ^ 0x0480) is quality
    assert opcua_quality(status - 2**32) is quality


def test_every_opcua_code_that_is_stale_is_about_the_way_to_the_device() -> None:
    words = ("Communication", "Timeout", "Shutdown", "Halted", "Session", "Connect", "Channel", "Disconnect")
    stale = [name for name, code in vars(StatusCodes).items() if isinstance(code, int) and opcua_quality(code) is STALE]
    assert len(stale) == 14
    assert all(any(word in name for word in words) for name in stale)
    assert all(text_quality(name) is STALE for name in stale)


@pytest.mark.parametrize(("code", "quality"), [(0, BAD), (192, GOOD), (500, STALE), (64, UNCERTAIN), (-7, UNCERTAIN)])
def test_sparkplug_quality(code: Any, quality: Any) -> None:
    assert sparkplug_quality(code) is quality


@pytest.mark.parametrize(
    ("exception", "quality"),
    [(None, STALE), (0, GOOD), (1, BAD), (2, BAD), (3, BAD), (4, BAD), (5, UNCERTAIN), (6, UNCERTAIN), (8, BAD)],
)
def test_modbus_quality(exception: Any, quality: Any) -> None:
    assert modbus_quality(exception) is quality


@pytest.mark.parametrize(
    ("quality", "spellings"),
    [
        (
            GOOD,
            ["good", "GOOD", " Good ", "ok", "Valid", "Good, local override", "GoodClamped", 192, 216, "192", 192.0],
        ),
        (GOOD, [True, "true", "0xC0"]),
        (BAD, ["bad", "BAD", "Bad [Sensor Failure]", "invalid", "fault", 0, "0", 8, 16, False, 0.0, "BadOutOfService"]),
        (UNCERTAIN, ["uncertain", "questionable", "Uncertain_SubNormal", 64, "64", 80, "???", "", "gut", 1.5]),
        (UNCERTAIN, [float("nan"), float("inf"), 10**30, -(10**30), "99999999999"]),
        (
            STALE,
            ["stale", "STALE", "old", "time-out", "timed out", "Bad_NoCommunication", "Bad, last known", 20, 24, 500],
        ),
        (STALE, ["UncertainNoCommunicationLastUsableValue", "offline", 0x80310000, "0x80310000", "2150694912"]),
        (ALARM, ["alarm", "ALARM", "in alarm", "Alarm: high"]),
    ],
)
def test_words_and_numbers_of_messages(quality: Any, spellings: Any) -> None:
    for spelling in spellings:
        assert text_quality(spelling) is quality, spelling


@given(st.one_of(st.text(), st.integers(), st.floats(), st.booleans()))
def test_any_text_or_number_has_a_quality(value: Any) -> None:
    assert text_quality(value) in Quality


def test_opcua_names_agree_with_their_numbers() -> None:
    for name, code in vars(StatusCodes).items():
        if isinstance(code, int) and code:
            assert text_quality(name) is opcua_quality(code), (name, get_name_and_doc(code))
