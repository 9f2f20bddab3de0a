"""Options and endings that the verbs of the command line share."""

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from config.models import Configuration

ConfigFile = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="BIFROST_CONFIG", help="Configuration file (YAML)."),
]
DEFAULT_CONFIG = Path("config/gateway.yaml")
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]


def duration(text: str | None) -> float | None:
    """Seconds that an option says."""
    from connectors.settings import seconds

    if text is None:
        return None
    if text.replace(".", "", 1).isdecimal():
        return float(text)
    try:
        return float(str(seconds(text)))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


@contextlib.contextmanager
def stores_told() -> Iterator[None]:
    """A directory that cannot be used is the user's to mend: one line and exit code 1, no traceback."""
    from delivery.disk import StoreError

    try:
        yield
    except StoreError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    except OSError as error:
        typer.echo(f"{error.filename}: {error.strerror}" if error.filename else str(error), err=True)
        raise typer.Exit(1) from error


def load(config: Path) -> "Configuration":
    """The configuration, with logging set up for it."""
    from config.loader import load_or_exit
    from config.logs import configure

    loaded = load_or_exit(config)
    configure(loaded.log_level, loaded.log_format)
    return loaded


def print_json(value: Any) -> None:
    """Answer a program."""
    typer.echo(json.dumps(value, ensure_ascii=False))


def moment(text: str | None, now: float) -> float | None:
    """A time that an option says, seconds since the epoch: a duration before now, or a date and time."""
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        said = datetime.fromisoformat(text)
        return (said if said.tzinfo else said.replace(tzinfo=UTC)).timestamp()
    return now - (duration(text) or 0.0)
