"""The HTTP endpoint: OAuth tokens and Unity Catalog tables as clients know them, and the admin API for tests.

``POST /oidc/v1/token``, ``GET /api/2.1/unity-catalog/tables/{name}`` are the service's own. Everything else is the
emulator's: ``/tables`` (create, alter, drop, read), ``/admin`` (knobs, counters, grants, tokens, streams).
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from simulator.zerobus import schema
from simulator.zerobus.auth import Authority, OAuthError
from simulator.zerobus.errors import Refused
from simulator.zerobus.faults import Faults, Knobs, Status, status_code
from simulator.zerobus.ingest import Ingest
from simulator.zerobus.log import CommitLog
from simulator.zerobus.schema import Column, SchemaError
from simulator.zerobus.tables import Catalog, Table, TableExistsError, TableWriter, UnknownTableError, read_rows

_DRAIN_SECONDS: Final = 60.0
_Body = TypeVar("_Body", bound=msgspec.Struct)


class NewTable(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A table to create: its columns, or the whole as DDL."""

    name: str
    columns: list[dict[str, Any]] = []
    partition_by: list[str] = []
    ddl: str = ""


class TableChange(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Columns to add (nullable) and to drop."""

    add: list[dict[str, Any]] = []
    drop: list[str] = []


class Grant(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A privilege of a client on a securable: ``catalog``, ``catalog.schema`` or ``catalog.schema.table``."""

    client_id: str
    securable: str
    privilege: str


class Rotation(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which streams to tell that they will be closed, and after how long."""

    table: str | None = None
    grace_ms: int = 2000


class Abortion(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which streams to abort, and with which status."""

    table: str | None = None
    status: Status = "UNAVAILABLE"


def build_app(
    catalog: Catalog, log: CommitLog, writer: TableWriter, authority: Authority, faults: Faults, ingest: Ingest
) -> FastAPI:
    """The HTTP application."""
    app = FastAPI(title="ZeroBus emulator", docs_url="/docs", redoc_url=None)

    def table_of(name: str) -> Table:
        table = catalog.get(name)
        if table is None:
            raise HTTPException(404, f'Table "{name}" cannot be found.')
        return table

    async def drained() -> None:
        """Everything that was accepted until now is in the tables."""
        accepted = log.appended
        await log.settled(accepted)
        if not await run_in_threadpool(writer.drain, accepted, _DRAIN_SECONDS):
            failing = {table.name: table.error for table in catalog if table.error}
            raise HTTPException(503, f"the tables are behind the log: {failing}")

    # ---- what the service offers

    @app.post("/oidc/v1/token")
    async def token(request: Request) -> JSONResponse:
        faults.counters["token_requests"] += 1
        if faults.knobs.oauth_status is not None:
            return JSONResponse({"error": "fault", "error_description": "a fault knob"}, faults.knobs.oauth_status)
        form = dict(parse_qsl((await request.body()).decode(errors="replace")))
        authority.ttl = faults.knobs.token_ttl_s
        try:
            answer = authority.mint(request.headers.get("authorization", ""), form)
        except OAuthError as error:
            return JSONResponse({"error": error.error, "error_description": str(error)}, error.status)
        faults.counters["tokens_minted"] += 1
        return JSONResponse(answer)

    @app.get("/api/2.1/unity-catalog/tables/{name}")
    async def unity_catalog_table(name: str, request: Request) -> JSONResponse:
        try:
            claims = authority.verify(request.headers.get("authorization", ""))
        except Refused as refused:
            return JSONResponse({"error_code": "UNAUTHENTICATED", "message": str(refused)}, 401)
        table = catalog.get(name)
        if table is None:
            message = f"Table '{name}' does not exist."
            return JSONResponse({"error_code": "TABLE_DOES_NOT_EXIST", "message": message}, 404)
        missing = authority.grants.missing(claims.client, name)
        if missing:
            message = f"User does not have {', '.join(missing)}."
            return JSONResponse({"error_code": "PERMISSION_DENIED", "message": message}, 403)
        return JSONResponse(_unity_catalog(table))

    # ---- tables

    @app.get("/tables")
    async def list_tables() -> list[dict[str, Any]]:
        return [_status(table) for table in catalog]

    @app.post("/tables", status_code=201)
    async def create_table(request: Request) -> dict[str, Any]:
        wanted = await _body(request, NewTable)
        with _http_errors():
            if wanted.ddl:
                table_schema = schema.from_ddl(wanted.ddl)
            else:
                table_schema = schema.from_declaration({"columns": wanted.columns, "partition_by": wanted.partition_by})
            return _status(await run_in_threadpool(catalog.create, wanted.name, table_schema))

    @app.get("/tables/{name}")
    async def show_table(name: str) -> dict[str, Any]:
        return _status(table_of(name)) | {"columns": [c.declaration() for c in table_of(name).schema.columns]}

    @app.patch("/tables/{name}")
    async def alter_table(name: str, request: Request) -> dict[str, Any]:
        change = await _body(request, TableChange)
        table = table_of(name)
        with _http_errors():
            added: tuple[Column, ...] = schema.from_declaration(change.add).columns if change.add else ()
            table.unfrozen.clear()
            try:
                await drained()
                await run_in_threadpool(catalog.alter, table, list(added), change.drop)
            finally:
                table.unfrozen.set()
        return await show_table(name)

    @app.delete("/tables/{name}", status_code=204)
    async def drop_table(name: str) -> None:
        with _http_errors():
            await run_in_threadpool(catalog.drop, name)

    @app.get("/tables/{name}/rows")
    async def rows(name: str, limit: int = 100, *, drain: bool = True) -> JSONResponse:
        table = table_of(name)
        if drain:
            await drained()
        count, found = await run_in_threadpool(read_rows, table, limit)
        return JSONResponse({"count": count, "rows": found})

    @app.get("/tables/{name}/count")
    async def count(name: str, *, drain: bool = True) -> dict[str, int]:
        table = table_of(name)
        if drain:
            await drained()
        return {"count": (await run_in_threadpool(read_rows, table, 0))[0]}

    # ---- admin

    @app.get("/admin/faults")
    async def show_knobs() -> Any:
        return msgspec.to_builtins(faults.knobs)

    @app.patch("/admin/faults")
    async def turn_knobs(request: Request) -> Any:
        changes = await request.body()
        try:
            merged = msgspec.to_builtins(faults.knobs) | msgspec.json.decode(changes, type=dict[str, Any])
            faults.set(msgspec.convert(merged, Knobs))
        except msgspec.DecodeError as error:
            raise HTTPException(422, str(error)) from error
        return msgspec.to_builtins(faults.knobs)

    @app.delete("/admin/faults")
    async def reset_knobs() -> Any:
        faults.set(Knobs())
        return msgspec.to_builtins(faults.knobs)

    @app.get("/admin/counters")
    async def counters() -> dict[str, Any]:
        return {
            **faults.counters,
            "streams_open": len(ingest.sessions),
            "log_syncs": log.syncs,
            "log_bytes": log.bytes_written,
            "log_sync_seconds": log.sync_seconds,
            "log_lsn": log.durable,
            "delta_commits": sum(table.commits for table in catalog),
            "delta_rows": sum(table.rows_written for table in catalog),
            "delta_errors": {table.name: table.error for table in catalog if table.error},
        }

    @app.post("/admin/grants/revoke", status_code=204)
    async def revoke(request: Request) -> None:
        grant = await _body(request, Grant)
        authority.grants.revoked.add((grant.client_id, grant.securable, grant.privilege))

    @app.post("/admin/grants/restore", status_code=204)
    async def restore(request: Request) -> None:
        grant = await _body(request, Grant)
        authority.grants.revoked.discard((grant.client_id, grant.securable, grant.privilege))

    @app.post("/admin/tokens/revoke", status_code=204)
    async def revoke_tokens() -> None:
        authority.revoke_tokens()

    @app.post("/admin/streams/rotate")
    async def rotate(request: Request) -> dict[str, int]:
        wanted = await _body(request, Rotation)
        return {"streams": ingest.rotate(wanted.grace_ms, wanted.table)}

    @app.post("/admin/streams/abort")
    async def abort(request: Request) -> dict[str, int]:
        wanted = await _body(request, Abortion)
        return {"streams": ingest.abort(status_code(wanted.status), wanted.table)}

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


async def _body(request: Request, kind: type[_Body]) -> _Body:
    """The request's JSON body; an empty one means the defaults."""
    try:
        return msgspec.json.decode(await request.body() or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise HTTPException(422, str(error)) from error


@contextlib.contextmanager
def _http_errors() -> Iterator[None]:
    """What is wrong with a table, as an HTTP answer."""
    try:
        yield
    except SchemaError as error:
        raise HTTPException(422, str(error)) from error
    except TableExistsError as error:
        raise HTTPException(409, f'Table "{error}" exists.') from error
    except UnknownTableError as error:
        raise HTTPException(404, f'Table "{error}" cannot be found.') from error


def _status(table: Table) -> dict[str, Any]:
    return {
        "name": table.name,
        "table_id": table.table_id,
        "path": str(table.path),
        "version": table.delta.version(),
        "rows_written": table.rows_written,
        "commits": table.commits,
        "compactions": table.compactions,
        "error": table.error,
    }


def _unity_catalog(table: Table) -> dict[str, Any]:
    """A table as Unity Catalog shows it."""
    catalog, schema_name, name = table.name.split(".")
    partition_by = table.schema.partition_by
    columns = []
    for position, column in enumerate(table.schema.columns):
        shown = column.declaration() | {"position": position}
        if column.name in partition_by:
            shown["partition_index"] = partition_by.index(column.name)
        columns.append(shown)
    return {
        "name": name,
        "catalog_name": catalog,
        "schema_name": schema_name,
        "full_name": table.name,
        "table_type": "MANAGED",
        "data_source_format": "DELTA",
        "table_id": table.table_id,
        "storage_location": table.path.as_uri(),
        "columns": columns,
    }
