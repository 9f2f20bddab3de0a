"""The columns of a wide table that `bifrost delta ddl` and `bifrost zerobus ddl` print: as named, and as the configuration tells."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from config.models import Configuration

SignalNames = Annotated[
    list[str] | None,
    typer.Option(
        "--signal",
        help="A signal of a wide table: NAME, or NAME:text or NAME:bytes where it is no number. May be given several times; "
        "those of Modbus registers are known from the configuration.",
    ),
]
Layout = Literal["narrow", "wide"]


def named(signals: Iterable[str] | None) -> dict[str, str]:
    """Columns and the types of their values, as the option names them."""
    from connectors.wire.wide_tables import DIALECT, KINDS

    found = {}
    for signal in signals or ():
        name, _, kind = signal.partition(":")
        column = DIALECT.name(name)
        kinds = dict(zip(("", "text", "bytes"), KINDS, strict=True))
        if kind not in kinds:
            raise typer.BadParameter(
                f"`{signal}`: `{kind}` is no type; there are text and bytes, and without one a number"
            )
        if why := DIALECT.unfit(column):
            raise typer.BadParameter(f"`{name}` {why}")
        found[column] = kinds[kind]
    return found


def known(config: "Configuration", sources: Iterable[str] | None = None) -> dict[str, str]:
    """Columns and the types of their values, as the configuration tells them: those of Modbus registers.

    Args:
        config: The configuration.
        sources: Names of the sources that count; all when None.
    """
    from connectors.sources.modbus import ModbusConfig
    from connectors.wire.wide_tables import DIALECT, KINDS
    from normalization.normalizer import NotNormalizableError, normalize_tag

    found: dict[str, str] = {}
    for source in config.sources:
        if not isinstance(source, ModbusConfig) or (sources is not None and source.name not in sources):
            continue
        for tag, (_, _, point) in zip(source.tag_rows(), source.values, strict=True):
            try:
                path = normalize_tag(tag, config.path_template).path
            except NotNormalizableError:
                continue  # its readings become dead letters
            column = DIALECT.name(path.rpartition("/")[2])
            if not DIALECT.unfit(column):
                found.setdefault(column, KINDS[1] if point.type == "string" else KINDS[0])
    return found
