"""Equipment described once and read many times: `templates` of the configuration become sources, one per row of a CSV.

A template is a source as `sources` has it, in which `{column}` stands for what a row says. It is filled in as YAML nodes,
before anything is checked, so that a source that comes from a row is like one that was written out; only its places differ:
what is wrong with a value of a row is told with the file, line and column of that cell.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from config.yaml_nodes import Place, Problem, dotted, find, place_of
from connectors.mapping import TEXTS
from normalization.path import PLACEHOLDERS

_PLACEHOLDER: Final = re.compile(r"(?<![${])\{([A-Za-z_][A-Za-z0-9_]*)\}(?!\})")
_DOUBLED: Final = re.compile(r"\{(\{[A-Za-z_][A-Za-z0-9_]*\})\}")
_COLUMN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CELL: Final = re.compile(r'\s*(?:"(?:[^"]|"")*"[^,;]*|[^,;]*)')
_OWN: Final = frozenset((*PLACEHOLDERS, *TEXTS))  # placeholders of paths and patterns, where no column has their name
_STRING: Final = "tag:yaml.org,2002:str"


@dataclass(frozen=True, slots=True)
class _Cell:
    """What a row says in a column.

    Attributes:
        text: What it says.
        mark: Where.
    """

    text: str
    mark: yaml.Mark


@dataclass(frozen=True, slots=True)
class _Sheet:
    """A CSV file: its columns, and its rows with where each begins."""

    columns: dict[str, yaml.Mark]
    rows: list[tuple[yaml.Mark, dict[str, _Cell]]]


def expand(root: yaml.MappingNode, problems: list[Problem]) -> yaml.MappingNode:
    """The root with the sources that the templates make behind those that are written out.

    Args:
        root: All files as one node.
        problems: Gets what is wrong with the templates and their rows.
    """
    templates = find(root, ("templates",))
    if templates is root or not isinstance(templates, yaml.MappingNode):
        return root
    made: list[yaml.Node] = []
    for key, section in templates.value:
        made += _Template(key.value, section, problems).sources()
    known = find(root, ("sources",))
    if known is not root and not isinstance(known, yaml.SequenceNode):
        return root  # what `sources` is instead is told by the models
    written = known.value if isinstance(known, yaml.SequenceNode) else []
    sources = yaml.SequenceNode("tag:yaml.org,2002:seq", [*written, *made], root.start_mark, root.end_mark)
    others = [pair for pair in root.value if pair[0].value != "sources"]
    key_node = yaml.ScalarNode(_STRING, "sources", root.start_mark, root.end_mark)
    return yaml.MappingNode(root.tag, [*others, (key_node, sources)], root.start_mark, root.end_mark)


class _Template:
    def __init__(self, name: str, section: yaml.Node, problems: list[Problem]) -> None:
        self._path = ("templates", name)
        self._section = section
        self._problems = problems
        self._used: set[str] = set()
        self._told: set[str] = set()

    def sources(self) -> Iterator[yaml.Node]:
        """A node for each row; nothing when the section is not sound, which the models tell."""
        parts = {key: find(self._section, (key,)) for key in ("source", "rows_file", "defaults")}
        source, file = parts["source"], parts["rows_file"]
        if not isinstance(source, yaml.MappingNode) or source is self._section or not isinstance(file, yaml.ScalarNode):
            return
        defaults = {}
        if isinstance(parts["defaults"], yaml.MappingNode) and parts["defaults"] is not self._section:
            defaults = {
                key.value: _Cell(value.value, value.start_mark)
                for key, value in parts["defaults"].value
                if isinstance(value, yaml.ScalarNode)
            }
        place = place_of(file)
        path = Path(place.file).parent / file.value
        sheet = self._read(path, place)
        if sheet is None:
            return
        known = {*sheet.columns, *defaults}
        made = [self._filled(source, row | _missing(row, defaults), known, path) for _, row in sheet.rows]
        for node, (mark, _) in zip(made, sheet.rows, strict=True):
            node.start_mark = mark
            yield node
        for column, mark in sheet.columns.items():
            if column not in self._used and sheet.rows:
                self._wrong(
                    _place(mark), f"the column `{column}` is used nowhere in the template; take it out, or use it"
                )

    def _wrong(self, place: Place, message: str) -> None:
        self._problems.append(Problem(place, dotted(self._path), message))

    def _filled(self, node: yaml.Node, row: Mapping[str, _Cell], known: set[str], file: Path) -> yaml.Node:
        if isinstance(node, yaml.MappingNode):
            pairs = []
            for key, value in node.value:
                alone = _PLACEHOLDER.fullmatch(value.value) if isinstance(value, yaml.ScalarNode) else None
                if alone is not None and alone[1] in row and not row[alone[1]].text:
                    self._used.add(alone[1])
                    continue  # an empty cell leaves the key out
                pairs.append((key, self._filled(value, row, known, file)))
            return yaml.MappingNode(node.tag, pairs, node.start_mark, node.end_mark)
        if isinstance(node, yaml.SequenceNode):
            items = [self._filled(item, row, known, file) for item in node.value]
            return yaml.SequenceNode(node.tag, items, node.start_mark, node.end_mark)
        return self._scalar(node, row, known, file)

    def _scalar(self, node: yaml.Node, row: Mapping[str, _Cell], known: set[str], file: Path) -> yaml.Node:
        marks: list[yaml.Mark] = []

        def cell(placeholder: re.Match[str]) -> str:
            name = placeholder[1]
            if name in row:
                self._used.add(name)
                marks.append(row[name].mark)
                return row[name].text
            if name not in known and name not in _OWN and name not in self._told:
                self._told.add(name)
                there = ", ".join(sorted(known)) or "none"
                self._wrong(
                    place_of(node),
                    f"`{{{name}}}`: {file} has no column `{name}`, and `defaults` says nothing; there are {there}; for the "
                    f"characters themselves write {{{{{name}}}}}",
                )
            return placeholder[0]

        text = _DOUBLED.sub(r"\1", _PLACEHOLDER.sub(cell, node.value))
        if text == node.value:
            return node
        alone = _PLACEHOLDER.fullmatch(node.value) is not None
        style = None if alone else "'"  # alone it is what it looks like, a number too
        mark = marks[0] if marks else node.start_mark
        return yaml.ScalarNode(node.tag, text, mark, mark, style=style)

    def _read(self, path: Path, place: Place) -> _Sheet | None:
        try:
            text = path.read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            self._wrong(place, f"{path} cannot be read: {reason}")
            return None
        lines = [
            (number, line) for number, line in enumerate(text.splitlines()) if line.strip(" ,;\t") and line[0] != "#"
        ]
        if not lines:
            self._wrong(Place(str(path), 1, 1), "has no header; the first line names the columns")
            return None
        (number, header), *others = lines
        divider = ";" if header.count(";") > header.count(",") else ","
        columns: dict[str, yaml.Mark] = {}
        for cell in _cells(header, divider, path, number):
            if not _COLUMN.fullmatch(cell.text):
                self._wrong(_place(cell.mark), f"`{cell.text}` is no name of a column: letters, digits and `_`")
            elif cell.text in columns:
                self._wrong(_place(cell.mark), f"two columns are called `{cell.text}`")
            columns[cell.text] = cell.mark
        rows = []
        for number, line in others:
            cells = _cells(line, divider, path, number)
            mark = yaml.Mark(str(path), 0, number, 0, None, 0)
            if line.count('"') % 2:
                self._wrong(_place(mark), "a quote is opened and not closed in this line")
            elif len(cells) != len(columns):
                self._wrong(_place(mark), f"has {len(cells)} cells, the header {len(columns)}")
            else:
                rows.append((mark, dict(zip(columns, cells, strict=True))))
        if not rows and not others:
            self._wrong(Place(str(path), 1, 1), "has a header and no row")
        return _Sheet(columns, rows)


def _missing(row: Mapping[str, _Cell], defaults: Mapping[str, _Cell]) -> dict[str, _Cell]:
    """The defaults that hold for a row: where it has no such column, or says nothing in it."""
    return {name: cell for name, cell in defaults.items() if name not in row or not row[name].text}


def _cells(line: str, divider: str, path: Path, number: int) -> list[_Cell]:
    """The cells of a line, each with where it begins."""
    said = [cell.strip() for cell in next(csv.reader([line], delimiter=divider, skipinitialspace=True), [])]
    pattern = re.compile(_CELL.pattern.replace(",;", divider))
    at, cells = 0, []
    for text in said:
        cell = pattern.match(line, at)
        begin = at + len(cell[0]) - len(cell[0].lstrip()) if cell is not None else at
        cells.append(_Cell(text, yaml.Mark(str(path), 0, number, begin, None, 0)))
        at = cell.end() + 1 if cell is not None else at
    return cells


def _place(mark: yaml.Mark) -> Place:
    return Place(mark.name, mark.line + 1, mark.column + 1)
