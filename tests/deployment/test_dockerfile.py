"""The image's files keep their promises without being built: `make image-test` builds it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
LINES = [line for line in DOCKERFILE.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


def pins(lock: str) -> set[tuple[str, ...]]:
    return set(re.findall(r"^([a-z0-9._-]+)==([^\s;]+)", (ROOT / lock).read_text(), re.MULTILINE))


@pytest.mark.parametrize("lock", ["all", "edge", "build"])
def test_an_image_holds_what_is_tested(lock: str) -> None:
    assert pins(f"deploy/{lock}.lock") and pins(f"deploy/{lock}.lock") <= pins("requirements.lock")
    text = (ROOT / f"deploy/{lock}.lock").read_text()
    for entry in re.split(r"\n(?=[a-z])", text.strip()):
        assert "--hash=sha256:" in entry, entry


def test_everything_is_installed_by_hash_and_nothing_is_fetched_otherwise() -> None:
    for line in LINES:
        assert not re.search(r"^ADD |curl|wget|apt-get|https?://", line)
    installs = re.findall(r"pip (?:install|wheel)[^&]*", DOCKERFILE.replace("\\\n", " "))
    assert len(installs) == 5
    for one in installs:
        assert "--require-hashes" in one or ("--no-deps" in one and ("/own" in one)), one
    final = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    assert "pip" not in final and "COPY . " not in DOCKERFILE


def test_it_runs_as_a_user_in_one_process_with_one_place_to_write() -> None:
    final = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    assert "\nUSER 1000:1000\n" in final and final.index("USER 1000") > final.rindex("\nRUN ")
    assert re.findall(r"^VOLUME (.*)", final, re.MULTILINE) == ["/data"]
    assert '\nENTRYPOINT ["bifrost"]\n' in final and "\nSTOPSIGNAL SIGTERM\n" in final
    assert "HEALTHCHECK" in final and "bifrost.alive" in final
    assert {"title", "description", "licenses", "version", "revision", "created"} == set(
        re.findall(r"opencontainers\.image\.(\w+)=", final)
    )


def test_what_is_copied_is_let_in_and_nothing_else_is() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    wanted = {
        word.split("/")[0]
        for line in LINES
        if line.startswith("COPY ") and "--from" not in line
        for word in line.split()[1:-1]
    }
    assert wanted == {line.removeprefix("!") for line in ignored if line.startswith("!")}
