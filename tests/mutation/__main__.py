"""``python -m tests.mutation [--survivors] [FILE ...]``: change the code in small ways and see whether a test fails."""

import argparse
import ast
import contextlib
import difflib
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from mutmut.configuration import config
from mutmut.mutation.file_mutation import mutate_file_contents
from mutmut.utils.format_utils import get_mutant_name, orig_function_and_class_names_from_key

from tests import evidence

ROOT: Final = Path(__file__).parents[2]
PLACE: Final = ROOT / "build" / "mutation"
TREE: Final = PLACE / "tree"
EQUIVALENT: Final = Path(__file__).with_name("equivalent.toml")
LEFT_OUT: Final = (".git", ".venv", "build", "data", "dist", "node_modules", "__pycache__", ".*_cache", ".hypothesis")


@dataclass
class Mutants:
    """The mutants of one file.

    Attributes:
        code: The file with all of them in it, mutmut's way.
        diffs: What each changes, by its name.
        statements: First and last line of the statement that it changes, in `code` as it is; 0 for the head of a function.
        equivalent: Those of them that no test can tell from the code.
    """

    code: str
    diffs: dict[str, list[str]] = field(default_factory=dict)
    statements: dict[str, tuple[int, int]] = field(default_factory=dict)
    equivalent: set[str] = field(default_factory=set)

    def digest(self) -> str:
        """Tells one state of the code from another."""
        return hashlib.sha256(self.code.encode()).hexdigest()

    def sample(self, every: int) -> "Mutants":
        """Every n-th of them."""
        return replace(
            self,
            diffs=dict(list(self.diffs.items())[::every]),
            equivalent=self.equivalent & {*list(self.diffs)[::every]},
        )

    def todo(self, known: dict[str, str]) -> list[str]:
        """Mutants of which it is not known what becomes of them."""
        return [mutant for mutant in self.diffs if mutant not in self.equivalent and mutant not in known]


