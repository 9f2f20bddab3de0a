"""The threat model: its rows, and which tests prove that the control of each holds.

A test says which rows it proves by ``@pytest.mark.threat(9)``. What a run found goes to ``build/evidence/threats.json``; the
table in ``docs/reference/threats.md`` is made of both::

    python -m tests.threats          # writes the table
    python -m tests.threats --check  # fails when it is not what the tests say
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from tests import evidence

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "reference" / "threats.md"
EVIDENCE: Final = evidence.FOLDER / "threats.json"


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the threat model.

    Attributes:
        number: Its number, which tests name.
        threat: What could be done to the gateway, or by it.
        control: What is done about it.
        proof: What its tests must show.
        requirements: Component requirements of IEC 62443-4-2 that it serves.
    """

    number: int
    threat: str
    control: str
    proof: str
    requirements: tuple[str, ...]


ROWS: Final = (
    Row(1, "API or UI without login", "denied unless allowed; users with Argon2id, hashed tokens that expire, three roles",
        "every route without token and with each role: none answers outside the matrix", ("CR 1.1", "CR 2.1")),
    Row(2, "default or shared password", "none is shipped; a set-up token is printed once",
        "a fresh start refuses every route that writes", ("CR 1.5", "CR 1.7")),
    Row(3, "brute force", "attempts limited per user and address, growing delay, comparison in constant time",
        "1,000 attempts: at most 20 are evaluated", ("CR 1.11",)),
    Row(4, "cross-site request forgery", "SameSite=Strict with a token, Origin checked, JSON only",
        "foreign, form and text posts to every route that writes: none is accepted", ("CR 3.8",)),
    Row(5, "DNS rebinding, false Host", "list of allowed hosts", "another Host is refused on every route", ("CR 5.2",)),
    Row(6, "requests steered to other hosts by discovery, tests or new sources",
        "networks allowed by the file alone; resolved once", "60 URLs: no packet outside the list", ("CR 5.2",)),
    Row(7, "a scan that harms controllers", "off by default, slow, one connection per port, reads identity only, stop button",
        "at a false controller: one connection per port, no write; stopped within 1 s", ("CR 7.1", "CR 7.7")),
    Row(8, "endpoint URLs from a server lead elsewhere", "shown, never followed",
        "a server that names another address: no connection there", ("CR 3.5",)),
    Row(9, "the gateway writes to the plant",
        "Modbus 1 to 4 and 43/14, OPC UA services that read, MQTT subscriptions; of Sparkplug commands the rebirth alone",
        "what devices are asked in the suite of all readers: nothing else", ("CR 7.7", "CR 2.1")),
    Row(10, "man in the middle of OPC UA", "trust store, purpose, address and application of a certificate are checked",
        "self-signed, expired, other address, revoked, other host's: no session; kept under rejected",
        ("CR 1.8", "CR 1.9", "CR 3.1")),
    Row(11, "gaps of the trust store", "own check of issuers, chains and signatures of revocation lists",
        "the same serial of another issuer is not revoked; a forged list is ignored", ("CR 1.8",)),
    Row(12, "an OPC UA password in clear", "refused unless the channel or the token is encrypted",
        "a server that offers no encryption: no byte of the password is sent", ("CR 4.1",)),
    Row(13, "security is negotiated down", "weak policies and none only where the source says so",
        "a server that offers weak ones only is refused, and it is logged", ("CR 4.3",)),
    Row(14, "an OPC UA server fills the memory", "limits of message and chunks before anything is kept",
        "chunks without end: memory grows by less than 64 MiB, other sources deliver", ("CR 7.1", "CR 3.5")),
    Row(15, "Modbus replies that lie", "unit, function, count, length and transaction of every reply are checked",
        "10,000 mutated replies: no crash, no wrong value, quality BAD", ("CR 3.5", "CR 3.7")),
    Row(16, "MQTT floods: huge messages, topics without end, retained ones, `$`-topics",
        "own cap on size, cap on topics, back-pressure", "memory grows by less than 64 MiB; the counters are right",
        ("CR 7.1",)),
    Row(17, "false Sparkplug: births, aliases, sequences, compression bombs",
        "sequence and birth rules, one rebirth request per node and time, caps on parts and unpacked size",
        "any order and any message leave the host sound; 1 GB packed: less than 64 MiB", ("CR 3.5",)),
    Row(18, "injection by tag names", "one escaping function per target, identifiers never formatted in",
        "100,000 random names per target: equal or refused, nothing besides", ("CR 3.5",)),
    Row(19, "scripts and log lines from plant strings", "templates escape, strict CSP, control characters escaped",
        "a corpus in a real browser: nothing runs; a line per event", ("CR 3.5",)),
    Row(20, "paths that lead out", "names of a fixed form, resolved paths compared",
        "a corpus: no file outside the directory", ("CR 3.5",)),
    Row(21, "secrets in logs, answers, metrics, tracebacks", "secret types, a filter, canaries",
        "20 canaries: found nowhere", ("CR 4.1",)),
    Row(22, "secrets at rest", "AES-256-GCM with scrypt, 0600, key elsewhere, rotation that survives a kill",
        "wrong key, flipped bits, cut file, kill in a rotation: never in clear, never all lost", ("CR 1.5", "CR 4.3")),
    Row(23, "a pickle planted in the recovery store runs as code",
        "directories 0700, refused when others own or may write them; own stores hold no pickle",
        "a planted pickle in a directory that a group may write: the gateway does not start, the code does not run",
        ("CR 3.4",)),
    Row(24, "Bytewax opens a port without login", "its variable is taken out of the environment",
        "the variable set to anything, both ways of starting: the port is closed", ("CR 7.7",)),
    Row(25, "cluster ports without login", "one process; a network policy where clustered", "only the API's port is open",
        ("CR 7.7", "CR 5.1")),
    Row(26, "the API is exhausted", "limits of body, time, page, connections and rate",
        "under each attack nothing is lost, and a second client is answered within a second", ("CR 7.1", "CR 7.2")),
    Row(27, "the audit log is changed or lost", "append-only chain of hashes, own quota",
        "an edited line is found; a full log disk leaves the data path alone", ("CR 2.8", "CR 3.9")),
    Row(28, "supply chain", "hash-pinned lock, bill of materials, audit, unprivileged read-only image",
        "no high finding older than 30 days; the image runs so", ("CR 3.4", "CR 3.10")),
    Row(29, "a configuration half saved", "written beside, synced, renamed; the last ones kept",
        "killed at each system call of saving: the old one or the new one", ("CR 7.3", "CR 7.4")),
    Row(30, "the clock is set", "both times are kept; order does not depend on them; a clock that is set back is noticed",
        "an hour, ten years, 1970: no standstill above 2 s, nothing lost, repeated or disordered", ("CR 2.11",)),
    Row(31, "a false identity by OpenID Connect: forged, foreign or replayed answers, a provider that lies or hangs",
        "code flow with PKCE; state and nonce bound to the browser; one issuer, its keys alone; no role unless mapped",
        "tokens and answers of a hostile provider: nobody is let in, nothing is asked elsewhere, local users still get in",
        ("CR 1.1", "CR 1.9", "CR 3.5")),
)  # fmt: skip


