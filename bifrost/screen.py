"""Tables for people: nothing is cut off, on a narrow terminal names go on in the next line."""

import sys
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table
from typing_extensions import override

from config.logs import escaped

_PIPED = 250  # columns where no terminal says how many there are


def console(*, stderr: bool = False) -> Console:
    """Standard output or standard error, wide enough for a table when it is no terminal; what a plant says is no markup."""
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if terminal else _PIPED, markup=False, emoji=False)


class Listing(Table):
    """A table whose cells may hold what a plant says.

    Args:
        names: Columns of names, folded where the terminal is narrow.
        numbers: Columns of numbers, never divided.
        texts: Columns of texts, folded.
        title: What stands above.
    """

    def __init__(self, names: list[str], numbers: list[str], texts: list[str] | None = None, *, title: str) -> None:
        columns = [Column(name, overflow="fold") for name in names]
        columns += [Column(name, justify="right", no_wrap=True) for name in numbers]
        columns += [Column(name, overflow="fold") for name in texts or ()]
        super().__init__(
            *columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False
        )

    @override
    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*(escaped(str(cell)) for cell in cells), **options)
