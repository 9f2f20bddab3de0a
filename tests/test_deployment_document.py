"""The commands of the pages for operators work as printed: those without `sudo` are run, with other folders; every verb is there."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer.main

from bifrost.cli import app

ROOT = Path(__file__).parents[1]
PAGES = ("deployment", "edge-box", "troubleshooting", "performance")
DEPLOYMENT = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
SECTION = re.compile(r"^## (?P<title>.*?)\n(?P<text>.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
SECTIONS = {found["title"]: found["text"] for found in SECTION.finditer(DEPLOYMENT)}


def commands(title: str, number: int = 0) -> list[str]:
    """What a block of a section says, without comments and without what wants root or a wheel."""
    block = re.findall(r"```sh\n(.*?)```", SECTIONS[title], re.DOTALL)[number]
    return [line for line in block.splitlines() if line.strip() and not line.startswith(("#", "sudo "))]


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine with two versions of the program, which are this one."""
    for release in ("0.1.0", "0.2.0"):
        folder = tmp_path / "opt" / "bifrost" / release / "bin"
        folder.mkdir(parents=True)
        program = folder / "bifrost"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m bifrost "$@"\n')
        program.chmod(0o755)
    (tmp_path / "var" / "backups").mkdir(parents=True)
    return tmp_path


def done(machine: Path, *lines: str) -> str:
    """Run lines in a shell with the machine's folders in place of the system's."""
    text = "\n".join(lines)
    text = re.sub(r"(?<![\w.])/(opt|etc|var)/", rf"{machine}/\1/", text).replace("-C / ", f"-C {machine} ")
    finished = subprocess.run(
        ["sh", "-euc", text],
        cwd=machine, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert finished.returncode == 0, f"{text}\n{finished.stdout}{finished.stderr}"
    return finished.stdout


def test_a_gateway_is_installed_backed_up_upgraded_and_taken_back(machine: Path) -> None:
    said = done(machine, *commands("Installing"))
    assert said.startswith("bifrost ")
    assert "gateway.yaml is sound." in said
    shown = re.findall(r"```yaml\n(.*?)```", SECTIONS["Installing"], re.DOTALL)[0]
    nobody = shown.replace("/var/lib", f"{machine}/var/lib").replace("192.168.1.10", "127.0.0.1")
    (machine / "etc" / "bifrost" / "gateway.yaml").write_text(f"{nobody}web_ui: {{enabled: false}}\n")
    run = "/opt/bifrost/current/bin/bifrost run -c /etc/bifrost/gateway.yaml --for 1s"
    done(machine, run)
    done(machine, *commands("Backing up"))
    kept = (machine / "var" / "lib" / "bifrost" / "data" / "gateway").read_bytes()
    done(machine, *commands("Upgrading"))
    assert (machine / "opt" / "bifrost" / "current").resolve().name == "0.2.0"
    done(machine, *commands("Rolling back"))
    assert (machine / "opt" / "bifrost" / "current").resolve().name == "0.1.0"
    done(machine, "rm -r /var/lib/bifrost /etc/bifrost", *commands("Backing up", 1), run)
    assert (machine / "var" / "lib" / "bifrost" / "data" / "gateway").read_bytes() == kept


def verbs(command: click.Command) -> dict[str, click.Command]:
    return dict(getattr(command, "commands", {}))


def named() -> Iterator[tuple[str, list[str]]]:
    """Every command of the program in the code of a page, as words."""
    for page in PAGES:
        text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        code = re.findall(r"```sh\n(.*?)```", text, re.DOTALL) + re.findall(r"`([^`\n]+)`", text)
        for line in "\n".join(code).splitlines():
            if found := re.match(r"(?:\S*/)?bifrost ([a-z][a-z -]*)", line):
                yield page, found[1].split()


def test_every_verb_that_the_pages_name_is_there() -> None:
    top = verbs(typer.main.get_command(app))
    found = list(named())
    assert len(found) > 30
    for page, (verb, *rest) in found:
        assert verb in top, f"docs/{page}.md: bifrost {verb}"
        below = verbs(top[verb])
        if below and rest and not rest[0].startswith("-"):
            assert rest[0] in below, f"docs/{page}.md: bifrost {verb} {rest[0]}"


def test_every_link_of_the_pages_leads_somewhere() -> None:
    for page in PAGES:
        text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        for link, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", text):
            file = ROOT / "docs" / link if link else ROOT / "docs" / f"{page}.md"
            assert file.exists(), f"docs/{page}.md: {link}"
            if anchor:
                titles = re.findall(r"^#+ (.*)", file.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}
                assert anchor in anchors, f"docs/{page}.md: {link}#{anchor}"


def test_every_event_that_the_pages_name_has_its_code() -> None:
    from config.events import EVENTS

    codes = {event.code for event in EVENTS}
    for page in PAGES:
        named_codes = set(re.findall(r"BF-[A-Z]+-\d{3}", (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")))
        assert named_codes <= codes
