"""Whose configuration a file is, and the whole way from its text to YAML."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from bifrost.convert import kepware, telegraf, thingsboard
from bifrost.convert.checked import settle
from bifrost.convert.draft import ConvertError, Draft, remarks
from bifrost.convert.written import written

Kind = Literal["telegraf", "kepware", "thingsboard"]
KINDS: Final[tuple[Kind, ...]] = get_args(Kind)
_PLUGIN: Final = re.compile(r"^\s*\[\[?\s*(agent|global_tags|(inputs|outputs|processors|aggregators)\.)", re.MULTILINE)


@dataclass(frozen=True)
class Converted:
    """What came out.

    Attributes:
        text: The YAML.
        lost: What was not taken over, one line each.
        to_do: What is left to do, one line each.
        unseen: What could not be looked at, because variables of the environment are not set.
    """

    text: str
    lost: list[str]
    to_do: list[str]
    unseen: list[str]


def kind_of(text: str) -> Kind | None:
    """Whose configuration a text is; None when it does not show."""
    begun = text.lstrip("\ufeff \t\r\n")
    if begun.startswith("{"):
        return "thingsboard"
    header = begun.partition("\n")[0]
    if kepware.is_kepware(
        next(csv.reader([header], delimiter=max(",;\t", key=header.count), skipinitialspace=True), [])
    ):
        return "kepware"
    return "telegraf" if _PLUGIN.search(text) else None


def convert(text: str, origin: str, kind: Kind, beside: Callable[[str], str | None] = lambda name: None) -> Converted:  # noqa: ARG005
    """The configuration in `text` as ours; it loads.

    Args:
        text: The file.
        origin: Its name, for comments.
        kind: Whose it is.
        beside: Reads a file that it names, such as ThingsBoard's connectors; None when there is none.

    Raises:
        ConvertError: It is not what it is said to be.
    """
    draft = Draft(origin, kind)
    text = text.removeprefix("\ufeff")
    if kind == "telegraf":
        telegraf.convert(draft, text)
    elif kind == "kepware":
        try:
            kepware.convert(draft, text)
        except csv.Error as error:
            raise ConvertError(f"not CSV: {error}") from error
    else:
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConvertError(f"line {error.lineno}, column {error.colno}: not JSON: {error.msg}") from error
        except (ValueError, RecursionError) as error:
            raise ConvertError(f"not JSON that can be read: {error}") from error
        thingsboard.convert(draft, values, beside)
    draft.finish()
    if not draft.sources:
        del draft.root["sources"]
    unseen = settle(draft)
    if not draft.targets:
        draft.root.remark(
            "note", "no target: readings go to the embedded Delta Lake in data/delta; bifrost create target"
        )
    said = list(remarks(draft.root))
    lost = [remark.text for remark in said if remark.kind == "lost"]
    to_do = [remark.text for remark in said if remark.kind == "to do"]
    head = [
        f"# From {' '.join(origin.split())} ({kind}), by bifrost convert.",
        f"# Not taken over: {len(lost)}; to do: {len(to_do)}.",
    ]
    return Converted("\n".join(head) + "\n\n" + written(draft.root), lost, to_do, unseen)
