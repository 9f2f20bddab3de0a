"""Paths into a document such as ``$.data.values[0].v`` or ``samples[*].value``. Pure."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import chain, repeat
from operator import itemgetter
from typing import Any, Final

MISSING: Final = object()
EACH: Final = object()
"""The step ``[*]``: every item of an array."""
_STEP: Final = re.compile(r'\.?([^.\[\]"]+)|\["([^"]*)"\]|\[(\d{1,9}|\*)\]')

Step = str | int | object
Sizes = list[list[int]]
"""How many items each array had over that a path went, from the outermost to the innermost."""


@lru_cache(maxsize=1024)
def parse_path(path: str) -> tuple[Step, ...]:
    """The steps of a path.

    Raises:
        ValueError: It is none.
    """
    text, steps, at = path.removeprefix("$"), list[Step](), 0
    while at < len(text):
        match = _STEP.match(text, at)
        if match is None:
            raise ValueError(f'`{path}` is no path; write `a.b`, `a[0]`, `a[*].b` or `["a key"]`')
        key, quoted, index = match.groups()
        steps.append(EACH if index == "*" else int(index) if index else quoted if key is None else key)
        at = match.end()
    return tuple(steps)


def at_path(document: Any, steps: Iterable[Step]) -> Any:
    """What `document` holds at a path without ``[*]``; `MISSING` when there is nothing."""
    for step in steps:
        if isinstance(document, str | bytes):
            return MISSING  # their parts are no items
        try:
            document = document[step]
        except (KeyError, IndexError, TypeError):
            return MISSING
    return document


def spread(document: Any, steps: Sequence[Step]) -> tuple[list[Any], Sizes]:
    """What `document` holds at a path: one value, or with ``[*]`` one for each item, `MISSING` where there is nothing."""
    found, sizes = [document], Sizes()
    for step in steps:
        if step is EACH:
            arrays = [item if isinstance(item, list | tuple) else (MISSING,) for item in found]
            sizes.append(list(map(len, arrays)))
            found = list(chain.from_iterable(arrays))
        else:
            found = follow(found, (step,))
    return found, sizes


def follow(documents: list[Any], steps: Sequence[Step]) -> list[Any]:
    """As `at_path` for each of many."""
    for step in steps:
        try:
            if isinstance(step, str):
                documents = list(map(itemgetter(step), documents))
                continue
        except (KeyError, TypeError):
            pass
        documents = [at_path(document, (step,)) for document in documents]
    return documents


def widen(values: list[Any], sizes: Sizes, to: Sizes) -> list[Any]:
    """What was found outside of some arrays, once for each of their items.

    Raises:
        ValueError: The values are those of other arrays.
    """
    if sizes != to[: len(sizes)]:
        raise ValueError(f"{len(values)} items in one array and {sum(to[-1]) if to else 1} in another")
    for counts in to[len(sizes) :]:
        values = list(chain.from_iterable(map(repeat, values, counts)))
    return values
