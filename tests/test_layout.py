"""What holds for every file: who may import whom, how things are called, and what may not stand anywhere."""

import ast
import re
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import UnionType

import pytest
from pydantic import BaseModel

from config import models
from config.reference import choices
from connectors.settings import SourceConfig, TargetConfig

ROOT = Path(__file__).parent.parent
ORDER = ("normalization", "connectors", "delivery", "discovery", "config", "flows", "web", "bifrost")
STAND_ALONE = "simulator"
PACKAGES = (*ORDER, STAND_ALONE)
LEFT_OUT = {
    ".git", ".venv", ".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", "__pycache__", "build", "data", "dist",
    "node_modules", "static",
}  # fmt: skip


@cache
def files() -> tuple[Path, ...]:
    """Every file of the tree, without what is built or installed."""

    def below(folder: Path) -> Iterator[Path]:
        for path in sorted(folder.iterdir()):
            if path.name in LEFT_OUT or path.suffix == ".pyc":
                continue
            if path.is_dir():
                yield from below(path)
            else:
                yield path

    return tuple(below(ROOT))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


PYTHON = [path for path in files() if path.suffix == ".py"]
CODE = [path for path in PYTHON if path.relative_to(ROOT).parts[0] in PACKAGES]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, also inside functions, with its line."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = path.relative_to(ROOT).with_suffix("").parts[: -node.level] if node.level else ()
            yield ".".join([*package, *([node.module] if node.module else [])]), node.lineno
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute | ast.Name)
            and (node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id)
            in ("import_module", "__import__")
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value), node.lineno


# ---------------------------------------------------------------------- who imports whom

OPENS_THE_PORT = ("flows/process.py", "web.server")  # in a function, when the configuration has a port
# Where the command line joins the simulator; everything else of ours stays apart from it.
JOINS_THE_SIMULATOR = {"bifrost/cli.py", "bifrost/demo.py"}


def test_imports_go_one_way() -> None:
    wrong = []
    for path in CODE:
        package = path.relative_to(ROOT).parts[0]
        if package == STAND_ALONE:
            continue
        allowed = ORDER[: ORDER.index(package) + 1]
        for module, line in imported(path):
            top = module.partition(".")[0]
            if top in ORDER and top not in allowed and (name(path), module) != OPENS_THE_PORT:
                wrong.append(f"{name(path)}:{line} imports {module}")
            if top == STAND_ALONE and name(path) not in JOINS_THE_SIMULATOR:
                wrong.append(f"{name(path)}:{line} imports {module}")
    assert wrong == []


def test_the_simulator_stands_alone() -> None:
    simulator = [path for path in CODE if path.relative_to(ROOT).parts[0] == STAND_ALONE]
    assert simulator
    assert [
        f"{name(path)}:{line} imports {module}"
        for path in simulator
        for module, line in imported(path)
        if module.partition(".")[0] in ORDER
    ] == []


def test_only_the_flow_knows_bytewax() -> None:
    knows = {
        path.relative_to(ROOT).parts[0]
        for path in CODE
        for module, _ in imported(path)
        if module.partition(".")[0] == "bytewax"
    }
    assert knows <= {"flows", "bifrost"}


def test_normalization_does_no_input_and_output() -> None:
    forbidden = {
        "asyncio",
        "socket",
        "threading",
        "sqlite3",
        "subprocess",
        "urllib",
        "http",
        "os",
        "pathlib",
        "time",
        "random",
    }
    # A lock makes one normalizer safe in several threads; it waits for nobody outside.
    excused = {("normalization/normalizer.py", "threading"), ("normalization/reading.py", "threading")}
    found = {
        (name(path), module.partition(".")[0])
        for path in CODE
        if path.relative_to(ROOT).parts[0] == "normalization"
        for module, _ in imported(path)
        if module.partition(".")[0] in forbidden
    }
    assert found - excused == set()


CLIENTS = {
    "asyncua", "paho", "pymodbus", "deltalake", "zerobus", "confluent_kafka", "influxdb_client", "duckdb", "grpc", "amqtt",
    "psycopg", "psycopg_pool", "aiohttp", "google",
}  # fmt: skip


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The statements that run when a module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_import(child)


