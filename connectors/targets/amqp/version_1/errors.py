"""What went wrong, as the contract's errors: one table of AMQP 1.0's error conditions, and the outcomes of deliveries. Pure."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from connectors.contract import AuthError, CapacityError, ConfigError, DeliveryError, RejectedRecords, TransientError
from connectors.targets.amqp.connection import Closed
from connectors.targets.amqp.errors import Make, delivery_error, rejected
from connectors.targets.amqp.version_1.connection import Ended
from connectors.targets.amqp.version_1.types import Described

_ACCEPTED, _REJECTED, _RELEASED, _MODIFIED = 0x24, 0x25, 0x26, 0x27

_CONDITIONS: Final[dict[str, tuple[Make, str]]] = {
    "amqp:unauthorized-access": (AuthError, "check username, password and the user's rights"),
    "amqp:not-found": (ConfigError, "check `address`"),
    "amqp:not-allowed": (ConfigError, "check `address` and the user's rights"),
    "amqp:not-implemented": (ConfigError, "check `version`, `mechanism` and `address`"),
    "amqp:invalid-field": (ConfigError, "check `address`"),
    "amqp:precondition-failed": (ConfigError, "check `address`"),
    "amqp:resource-locked": (ConfigError, "somebody has `address` for himself alone"),
    "amqp:resource-deleted": (ConfigError, "make it anew, or check `address`"),
    "amqp:link:redirect": (ConfigError, "it is elsewhere: check `endpoint`"),
    "amqp:connection:redirect": (ConfigError, "it is elsewhere: check `endpoint`"),
    "amqp:resource-limit-exceeded": (CapacityError, "it is full"),
    "com.microsoft:server-busy": (CapacityError, ""),
    "amqp:link:message-size-exceeded": (rejected, ""),
    "amqp:decode-error": (rejected, ""),
}


def ended_error(error: Exception, where: str) -> DeliveryError:
    """The place of what has ended a connection, a session or a link in the tree.

    Args:
        error: What was raised.
        where: What was talked to, without secrets.
    """
    condition = error.condition if isinstance(error, Ended) else ""
    known = _CONDITIONS.get(condition)
    if known is None:
        return delivery_error(error if not isinstance(error, Ended) else Closed(0, str(error)), where)
    make, advice = known
    text = f"{where}: {' '.join(str(error).split())[:600]}"
    return make(f"{text} ({advice})" if advice else text)


def judged(outcomes: Sequence[Described], rows: Sequence[np.ndarray], where: str) -> DeliveryError | None:
    """What is raised for the outcomes of a unit; None when all was accepted.

    A message that the peer releases or gives back modified is sent again, with the whole unit; so is one that it rejects for
    a reason that is not the message's own. Only what remains are rejected readings.

    Args:
        outcomes: An outcome per message.
        rows: The rows of the batch that each message carries.
        where: What was talked to.
    """
    bad: dict[int, str] = {}
    for outcome, readings in zip(outcomes, rows, strict=True):
        if outcome.code == _ACCEPTED:
            continue
        error = outcome.field(0) if outcome.code == _REJECTED else None
        condition, said = (error.field(0) or "", error.field(1) or "") if isinstance(error, Described) else ("", "")
        if outcome.code != _REJECTED:
            gone = outcome.code == _MODIFIED and outcome.field(1)
            what = "gave a message back, not to be sent to it again" if gone else "gave a message back"
            return TransientError(f"{where}: the broker {what}; nobody takes it there now, or a queue is full")
        make, advice = _CONDITIONS.get(condition, (rejected, ""))
        reason = " ".join(f"{said} ({condition})".split()) if condition else "the broker rejected it without a reason"
        if make is not rejected:
            return make(f"{where}: {reason} ({advice})" if advice else f"{where}: {reason}")
        bad |= dict.fromkeys(readings.tolist(), reason)
    if not bad:
        return None
    found = sorted(bad)
    return RejectedRecords(found, [bad[row] for row in found], rest_written=True)
