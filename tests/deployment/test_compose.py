"""docker-compose.yaml is sound, what is wrong with one is told with file and line, and the script that runs it can be read."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deployment import compose_file
from tests.deployment.compose_file import FILE, GUIDE, ROOT, SECRETS, TOOLS, problems

INSTALLER = ROOT / "tests" / "counterparts" / "compose" / "install.sh"
SCRIPT = ROOT / "tests" / "deployment" / "test_gateway.sh"


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    subprocess.run(["sh", str(INSTALLER)], check=True, timeout=110)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The compose file and what belongs to it, to be changed."""
    for name in (FILE, GUIDE, "k8s/observability/alerts.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("deploy/compose", "k8s/observability/dashboards"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def line_of(file: Path, text: str) -> int:
    return next(number for number, line in enumerate(file.read_text().splitlines(), 1) if text in line)


def test_the_compose_file_and_what_it_mounts_are_sound() -> None:
    assert problems() == []


@pytest.mark.parametrize(
    ("before", "after", "line", "said"),
    [
        ("    healthcheck:\n      test: [CMD, mosquitto_sub", "    healthchek:\n      test: [CMD, mosquitto_sub", "healthchek:", "healthchek"),
        ("- grafana-data:/var", "- lost-data:/var", "  grafana:", "refers to undefined volume lost-data"),
        ("start_period: 10s", "start_period: soon", "start_period: soon", 'invalid duration "soon"'),
        ("subnet:", "subnt:", "subnt:", "'subnt' not allowed"),
        ("${BIFROST_IMAGE:-bifrost}", "${BIFROST_IMAGE", "${BIFROST_IMAGE", "invalid interpolation format"),
        ("services:\n", "services: [\n", None, "did not find expected"),
    ],
)  # fmt: skip
def test_what_the_specification_refuses_is_told_with_its_line(
    copied: Path, before: str, after: str, line: str | None, said: str
) -> None:
    file = copied / FILE
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, after, 1))
    found = problems(copied)
    told = [one for one in found if said in one]
    assert told, found
    if line is not None:
        places = {int(one.split(":")[1]) for one in told}
        assert line_of(file, line) in places, told
    assert all(re.match(rf"{re.escape(FILE)}:\d+:\d+: ", one) for one in found if said in one)


@pytest.mark.parametrize(
    ("check", "before", "after", "line", "said"),
    [
        ("pinned", "eclipse-mosquitto:2.0.22", "eclipse-mosquitto:latest", "eclipse-mosquitto", "has no version"),
        ("pinned", "pull_policy: ${BIFROST_PULL:-never}", "pull_policy: ${BIFROST_PULL:-missing}", "image: ${BIFROST_IMAGE", "pull_policy: never"),
        ("confined", "127.0.0.1:${GATEWAY_PORT", "${GATEWAY_PORT", "${GATEWAY_PORT", "is reached from other machines"),
        ("secrets", "${GRAFANA_ADMIN_PASSWORD:?run sh deploy/compose/secrets.sh}", "admin", "GF_SECURITY_ADMIN_PASSWORD", "a password is written"),
        ("secrets", "${GRAFANA_ADMIN_PASSWORD:?run sh deploy/compose/secrets.sh}", "${GRAFANA_ADMIN_PASSWORD:-admin}", None, "has a default"),
        ("confined", "cap_drop: [ALL]", "cap_drop: [NET_RAW]", "cap_drop", "not ['ALL']"),
        ("confined", "restart: unless-stopped", "restart: perhaps", "restart", "not unless-stopped"),
        ("mounted", "conf:ro,z", "conf:z", "mosquitto.conf:/", "may write it"),
        ("mounted", "./deploy/compose/readings.sql", "./deploy/compose/rows.sql", "rows.sql", "rows.sql does not exist"),
        ("commands", "sim, all,", "sim, everything,", "sim, everything", "No such command 'everything'"),
        ("commands", "--data-dir", "--folder", "--folder", "No such option"),
        ("documented", "${PLANT_SUBNET:-172.28.77.0/28}\n    volumes", "${NETWORK:-172.28.77.0/28}\n    volumes", "${NETWORK", "is not in the table"),
        ("grafana", "dashboards/overview.json", "dashboards/first.json", "first.json", "is no file that is mounted"),
        ("plant", '--tags, "24"', '--tags, "32"', None, "the simulator's opcua1 has"),
    ],
)  # fmt: skip
def test_what_compose_would_take_and_we_do_not_is_told_with_its_line(
    copied: Path, check: str, before: str, after: str, line: str | None, said: str
) -> None:
    file = copied / FILE
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, after, 1))
    found = problems(copied, (getattr(compose_file, check),))
    told = [one for one in found if said in one]
    assert told, found
    if line is not None:
        assert int(told[0].split(":")[1]) == line_of(file, line), told


