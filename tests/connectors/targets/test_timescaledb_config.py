"""How the settings of TimescaleDB are read, and what libpq is told."""

from pathlib import Path
from typing import Any

import psycopg.conninfo
import pytest
from pydantic import ValidationError

from connectors.targets.timescaledb import TimescaleConfig
from connectors.targets.timescaledb.writer import conninfo


def told(endpoint: str, **own: Any) -> dict[str, Any]:
    config = TimescaleConfig.model_validate({"endpoint": endpoint, "provider_config": own})
    return psycopg.conninfo.conninfo_to_dict(conninfo(config, "press line"))


@pytest.mark.parametrize(
    ("endpoint", "host", "port", "database"),
    [
        ("postgresql://db.plant:5433/plant", "db.plant", "5433", "plant"),
        ("postgres://db", "db", "5432", "postgres"),
        ("timescaledb://10.0.0.1/", "10.0.0.1", "5432", "postgres"),
        ("postgresql://a:1,b,[fe80::1]:3/x", "a,b,fe80::1", "1,5432,3", "x"),
        ("postgresql:///plant", None, None, "plant"),
    ],
)
def test_an_endpoint_names_hosts_and_a_database(
    endpoint: str, host: str | None, port: str | None, database: str
) -> None:
    found = told(endpoint)
    assert (found.get("host"), found.get("port"), found["dbname"]) == (host, port, database)


@pytest.mark.parametrize(
    "endpoint",
    [
        "db.plant:5432",
        "mysql://db/x",
        "postgresql://user:secret@db/x",
        "postgresql://db:port/x",
        "postgresql://db/x?sslmode=disable",
        "postgresql://a b/x",
        "postgresql://db/x y",
    ],
)
def test_an_endpoint_that_says_something_else_is_an_error(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="endpoint\n.*postgresql://<host>:5432/<database>"):
        TimescaleConfig.model_validate({"endpoint": endpoint})


def test_settings_of_libpq_that_have_a_place_of_their_own_are_refused() -> None:
    with pytest.raises(ValidationError, match="`parameters` cannot set password, sslmode"):
        told("postgresql://db", parameters={"sslmode": "disable", "password": "x", "target_session_attrs": "any"})
    assert told("postgresql://db", parameters={"target_session_attrs": "read-write"})["target_session_attrs"] == (
        "read-write"
    )


@pytest.mark.parametrize("name", ["", "a b", 'a"b', "a.b", "1a", "a;drop", "x" * 64])
def test_names_are_plain(name: str) -> None:
    for key in ("table", "schema"):
        with pytest.raises(ValidationError):
            told("postgresql://db", **{key: name})


def test_without_tls_settings_nothing_is_asked_of_the_server() -> None:
    assert "sslmode" not in told("postgresql://db")


def test_tls_means_that_certificate_and_name_are_checked(tmp_path: Path) -> None:
    found = told("postgresql://db", tls={"ca_file": "ca.pem", "cert_file": "c.pem", "key_file": "k.pem"})
    assert [found[key] for key in ("sslmode", "sslrootcert", "sslcert", "sslkey")] == [
        "verify-full", "ca.pem", "c.pem", "k.pem",
    ]  # fmt: skip
    assert told("postgresql://db", tls={})["sslrootcert"]
    laboratory = told("postgresql://db", tls={"verify": False})
    assert laboratory["sslmode"] == "require"
    assert "sslrootcert" not in laboratory


def test_the_servers_name_may_differ_from_where_it_is() -> None:
    found = told("postgresql://127.0.0.1:6000", tls={"ca_file": "ca.pem", "server_name": "db.plant"})
    assert (found["host"], found["hostaddr"], found["port"]) == ("db.plant", "127.0.0.1", "6000")


def test_a_hostile_password_stays_a_password() -> None:
    secret = "a' host=evil b\\'"
    found = told("postgresql://db", password=secret)
    assert (found["password"], found["host"]) == (secret, "db")


def test_the_password_is_not_shown() -> None:
    config = TimescaleConfig.model_validate({"endpoint": "postgresql://db", "provider_config": {"password": "secret!"}})
    assert "secret!" not in repr(config) + str(config.model_dump())