def row(number: int) -> Row:
    """The row of a number.

    Raises:
        KeyError: There is none.
    """
    return {one.number: one for one in ROWS}[number]


# ---------------------------------------------------------------------- which tests there are


@cache
def marked() -> dict[int, list[str]]:
    """Tests by row, as ``tests/…/test_x.py::test_y``: every marker, on functions, parameters and whole files."""
    found: dict[int, list[str]] = {one.number: [] for one in ROWS}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if "mark.threat(" not in text:
            continue
        for name, numbers in _marks(ast.parse(text)):
            for number in numbers:
                found[number].append(f"{path.relative_to(ROOT).as_posix()}::{name}")
    return {number: list(dict.fromkeys(tests)) for number, tests in found.items()}


def _marks(module: ast.Module) -> Iterator[tuple[str, list[int]]]:
    whole = [
        number
        for node in module.body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in node.targets)
        for number in _numbers(node.value)
    ]
    for node in module.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            numbers = [number for decorator in node.decorator_list for number in _numbers(decorator)]
            yield node.name, [*whole, *numbers]


def _numbers(node: ast.AST) -> Iterator[int]:
    """The rows of all markers in an expression."""
    for call in ast.walk(node):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.threat":
            for argument in call.args:
                yield int(ast.literal_eval(argument))


# ---------------------------------------------------------------------- what a run found


def record(found: dict[str, tuple[Sequence[int], bool]], path: Path = EVIDENCE) -> None:
    """Add what a run found to the evidence; tests that there are no more leave it.

    Args:
        found: Of each test, its rows and whether it passed with all its parameters.
        path: The evidence.
    """
    known = {test for tests in marked().values() for test in tests}
    with evidence.locked(path.parent):
        before: list[dict[str, Any]] = evidence.read(path) or []  # type: ignore[assignment]
        kept = [one for one in before if one["test"] in known and one["test"] not in found]
        new = [
            {
                "row": number,
                "test": test,
                "result": "pass" if passed else "fail",
                "iec62443": [*row(number).requirements],
            }
            for test, (numbers, passed) in found.items()
            for number in numbers
        ]
        evidence.write(path, sorted([*kept, *new], key=lambda one: (one["row"], one["test"])))


# ---------------------------------------------------------------------- the table


def table(rows: Iterable[Row] = ROWS) -> str:
    """The page."""
    lines = [
        "# Threats, and the tests that prove the controls",
        "",
        "Made by `python -m tests.threats`; `make check` compares it with the tests. `pytest -m threat` runs them all, and writes",
        "`build/evidence/threats.json`. The assets in their order: that the plant runs, that data is right, that secrets stay",
        "secret. The last column names the component requirements of IEC 62443-4-2 that a control serves; it is no certificate.",
        "",
        "| # | threat | control | what is shown | tests | IEC 62443-4-2 |",
        "|---|---|---|---|---|---|",
    ]
    for one in rows:
        tests = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in marked()[one.number])
        tests = tests or "–"
        cells = (str(one.number), one.threat, one.control, one.proof, tests, ", ".join(one.requirements))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the page, or compare it."""
    if "--check" in arguments:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != table():
            print(f"{PAGE.relative_to(ROOT)} is out of date: python -m tests.threats", file=sys.stderr)  # noqa: T201
            return 1
        return 0
    PAGE.write_text(table(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
