"""Checks docker-compose.yaml and what it mounts, by the programs that will read them: ``python -m tests.deployment.compose_file``.

Prints a line for each problem, with file and line, and ends with 1 when there is one. ``make compose-check`` installs what it asks:
the Compose specification's own reader, podman-compose, promtool and mosquitto.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, cast

import typer
import yaml

from config.loader import load
from config.yaml_nodes import Place, Problem, ProblemsError
from simulator.plant import PROTOCOLS, build_plant, describe
from tests import mosquitto_broker, orphans, prometheus_server
from tests.ports import free_port

ROOT: Final = Path(__file__).parents[2]
TOOLS: Final = ROOT / "build" / "counterparts" / "compose"
FILE: Final = "docker-compose.yaml"
GUIDE: Final = "docs/docker.md"
OURS: Final = ("gateway", "simulator", "zerobus")
# what secrets.sh makes
SECRETS: Final = {"GRAFANA_ADMIN_PASSWORD": "checked-1", "ZEROBUS_CLIENT_SECRET": "checked-2"}

_PATH: Final = re.compile(r"\b(?:services|volumes|networks|x-[\w-]+)(?:\.[\w-]+)+")
_VARIABLE: Final = re.compile(r"(?<!\$)\$\{(\w+)")
_SECRET: Final = re.compile(r"PASSWORD|SECRET|TOKEN|_KEY$")
_DOCUMENTED: Final = re.compile(r"^\| `([A-Z][A-Z0-9_]+)` \|", re.MULTILINE)
_PATIENCE: Final = 30.0


@dataclass(frozen=True, slots=True)
class Compose:
    """The compose file.

    Attributes:
        root: Folder that it lies in.
        node: What is written.
        services: What it comes to, by service.
    """

    root: Path
    node: yaml.Node
    services: dict[str, dict[str, Any]]

    def at(self, *path: str | int) -> Problem:
        """A problem without words, at what is written under a path, or at the nearest that is above it."""
        return Problem(place_of(self.root / FILE, self.node, path), ".".join(str(step) for step in path), "")

    def mounts(self, service: str) -> Iterator[tuple[int, str, Path]]:
        """What a service has mounted from this folder: position in its list, path inside, path here."""
        for number, volume in enumerate(self.services[service].get("volumes", [])):
            if volume["type"] == "bind":
                yield number, volume["target"], Path(volume["source"])

    def here(self, service: str, inside: str) -> Path | None:
        """The file of this folder that a service sees under a path."""
        for _, target, source in self.mounts(service):
            if inside == target or inside.startswith(f"{target}/"):
                return source / inside[len(target) :].lstrip("/") if inside != target else source
        return None


def place_of(file: Path, node: yaml.Node, path: tuple[str | int, ...]) -> Place:
    """Where a path stands in a YAML file; of what is not written there, the nearest that is above it."""
    mark = node.start_mark
    for step in path:
        found = _below(node, step)
        if found is None:
            break
        mark, node = found
    return Place(str(file), mark.line + 1, mark.column + 1)


def _below(node: yaml.Node, step: str | int) -> "tuple[yaml.Mark, yaml.Node] | None":
    if isinstance(node, yaml.SequenceNode) and str(step).isdecimal() and int(step) < len(node.value):
        item = node.value[int(step)]
        return item.start_mark, item
    if isinstance(node, yaml.MappingNode):
        merged = []
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark, value
            if key.value == "<<":
                merged.append(value)
        return next((found for one in merged if (found := _below(one, step)) is not None), None)
    return None


def with_words(problem: Problem, message: str) -> Problem:
    return Problem(problem.place, problem.path, message)


# ---------------------------------------------------------------------- the compose file


def read(root: Path) -> Compose:
    """Read it as docker compose does.

    Raises:
        ProblemsError: It is not what the specification says.
    """
    file = root / FILE
    environment = "".join(f"{name}={value}\n" for name, value in SECRETS.items())
    done = subprocess.run(
        [str(TOOLS / "compose"), str(root), str(file)],
        input=environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode != 0:
        raise ProblemsError([_said(file, line) for line in done.stderr.splitlines() if " " in line.strip(" :")])
    node = yaml.compose(file.read_text(encoding="utf-8"))
    assert node is not None
    return Compose(root, node, json.loads(done.stdout)["services"])


def _said(file: Path, line: str) -> Problem:
    """What the specification's reader says, with its place."""
    message = line.removeprefix(f"validating {file}: ").strip()
    plain = re.sub(r"\[([\w-]+)\]", r".\1", message)
    if at := re.search(r"\bline (\d+)(?:, column (\d+))?", message):
        return Problem(Place(str(file), int(at[1]), int(at[2] or 1)), "", message)
    path: tuple[str | int, ...] = ()
    if found := _PATH.search(plain):
        path = tuple(found[0].split("."))
    elif named := re.match(r'service "([\w-]+)"', message):
        path = ("services", named[1])
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        node = None
    return Problem(Place(str(file), 1, 1) if node is None else place_of(file, node, path), "", message)


