"""One quality scale for all protocols: what each says about a value, as a `Quality`.

The rule behind every table here:

* GOOD, UNCERTAIN and BAD are the protocol's own severity, never softened.
* STALE means that *the way to the device* is what failed: there may be a last value, but nobody knows whether it still
  holds. A time-out, a closed connection, a Sparkplug death.
* ALARM is said by a device in words or by a tag mapping; no protocol has a code for it.

The protocol's own code stays in the reading's ``status``, so nothing is lost by the mapping.
"""

import re
from typing import Final

from normalization.reading import Quality

# OPC UA codes that say "no way to the device" (OPC 10000-4 clause 7.39, OPC 10000-8 clause 7.3.2), without the info bits.
# BadNoCommunication is "defined, but not established"; UncertainNoCommunicationLastUsableValue carries the last value.
# Not here, so with their severity: UncertainLastUsableValue (the specification says that it does not mean stale),
# BadNotConnected (was never configured), BadWaitingForInitialData (nothing was ever read), BadOutOfService.
_OPCUA_STALE: Final = {
    0x408F0000: "UncertainNoCommunicationLastUsableValue",
    0x80050000: "BadCommunicationError",
    0x800A0000: "BadTimeout",
    0x800C0000: "BadShutdown",
    0x800D0000: "BadServerNotConnected",
    0x800E0000: "BadServerHalted",
    0x80250000: "BadSessionIdInvalid",
    0x80260000: "BadSessionClosed",
    0x80310000: "BadNoCommunication",
    0x80850000: "BadRequestTimeout",
    0x80860000: "BadSecureChannelClosed",
    0x80AC0000: "BadConnectionRejected",
    0x80AD0000: "BadDisconnect",
    0x80AE0000: "BadConnectionClosed",
}


def opcua_quality(status: int) -> Quality:
    """Quality of an OPC UA StatusCode (OPC 10000-4 clause 7.39, OPC 10000-8 clause 7.3.2).

    Args:
        status: The 32-bit StatusCode; limit, overflow and other info bits do not count, a signed number is taken as its
            bit pattern.
    """
    if not status & 0xC0000000:
        return Quality.GOOD
    if status & 0xFFFF0000 in _OPCUA_STALE:
        return Quality.STALE
    return Quality.BAD if status & 0x80000000 else Quality.UNCERTAIN  # severity 11 is reserved and counts as bad


def sparkplug_quality(code: int) -> Quality:
    """Quality of a Sparkplug B `Quality` property (0 bad, 192 good, 500 stale).

    Other numbers are not Sparkplug's; edge nodes that pass on a classic OPC quality are understood.
    """
    return Quality.STALE if code == 500 else _classic_quality(code)


_CLASSIC_STALE: Final = {0x14, 0x18}  # bad: last known value, bad: communication failure


def _classic_quality(code: int) -> Quality:
    """Quality of an OPC classic (DA 3.0) quality word: QQSSSSLL in the low byte; unknown numbers are UNCERTAIN."""
    if not 0 <= code <= 0xFFFF:
        return Quality.UNCERTAIN
    if code & 0xFC in _CLASSIC_STALE:
        return Quality.STALE
    return (Quality.BAD, Quality.UNCERTAIN, Quality.UNCERTAIN, Quality.GOOD)[(code & 0xC0) >> 6]


_WORDS: Final = {
    "good": Quality.GOOD, "g": Quality.GOOD, "ok": Quality.GOOD, "valid": Quality.GOOD, "true": Quality.GOOD,
    "normal": Quality.GOOD, "fine": Quality.GOOD, "online": Quality.GOOD,
    "bad": Quality.BAD, "b": Quality.BAD, "invalid": Quality.BAD, "false": Quality.BAD, "error": Quality.BAD,
    "fault": Quality.BAD, "faulty": Quality.BAD, "failure": Quality.BAD, "failed": Quality.BAD, "nok": Quality.BAD,
    "uncertain": Quality.UNCERTAIN, "u": Quality.UNCERTAIN, "questionable": Quality.UNCERTAIN,
    "suspect": Quality.UNCERTAIN, "doubtful": Quality.UNCERTAIN, "estimated": Quality.UNCERTAIN,
    "substituted": Quality.UNCERTAIN, "manual": Quality.UNCERTAIN, "unknown": Quality.UNCERTAIN,
    "stale": Quality.STALE, "old": Quality.STALE, "outdated": Quality.STALE, "expired": Quality.STALE,
    "timeout": Quality.STALE, "timedout": Quality.STALE, "disconnected": Quality.STALE, "offline": Quality.STALE,
    "commfailure": Quality.STALE, "commfail": Quality.STALE, "lastknown": Quality.STALE,
    "badlastknown": Quality.STALE, "badcommfailure": Quality.STALE, "badcommunicationfailure": Quality.STALE,
    "badlastknownvalue": Quality.STALE, "badstale": Quality.STALE, "goodstale": Quality.STALE,
    "uncertainstale": Quality.STALE,
    "alarm": Quality.ALARM, "alert": Quality.ALARM, "inalarm": Quality.ALARM, "alarmed": Quality.ALARM,
} | {name.lower(): Quality.STALE for name in _OPCUA_STALE.values()}  # fmt: skip
_PREFIXES: Final = (
    ("good", Quality.GOOD),
    ("bad", Quality.BAD),
    ("uncertain", Quality.UNCERTAIN),
    ("stale", Quality.STALE),
    ("alarm", Quality.ALARM),
)
_NUMBER: Final = re.compile(r"\s*([+-]?\d{1,12}|0[xX][0-9a-fA-F]{1,8})(?:\.0*)?\s*")


def text_quality(value: str | float) -> Quality:
    """Quality of what a message says in words or numbers: ``good``, ``BadNoCommunication``, ``stale`` or ``192``.

    Words are read without case, spaces and punctuation, and by how they begin (``Good, local override``). Numbers are OPC
    classic qualities (192 good, 64 uncertain, 0 bad) and Sparkplug's 500; those that need more than 16 bits are OPC UA
    StatusCodes. What is not understood is UNCERTAIN.
    """
    if isinstance(value, str):
        number = _NUMBER.fullmatch(value)
        if number is None:
            word = "".join(filter(str.isalnum, value.lower()))
            known = _WORDS.get(word)
            if known is not None:
                return known
            return next((quality for prefix, quality in _PREFIXES if word.startswith(prefix)), Quality.UNCERTAIN)
        value = int(number[1], 0) if number[1][:2].lower() == "0x" else int(number[1])
    if isinstance(value, bool):
        return Quality.GOOD if value else Quality.BAD
    if isinstance(value, float):
        if not value.is_integer():  # NaN and infinities too
            return Quality.UNCERTAIN
        value = int(value)
    if value > 0xFFFF or -(2**31) <= value < 0:
        return opcua_quality(value) if value <= 0xFFFFFFFF else Quality.UNCERTAIN
    return sparkplug_quality(value)


_MODBUS: Final = {
    0: Quality.GOOD,
    5: Quality.UNCERTAIN,  # acknowledge: the device is still working on it
    6: Quality.UNCERTAIN,  # server device busy
    11: Quality.STALE,  # gateway target device failed to respond: a time-out on the other side of the gateway
}


def modbus_quality(exception: int | None) -> Quality:
    """Quality of a Modbus answer (MODBUS Application Protocol 1.1b3 clause 7).

    Args:
        exception: The exception code; 0 when the answer was sound; **None when no answer came** (time-out, connection
            lost), which is STALE.
    """
    return Quality.STALE if exception is None else _MODBUS.get(exception, Quality.BAD)