def test_a_configuration_is_checked_without_any_client_library() -> None:
    """Nothing that `config.loader` imports imports a client library when it is imported itself."""
    seen: set[Path] = set()
    known = set(CODE)
    waiting = [ROOT / "config" / "loader.py", ROOT / "config" / "reference.py"]
    wrong = []
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for node in at_import(tree(path)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            for module in modules:
                if module.partition(".")[0] in CLIENTS:
                    wrong.append(f"{name(path)}: {module}")
                parts = module.split(".")
                for depth in range(1, len(parts) + 1):
                    here = ROOT.joinpath(*parts[:depth])
                    waiting += {here / "__init__.py", here.with_suffix(".py")} & known
    assert ROOT / "connectors" / "targets" / "delta.py" in seen
    assert wrong == []


# ---------------------------------------------------------------------- names


def test_nothing_is_called_by_what_it_is_not() -> None:
    words = re.compile(r"(manager|helper|utils?|base|factory|service|unified|common|misc)$|^base", re.IGNORECASE)
    wrong = []
    for path in [file for file in files() if file.suffix in (".py", ".js", ".sh", ".c", ".go")]:
        parts = [part for part in re.split(r"[_\-.]", path.stem) if part]
        wrong += [name(path) for part in parts if words.search(part)]
    for path in CODE:
        wrong += [
            f"{name(path)}:{node.lineno} class {node.name}"
            for node in ast.walk(tree(path))
            if isinstance(node, ast.ClassDef) and words.search(re.sub(r"(Error|Test|Config)$", "", node.name))
        ]
    assert wrong == []


# ---------------------------------------------------------------------- errors and tests

# Where everything is caught and not raised again: how often, and why.
CATCHES_ALL = {
    "flows/intake.py": (1, "the edge of a reader's loop: log, count, start it again"),
    "flows/isolation.py": (1, "the edge of the flow's steps: the readings at fault become rejects"),
    "flows/process.py": (
        2,
        "the edge of the I/O thread: log and end the process, which is better than to read nothing; what Bytewax panics with",
    ),
    "flows/cluster.py": (
        2,
        "what Bytewax panics with when a member has gone: the flow begins again; the edge of its thread: raised in the main one",
    ),
    "delivery/journal.py": (1, "the edge of the journal's thread: the flow and the readers are told, the process ends"),
    "delivery/forwarder.py": (3, "the edge of a forwarder's loop: log, count, back off; also while a writer closes"),
    "flows/doctor.py": (
        1,
        "`bifrost doctor`: whatever is wrong with one connector is a finding, the others are looked at",
    ),
    "flows/trial.py": (1, "the edge of a reader under `bifrost test`: shown, exit code 1"),
    "flows/hosted.py": (
        1,
        "the edge of the flow's thread in a Python program: kept, and raised when the gateway is stopped",
    ),
    "flows/telemetry/teller.py": (1, "the edge of the thread that looks at the metrics: log, data flows on"),
    "web/live.py": (1, "the edge of the thread that looks at what comes: log, data flows on"),
    "discovery/scan.py": (
        1,
        "the edge of a probe: whatever a strange server makes of a client library, the scan goes on",
    ),
    "connectors/sources/opcua/reader.py": (1, "`check`: whatever is wrong is a finding in words"),
    "connectors/sources/opcua/datatypes.py": (1, "a structure that its description does not fit: the bytes are kept"),
    "simulator/zerobus/tables.py": (1, "the emulator's table writer: its log keeps the rows and tries again"),
}


def test_everything_is_caught_only_where_it_is_said() -> None:
    found: dict[str, list[int]] = {}
    for path in CODE:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler) and not _raises_again(node):
                caught = [] if node.type is None else list(ast.walk(node.type))
                names = {item.id for item in caught if isinstance(item, ast.Name)}
                if node.type is None or names & {"Exception", "BaseException"}:
                    found.setdefault(name(path), []).append(node.lineno)
    assert {file: lines for file, lines in found.items() if len(lines) != CATCHES_ALL.get(file, (0, ""))[0]} == {}
    assert set(CATCHES_ALL) <= set(found), "an excuse that nobody needs any more"


def _raises_again(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_no_test_replaces_what_it_tests() -> None:
    wrong = [
        f"{name(path)}:{line}"
        for path in PYTHON
        for module, line in imported(path)
        if module in ("unittest.mock", "mock")
    ]
    wrong += [
        f"{name(path)}:{node.lineno}"
        for path in PYTHON
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ImportFrom) and node.module == "unittest" and any(a.name == "mock" for a in node.names)
    ]
    assert wrong == []


def test_nothing_is_left_for_later() -> None:
    wrong = []
    for path in CODE:
        wrong += [
            f"{name(path)}:{node.lineno}"
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Raise) and node.exc is not None and "NotImplemented" in ast.unparse(node.exc)
        ]
    marks = re.compile(r"\b(TO" r"DO|FIX" r"ME|X" r"XX)\b")
    for path in PYTHON:
        text = path.read_text(encoding="utf-8")
        wrong += [f"{name(path)}:{text.count(chr(10), 0, m.start()) + 1} {m[0]}" for m in marks.finditer(text)]
    assert wrong == []


# ---------------------------------------------------------------------- the configuration's fields