def by_podman_compose(compose: Compose) -> Iterator[Problem]:
    """Whether podman-compose reads it too."""
    done = subprocess.run(
        [sys.executable, "-m", "podman_compose", "--dry-run", "-f", FILE, "config"],
        cwd=compose.root, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, **SECRETS, "PYTHONPATH": str(TOOLS / "lib")},
    )  # fmt: skip
    if done.returncode != 0:
        yield with_words(compose.at(), f"podman-compose: {done.stderr.strip().splitlines()[-1]}")
        return
    missing = compose.services.keys() - yaml.safe_load(done.stdout)["services"].keys()
    if missing:
        yield with_words(compose.at("services"), f"podman-compose does not see {', '.join(sorted(missing))}")


def mounted(compose: Compose) -> Iterator[Problem]:
    """What is mounted is there, and is not written to."""
    for service in compose.services:
        for number, _, source in compose.mounts(service):
            at = compose.at("services", service, "volumes", number)
            if not source.exists():
                yield with_words(at, f"{source} does not exist")
            if not compose.services[service]["volumes"][number].get("read_only"):
                yield with_words(at, "is mounted so that the container may write it; add :ro")


def pinned(compose: Compose) -> Iterator[Problem]:
    """Images of others have a version; ours is never pulled under its bare name."""
    for service, said in compose.services.items():
        at = compose.at("services", service, "image")
        _, _, tag = said["image"].rpartition("/")[2].partition(":")
        if service in OURS:
            if said["image"] != "bifrost" or said.get("pull_policy") != "never":
                yield with_words(at, "is the image that `make image` builds, with pull_policy: never")
        elif not re.search(r"\d+\.\d+\.\d+", tag):
            yield with_words(at, f"{said['image']} has no version; write one as NAME:1.2.3")


def confined(compose: Compose) -> Iterator[Problem]:
    """What each container may not do, and what looks after it."""
    for service, said in compose.services.items():
        wanted: dict[str, object] = {
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges:true"],
            "restart": "unless-stopped",
        }
        if service != "grafana":  # its image was never seen to run so
            wanted["read_only"] = True
        for key, value in wanted.items():
            if said.get(key) != value:
                yield with_words(compose.at("services", service, key), f"is {said.get(key)}, not {value}")
        for key in ("privileged", "network_mode", "pid", "ipc", "cap_add", "devices"):
            if said.get(key):
                yield with_words(compose.at("services", service, key), "is more than a container here may have")
        if not said.get("healthcheck", {}).get("test"):
            yield with_words(compose.at("services", service), "has no healthcheck")
        for number, port in enumerate(said.get("ports", [])):
            if port.get("host_ip") != "127.0.0.1":
                at = compose.at("services", service, "ports", number)
                yield with_words(at, "is reached from other machines; write 127.0.0.1: before it")


def secrets(compose: Compose) -> Iterator[Problem]:
    """No password is written, and none has a default."""
    for service, said in compose.services.items():
        for name, value in (said.get("environment") or {}).items():
            at = compose.at("services", service, "environment", name)
            if _SECRET.search(name) and value not in SECRETS.values():
                yield with_words(at, "a password is written here; write ${NAME:?run sh deploy/compose/secrets.sh}")
    for variable in sorted(set(re.findall(r"\$\{(\w+)(?::?[-+])", (compose.root / FILE).read_text()))):
        if _SECRET.search(variable):
            yield with_words(compose.at(), f"${{{variable}}} has a default; a password must be set")