@pytest.mark.parametrize(
    ("check", "name", "before", "after", "said"),
    [
        ("gateway", "gateway.yaml", "type: delta", "type: delt", "delt"),
        ("gateway", "gateway.yaml", "${env:ZEROBUS_CLIENT_SECRET}", "${env:ZEROBUS_SECRET}", "the environment has no ZEROBUS_SECRET"),
        ("gateway", "gateway.yaml", "opc.tcp://simulator:4840", "opc.tcp://simulated:4840", "simulated is no service"),
        ("plant", "gateway.yaml", "type: int16, scale: 0.1", "type: int16, scale: 0.2", "the simulator's modbus1 has"),
        ("table", "readings.sql", "`gateway`       STRING", "`gateway`       INT", "has another line"),
        ("prometheus", "prometheus.yml", "scrape_interval", "scrap_interval", "field scrap_interval not found"),
        ("prometheus", "prometheus.yml", "[alerts.yaml]", "[alarms.yaml]", "alarms.yaml"),
        ("prometheus", "prometheus.yml", "gateway:8080", "bifrost:8080", "bifrost is no service"),
        ("mosquitto", "mosquitto.conf", "allow_anonymous true", "allow_anonymos true", "allow_anonymos"),
        ("mosquitto", "mosquitto.conf", "allow_anonymous true", "allow_anonymous false", "nobody may publish"),
        ("grafana", "grafana/dashboards/bifrost.yaml", "/etc/bifrost/dashboards", "/etc/dashboards", "is no folder"),
        ("grafana", "grafana/datasources/prometheus.yaml", "prometheus:9090", "prometheus:9000", "is no port of a service"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_mounted_file_is_told_with_its_line(
    copied: Path, check: str, name: str, before: str, after: str, said: str
) -> None:
    file = copied / "deploy" / "compose" / name
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, after, 1))
    found = problems(copied, (getattr(compose_file, check),))
    told = [one for one in found if said in one]
    assert told, found
    place = re.match(rf"deploy/compose/{re.escape(name)}:(\d+):\d+: ", told[0])
    assert place, told
    # what mosquitto does not tell is told at the file's begin
    assert int(place[1]) == (1 if said == "nobody may publish" else line_of(file, after)), told


def test_without_passwords_nothing_starts_and_it_says_what_to_do(copied: Path) -> None:
    bare = {name: value for name, value in os.environ.items() if name not in SECRETS}
    by_docker = subprocess.run(
        [str(TOOLS / "compose"), str(copied), str(copied / FILE)],
        input="", capture_output=True, text=True, check=False, timeout=60, env=bare,
    )  # fmt: skip
    assert by_docker.returncode == 1
    for name in SECRETS:
        assert f"required variable {name} is missing a value: run sh deploy/compose/secrets.sh" in by_docker.stderr


def test_passwords_are_made_once_at_random_and_for_the_user_alone(copied: Path) -> None:
    made = []
    for _ in range(2):
        done = subprocess.run(
            ["sh", str(copied / "deploy/compose/secrets.sh")], capture_output=True, text=True, check=True, timeout=30
        )
        env = copied / ".env"
        made.append((env.read_text(), done.stdout))
        assert env.stat().st_mode & 0o777 == 0o600
    assert made[0][0] == made[1][0]
    assert made[1][1] == ""
    values = dict(line.split("=") for line in made[0][0].splitlines())
    assert values.keys() == SECRETS.keys()
    assert all(re.fullmatch(r"[0-9a-f]{36}", value) for value in values.values())
    assert len(set(values.values())) == len(values)
    assert not any(value in made[0][1] for value in values.values())
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def run_script(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", str(SCRIPT), *arguments],
        capture_output=True, text=True, check=False, timeout=60, env={**os.environ, **environment},
    )  # fmt: skip


def test_the_script_describes_every_setting_that_it_takes() -> None:
    helped = run_script("--help")
    assert helped.returncode == 0
    taken = set(re.findall(r"\$\{([A-Z_]+):[-+]", SCRIPT.read_text()))
    taken |= {name for name in re.findall(r"\$\{([A-Z_]+)", (ROOT / FILE).read_text()) if name.endswith("_IMAGE")}
    assert taken, SCRIPT
    assert {name for name in taken if name not in helped.stdout} == set()
    assert run_script("--hlep").returncode == 2


def test_the_script_ends_with_1_and_says_why_where_no_engine_answers(tmp_path: Path) -> None:
    failed = run_script(ENGINE="false engine", TMPDIR=str(tmp_path))
    assert failed.returncode == 1
    assert "FAIL  false engine does not answer" in failed.stderr
    assert failed.stdout.splitlines()[1] == "1  prerequisites"
    assert not list(tmp_path.iterdir())


def test_the_script_stops_before_it_starts_anything_where_the_file_is_wrong(tmp_path: Path, copied: Path) -> None:
    """The real script beside a compose file that is none, with engines that would tell if they were asked for more."""
    script = copied / "tests" / "deployment" / SCRIPT.name
    script.parent.mkdir(parents=True)
    shutil.copy(SCRIPT, script)
    (copied / FILE).write_text("services: {a: {image: x, depends_on: [b]}}\n")
    engine = tmp_path / "podman"
    engine.write_text(
        f'#!/bin/sh\ncase "$1" in info) ;; --version) echo podman version 5;; *) echo "$@" >>{tmp_path}/asked;; esac\n'
    )
    engine.chmod(0o755)
    reader = tmp_path / "compose"
    reader.write_text(
        '#!/bin/sh\ncase "$*" in version) echo compose 1;; *config) '
        f'{TOOLS / "compose"} {copied} {copied / FILE} </dev/null;; *) echo "$@" >>{tmp_path}/asked;; esac\n'
    )
    reader.chmod(0o755)
    done = subprocess.run(
        ["bash", str(script)], capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "ENGINE": str(engine), "COMPOSE": str(reader)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "docker-compose.yaml: " in done.stderr
    assert "depends on undefined service" in done.stderr
    assert not (tmp_path / "asked").exists()
