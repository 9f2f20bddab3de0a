"""What went wrong, as the contract's errors: one table of AMQP 0.9.1's reply codes, and one of the network's words. Pure."""

import re
from collections.abc import Callable, Sequence
from typing import Final

from connectors.contract import (
    AuthError,
    CapacityError,
    ConfigError,
    DeliveryError,
    RejectedRecords,
    TransientError,
)
from connectors.targets.amqp.connection import Closed, Returned

Make = Callable[[str], DeliveryError]


def rejected(text: str) -> DeliveryError:
    """A message that the broker will never take; which one it does not say."""
    return RejectedRecords([], [text])


_CODES: Final[dict[int, tuple[Make, str]]] = {
    311: (rejected, ""),
    312: (ConfigError, "bind a queue to the exchange, or set `mandatory: false`"),
    313: (TransientError, ""),
    320: (TransientError, ""),
    402: (ConfigError, "check `vhost`"),
    403: (AuthError, "check username, password and the user's rights"),
    404: (ConfigError, "check `exchange` and `queue`, or let them be made with `declare: auto`"),
    405: (ConfigError, "another connection owns that queue: check `queue`"),
    406: (ConfigError, "what is there differs from the settings: correct them, or set `declare: passive`"),
    506: (CapacityError, "the broker lacks memory, disk or connections"),
    530: (ConfigError, "check `vhost`"),
    540: (ConfigError, "check `version` and `mechanism`"),
}
# what the text says goes before the code
_WORDS: Final[tuple[tuple[str, Make, str], ...]] = (
    (r"refused for user|refused login|login refused", AuthError, "check username, password and the user's rights"),
    (r"connection limit|limit .*(is )?(exceeded|reached)|reached.*limit", CapacityError, "raise the broker's limit"),
    (r"(?s)message size \d+.*max size", rejected, ""),
    (r"[Cc]ertificate verify failed|certificate has expired|CERTIFICATE_VERIFY_FAILED|Hostname mismatch",
     ConfigError, "check `tls`, and the certificate of the broker"),
    (r"alert (unknown ca|bad certificate|certificate)|ALERT_\w*CERTIFICATE", AuthError, "the broker refuses the certificate of `tls`"),
    (r"WRONG_VERSION_NUMBER|wrong version number|record layer failure", ConfigError, "the broker does not speak TLS on that port"),
    (r"speaks another protocol", ConfigError, "check the port, and `version`"),
)  # fmt: skip
_TOO_LARGE: Final = re.compile(r"message size \d+\D+max size (\d+)")


def delivery_error(error: Exception, where: str) -> DeliveryError:
    """The place of what has ended a connection or a channel in the tree.

    Args:
        error: What was raised.
        where: What was talked to, without secrets.
    """
    code = error.code if isinstance(error, Closed) else 0
    said = " ".join(str(error).split())[:600] or type(error).__name__
    text = f"{where}: {said}"
    for pattern, make, advice in _WORDS:
        if re.search(pattern, said):
            return make(f"{text} ({advice})" if advice else text)
    if (known := _CODES.get(code)) is not None:
        make, advice = known
        return make(f"{text} ({advice})" if advice else text)
    return TransientError(text)


def unroutable(found: Sequence[Returned], count: int, where: str) -> DeliveryError:
    """What is raised for messages that came back.

    Args:
        found: The first of them.
        count: How many there are.
        where: What was talked to.
    """
    places = sorted({(one.exchange, one.routing_key) for one in found})
    named = ", ".join(f"exchange `{exchange}` with routing key `{key}`" for exchange, key in places)
    more = "" if count <= len(found) else f" and {count - len(found)} more messages"
    first = found[0]
    make, advice = _CODES.get(first.code, (TransientError, ""))
    text = f"{where}: {count} messages came back, {first.text} ({first.code}): {named}{more}"
    return make(f"{text} ({advice})" if advice else text)


def largest(error: Exception) -> int | None:
    """The size that a message may have, when the broker has refused one for its size; else None."""
    found = _TOO_LARGE.search(str(error))
    return int(found[1]) if found else None
