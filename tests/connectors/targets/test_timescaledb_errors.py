"""What PostgreSQL and libpq say, as the contract's errors."""

import psycopg
import pytest
from psycopg import errors

from connectors.contract import (
    AuthError,
    CapacityError,
    ConfigError,
    DeliveryError,
    RejectedRecords,
    TransientError,
)
from connectors.targets.timescaledb.errors import delivery_error


@pytest.mark.parametrize(
    ("kind", "states"),
    [
        (AuthError, ["28P01", "28000", "42501"]),
        (ConfigError, ["3D000", "3F000", "42P01", "42703", "42804", "42P10", "0A000"]),
        (CapacityError, ["53100", "53200", "53300", "53400"]),
        (RejectedRecords, ["22003", "22021", "22P05", "23502", "23503", "23505", "23514", "54000", "P0001", "44000"]),
        (
            TransientError,
            ["08006", "25006", "40001", "40P01", "55P03", "57014", "57P01", "57P03", "58030", "XX000", "F0000"],
        ),
    ],
)
def test_codes_of_the_server_have_their_place(kind: type[DeliveryError], states: list[str]) -> None:
    for state in states:
        assert type(delivery_error(errors.lookup(state)("no"), "here")) is kind, state


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (AuthError, 'FATAL:  password authentication failed for user "bifrost"'),
        (AuthError, 'FATAL:  role "bifrost" does not exist'),
        (
            AuthError,
            'FATAL:  no pg_hba.conf entry for host "10.0.0.5", user "bifrost", database "plant", no encryption',
        ),
        (ConfigError, 'FATAL:  database "plant" does not exist'),
        (ConfigError, "SSL error: certificate verify failed"),
        (ConfigError, 'server certificate for "a" does not match host name "b"'),
        (CapacityError, "FATAL:  sorry, too many clients already"),
        (CapacityError, "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute"),
        (TransientError, "Connection refused"),
        (TransientError, "FATAL:  the database system is starting up"),
        (TransientError, "server closed the connection unexpectedly"),
        (TransientError, "FATAL:  Passwort-Authentifizierung fehlgeschlagen"),
    ],
)
def test_words_of_libpq_have_their_place(kind: type[DeliveryError], said: str) -> None:
    found = delivery_error(psycopg.OperationalError(f"connection failed: {said}"), "postgresql://db")
    assert type(found) is kind
    assert "postgresql://db" in str(found) or isinstance(found, RejectedRecords)
