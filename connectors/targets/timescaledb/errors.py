"""What went wrong, as the contract's errors: one table of SQLSTATE codes, and one of what libpq says without a code. Pure.

libpq does not tell the code when a connection is refused, only the server's words. Those of an English server are known
here; whatever is not known is worth another try.
"""

import re
from collections.abc import Callable
from typing import Final

import psycopg

from connectors.contract import (
    AuthError,
    CapacityError,
    ConfigError,
    DeliveryError,
    RejectedRecords,
    TransientError,
)

Make = Callable[[str], DeliveryError]


def _rejected(text: str) -> DeliveryError:
    return RejectedRecords([], [text])


# the longest beginning of the code decides; whatever none knows is worth another try
_STATES: Final[dict[str, tuple[Make, str]]] = {
    "0A": (ConfigError, "the table or the server cannot do that: check `table` and the server's version"),
    "21": (_rejected, ""),
    "22": (_rejected, ""),
    "23": (_rejected, ""),
    "25006": (
        TransientError,
        "the server is a standby: name all servers in `endpoint`, with target_session_attrs=read-write",
    ),
    "28": (AuthError, "check username, password and pg_hba.conf"),
    "3D": (ConfigError, "check `database`"),
    "3F": (ConfigError, "check `schema`"),
    "42": (ConfigError, "check `schema` and `table`"),
    "42501": (AuthError, "grant what is missing to the gateway's user"),
    "44": (_rejected, ""),
    "53": (CapacityError, "the server lacks room, memory or connections"),
    "53300": (CapacityError, "the server has no connection free: lower `pool_size` or raise max_connections"),
    "54": (_rejected, ""),
    "54011": (ConfigError, "the table has as many columns as PostgreSQL allows: use `layout: narrow`, or more tables"),
    "55P02": (ConfigError, "that setting cannot be changed now: check `parameters`"),
    "P0": (_rejected, ""),  # what a trigger or a rule of the table's owner raises
}
_WORDS: Final[tuple[tuple[str, Make, str], ...]] = (
    (
        (
            r"authentication failed|no password supplied|no pg_hba\.conf entry|role .* does not exist|"
            r"is not permitted to log in|certificate (required|authentication)|permission denied for database|"
            r"connection requires a valid client certificate|tlsv1 alert|sslv3 alert"
        ),
        AuthError,
        "check username, password, certificate and pg_hba.conf",
    ),
    (
        (
            r"certificate verify failed|does not match host name|server does not support SSL|root certificate file|"
            r"could not (load|read|open) .*(certificate|key)|private key file"
        ),
        ConfigError,
        "check `tls`",
    ),
    (r"database .* does not exist|is not currently accepting connections", ConfigError, "check `database`"),
    (r"too many (clients|connections)|remaining connection slots|connection limit exceeded", CapacityError, ""),
    (r"invalid (connection option|URI|port|integer value|sslmode)|missing \"=\"", ConfigError, "check `endpoint`"),
    (r"could not translate host name|[Nn]ame or service not known", TransientError, "check `endpoint` and DNS"),
)
_LINE: Final = re.compile(r"^COPY \S.*?, line (\d+)\b", re.MULTILINE)


def delivery_error(error: Exception, where: str) -> DeliveryError:
    """The place of an error of psycopg, or of the operating system, in the tree.

    Args:
        error: What was raised.
        where: What was talked to, without secrets.
    """
    state = getattr(error, "sqlstate", None) or ""
    # the rest of what the server says shows readings, which no log is for
    said = error.diag.message_primary if isinstance(error, psycopg.Error) and state else None
    text = f"{where}: {' '.join((said or str(error)).split())[:600] or type(error).__name__}"
    for size in (5, 2):
        if (known := _STATES.get(state[:size])) is not None:
            make, advice = known
            return make(f"{text} ({advice})" if advice else text)
    if not state:
        for pattern, make, advice in _WORDS:
            if re.search(pattern, str(error)):
                return make(f"{text} ({advice})" if advice else text)
    return TransientError(text)


def rejected(error: Exception, where: str, row: int | None) -> DeliveryError:
    """The place of an error of a COPY of readings in the tree, with the reading at fault where the server names it.

    Args:
        error: What was raised.
        where: What was talked to.
        row: See `copied_row`.
    """
    found = delivery_error(error, where)
    if isinstance(found, RejectedRecords) and row is not None:
        return RejectedRecords([row], found.reasons)
    return found


def copied_row(error: Exception) -> int | None:
    """The row of a COPY, from 0, that the server names as the one at fault; None when it names none."""
    if not isinstance(error, psycopg.Error) or not error.diag.context:
        return None
    found = _LINE.search(error.diag.context)
    return int(found[1]) - 1 if found else None
