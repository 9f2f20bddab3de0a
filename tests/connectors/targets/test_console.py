"""The console beyond the writers' contract: what people see, and that a plant's texts cannot steer a terminal."""

import sys
from pathlib import Path

import pytest

from connectors.contract import Context, TransientError
from connectors.targets.console import ConsoleConfig, encode_table
from tests.contract.readings import SAMPLES, Source


def test_a_line_per_reading_in_columns() -> None:
    source = Source()
    tags = [source.tag(0, path="a/b"), source.tag(1, path="", tag_name="name", unit="")]
    lines = encode_table(source.batch([21.5, "on"], tags=tags)).decode().split("\n")
    assert lines == [
        f"2026-09-21T14:13:20.123456Z  GOOD      {'a/b':<56} 21.5 °C",
        f'2026-09-21T14:13:20.124457Z  GOOD      {"name":<56} "on"',
        "",
    ]


def test_every_kind_of_value_is_one_line() -> None:
    assert encode_table(Source().samples()).count(b"\n") == len(SAMPLES)


@pytest.mark.parametrize("text", ["\x1b[2J", "\x9b2J", "a\rb", "\u202eabc", "\x07", "\u2066x", "\x7f"])
def test_nothing_that_steers_a_terminal_gets_there(text: str) -> None:
    source = Source()
    batch = source.batch([text], tags=[source.tag(0, path=text, unit=text)])
    shown = encode_table(batch).decode()
    assert not any(character in shown.removesuffix("\n") for character in text if not character.isprintable())


async def test_units_are_printed_at_once(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    writer = ConsoleConfig.model_validate({}).writer(Context("g", tmp_path))
    await writer.open()
    await writer.write(Source().batch([1.0]), 1)
    assert capfdbinary.readouterr().out.count(b"\n") == 1
    await writer.close()


async def test_an_output_that_nobody_reads_is_a_transient_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "closed").open("w") as closed:
        pass
    monkeypatch.setattr(sys, "stdout", closed)
    writer = ConsoleConfig.model_validate({}).writer(Context("g", tmp_path))
    await writer.open()
    with pytest.raises(TransientError, match="standard output"):
        await writer.write(Source().batch([1.0]), 1)
    await writer.close()
