"""What `k8s/` renders: the chart by helm and the overlays by kustomize, as objects.

``python -m tests.k8s_rendered --rules`` writes the component's PrometheusRule from ``k8s/observability/alerts.yaml``.
"""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).parents[1]
TOOLS: Final = ROOT / "build" / "counterparts" / "kubernetes"
CHART: Final = ROOT / "k8s" / "helm" / "bifrost"
RULES: Final = ROOT / "k8s" / "components" / "monitoring" / "prometheusrule.yaml"
VERSIONS: Final = ("1.33.0", "1.35.0", "1.37.0")
OVERLAYS: Final = ("edge", "cloud", "cluster", "dev")

Object = dict[str, Any]

_CHECK: Final = """
import json, sys
from pathlib import Path
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

schemas, objects, problems = Path(sys.argv[1]), json.load(sys.stdin), []
for version in sys.argv[2:]:
    definitions = Resource.from_contents(json.loads((schemas / version / "_definitions.json").read_text()))
    for found in objects:
        group, _, number = found["apiVersion"].rpartition("/")
        name = "-".join(part for part in (found["kind"].lower(), group.split(".")[0], number) if part)
        schema = json.loads((schemas / version / f"{name}.json").read_text())
        registry = definitions @ (Resource.from_contents(schema) @ Registry())
        for error in Draft202012Validator(schema, registry=registry).iter_errors(found):
            place = ".".join(str(part) for part in error.path)
            problems.append(f"{version} {found['kind']}/{found['metadata']['name']}: {place}: {error.message[:200]}")
print(json.dumps(problems))
"""


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What helm says of the chart."""
    return _run(str(TOOLS / "helm"), *arguments)


@cache
def chart(*arguments: str) -> list[Object]:
    """The chart's objects.

    Args:
        arguments: More arguments of `helm template`.

    Raises:
        ValueError: It does not render; with what helm says.
    """
    return _objects(helm("template", "bifrost", str(CHART), "--namespace", "plant", *arguments))


@cache
def kustomized(folder: str) -> list[Object]:
    """The objects of a folder of ``k8s``.

    Raises:
        ValueError: It does not render; with what kustomize says.
    """
    return _objects(_run(str(TOOLS / "kubectl"), "kustomize", str(ROOT / "k8s" / folder)))


def _objects(said: "subprocess.CompletedProcess[str]") -> list[Object]:
    if said.returncode:
        raise ValueError(said.stderr)
    return [found for found in yaml.safe_load_all(said.stdout) if found]


def problems(objects: list[Object], versions: tuple[str, ...] = VERSIONS) -> list[str]:
    """What the schemas of versions of Kubernetes find wrong, a key that they do not know too."""
    told = subprocess.run(
        [sys.executable, "-c", _CHECK, str(TOOLS / "schemas"), *versions],
        input=json.dumps([found for found in objects if not found["apiVersion"].startswith("monitoring.coreos.com")]),
        env={"PYTHONPATH": str(TOOLS / "lib")},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return list(json.loads(told.stdout))


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """The objects of a kind."""
    return [found for found in objects if found["kind"] == kind]


def pod(objects: list[Object]) -> Object:
    """The pod template's spec."""
    (found,) = of_kind(objects, "StatefulSet")
    return dict(found["spec"]["template"]["spec"])


def rule_object() -> Object:
    """The alerts as an object of the Prometheus operator."""
    groups = yaml.safe_load((ROOT / "k8s" / "observability" / "alerts.yaml").read_text("utf-8"))["groups"]
    kind = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule"}
    return kind | {"metadata": {"name": "bifrost"}, "spec": {"groups": groups}}


if __name__ == "__main__" and "--rules" in sys.argv:
    made = "# Made by make k8s-rules of k8s/observability/alerts.yaml; not edited by hand.\n"
    RULES.write_text(made + yaml.safe_dump(rule_object(), sort_keys=False, width=10_000), encoding="utf-8")
