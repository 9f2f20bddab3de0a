"""The tags that have a reading: found, as a tree, and one by one."""

import json
from typing import Annotated, Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from normalization.reading import Quality, ValueType
from web.destinations import Destinations
from web.errors import ApiError, ErrorAnswer
from web.last import Numbers
from web.live import Index, Live
from web.values import micros, qualities, values, words

_SAMPLES: Final = 100
_TYPES: Final = [kind.name for kind in ValueType]
_NOT_GOOD: Final = "NOT_GOOD"
_SEARCHED: Final = ("path", "tag_name", "address", "device_id")
Order = Literal[
    "path", "-path", "tag_name", "-tag_name", "source", "-source", "value", "-value", "quality", "-quality", "time", "-time"
]  # fmt: skip


class Tag(BaseModel):
    """A tag with its last reading."""

    id: int = Field(description="number of the tag, as long as the gateway runs")
    path: str = Field(description="ISA-95 path")
    source: str = Field(description="the source that reads it")
    protocol: str = Field(description="protocol of the source")
    device: str = Field(description="the device as its protocol names it")
    tag_name: str = Field(description="the tag's name")
    address: str = Field(description="the tag as its protocol names it")
    unit: str = Field(description="engineering unit; empty when unknown")
    signal_type: str = Field(description="kind of signal; empty when unknown")
    type: str = Field(description="type of the value: NULL, BOOLEAN, INT64, UINT64, DOUBLE, TEXT, BYTES or JSON")
    value: Any = Field(description="the value; NaN and infinities as texts, bytes in base64")
    raw: Any = Field(description="the value as the source read it")
    quality: str = Field(description="GOOD, UNCERTAIN, BAD, STALE or ALARM")
    reject: str | None = Field(description="why the reading cannot be used; null when it is sound")
    time_us: int | None = Field(
        description="when the device says it measured, µs since 1970; null when it does not say"
    )
    received_us: int = Field(description="when the gateway received it, µs since 1970")
    targets: list[str] = Field(description="the targets that it goes to")


class Tags(BaseModel):
    """Some of the tags that were asked for."""

    total: int = Field(description="tags that were found")
    bad: int = Field(description="how many of them are not GOOD")
    tags: list[Tag] = Field(description="those from `offset` on, as many as `limit` says")


class Sample(BaseModel):
    """A reading of a tag."""

    time_us: int = Field(description="when it was measured, else received, µs since 1970")
    value: Any = Field(description="the value")
    quality: str = Field(description="its quality")


class OneTag(Tag):
    """A tag in full."""

    status: int | None = Field(description="the protocol's own status code")
    raw_quality: str = Field(description="the quality before it was normalized")
    rules: list[str] = Field(description="the rules that match it, by name")
    properties: Any = Field(description="what the protocol sent beside the value; null when nothing")
    metadata: dict[str, Any] = Field(description="what the source and the configuration say about the tag")
    places: dict[str, str] = Field(description="site, area, line and equipment, as far as they are known")
    samples: list[Sample] = Field(description="the last readings that were seen, the oldest first")


class Branch(BaseModel):
    """A level of the tree below another."""

    name: str = Field(description="the last level of its path")
    path: str = Field(description="its path")
    tags: int = Field(description="tags at and below it")
    bad: int = Field(description="how many of them are not GOOD")
    id: int | None = Field(description="number of the tag that has this very path; null where none has")


class Tree(BaseModel):
    """What lies below a path."""

    prefix: str = Field(description="the path; empty for the root")
    total: int = Field(description="levels that lie below it")
    children: list[Branch] = Field(description="those from `offset` on by name, as many as `limit` says")


