"""`bifrost test-config`: tests of a configuration, run without a plant and without a target."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bifrost.options import DEFAULT_CONFIG, AsJson, ConfigFile, load, print_json

if TYPE_CHECKING:
    from config.cases import Cases
    from config.models import Configuration


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one test ended.

    Attributes:
        file: Its file.
        line: Its line.
        name: Its name.
        failures: What is not as expected, each with the place that expects it; empty when it passed.
        seconds: How long it took.
    """

    file: str
    line: int
    name: str
    failures: list[str]
    seconds: float


def outcomes(config: "Configuration", files: "Sequence[Cases]") -> list[Outcome]:
    """Run the tests of some files, each on its own."""
    from flows.cases import run

    found = []
    for file in files:
        for number, case in enumerate(file.cases):
            began = time.perf_counter()
            failures = []
            for mismatch in run(config, case):
                place = file.place(number, *mismatch.path)
                where = ".".join(str(part) for part in mismatch.path)
                failures.append(f"{place.file}:{place.line}: {where + ': ' if where else ''}{mismatch.message}")
            place = file.place(number)
            found.append(Outcome(place.file, place.line, case.name, failures, time.perf_counter() - began))
    return found


def junit(found: Sequence[Outcome]) -> bytes:
    """The outcomes as JUnit's XML, which build servers read."""
    from xml.etree import ElementTree

    from config.logs import escaped

    root = ElementTree.Element("testsuites", tests=str(len(found)), failures=str(sum(bool(o.failures) for o in found)))
    for file in dict.fromkeys(one.file for one in found):
        mine = [one for one in found if one.file == file]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=escaped(file),
            tests=str(len(mine)),
            failures=str(sum(bool(one.failures) for one in mine)),
            errors="0",
            time=f"{sum(one.seconds for one in mine):.3f}",
        )
        for one in mine:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                name=escaped(one.name),
                classname=escaped(file),
                file=escaped(file),
                line=str(one.line),
                time=f"{one.seconds:.3f}",
            )
            if one.failures:
                lines = [escaped(line) for line in one.failures]
                ElementTree.SubElement(case, "failure", message=lines[0]).text = "\n".join(lines)
    ElementTree.indent(root)
    made: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return made


def run_tests(
    tests: Annotated[
        list[Path] | None,
        typer.Argument(help="Files of tests; default: tests/*.yaml beside the configuration.", show_default=False),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    report: Annotated[
        Path | None, typer.Option("--junit", help="Write the outcome as JUnit XML too.", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Test a configuration: what comes from a device, and what is expected to become of it; nothing is connected.

    Exit code 1 when a test fails, 2 when a file cannot be used.
    """
    from config.cases import load_cases
    from config.logs import escaped
    from config.yaml_nodes import Problem, ProblemsError

    loaded = load(config)
    folder = config.parent / "tests"
    files = tests or sorted(path for path in folder.glob("*.y*ml") if path.suffix in (".yaml", ".yml"))
    if not files:
        typer.echo(f"there are no tests: name some, or put them into {folder}/", err=True)
        raise typer.Exit(2)
    cases, problems = [], list[Problem]()
    for file in files:
        try:
            cases.append(load_cases(file))
        except ProblemsError as error:
            problems += error.problems
    if problems:
        typer.echo(str(ProblemsError(problems)), err=True)
        raise typer.Exit(2)
    found = outcomes(loaded, cases)
    failed = [one for one in found if one.failures]
    if report is not None:
        try:
            report.write_bytes(junit(found))
        except OSError as error:
            typer.echo(f"{report}: {error.strerror}", err=True)
            raise typer.Exit(2) from error
    if as_json:
        shown = [{"file": o.file, "line": o.line, "name": o.name, "failures": o.failures} for o in found]
        print_json({"tests": len(found), "failed": len(failed), "cases": shown})
    else:
        from rich.text import Text

        from bifrost.screen import console

        out = console()
        for one in found:
            word, style = ("FAILED", "red") if one.failures else ("ok", "green")
            line = Text(f"{word:<7}", style=style)
            line.append(f"{escaped(one.file)}:{one.line}  {escaped(one.name)}", style="not bold")
            out.print(line, soft_wrap=True)
            for failure in one.failures:
                out.print(Text(f"        {escaped(failure)}"), soft_wrap=True)
        out.print(Text(f"{len(found)} tests, {len(failed)} failed"))
    raise typer.Exit(1 if failed else 0)
