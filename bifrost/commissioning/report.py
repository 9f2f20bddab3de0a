"""The sign-off report: one page of HTML that needs nothing beside it, and the same rows as CSV."""

import csv
import hashlib
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from config.logs import escaped
from flows.commission import Comparison, Expected, Observed, Verdict

_MARKS: Final = {"pass": "✓", "fail": "✕", "not seen": "○"}  # never color alone
_FORMULA: Final = ("=", "+", "-", "@")
_SIGNERS: Final = ("Carried out by", "Witnessed by", "Accepted by")
_CSV: Final = (
    "line", "result", "reasons", "remarks", "tag", "source", "device", "address", "tag_name", "path", "description",
    "expected_type", "type", "expected_unit", "unit", "expected_min", "min", "expected_max", "max", "expected_quality",
    "quality", "expected_interval_s", "interval_s", "readings", "last_value", "last_quality", "last_time", "age_s",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a report says.

    Attributes:
        gateway: Name of the gateway.
        configuration: Its file.
        number: Its number in the gateway's history; None when no gateway has run with it.
        sha256: Hash of its files.
        tag_list: File of the tag list.
        list_sha256: Its hash.
        began: When the watch began, seconds since the epoch.
        ended: When it ended.
        beside: Whether a gateway read the same sources meanwhile.
        versions: What took part, and its version.
        readings: How many readings came.
        sources: Sources that were read, by name: what was wrong with it, empty for nothing.
        found: The comparison.
    """

    gateway: str
    configuration: str
    number: int | None
    sha256: str
    tag_list: str
    list_sha256: str
    began: float
    ended: float
    beside: bool
    versions: dict[str, str]
    readings: int
    sources: dict[str, str]
    found: Comparison

    @property
    def passed(self) -> bool:
        """Whether every tag of the list passed."""
        return all(one.result == "pass" for one in self.found.verdicts)


def iso(seconds: float) -> str:
    """A time as UTC, ISO 8601."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def qualities(row: Expected) -> str:
    """The qualities that a row allows."""
    return " ".join(quality.name for quality in sorted(row.qualities)) or "any"


def facts(seen: Observed, ended: float) -> dict[str, Any]:
    """What was seen of a tag, for programs."""
    return {
        "source": seen.source,
        "device": seen.device,
        "address": seen.address,
        "tag_name": seen.tag_name,
        "path": seen.path,
        "type": " ".join(kind.name for kind in seen.types),
        "unit": seen.unit,
        "min": seen.low,
        "max": seen.high,
        "quality": {quality.name: count for quality, count in sorted(seen.qualities.items())},
        "interval_s": None if seen.interval is None else round(seen.interval, 6),
        "readings": seen.readings,
        "last_value": seen.value,
        "last_quality": seen.quality.name,
        "last_time": iso(seen.time / 1e6),
        "age_s": round(ended - seen.time / 1e6, 3),
    }


def plain(sheet: Sheet) -> dict[str, Any]:
    """The report for programs."""
    return {
        "gateway": sheet.gateway,
        "passed": sheet.passed,
        "counts": sheet.found.counts,
        "configuration": {"file": sheet.configuration, "number": sheet.number, "sha256": sheet.sha256},
        "tag_list": {"file": sheet.tag_list, "sha256": sheet.list_sha256},
        "began_time": iso(sheet.began),
        "ended_time": iso(sheet.ended),
        "beside": sheet.beside,
        "versions": sheet.versions,
        "readings": sheet.readings,
        "sources": [{"name": name, "problem": problem or None} for name, problem in sheet.sources.items()],
        "tags": [
            {
                "line": one.expected.line,
                "tag": one.expected.label,
                "result": one.result,
                "reasons": list(one.reasons),
                "remarks": list(one.remarks),
                "expected": {
                    "type": one.expected.type,
                    "unit": one.expected.unit,
                    "min": one.expected.low,
                    "max": one.expected.high,
                    "quality": qualities(one.expected),
                    "interval_s": one.expected.interval,
                },
                "seen": None if one.seen is None else facts(one.seen, sheet.ended),
            }
            for one in sheet.found.verdicts
        ],
        "unlisted": [facts(one, sheet.ended) for one in sheet.found.unlisted],
    }


# ---------------------------------------------------------------------- CSV


def cell(value: Any) -> str:
    """A cell that no spreadsheet takes for a formula: what begins like one and is no number is put behind a quote."""
    if value is None:
        return ""
    if isinstance(value, int | float):
        return repr(value)
    text = escaped(str(value))
    if text.lstrip().startswith(_FORMULA):
        try:
            float(text)
        except ValueError:
            return f"'{text}"
    return text


def as_csv(sheet: Sheet) -> bytes:
    """The rows of the report, and those of tags that the list does not have; UTF-8 with a mark, as spreadsheets like it."""
    out = io.StringIO(newline="")
    lines = csv.DictWriter(out, _CSV)
    lines.writeheader()
    for one in sheet.found.verdicts:
        row = one.expected
        line = {
            "line": row.line, "result": one.result, "reasons": "; ".join(one.reasons), "remarks": "; ".join(one.remarks),
            "tag": row.label, "source": row.source, "device": row.device, "address": row.address, "path": row.path,
            "tag_name": row.tag_name, "description": row.description, "expected_type": row.type,
            "expected_unit": row.unit, "expected_min": row.low, "expected_max": row.high,
            "expected_quality": qualities(row), "expected_interval_s": row.interval,
        }  # fmt: skip
        lines.writerow({key: cell(value) for key, value in (line | _seen(one.seen, sheet)).items()})
    for other in sheet.found.unlisted:
        line = {"result": "not in the list", "tag": other.path or other.address}
        lines.writerow({key: cell(value) for key, value in (line | _seen(other, sheet)).items()})
    return out.getvalue().encode("utf-8-sig")


def _seen(seen: Observed | None, sheet: Sheet) -> dict[str, Any]:
    if seen is None:
        return {}
    found = facts(seen, sheet.ended)
    return found | {"quality": " ".join(f"{name}:{count}" for name, count in found["quality"].items())}


# ---------------------------------------------------------------------- HTML

_STYLE: Final = """
@page { size: A4 landscape; margin: 12mm 10mm 14mm; @bottom-right { content: counter(page) " / " counter(pages);
  font: 8pt sans-serif; color: #555; } }
* { box-sizing: border-box; }
html { color-scheme: light; }
body { font: 10pt/1.35 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: #222; background: #f2f2f2; margin: 0; }
main { max-width: 277mm; margin: 0 auto; padding: 8mm; background: #fff; }
h1 { font-size: 16pt; font-weight: 600; margin: 0 0 1mm; } h2 { font-size: 11.5pt; font-weight: 600; margin: 7mm 0 2mm; }
p { margin: 0 0 2mm; } .sub { color: #555; }
dl { display: grid; grid-template-columns: max-content 1fr max-content 1fr; gap: 0.6mm 4mm; margin: 4mm 0; }
dt { color: #555; } dd { margin: 0; overflow-wrap: anywhere; }
.counts { display: flex; gap: 4mm; margin: 4mm 0; } .counts div { border: 1px solid #bbb; padding: 2mm 4mm; min-width: 32mm; }
.counts b { display: block; font-size: 15pt; font-weight: 600; }
.bad { border-color: #b3261e !important; color: #b3261e; } .odd { border-color: #8a5a00 !important; color: #8a5a00; }
table { border-collapse: collapse; width: 100%; font-size: 8.5pt; } thead { display: table-header-group; }
th { text-align: left; font-weight: 600; background: #e8e8e8; border-bottom: 1px solid #888; padding: 1mm 1.5mm; }
td { border-bottom: 1px solid #d5d5d5; padding: 1mm 1.5mm; vertical-align: top; white-space: nowrap; }
td.tag, td.value, td.why { white-space: normal; overflow-wrap: anywhere; } td.value { max-width: 45mm; } td.why { min-width: 45mm; }
tr { break-inside: avoid; } .number { text-align: right; font-variant-numeric: tabular-nums; }
.want { color: #666; display: block; } .result { white-space: nowrap; } tr.fail .result, tr.fail .why { color: #b3261e; }
tr.not-seen .result, tr.not-seen .why { color: #8a5a00; } tr.fail, tr.not-seen { background: #fafafa; }
.sign { break-inside: avoid; } .sign td { height: 14mm; border: 1px solid #999; width: 30%; } .sign th { background: none; border: 1px solid #999; }
.mono { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 8pt; }
@media print { body { background: #fff; } main { padding: 0; max-width: none; } * { print-color-adjust: exact; } }
@media screen and (max-width: 700px) { dl { grid-template-columns: max-content 1fr; } .counts { flex-wrap: wrap; } main { overflow-x: auto; padding: 4mm; } }
"""


def _text(value: Any) -> str:
    return html.escape(escaped(str(value)))


def _number(value: float | None) -> str:
    return "–" if value is None else _text(f"{value:.7g}")


def as_html(sheet: Sheet, rows: bytes) -> bytes:
    """The report as a page without scripts or links.

    Args:
        sheet: What it says.
        rows: The CSV, whose hash the page bears so that both belong together.
    """
    counts = sheet.found.counts
    verdict = "All tags passed" if sheet.passed else f"Not passed: {counts['fail'] + counts['not seen']} of "
    verdict += f"{len(sheet.found.verdicts):,}" if not sheet.passed else ""
    title = f"Commissioning of {sheet.gateway}"
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width">',
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body><main>",
        f"<h1>{_text(title)}</h1><p>{_text(verdict)}. Tags of <b>{_text(sheet.tag_list)}</b> compared with live data.</p>",
        *_counts(counts),
        *_about(sheet, hashlib.sha256(rows).hexdigest()),
        *_sources(sheet),
        *_verdicts(sheet),
        *_unlisted(sheet),
        *_signatures(),
        "</main></body></html>\n",
    ]
    return "\n".join(parts).encode()