def main(arguments: list[str]) -> int:
    """Run and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("files", nargs="*", metavar="FILE", help="what to change; without, all of [tool.mutmut]")
    parser.add_argument("--survivors", action="store_true", help="only what survived the last run of the same code")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every n-th mutant only, for an estimate")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of tests that a mutant gets")
    parser.add_argument("--slowest", type=float, default=1.5, help="leave out the tests that take longer, seconds")
    parser.add_argument("--tests", action="append", metavar="PATH", help="these only; without, those of [tool.mutmut]")
    given = parser.parse_args(arguments)
    os.chdir(ROOT)
    shutil.rmtree(TREE, ignore_errors=True)
    shutil.copytree(ROOT, TREE, ignore=shutil.ignore_patterns(*LEFT_OUT))
    names = given.files or config().only_mutate
    options = [f"--budget={given.budget}", f"--slowest={given.slowest}", *config().pytest_add_cli_args]
    options += given.tests or config().pytest_add_cli_args_test_selection
    missing = _run(names, survivors=given.survivors, every=given.every, options=options)
    _say(_table())
    for name in missing:
        _say(f"not run to its end, see {(PLACE / 'pytest.log').relative_to(ROOT)}: {name}")
    return 1 if missing else 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


# ---------------------------------------------------------------------- a file's mutants


def _mutants(name: str) -> Mutants:
    # mutmut leaves out what has a decorator; this one does nothing.
    source = re.sub(r"^ *@override\n", "", Path(name).read_text("utf-8"), flags=re.MULTILINE)
    mutated = mutate_file_contents(name, source)
    found = Mutants(mutated.code)
    excluded = [entry for entry in tomllib.loads(EQUIVALENT.read_text("utf-8"))["equivalent"] if entry["file"] == name]
    unused = {(entry["function"], line) for entry in excluded for line in entry["becomes"]}
    known = set(unused)
    lines, spans = mutated.code.splitlines(), mutated.line_span_by_function_name
    statements = _statements(mutated.code)
    for mutant in mutated.mutant_names:
        full = get_mutant_name(Path(name), mutant)
        plain = _function(full).rpartition(".")[2]
        original = mutant.rpartition("__mutmut_")[0] + "__mutmut_orig"
        before, after = (
            [line.replace(it, plain) for line in lines[spans[it].start - 1 : spans[it].end]]
            for it in (original, mutant)
        )
        at = next((n for n, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), 0)
        found.statements[full] = statements.get(spans[original].start + at, (0, 0))
        found.diffs[full] = diff = list(difflib.unified_diff(before, after, lineterm="", n=2))[2:]
        if (mark := (_function(full), _becomes(diff))) in known:
            found.equivalent.add(full)
            unused.discard(mark)
    for function, line in sorted(unused):
        _say(f"  no mutant any more, take it out of {EQUIVALENT.name}: {function}: {line}")
    return found


def _statements(code: str) -> dict[int, tuple[int, int]]:
    """First and last line of the innermost statement, or of its head, by each of its lines; not of heads of functions."""
    found: dict[int, tuple[int, int]] = {}
    for node in ast.walk(ast.parse(code)):  # the outer ones come first
        if isinstance(node, ast.stmt) and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            last = node.end_lineno or node.lineno
            found |= dict.fromkeys(range(node.lineno, last + 1), (node.lineno, last))
    for node in ast.walk(ast.parse(code)):
        inside = getattr(node, "body", None)
        if isinstance(node, ast.stmt) and isinstance(inside, list) and node.lineno in found:
            head = (node.lineno, max(node.lineno, inside[0].lineno - 1))
            found |= dict.fromkeys(range(head[0], head[1] + 1), head)
    return found


def _function(mutant: str) -> str:
    function, owner = orig_function_and_class_names_from_key(mutant)
    return f"{owner}.{function}" if owner else function


def _becomes(diff: list[str]) -> str:
    """The lines that a mutant puts in, as one."""
    return " ".join(line[1:].strip() for line in diff if line.startswith("+"))


def _run(names: list[str], *, survivors: bool, every: int, options: list[str]) -> list[str]:
    """Run the mutants of files and record what became of them; returns the files that were not run to their end."""
    found = {name: _mutants(name).sample(every) for name in names}
    verdicts = {name: _remembered(name, mutants) if survivors else {} for name, mutants in found.items()}
    todo = {name: mutants.todo(verdicts[name]) for name, mutants in found.items()}
    for name, mutants in found.items():
        if todo[name]:
            (TREE / name).write_text(mutants.code, "utf-8")
    home = {mutant: name for name, chosen in todo.items() for mutant in chosen}
    statements = {mutant: (name, *found[name].statements[mutant]) for mutant, name in home.items()}
    for mutant, verdict in _test(statements, options).items():
        verdicts[home[mutant]][mutant] = verdict
    for name, mutants in found.items():
        if not mutants.todo(verdicts[name]):
            _remember(name, mutants, verdicts[name])
            _record(name, [*verdicts[name].values(), *("equivalent" for _ in mutants.equivalent)], every)
    return [name for name, mutants in found.items() if mutants.todo(verdicts[name])]


def _memory(name: str, kind: str) -> Path:
    return PLACE / f"{name.replace('/', '.')}{kind}"


def _remembered(name: str, mutants: Mutants) -> dict[str, str]:
    """What was found for the same code before, without what survived."""
    memory = _memory(name, ".json")
    known = json.loads(memory.read_text("utf-8")) if memory.exists() else {}
    if known.get("code") != mutants.digest():
        return {}
    return {
        mutant: v for mutant, v in known["verdicts"].items() if v != "survived" and mutant not in mutants.equivalent
    }


def _remember(name: str, mutants: Mutants, verdicts: dict[str, str]) -> None:
    known = {"code": mutants.digest(), "verdicts": verdicts}
    _memory(name, ".json").write_text(json.dumps(known, indent=1) + "\n", "utf-8")
    alive = [
        f"=== {_function(mutant)} {mutant.rpartition('_')[2]}\n" + "\n".join(diff) + "\n"
        for mutant, diff in mutants.diffs.items()
        if verdicts.get(mutant) == "survived"
    ]
    _memory(name, ".diff").write_text("\n".join(alive), "utf-8")


def _test(mutants: dict[str, tuple[str, int, int]], options: list[str]) -> dict[str, str]:
    """What becomes of each of `mutants`, which lie in the tree: a file, first and last line of what it changes."""
    names, verdicts = PLACE / "todo.json", PLACE / "verdicts.jsonl"
    names.write_text(json.dumps(mutants), "utf-8")
    verdicts.write_text("", "utf-8")
    if mutants:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "tests.mutation.loop",
            "-s",
            "-q",
            "--tb=native",
            "--rootdir=.",
            *options,
        ]
        command += [f"--mutants={names}", f"--verdicts={verdicts}"]
        environment = os.environ | {"PYTHONPATH": str(TREE)}
        with (
            contextlib.suppress(KeyboardInterrupt),
            (PLACE / "pytest.log").open("w") as said,
        ):  # what has been run counts
            subprocess.run(command, cwd=TREE, check=False, stdout=said, env=environment)
    lines = [json.loads(line) for line in verdicts.read_text("utf-8").splitlines()]
    return {mutant: verdict for mutant, verdict, *_ in lines}


# ---------------------------------------------------------------------- what was found


def _record(name: str, verdicts: list[str], every: int) -> None:
    path = evidence.FOLDER / "mutation.json"
    files = json.loads(path.read_text("utf-8"))["files"] if path.exists() else {}
    counts = Counter(verdicts)
    files[name] = {
        "mutants": counts["killed"] + counts["survived"] + counts["timeout"],
        "killed": counts["killed"],
        "survived": counts["survived"],
        "timeout": counts["timeout"],
        "equivalent": counts["equivalent"],
        "every": every,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
    files[name]["score"] = _score(files[name])
    versions = {"tool": f"mutmut {importlib.metadata.version('mutmut')}"}
    evidence.record("mutation", {"files": files, "score": _score(_sum(files)), **versions, **evidence.conditions([])})


def _sum(files: dict[str, Any]) -> Counter[str]:
    total: Counter[str] = Counter()
    for counts in files.values():
        total.update({key: counts[key] for key in ("mutants", "killed", "survived", "timeout", "equivalent")})
    return total


def _score(counts: Any) -> float:
    """Per cent of the mutants that a test told from the code; one that hangs is told too."""
    return round(100 * (counts["killed"] + counts["timeout"]) / (counts["mutants"] or 1), 1)


def _table() -> str:
    path = evidence.FOLDER / "mutation.json"
    files = json.loads(path.read_text("utf-8"))["files"] if path.exists() else {}
    total = _sum(files)
    rows = [("file", "mutants", "killed", "survived", "timeout", "equivalent", "score")]
    for name, counts in [*files.items(), ("total", {**total, "score": _score(total)})]:
        sampled = f" (1 of {counts['every']})" if counts.get("every", 1) > 1 else ""
        rows.append((name + sampled, *(str(counts.get(key, 0)) for key in rows[0][1:])))
    width = max(len(row[0]) for row in rows)
    return "\n".join(row[0].ljust(width) + "".join(cell.rjust(12) for cell in row[1:]) for row in rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
