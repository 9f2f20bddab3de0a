"""What the commands on the gateway's machine show it: a token in its directory, which only its user can read."""

import os
from pathlib import Path
from typing import Final

CLI_TOKEN: Final = "cli-token"  # noqa: S105 - the name of a file


def cli_token(directory: Path) -> str | None:
    """The token of the command line for the gateway in `directory`; None when there is none that this user may read."""
    if (given := os.environ.get("BIFROST_TOKEN")) is not None:
        return given
    try:
        return (directory / CLI_TOKEN).read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None