def _counts(counts: dict[str, int]) -> Iterable[str]:
    styles = {"fail": "bad", "not seen": "odd", "unlisted": "odd"}
    marks = {**_MARKS, "unlisted": "+"}
    words = {"pass": "passed", "fail": "failed", "not seen": "not seen", "unlisted": "not in the list"}
    yield '<div class="counts">'
    for name, count in counts.items():
        style = f' class="{styles[name]}"' if count and name in styles else ""
        yield f"<div{style}><b>{count:,}</b>{marks[name]} {words[name]}</div>"
    yield "</div>"


def _about(sheet: Sheet, rows_sha256: str) -> Iterable[str]:
    number = "not run by a gateway yet" if sheet.number is None else f"number {sheet.number}"
    beside = "; the running gateway read the same sources" if sheet.beside else ""
    facts = {
        "Gateway": sheet.gateway,
        "Watched": f"{iso(sheet.began)[:19]}Z to {iso(sheet.ended)[:19]}Z ({sheet.ended - sheet.began:.0f} s){beside}",
        "Configuration": f"{sheet.configuration}, {number}",
        "Readings": f"{sheet.readings:,}",
        "Its SHA-256": sheet.sha256,
        "Versions": ", ".join(f"{name} {version}" for name, version in sheet.versions.items()),
        "List's SHA-256": sheet.list_sha256,
        "CSV's SHA-256": rows_sha256,
    }
    yield "<dl>"
    for name, value in facts.items():
        mono = ' class="mono"' if "SHA" in name else ""
        yield f"<dt>{_text(name)}</dt><dd{mono}>{_text(value)}</dd>"
    yield "</dl>"