def documented(compose: Compose) -> Iterator[Problem]:
    """Variables of the environment stand in the guide, and those of the guide are there."""
    text = (compose.root / FILE).read_text(encoding="utf-8")
    told = (compose.root / GUIDE).read_text(encoding="utf-8")
    known = set(_DOCUMENTED.findall(told))
    for number, line in enumerate(text.splitlines(), 1):
        for name in _VARIABLE.findall(line):
            if name not in known:
                yield Problem(Place(str(compose.root / FILE), number, 1), name, f"is not in the table of {GUIDE}")
    for name in sorted(known - set(_VARIABLE.findall(text))):
        at = told[: told.index(f"| `{name}` |")].count("\n") + 1
        yield Problem(Place(str(compose.root / GUIDE), at, 1), name, f"is no variable of {FILE}")


def commands(compose: Compose) -> Iterator[Problem]:
    """The command lines of ours are understood by `bifrost`."""
    from bifrost.cli import app

    for service in OURS:
        command, words = typer.main.get_command(app), list(compose.services[service]["command"])
        try:
            context = command.make_context("bifrost", words)
            while isinstance(command, typer.core.TyperGroup):
                name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
                assert found is not None
                command, context = found, found.make_context(name, rest, parent=context)
        except Exception as error:  # noqa: BLE001 - whatever a wrong line makes of it
            said = getattr(error, "message", None) or str(error)
            yield with_words(compose.at("services", service, "command"), f"{shlex.join(words)}: {said}")


# ---------------------------------------------------------------------- what is mounted


def gateway(compose: Compose) -> Iterator[Problem]:
    """The gateway's configuration loads, with the environment that the compose file gives, and reads what there is."""
    file = compose.here("gateway", "/etc/bifrost/gateway.yaml")
    given = dict(compose.services["gateway"]["environment"])
    if file is None or not file.exists():
        return
    before = {name: os.environ.get(name) for name in given}
    os.environ.update(given)
    try:
        found = load(file)
    except ProblemsError as error:
        yield from error.problems
        return
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    node = yaml.compose(file.read_text(encoding="utf-8"))
    assert node is not None
    for number, source in enumerate(found.sources):
        host = re.sub(r".*://|:\d+$", "", str(getattr(source, "endpoint", "")))
        if host not in compose.services:
            place = place_of(file, node, ("sources", number, "endpoint"))
            yield Problem(place, f"sources.{number}.endpoint", f"{host} is no service of {FILE}")
    if not str(found.directory).startswith("/data/"):
        yield Problem(place_of(file, node, ("gateway", "directory")), "gateway.directory", "is not below /data")


def plant(compose: Compose) -> Iterator[Problem]:
    """The sources are those that the simulator has, tag by tag."""
    from bifrost.demo import source_config

    file = compose.here("gateway", "/etc/bifrost/gateway.yaml")
    words = compose.services["simulator"]["command"]
    options = dict(zip(words, words[1:], strict=False))
    if file is None or not file.exists() or not {"--tags", "--rate"} <= options.keys():
        return
    made = build_plant(
        tags=int(options["--tags"]), rate=float(options["--rate"]), sources=dict.fromkeys(PROTOCOLS, 1), ledger=False
    )
    written = yaml.safe_load(file.read_text(encoding="utf-8"))["sources"]
    node = yaml.compose(file.read_text(encoding="utf-8"))
    assert node is not None
    by_name: dict[str, tuple[int, dict[str, Any]]] = {one["name"]: (number, one) for number, one in enumerate(written)}
    description = describe(made, {source.name: "" for source in made.sources})
    for source in description["sources"]:
        if source["name"] not in by_name:
            yield Problem(place_of(file, node, ("sources",)), "sources", f"lack the simulator's {source['name']}")
            continue
        number, said = by_name[source["name"]]
        for key, value in source_config(source, description).items():
            if key == "endpoint" or said.get(key) == value:
                continue
            path: list[str | int] = ["sources", number, key]
            if isinstance(value, list) and isinstance(said.get(key), list):
                pairs = enumerate(zip_longest(said[key], value))
                path.append(next(at for at, (one, other) in pairs if one != other))
                value = value[cast("int", path[-1])] if cast("int", path[-1]) < len(value) else "no more"
            place = place_of(file, node, tuple(path))
            yield Problem(place, ".".join(str(step) for step in path), f"the simulator's {source['name']} has {value}")