def tags_router(live: Live, destinations: Destinations) -> APIRouter:
    """Routes to find and look at tags.

    Args:
        live: The readings.
        destinations: Where they go.
    """
    router = APIRouter(prefix="/api/tags", tags=["tags"])

    @router.get("")
    def find(
        search: Annotated[
            str, Query(max_length=256, description="part of path, name, address or device, any case")
        ] = "",
        prefix: Annotated[str, Query(max_length=1024, description="path at or below which the tags lie")] = "",
        quality: Annotated[
            str, Query(max_length=64, description="qualities, divided by commas; NOT_GOOD for all but GOOD")
        ] = "",
        source: Annotated[str, Query(max_length=128, description="name of a source")] = "",
        offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
        limit: Annotated[int, Query(ge=0, le=500)] = 100,
        sort: Annotated[Order, Query(description="what they are in order of; with - the largest first")] = "path",
    ) -> Tags:
        """Find tags."""
        index = live.index()
        chosen = _chosen(index.rows, search, prefix, _wanted(quality), source)
        rows = index.rows if chosen is None else index.rows.take(pa.array(chosen))
        tags = index.tags if chosen is None else index.tags[chosen]
        order = _ordered(rows, sort)[offset : offset + limit]
        bad = int((rows.column("quality").to_numpy() != Quality.GOOD).sum())
        return Tags(total=len(tags), bad=bad, tags=_tags(live, destinations, tags[order]))

    @router.get("/tree")
    def tree(
        prefix: Annotated[str, Query(max_length=1024, description="path below which to look; empty for the root")] = "",
        offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
        limit: Annotated[int, Query(ge=0, le=500)] = 100,
    ) -> Tree:
        """What lies below a path, by name."""
        return _tree(live.index(), prefix.strip("/"), offset, limit)

    @router.get("/{tag_id}", responses={404: {"model": ErrorAnswer, "description": "no such tag has a reading"}})
    def one(tag_id: Annotated[int, Path(ge=0, le=2**31 - 1)]) -> OneTag:
        """A tag in full: its last readings, as they came and normalized, and where they go."""
        if not live.known(tag_id):
            raise ApiError(404, f"no tag with the number {tag_id} has had a reading since the gateway started")
        return _one(live, destinations, tag_id)

    return router


def _wanted(quality: str) -> list[int]:
    wanted: set[int] = set()
    for name in quality.upper().replace(" ", "").split(","):
        if name == _NOT_GOOD:
            wanted.update(q for q in Quality if q is not Quality.GOOD)
        elif name in Quality.__members__:
            wanted.add(Quality[name])
        elif name:
            known = ", ".join([*Quality.__members__, _NOT_GOOD])
            raise ApiError(422, f"there is no quality `{name}`", [("/query/quality", f"it is one of {known}")])
    return sorted(wanted)


def _chosen(rows: pa.RecordBatch, search: str, prefix: str, quality: list[int], source: str) -> np.ndarray | None:
    """Rows that were asked for; None for all."""
    masks = []
    if search:
        found = [
            _of_names(rows, name, lambda texts: pc.match_substring(texts, search, ignore_case=True))
            for name in _SEARCHED
        ]
        masks.append(np.logical_or.reduce(found))
    if prefix := prefix.strip("/"):
        masks.append(
            _of_names(rows, "path", lambda texts: pc.or_(pc.equal(texts, prefix), pc.starts_with(texts, prefix + "/")))
        )
    if quality:
        masks.append(np.isin(rows.column("quality").to_numpy(), quality))
    if source:
        masks.append(_of_names(rows, "source", lambda texts: pc.equal(texts, source)))
    return np.flatnonzero(np.logical_and.reduce(masks)) if masks else None


def _of_names(rows: pa.RecordBatch, name: str, test: Any) -> np.ndarray:
    """Where a test of texts holds in a column of names."""
    column = rows.column(name)
    if not len(column):
        return np.zeros(0, bool)
    texts = column.dictionary.take(column.indices) if pa.types.is_dictionary(column.type) else column
    found: np.ndarray = test(texts).fill_null(False).to_numpy(zero_copy_only=False)
    return found


def _ordered(rows: pa.RecordBatch, sort: str) -> np.ndarray:
    """Places of rows in the order asked for; they are in that of their paths."""
    name, falling = sort.removeprefix("-"), sort.startswith("-")
    size = rows.num_rows
    if name == "path":
        return np.arange(size)[:: -1 if falling else 1]
    if name in ("tag_name", "source"):
        column = rows.column(name)
        keys = column.dictionary.take(column.indices) if size else column
        order = "descending" if falling else "ascending"
        return np.asarray(pc.array_sort_indices(keys, order=order).to_numpy().astype(np.int64))
    if name == "time":
        numbers = rows.column("received_time").view(pa.int64()).to_numpy(zero_copy_only=False).astype(np.float64)
    else:
        numbers = rows.column(name).to_numpy(zero_copy_only=False).astype(np.float64)
    return np.argsort(-numbers if falling else numbers, kind="stable")