def _sources(sheet: Sheet) -> Iterable[str]:
    wrong = {name: problem for name, problem in sheet.sources.items() if problem}
    if wrong:
        yield "<h2>Sources that could not be read all the time</h2><table><tbody>"
        for name, problem in wrong.items():
            yield f'<tr class="fail"><td class="result">{_MARKS["fail"]} {_text(name)}</td><td>{_text(problem)}</td></tr>'
        yield "</tbody></table>"


def _verdicts(sheet: Sheet) -> Iterable[str]:
    yield "<h2>Tags of the list</h2><table><thead><tr><th>Result</th><th>Tag</th><th>Type</th><th>Unit</th>"
    yield '<th class="number">Range</th><th>Quality</th><th class="number">Interval</th>'
    yield '<th class="number">Last value</th><th class="number">Age</th><th>Why, remarks</th></tr></thead><tbody>'
    order = {result: place for place, result in enumerate(("fail", "not seen", "pass"))}
    for one in sorted(sheet.found.verdicts, key=lambda one: order[one.result]):  # the worst first
        yield _verdict(one, sheet)
    yield "</tbody></table>"


def _verdict(one: Verdict, sheet: Sheet) -> str:
    row, seen = one.expected, one.seen
    name = f"{_text(row.label)}<span class='want'>{_text(_place(seen)) if seen else _text(row.source)}</span>"
    if row.description:
        name += f"<span class='want'>{_text(row.description)}</span>"
    limits = "" if row.low is None and row.high is None else f"{_number(row.low)} … {_number(row.high)}"
    wants = (
        row.type,
        row.unit,
        limits,
        qualities(row),
        "" if row.interval is None else f"{row.interval:.6g} s",
    )
    found = ("–",) * 7 if seen is None else _cells(seen, sheet.ended)
    why = "<br>".join(_text(text) for text in (*one.reasons, *one.remarks))
    shown = [f"{value}<span class='want'>{_text(want)}</span>" for value, want in zip(found[:5], wants, strict=True)]
    styles = ("", "", "number", "", "number")
    cells = [f'<td class="{style}">{value}</td>' for style, value in zip(styles, shown, strict=True)]
    cells += [f'<td class="number value">{found[5]}</td><td class="number">{found[6]}</td>']
    return (
        f'<tr class="{one.result.replace(" ", "-")}"><td class="result">{_MARKS[one.result]} {one.result}</td>'
        f'<td class="tag">{name}</td>{"".join(cells)}<td class="why">{why}</td></tr>'
    )