def table(compose: Compose) -> Iterator[Problem]:
    """The emulator's table is the one that `bifrost zerobus ddl` declares."""
    from connectors.targets.zerobus import ddl

    file = compose.here("zerobus", "/etc/bifrost/readings.sql")
    if file is None or not file.exists():
        return
    lines, wanted = file.read_text().strip().splitlines(), ddl("main.plant.readings").strip().splitlines()
    for number, (line, other) in enumerate(zip([*lines, ""], [*wanted, ""], strict=False), 1):
        if line != other:
            yield Problem(Place(str(file), number, 1), "", "bifrost zerobus ddl main.plant.readings has another line")
            return


def prometheus(compose: Compose) -> Iterator[Problem]:
    """What promtool says of the files where the container has them, and that it scrapes services."""
    with tempfile.TemporaryDirectory() as folder:
        sources = {}
        for _, target, source in compose.mounts("prometheus"):
            if source.is_file():
                copy = Path(folder, target.lstrip("/"))
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, copy)
                sources[target] = source
        command = compose.services["prometheus"]["command"]
        config = next(word.partition("=")[2] for word in command if word.startswith("--config.file="))
        done = subprocess.run(
            [prometheus_server.program("promtool"), "check", "config", f"{folder}{config}"],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    if done.returncode != 0:
        yield _by_promtool(compose, (done.stdout + done.stderr).replace(f"{folder}/", "/"), sources)
        return
    file = sources[config]
    node = yaml.compose(file.read_text(encoding="utf-8"))
    assert node is not None
    for number, job in enumerate(yaml.safe_load(file.read_text())["scrape_configs"]):
        for scraped in job["static_configs"][0]["targets"]:
            host = scraped.partition(":")[0]
            if host not in {*compose.services, "localhost"}:
                place = place_of(file, node, ("scrape_configs", number, "static_configs", 0, "targets", 0))
                yield Problem(place, "", f"{host} is no service of {FILE}")


def _by_promtool(compose: Compose, said: str, sources: dict[str, Path]) -> Problem:
    """What promtool says, at the file and the line that it means."""
    failed = " ".join(said.partition("FAILED: ")[2].split())
    config = compose.here("prometheus", "/etc/prometheus/prometheus.yml")
    source = next((one for target, one in sources.items() if target in failed), config)
    if source is None:
        return with_words(compose.at("services", "prometheus", "volumes"), f"promtool: {' '.join(said.split())}")
    at = re.search(r"\bline (\d+)|:(\d+):", failed)
    named = re.search(r"([\w.-]+)\" does not", failed)
    lines = source.read_text().splitlines()
    line = next((number for number, text in enumerate(lines, 1) if named and named[1] in text), 1)
    return Problem(Place(str(source), int(at[1] or at[2]) if at else line, 1), "", f"promtool: {failed}")


def mosquitto(compose: Compose) -> Iterator[Problem]:
    """Whether mosquitto starts with its configuration, on a port and in a folder of this check, and hands on a message."""
    file = compose.here("mosquitto", "/mosquitto/config/mosquitto.conf")
    if file is None or not file.exists():
        return
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "mosquitto.conf")
        text = re.sub(r"(?m)^listener 1883$", f"listener {port} 127.0.0.1", file.read_text())
        text = text.replace("/mosquitto/data/", f"{folder}/")
        copy.write_text(text + ("user root\n" if os.getuid() == 0 else ""))
        log = Path(folder, "log")
        with log.open("wb") as out:
            process = orphans.Server([mosquitto_broker.program(), "-c", str(copy)], stdout=out, stderr=out)
        try:
            came = _handed_on(port, process)
        finally:
            process.kill()
            process.wait()
        said = [line.partition(": ")[2] for line in log.read_text(errors="replace").splitlines()]
    if not came:
        at = next((found for line in said if (found := re.search(r"mosquitto\.conf:(\d+)", line))), None)
        what = "; ".join(line for line in said if "Error" in line and "found at" not in line)
        message = f"mosquitto: {what or 'nobody may publish on port 1883'}"
        yield Problem(Place(str(file), int(at[1]) if at else 1, 1), "", message)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _handed_on(port: int, process: "subprocess.Popen[bytes]") -> bool:
    """Whether a retained message comes back, once the broker listens; not when it ends before."""
    ends = time.monotonic() + _PATIENCE
    while not _listens(port):
        try:
            process.wait(0.05)
        except subprocess.TimeoutExpired:
            if time.monotonic() < ends:
                continue
        return False
    client = ["-h", "127.0.0.1", "-p", str(port), "-t", "plant/check"]
    sent = subprocess.run(
        ["mosquitto_pub", *client, "-r", "-q", "1", "-m", "x"], capture_output=True, check=False, timeout=_PATIENCE
    )
    if sent.returncode != 0:
        return False
    back = subprocess.run(
        ["mosquitto_sub", *client, "-C", "1", "-W", "20"], capture_output=True, check=False, timeout=_PATIENCE
    )
    return back.stdout == b"x\n"