def _tree(index: Index, prefix: str, offset: int, limit: int) -> Tree:
    chosen = _chosen(index.rows, "", prefix, [], "")
    rows = index.rows.select(["path", "quality"])
    tags = index.tags
    if chosen is not None:
        rows, tags = rows.take(pa.array(chosen)), tags[chosen]
    if not len(tags):
        return Tree(prefix=prefix, total=0, children=[])
    column = rows.column("path")
    path = column.dictionary.take(column.indices)
    start = len(prefix) + 1 if prefix else 0
    below = pc.utf8_slice_codeunits(path, start) if start else path
    parts = pc.split_pattern(below, "/", max_splits=1)
    at_it = pc.list_value_length(parts).to_numpy(zero_copy_only=False) == 1
    coded = pc.list_element(parts, 0).dictionary_encode()
    codes, names = coded.indices.to_numpy(), coded.dictionary
    counts = np.bincount(codes, minlength=len(names))
    bad = np.bincount(codes, weights=rows.column("quality").to_numpy() != Quality.GOOD, minlength=len(names))
    own = np.full(len(names), -1, np.int64)
    own[codes[at_it]] = tags[at_it]
    order = pc.array_sort_indices(names).to_numpy()
    order = order[int(pc.any(pc.equal(names, "")).as_py()) :]  # what is at the path itself is not below it
    page = order[offset : offset + limit]
    levels = zip(names.take(pa.array(page)).to_pylist(), *(of[page].tolist() for of in (counts, bad, own)), strict=True)
    return Tree(
        prefix=prefix,
        total=len(order),
        children=[
            Branch(
                name=name,
                path=f"{prefix}/{name}" if prefix else name,
                tags=count,
                bad=int(not_good),
                id=None if tag < 0 else tag,
            )
            for name, count, not_good, tag in levels
        ],
    )


def _plain(raw: pa.RecordBatch, rows: pa.RecordBatch, tags: Numbers, targets: list[list[str]]) -> list[dict[str, Any]]:
    names = ("path", "source", "protocol", "device_id", "tag_name", "address", "unit", "signal_type")
    columns: dict[str, list[Any]] = {name: words(rows, name) for name in names}
    columns["device"] = columns.pop("device_id")
    columns |= {
        "id": tags.tolist(),
        "type": _types(rows),
        "value": values(rows),
        "raw": values(raw),
        "quality": qualities(rows),
        "reject": rows.column("reject").to_pylist(),
        "time_us": micros(rows, "source_time"),
        "received_us": micros(rows, "received_time"),
        "targets": targets,
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _types(rows: pa.RecordBatch) -> list[str]:
    return [_TYPES[number] for number in rows.column("type").to_pylist()]


def _tags(live: Live, destinations: Destinations, tags: Numbers) -> list[Tag]:
    if not len(tags):
        return []
    raw, rows = live.last(tags)
    return [Tag.model_construct(**each) for each in _plain(raw, rows, tags, destinations.of(rows))]


def _one(live: Live, destinations: Destinations, tag: int) -> OneTag:
    tags = np.array([tag])
    raw, rows = live.last(tags)
    (plain,) = _plain(raw, rows, tags, destinations.of(rows))
    found = live.samples(tag, _SAMPLES)
    when = [
        r if s is None else s for s, r in zip(micros(found, "source_time"), micros(found, "received_time"), strict=True)
    ]
    sampled = zip(when, values(found), qualities(found), strict=True)
    places = {name: text for name in ("site", "area", "line", "equipment") if (text := words(rows, name)[0])}
    return OneTag(
        **plain,
        status=rows.column("status")[0].as_py(),
        raw_quality=qualities(raw)[0],
        rules=list(destinations.rules(rows)),
        properties=_json(rows.column("properties")[0].as_py()),
        metadata=_json(words(rows, "metadata")[0]) or {},
        places=places,
        samples=[Sample(time_us=t, value=v, quality=q) for t, v, q in sampled if t is not None],
    )


def _json(text: str | None) -> Any:
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text