def _inner(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif typing.get_origin(annotation) is not None or isinstance(annotation, UnionType):
        for argument in typing.get_args(annotation):
            yield from _inner(argument)


@cache
def all_models() -> tuple[type[BaseModel], ...]:
    """Every model of the configuration."""
    found: dict[type[BaseModel], None] = {}
    waiting: list[type[BaseModel]] = [
        models.ConfigFile, SourceConfig, TargetConfig, *choices(models.Source).values(), *choices(models.Target).values(),
    ]  # fmt: skip
    while waiting:
        model = waiting.pop()
        if model not in found:
            found[model] = None
            for field in model.model_fields.values():
                waiting += _inner(field.annotation)
    return tuple(found)


CANONICAL = {
    "endpoint": "url uri host hostname server address_url broker bootstrap_servers connection_string",
    "username": "user login user_name account",
    "password": "pass passwd pwd passphrase",
    "tls": "ssl use_tls tls_enabled secure",
    "timeout": "time_out request_timeout connect_timeout connection_timeout",
    "interval": "period poll_interval scan_rate scan_interval",
    "batch_size": "batch max_batch max_rows",
    "flush_interval": "linger flush_every",
    "retry_count": "retries max_retries",
    "retry_delay": "backoff retry_interval",
}
SYNONYMS = {word: field for field, words in CANONICAL.items() for word in words.split()}
# Another word than the canonical one, and why.
OTHERWISE = {
    ("InfluxSettings", "url"): "the first seed's key beside `endpoint`, before which it goes",
    ("MqttConfig", "connect_timeout"): "MQTT has no request to time: it is the connection and CONNACK alone",
    ("MqttTargetConfig", "tls_enabled"): "a key of the seeds",
    ("MqttTargetSettings", "broker"): "a key of the seeds",
    ("AwsIotConfig", "tls_enabled"): "a key of the seeds",
    ("AzureIotHubConfig", "tls_enabled"): "a key of the seeds",
    ("AzureIotHubSettings", "connection_string"): "what Azure calls it, and hands out as one secret",
}


def test_one_thing_has_one_name_in_every_model() -> None:
    found = {(model.__name__, field) for model in all_models() for field in model.model_fields if field in SYNONYMS}
    assert {pair: SYNONYMS[pair[1]] for pair in found if pair not in OTHERWISE} == {}
    assert set(OTHERWISE) <= found, "an excuse that nobody needs any more"


def test_every_key_says_what_it_is() -> None:
    assert [
        f"{model.__name__}.{key}"
        for model in all_models()
        for key, field in model.model_fields.items()
        if not field.description
    ] == []


def test_no_model_lets_an_unknown_key_pass() -> None:
    assert [model.__name__ for model in all_models() if model.model_config.get("extra") != "forbid"] == []
    assert len(all_models()) > 25


# ---------------------------------------------------------------------- the files themselves

# In pieces, so that this file does not name them.
HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"), ("proxy", "golang", "org"),
        ("repo1", "maven", "org"), ("repo", "maven", "apache", "org"), ("deb", "debian", "org"), ("crates", "io"),
    )
]  # fmt: skip
PLACES = re.compile(
    "|".join([r"(?<![\w.${}/])/" + part + "/" for part in ("root", "work")] + [r"/home/\w", r"/Users/\w", r"\bC:\\"])
)
TEXTS = {
    ".py", ".md", ".yaml", ".yml", ".toml", ".json", ".lock", ".txt", ".sh", ".js", ".c", ".go", ".xml", ".csv", ".cfg", ".mmd",
    ".npmrc", ".conf", ".html", ".css", ".proto", ".sql", "",
}  # fmt: skip


def test_no_file_names_a_registry_or_somebodys_machine() -> None:
    wrong = []
    for path in files():
        if path.suffix not in TEXTS:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        wrong += [f"{name(path)}: {host}" for host in HOSTS if host in text]
        wrong += [
            f"{name(path)}:{text.count(chr(10), 0, found.start()) + 1} {found[0]}" for found in PLACES.finditer(text)
        ]
    assert wrong == []


CEILING = 650
# Longer files, and why.
LONGER = {
    "requirements.lock": "written by the resolver",
    "deploy/all.lock": "written by the resolver",
    "deploy/edge.lock": "written by the resolver",
    "docs/reference/configuration.md": "written from the models",
    "docs/reference/gateway.schema.json": "written from the models",
    "docs/reference/api.md": "written from the OpenAPI",
    "tests/counterparts/opcua-node/package-lock.json": "written by npm",
    **{
        f"k8s/observability/dashboards/{board}.json": "written by dashboards.py"
        for board in ("fleet", "overview", "source", "target", "buffer", "zerobus")
    },
    "web/ui/package-lock.json": "written by npm",
    "docs/evidence/bench.json": "written by the benchmarks",
    "docs/evidence/ui.json": "written by the benchmarks",
    "docs/evidence/chaos.json": "written by the chaos run",
    "docs/evidence/targets.json": "written by the suite of writers",
    "tests/mutation/equivalent.toml": "a list to look things up in",
    "tests/delivery/test_spool.py": "everything about one store",
    "tests/delivery/test_journal.py": "everything about one store, and its crash cases belong beside the rest",
}


def test_no_file_is_longer_than_one_reads() -> None:
    long = {
        name(path): lines
        for path in files()
        if path.suffix in TEXTS and (lines := path.read_bytes().count(b"\n")) > CEILING and name(path) not in LONGER
    }
    assert long == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_in_the_wheel(package: str) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert (ROOT / package / "__init__.py").exists()