def grafana(compose: Compose) -> Iterator[Problem]:
    """What is provisioned: folders that the container has, with dashboards in them, and a data source that is a service."""
    for file in _provisioned(compose, "dashboards"):
        node = yaml.compose(file.read_text(encoding="utf-8"))
        assert node is not None
        for number, provider in enumerate(yaml.safe_load(file.read_text())["providers"]):
            place = place_of(file, node, ("providers", number, "options", "path"))
            inside = str(provider.get("options", {}).get("path"))
            folder = compose.here("grafana", inside)
            if folder is None or not folder.is_dir():
                yield Problem(place, "options.path", f"{inside} is no folder that the service grafana has mounted")
            elif not any("panels" in json.loads(board.read_text()) for board in folder.glob("*.json")):
                yield Problem(place, "options.path", f"{folder} has no dashboards")
    for file in _provisioned(compose, "datasources"):
        node = yaml.compose(file.read_text(encoding="utf-8"))
        assert node is not None
        found = yaml.safe_load(file.read_text())["datasources"]
        for number, one in enumerate(found):
            where = re.fullmatch(r"http://([\w-]+):(\d+)", one["url"])
            ports = compose.services.get(where[1] if where else "", {}).get("ports", [])
            if where is None or int(where[2]) not in {port["target"] for port in ports}:
                place = place_of(file, node, ("datasources", number, "url"))
                yield Problem(place, "url", f"{one['url']} is no port of a service of {FILE}")
        if not any(one["type"] == "prometheus" and one.get("isDefault") for one in found):
            yield Problem(
                Place(str(file), 1, 1), "", "no Prometheus is the default; the dashboards ask the default one"
            )
    name = "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"
    home = compose.here("grafana", str(compose.services["grafana"]["environment"][name]))
    if home is None or not home.is_file():
        yield with_words(compose.at("services", "grafana", "environment", name), "is no file that is mounted")


def _provisioned(compose: Compose, what: str) -> list[Path]:
    folder = compose.here("grafana", f"/etc/grafana/provisioning/{what}")
    return sorted(folder.glob("*.yaml")) if folder is not None else []


# ---------------------------------------------------------------------- all of it

Check = Callable[[Compose], Iterator[Problem]]
CHECKS: Final[tuple[Check, ...]] = (
    by_podman_compose, mounted, pinned, confined, secrets, documented, commands,
    gateway, plant, table, prometheus, mosquitto, grafana,
)  # fmt: skip


def problems(root: Path = ROOT, checks: Sequence[Check] = CHECKS) -> list[str]:
    """Whatever is wrong, as lines ``file:line:column: path: what``.

    Args:
        root: Folder of the compose file.
        checks: What is looked at after the specification.
    """
    try:
        compose = read(root)
        found = [problem for check in checks for problem in check(compose)]
    except ProblemsError as error:
        found = list(error.problems)
    return [str(problem).replace(f"{root}/", "") for problem in sorted(set(found))]


def main() -> None:
    """Print what is wrong."""
    found = problems()
    for line in found:
        print(line)
    if found:
        sys.exit(1)
    print(f"{FILE} and what it mounts are sound")


if __name__ == "__main__":
    main()