def _place(seen: Observed) -> str:
    return f"{seen.source} · {seen.device} · {seen.address}"


def _cells(seen: Observed, ended: float) -> tuple[str, ...]:
    """Type, unit, range, quality, interval, last value and age."""
    return (
        _text(" ".join(kind.name for kind in seen.types)),
        _text(seen.unit),
        "–" if seen.low is None else f"{_number(seen.low)} … {_number(seen.high)}",
        "<br>".join(_text(f"{quality.name} {count:,}") for quality, count in sorted(seen.qualities.items())),
        "–" if seen.interval is None else _text(f"{seen.interval:.4g} s"),
        _text(seen.value),
        _text(f"{ended - seen.time / 1e6:.1f} s"),
    )


def _unlisted(sheet: Sheet) -> Iterable[str]:
    if not sheet.found.unlisted:
        return
    yield "<h2>Tags that the list does not have</h2><table><thead><tr><th>Tag</th><th>Type</th><th>Unit</th>"
    yield '<th class="number">Range</th><th>Quality</th><th class="number">Interval</th>'
    yield '<th class="number">Last value</th><th class="number">Age</th></tr></thead><tbody>'
    for one in sheet.found.unlisted:
        name = f"{_text(one.path or one.tag_name)}<span class='want'>{_text(_place(one))}</span>"
        styles = ("", "", "number", "", "number", "number value", "number")
        found = zip(styles, _cells(one, sheet.ended), strict=True)
        cells = "".join(f'<td class="{style}">{value}</td>' for style, value in found)
        yield f'<tr><td class="tag">{name}</td>{cells}</tr>'
    yield "</tbody></table>"


def _signatures(signers: Sequence[str] = _SIGNERS) -> Iterable[str]:
    yield '<section class="sign"><h2>Sign-off</h2><table><thead><tr><th></th><th>Name</th><th>Signature</th><th>Date</th></tr></thead><tbody>'
    for signer in signers:
        yield f"<tr><th>{_text(signer)}</th><td></td><td></td><td></td></tr>"
    yield "</tbody></table></section>"
