"""Preflight: what stands between this gateway and the table, in plain words and with what to do about it."""

from collections.abc import Iterator
from typing import Any, Final

from connectors.contract import Finding
from connectors.targets.timescaledb.config import TimescaleConfig, hosts
from connectors.targets.timescaledb.table import Connection, Table, look, unfit

_SERVER: Final = (
    "SELECT current_setting('server_version'), current_setting('server_encoding'), "
    "current_setting('transaction_read_only') = 'on' OR pg_catalog.pg_is_in_recovery(), "
    "coalesce((SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()), false), "
    "EXISTS (SELECT FROM pg_catalog.pg_available_extensions WHERE name = 'timescaledb'), "
    "pg_catalog.has_database_privilege(current_database(), 'TEMP'), "
    "pg_catalog.has_database_privilege(current_database(), 'CREATE'), "
    "(SELECT pg_catalog.has_schema_privilege(oid, 'CREATE') FROM pg_catalog.pg_namespace WHERE nspname = %s), "
    "current_database(), current_user"
)
_TABLE: Final = "SELECT pg_catalog.has_table_privilege(%s, 'INSERT') AND pg_catalog.has_table_privilege(%s, 'SELECT')"


async def findings(connection: Connection, config: TimescaleConfig) -> list[Finding]:
    """Look at everything that a write needs, from the server to the columns."""
    own = config.provider_config
    server = await (await connection.execute(_SERVER, (own.schema_,))).fetchone()
    found = await look(connection, own)
    granted = True
    if found.there:
        answer = await (await connection.execute(_TABLE, (found.name, found.name))).fetchone()
        granted = bool(answer and answer[0])
    return [*_server(config, server or (), found), *_table(config, server or (), found, granted=granted)]


def _server(config: TimescaleConfig, server: tuple[Any, ...], found: Table) -> Iterator[Finding]:
    version, encoding, read_only, encrypted, available, temporary, _, _, database, user = server
    own = config.provider_config
    kind = f"TimescaleDB {found.extension}" if found.extension else "without the extension timescaledb"
    yield Finding(True, "server", f"PostgreSQL {version}, {kind}")
    if not found.extension and own.hypertable != "never":
        advice = (
            "run there as a superuser: CREATE EXTENSION timescaledb" if available else "the server does not have it"
        )
        lost = " and `compress_after` and `retention` have no effect" if own.compress_after or own.retention else ""
        wanted = own.hypertable == "always"
        yield Finding(not wanted, "extension", f"the table will be no hypertable{lost}: {advice}")
    if read_only:
        yield Finding(False, "server", "it is a standby or read-only; name all servers in `endpoint`, and read-write as "
                      "`parameters.target_session_attrs`")  # fmt: skip
    if encoding != "UTF8":
        yield Finding(False, "encoding", f"{database} is in {encoding}: texts that it lacks characters for are refused; "
                      "use a database in UTF8")  # fmt: skip
    if not temporary:
        yield Finding(False, "grants", f"run: GRANT TEMPORARY ON DATABASE {database} TO {user}; without it a unit that is "
                      "sent again cannot be compared")  # fmt: skip
    names = hosts(config.endpoint)[0]
    if names and not encrypted and any(name not in {"localhost", "127.0.0.1", "::1"} for name in names.split(",")):
        yield Finding(False, "encryption", "readings and password travel in clear; set `tls`")
    elif encrypted and own.tls is None:
        yield Finding(True, "encryption", "encrypted, but the server's certificate is not checked; set `tls`")


def _table(config: TimescaleConfig, server: tuple[Any, ...], found: Table, *, granted: bool) -> Iterator[Finding]:
    own = config.provider_config
    may_make_schema, may_make_table, user = server[6], server[7], server[9]
    if not found.there:
        if own.create == "never":
            yield Finding(False, "table", f"{found.name} is missing; make it, or set `create: auto`")
        elif may_make_table or (may_make_table is None and may_make_schema):
            yield Finding(True, "table", f"{found.name} will be made")
        else:
            yield Finding(False, "grants", f"{user} may not make {found.name}; run: GRANT CREATE ON SCHEMA {own.schema_} "
                          f"TO {user}, or make the table yourself")  # fmt: skip
        return
    problems = unfit(own, found)
    yield from (Finding(False, "table", f"{found.name}: {problem}") for problem in problems)
    if not granted:
        yield Finding(False, "grants", f"run: GRANT SELECT, INSERT ON {found.name} TO {user}")
    if not problems and granted:
        kind = "hypertable" if found.hypertable else "table"
        yield Finding(True, "table", f"{found.name} is there, a {kind}")
