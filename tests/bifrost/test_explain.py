"""`bifrost explain` and `bifrost test-config`: the page that describes them is run, and what is wrong is said."""

import asyncio
import json
import re
import shlex
import textwrap
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer.testing

from bifrost.cli import app
from tests.command_in_process import quiet
from tests.connectors.sources.modbus.device import Request, running, word
from tests.ports import free_port

__all__ = ["quiet"]

PAGE = (Path(__file__).parents[2] / "docs" / "explain.md").read_text(encoding="utf-8")
CONFIG, TESTS = re.findall(r"```yaml[^\n]*\n(.*?)```", PAGE, re.DOTALL)
CONSOLE = "".join(re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = re.findall(r"^\$ bifrost ([^\n]*)\n((?:(?!\$ ).*\n)*)", CONSOLE, re.MULTILINE)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gateway.yaml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "press.yaml").write_text(TESTS, encoding="utf-8")
    (tmp_path / "message.json").write_text('{"value": 3.2, "unit": "m/s"}', encoding="utf-8")
    return tmp_path


def run(*arguments: str, given: str = "") -> tuple[int, str, str]:
    answer = typer.testing.CliRunner().invoke(app, list(arguments), input=given)
    return answer.exit_code, answer.stdout, answer.stderr


@pytest.mark.parametrize(("command", "shown"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_the_page_shows_what_is_printed(command: str, shown: str) -> None:
    code, said, wrong = run(*shlex.split(command))
    pattern = re.escape(shown).replace("…\\\n", "(?s:.*)").replace("…", "[^\n]*")
    assert re.fullmatch(pattern, said), f"{said}\n{wrong}"
    assert code == (1 if "FAILED" in shown else 0)


def test_json_has_every_step() -> None:
    code, said, _ = run("explain", "-c", "gateway.yaml", "oil_temperature", "--value", "655", "--json")
    (reading,) = json.loads(said)["readings"]
    assert code == 0
    assert reading["path"]["path"] == reading["normalized"]["path"] == "hamburg/press/temperature/oil_temperature"
    assert (reading["raw"]["value"], reading["conversions"]) == (655, {"scale": 0.1})
    (rule,) = reading["rules"]
    assert (rule["rule"], rule["matched"], rule["values"]) == ("hot", True, {"unit": "°C", "value": 65.5})
    assert [(target["name"], target["because"]) for target in reading["targets"]] == [
        ("bus", ["rule hot"]),
        ("archive", ["rule hot"]),
    ]


def test_a_tag_is_found_by_its_path_too() -> None:
    code, said, _ = run("explain", "-c", "gateway.yaml", "hamburg/press/temperature/oil_temperature")
    assert (code, said.split("\n")[0]) == (0, "press (modbus)")


def test_what_is_posted_is_explained_where_the_source_says_that_it_is() -> None:
    arguments = ["explain", "-c", "gateway.yaml", "--value", "61", "--unit", "ignored", "--json", "-s"]
    code, said, _ = run(*arguments, "api/bus", "PLC001/heat")
    (reading,) = json.loads(said)["readings"]
    assert (code, reading["path"]["path"], reading["rules"]) == (0, "PLC001/heat", [])
    (target,) = reading["targets"]
    assert (target["name"], target["because"]) == ("bus", ["it was posted for this target alone"])
    code, said, _ = run(*arguments, "api", "heat", "--device", "a/b", "--quality", "bad")
    (reading,) = json.loads(said)["readings"]
    assert (code, reading["raw"]["device_id"], reading["raw"]["tag_name"]) == (0, "a/b", "heat")
    assert reading["normalized"]["quality"] == "BAD"
    assert [target["because"] for target in reading["targets"]] == [["default_connector"]]
    assert run(*arguments, "api", "heat")[0] == 1  # of which device?
    code, _, wrong = run(*arguments, "api", "PLC001/heat", "--quality", "so so")
    assert (code, wrong.split(":")[0]) == (1, "such a reading would not be taken")
    code, _, wrong = run(*arguments, "api/gone", "PLC001/heat")
    assert (code, "name the source" in wrong) == (2, True)


def test_a_message_comes_from_standard_input() -> None:
    code, said, _ = run(
        *("explain", "-c", "gateway.yaml", "-s", "broker", "--topic", "sensors/x", "--payload", "-"), given='{"value": '
    )
    assert code == 0
    assert "DEAD LETTER" in said
    assert "not JSON" in said


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nothing_such"], 1, "no source reads `nothing_such`"),
        ([], 2, "say what to explain"),
        (["-s", "nobody", "--topic", "a", "--payload", "message.json"], 2, "press, broker"),
        (["-s", "broker", "--topic", "other", "--payload", "message.json"], 1, "nothing subscribes to `other`"),
        (["-s", "broker", "--topic", "sensors/x"], 2, "--payload"),
        (["-s", "broker", "--topic", "sensors/x", "--payload", "lost.json"], 2, "lost.json: No such file"),
        (["-s", "press", "--registers", "7:1"], 1, "no value of the source lies in holding 7 to 7 of unit 1"),
        (["-s", "press", "--registers", "100:70000"], 1, "0 to 65535"),
        (["-s", "press", "--registers", "x"], 2, "ADDRESS:NUMBER"),
        (["oil_temperature", "--time", "noon"], 2, "`noon` is no time"),
    ],
)
def test_what_cannot_be_explained_is_said_in_words(arguments: list[str], code: int, words: str) -> None:
    found, _, said = run("explain", "-c", "gateway.yaml", *arguments)
    assert (found, words in said) == (code, True), said


