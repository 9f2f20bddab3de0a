"""Making sure that a draft loads: what the loader refuses is taken out, and told."""

import os
import re
import tempfile
from pathlib import Path
from typing import Any, Final

from bifrost.convert.draft import ConvertError, Draft, Section, remarks
from bifrost.convert.written import written
from config.loader import load
from config.yaml_nodes import Problem, ProblemsError

_REFERENCE: Final = re.compile(r"(?<!\$)\$\{(?:env:(?P<name>\w+)(?::-(?P<default>[^{}]*))?|secret:[^{}]*)\}")
# Without these a connector would do something else than it did: it goes as a whole.
_DECISIVE: Final = frozenset(("protocol", "type", "endpoint", "security_policy", "security_mode", "tls", "byte_order",
    "word_order", "unit_id", "topic", "topics", "database", "bucket", "table", "clean_session"))  # fmt: skip
_STAND_INS: Final = (
    "1",
    "9600",
    "localhost",
    "http://localhost:80",
    "mqtt://localhost",
    "opc.tcp://localhost",
    "tcp://localhost",
)
_GATEWAY: Final = ("gateway", "cloud", "connectors")


def settle(draft: Draft) -> list[str]:
    """Take out of a draft what the loader refuses, until it loads.

    Returns:
        What could not be looked at, because it stands in variables of the environment that are not set here.

    Raises:
        ConvertError: It does not, and nothing that could be taken out is at fault.
    """
    unset: dict[str, int] = {}
    while True:  # each round takes something out
        _route(draft)
        problems = _problems(draft.root, unset)
        if not problems:
            return [f"${name} is not set here" for name in unset]
        if not any(_take_out(draft, problem) for problem in problems):
            raise ConvertError(f"what comes out does not load: {problems[0].path}: {problems[0].message}")


def _route(draft: Draft) -> None:
    """All readings to every target, as those who are converted do it."""
    draft.root.pop("routing_rules", None)
    cloud = draft.root.inner("gateway").inner("cloud")
    cloud.pop("connectors", None)
    if not draft.targets:  # what was said of those that went
        draft.root.remarks += draft.targets.remarks
        draft.targets.remarks = []
    else:
        cloud["connectors"] = draft.targets
    if len(draft.targets) > 1:
        draft.root["routing_rules"] = [Section(name="everything", condition="true", connectors=[*draft.targets])]
    if not cloud and not cloud.remarks:
        gateway = draft.root["gateway"]
        del gateway["cloud"]
        if not gateway and not gateway.remarks:
            del draft.root["gateway"]


def _problems(root: Section, unset: dict[str, int]) -> list[Problem]:
    """What the loader says, but of values that nobody knows here: variables that are not set have stand-ins.

    Args:
        root: The draft.
        unset: The variables that are not set, each with the number of its stand-in.
    """

    def stand_in(reference: re.Match[str]) -> str:
        name = reference["name"]
        if name is None:
            return "secret"
        if name in os.environ or reference["default"]:
            return reference[0]
        return _STAND_INS[unset.setdefault(name, 0)]

    lines = written(root).splitlines()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "gateway.yaml"
        while True:
            file.write_text("\n".join(_REFERENCE.sub(stand_in, line) for line in lines) + "\n", "utf-8")
            try:
                load(file)
            except ProblemsError as error:
                found = error.problems
            else:
                return []
            tried = False
            known = []
            for problem in found:
                names = {ref["name"] for ref in _REFERENCE.finditer(lines[problem.place.line - 1])} & set(unset)
                for name in names:
                    if unset[name] < len(_STAND_INS) - 1:
                        unset[name] += 1
                        tried = True
                if not names:
                    known.append(problem)
            if not tried:
                return known


def _take_out(draft: Draft, problem: Problem) -> bool:
    """Take out the least that is at fault and can be spared; whether there was something."""
    path = problem.path.split(".")
    if tuple(path[:3]) == _GATEWAY and len(path) > 3:
        holder, rest = draft.targets, path[3:]
    else:
        holder, rest = draft.root, path
    return _spare(holder, rest, problem.message)


def _spare(root: Section, path: list[str], message: str) -> bool:
    steps: list[tuple[Any, Any]] = []  # each holder with the key that leads on
    at: Any = root
    for part in path:
        key: Any = int(part) if isinstance(at, list) and part.isdecimal() else part
        if not (at is not None and key in (range(len(at)) if isinstance(at, list) else at)):
            break
        steps.append((at, key))
        at = at[key]
        if not isinstance(at, list | dict):
            at = None
    complete = len(steps) == len(path)
    lists = sum(isinstance(holder, list) for holder, _ in steps)
    while steps:
        holder, key = steps.pop()
        value = holder[key]
        if isinstance(holder, list):
            keeper, listed = steps[-1]
            _bury(keeper, holder.pop(key), f"{listed}[{key + 1}]", message)
            if holder:
                return True
            del keeper[listed]  # an empty list might mean everything: what it belongs to goes as well
            steps.pop()
            if keeper is root:
                return True
        elif isinstance(value, Section):
            if holder is root:
                _bury(root, root.pop(key), str(key), message)
                return True
        elif complete and lists < 2 and not isinstance(value, list) and key not in _DECISIVE:
            _bury(holder, holder.pop(key), str(key), message)
            return True
    return False


def _bury(keeper: Section, gone: Any, what: str, message: str) -> None:
    """Tell what goes; what it had to say itself is still said."""
    if isinstance(gone, Section):
        named = [str(gone[key]) for key in ("name", "endpoint", "id", "topic", "type") if key in gone]
        what = f"{what} ({next((name for name in named if '@' not in name), 'it')})"
    keeper.lost(what, f"{message.rstrip('.')}; write it by hand")
    for remark in remarks(gone):
        keeper.remark(remark.kind, remark.text)
