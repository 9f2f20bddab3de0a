"""What preflight finds between the gateway and its table, with the emulator as the service."""

import socket

import pytest

from connectors.contract import Checks, Finding
from tests.connectors.targets.zerobus_emulator import (
    CLIENT,
    FORMATS,
    UNHEARD,
    writer,
)


async def problems(target: Checks) -> dict[str, str]:
    return {finding.subject: finding.detail for finding in await target.check() if not finding.ok}


@pytest.mark.parametrize("record_format", FORMATS)
async def test_preflight_of_a_sound_table_finds_nothing_wrong(emulator, record_format):
    found = await writer(emulator, emulator.create(), record_format).check()
    assert all(finding.ok for finding in found), found
    assert [f.subject for f in found] == [
        "endpoint",
        "workspace_url",
        "token",
        "table",
        "columns",
        "grants",
        "stream",
    ]


async def test_preflight_names_settings_that_are_missing(emulator):
    found = await writer(emulator, "a.b.c", client_id=None, client_secret=None).check()
    assert [f.subject for f in found] == ["settings"]
    assert "client_id, client_secret" in found[0].detail


async def test_preflight_names_an_endpoint_that_cannot_be_reached(emulator):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
        found = await problems(writer(emulator, emulator.create(), workspace_url=dead))
    assert list(found) == ["workspace_url"]
    assert "firewall" in found["workspace_url"]


async def test_preflight_names_credentials_that_are_refused(emulator):
    found = await problems(writer(emulator, emulator.create(), client_secret="wrong"))
    assert list(found) == ["token"]
    assert "client_secret" in found["token"]


async def test_preflight_names_a_table_that_is_not_there_and_how_to_make_it(emulator):
    found = await problems(writer(emulator, "main.plant.nowhere"))
    assert list(found) == ["table"]
    assert "bifrost zerobus ddl main.plant.nowhere" in found["table"]


@pytest.mark.parametrize("privilege", ["SELECT", "MODIFY"])
async def test_preflight_names_the_grant_that_is_missing_and_the_statement_that_gives_it(emulator, privilege):
    name = emulator.create()
    emulator.grant("revoke", name, privilege)
    found = await problems(writer(emulator, name))
    assert list(found) == ["grants"]
    catalog, schema, plain = name.split(".")
    assert found["grants"].endswith(f"GRANT {privilege} ON TABLE `{catalog}`.`{schema}`.`{plain}` TO `{CLIENT}`;")


async def test_preflight_names_columns_that_are_missing_or_of_another_type(emulator):
    name = emulator.create(drop=("shard", "sequence", "unit", "value"))
    emulator.call("PATCH", f"/tables/{name}", {"add": [{"name": "value", "type_text": "string"}]})
    found: list[Finding] = await writer(emulator, name).check()
    columns = {finding.detail: finding.ok for finding in found if finding.subject == "columns"}
    wrong, identity, left_out = columns
    assert "`value` is STRING, readings need DOUBLE" in wrong
    assert "lacks shard, sequence" in identity
    assert "lacks unit" in left_out
    assert list(columns.values()) == [False, False, False]
    assert "ALTER TABLE" in left_out
    assert "ADD COLUMNS (`unit` STRING COMMENT" in left_out


async def test_preflight_says_what_the_service_says_when_it_opens_no_stream(emulator):
    target = writer(emulator, emulator.create())
    found = {"stream": UNHEARD}
    while UNHEARD in found["stream"]:
        emulator.faults(fail_create=["UNIMPLEMENTED"])
        found = await problems(target)
    assert list(found) == ["stream"]
    assert "zerobus ddl" in found["stream"]