def test_a_file_of_tests_that_is_wrong_is_told_with_its_places(folder: Path) -> None:
    text = """\
        config_tests:
          - name: a
            given: {tag: x, valu: 1}
            expect: {path: p}
          - name: b
            given: {tag: x, value: 1, topic: y}
            expect: {paths: p}
        """
    (folder / "tests" / "press.yaml").write_text(textwrap.dedent(text))
    code, _, said = run("test-config", "-c", "gateway.yaml")
    assert code == 2
    assert "tests/press.yaml:3:21: config_tests.0.given.valu: there is no key `valu`" in said
    assert "tests/press.yaml:6:12: config_tests.1.given: needs one of `tag`, `topic` and `registers`" in said
    assert "tests/press.yaml:7:14: config_tests.1.expect.paths: there is no key `paths`" in said


def test_without_tests_the_exit_code_is_not_zero(folder: Path) -> None:
    (folder / "tests" / "press.yaml").unlink()
    code, _, said = run("test-config", "-c", "gateway.yaml")
    assert (code, "there are no tests" in said) == (2, True)


def test_junit_says_what_failed_and_where(folder: Path) -> None:
    code, _, _ = run("test-config", "-c", "gateway.yaml", "tests/press.yaml", "--junit", "out.xml")
    root = ElementTree.parse(folder / "out.xml").getroot()
    assert code == 1
    assert (root.get("tests"), root.get("failures")) == ("5", "1")
    (failed,) = [case for case in root.iter("testcase") if case.find("failure") is not None]
    assert (failed.get("name"), failed.get("line")) == ("a sensor that hardly changes is not reported", "16")


def test_names_of_tests_cannot_paint_the_screen_or_break_the_report(folder: Path) -> None:
    evil = 'config_tests: [{name: "\\e[2J<&\\u0001", given: {tag: oil_temperature, value: 1}, expect: {value: 1}}]'
    (folder / "tests" / "press.yaml").write_text(evil)
    code, said, _ = run("test-config", "-c", "gateway.yaml", "--junit", "out.xml")
    assert (code, "\x1b" in said) == (1, False)
    assert ElementTree.parse(folder / "out.xml").getroot().find(".//failure") is not None


async def test_the_plant_itself_tells_the_value(folder: Path) -> None:
    async with running() as device:
        text = CONFIG.replace("tcp://192.168.1.20", device.endpoint)
        (folder / "gateway.yaml").write_text(text, encoding="utf-8")
        command = ("explain", "-c", "gateway.yaml", "oil_temperature", "-s", "press", "--read", "1500ms", "--json")
        code, said, wrong = await asyncio.to_thread(run, *command)
        assert code == 0, wrong
        (reading,) = json.loads(said)["readings"]
        seen = word(Request(0, 1, 3, 100, 1), 100)
        assert reading["raw"]["value"] == (seen if seen < 2**15 else seen - 2**16)
        assert reading["path"]["path"] == "hamburg/press/temperature/oil_temperature"


def test_a_plant_that_does_not_answer_is_told(folder: Path) -> None:
    text = CONFIG.replace("tcp://192.168.1.20", f"tcp://127.0.0.1:{free_port()}")
    (folder / "gateway.yaml").write_text(text, encoding="utf-8")
    code, _, said = run("explain", "-c", "gateway.yaml", "oil_temperature", "-s", "press", "--read", "1s")
    assert (code, "gave no value within 1 s; press: " in said) == (1, True), said
