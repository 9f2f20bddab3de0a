"""The chart and the overlays: the same objects, sound for three versions of Kubernetes, and as tight as they can be."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.loader import load
from config.yaml_nodes import ProblemsError
from flows.cluster import members_of
from flows.options import cluster_options
from tests.k8s_rendered import (
    CHART,
    OVERLAYS,
    ROOT,
    RULES,
    VERSIONS,
    Object,
    chart,
    helm,
    kustomized,
    of_kind,
    pod,
    problems,
    rule_object,
)

VARIANTS = {
    "base": (),
    **{name: ("-f", str(CHART / "values" / f"{name}.yaml")) for name in OVERLAYS},
}
EVERYTHING = (
    "--set", "tls.secretName=plant-tls,secrets={plant.secrets,other},leases.enabled=true,serviceMonitor.enabled=true",
    "--set", "prometheusRule.enabled=true,storage.className=fast,replicas=4,members=3,imagePullSecrets[0].name=registry",
    "--set", "nodeSelector.plant=a,tolerations[0].operator=Exists,env[0].name=A,env[0].value=b,hosts={plant.example}",
    "--set", "networkPolicy.from[0].podSelector.matchLabels.app=proxy",
)  # fmt: skip
OF_HELM = ("helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/version")


def folder(name: str) -> str:
    return "base" if name == "base" else f"overlays/{name}"


def compared(objects: list[Object]) -> dict[str, Any]:
    """Objects by name, without what helm alone writes, and the texts of configurations as what they mean."""
    found = {}
    for one in json.loads(json.dumps(objects)):
        metadata = one["metadata"]
        for label in OF_HELM:
            metadata.get("labels", {}).pop(label, None)
        for subject in one.get("subjects", []):
            subject.pop("namespace", None)  # kustomize leaves it to who applies it
        if one["kind"] == "ConfigMap":
            one["data"] = {
                name: yaml.safe_load(text) if name.endswith(".yaml") else text for name, text in one["data"].items()
            }
        if one["kind"] == "StatefulSet":
            for claim in one["spec"]["volumeClaimTemplates"]:
                claim["metadata"].pop("labels", None)
        found[f"{one['kind']}/{metadata['name']}"] = one
    return found


@pytest.mark.parametrize("name", VARIANTS)
def test_chart_and_overlay_render_the_same_objects(name: str) -> None:
    by_helm, by_kustomize = compared(chart(*VARIANTS[name])), compared(kustomized(folder(name)))
    assert sorted(by_helm) == sorted(by_kustomize)
    for place, one in by_helm.items():
        assert one == by_kustomize[place], place


def test_three_versions_of_kubernetes_know_every_key() -> None:
    by_helm = [one for arguments in (*VARIANTS.values(), EVERYTHING) for one in chart(*arguments)]
    assert problems(by_helm + [one for name in VARIANTS for one in kustomized(folder(name))]) == []


def test_the_schemas_refuse_what_is_wrong() -> None:
    wrong = json.loads(json.dumps(chart()))
    of_kind(wrong, "StatefulSet")[0]["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Always"
    assert [said.split()[0] for said in problems(wrong)] == list(VERSIONS)


def test_helm_finds_nothing_to_mend_and_refuses_values_that_are_none() -> None:
    linted = helm("lint", "--strict", str(CHART))
    assert linted.returncode == 0, linted.stdout + linted.stderr
    for value, said in (
        ("replica=2", "additional properties 'replica' not allowed"),
        ("storage.size=much", "storage"),
        ("drainSeconds=290", "terminationGracePeriodSeconds must be more than drainSeconds"),
        ("cluster.enabled=true", "replicas must be 2 at least"),
        ("cluster.enabled=true,replicas=3,members=2", "members the same"),
        ("cluster.enabled=true,replicas=2,networkPolicy.enabled=false", "who reaches cluster.port runs code"),
        ("cluster.flow=my flow", "flow"),
    ):
        with pytest.raises(ValueError, match=said):
            chart("--set", value)


def test_every_value_is_described() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def check(known: dict[str, Any], said: dict[str, Any], place: str) -> None:
        for key, value in said.items():
            entry = known["properties"][key]
            if "properties" in entry:
                check(entry, value, f"{place}{key}.")
            else:
                assert entry.get("description"), place + key

    check(schema, values, "")


# ---------------------------------------------------------------------- what runs


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("ordinal", [0, 2])
def test_the_configuration_is_sound_in_every_pod(
    name: str, ordinal: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POD_NAME", f"bifrost-{ordinal}")
    (config,) = of_kind(kustomized(folder(name)), "ConfigMap")
    (volume,) = [one for one in pod(kustomized(folder(name)))["volumes"] if one["name"] == "config"]
    for item in volume["configMap"]["items"]:
        path = tmp_path / item["path"]
        path.parent.mkdir(exist_ok=True)
        path.write_text(config["data"][item["key"]])
    found = load(tmp_path / "gateway.yaml")
    (count,) = [one["spec"]["replicas"] for one in of_kind(kustomized(folder(name)), "StatefulSet")]
    assert (found.gateway, str(found.directory), found.port) == (f"bifrost-{ordinal}", "/data", 8080)
    assert found.membership is not None
    assert (found.membership.members, found.membership.leaves) == (count, ordinal >= count)
    assert (found.leases is not None) == (name == "cloud")


@pytest.mark.parametrize("more", [(), ("--set", "replicas=12,cluster.port=3000,cluster.flow=mine.flow:build")])
def test_each_pod_of_a_cluster_is_told_its_number_and_where_the_others_are(
    more: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = chart(*VARIANTS["cluster"], *more)
    (config,), (container,) = of_kind(objects, "ConfigMap"), pod(objects)["containers"]
    count, port = (12, 3000) if more else (2, 2101)
    (tmp_path / "gateway.yaml").write_text(config["data"]["cluster.yaml"])
    (tmp_path / "hostfile.txt").write_text(config["data"]["hostfile.txt"])
    assert container["command"][:3] == ["python", "-m", "bytewax.run"]
    for number in (0, count - 1):
        name = f"bifrost-{number}"
        monkeypatch.setenv("POD_NAME", name)
        told = {one["name"]: one.get("value", name) for one in container["env"]}
        told["BYTEWAX_HOSTFILE_PATH"] = str(tmp_path / Path(told["BYTEWAX_HOSTFILE_PATH"]).name)
        members = members_of(load(tmp_path / "gateway.yaml"), cluster_options(container["command"][3:], told))
        assert members is not None
        assert members.member == number
        assert members.names == tuple(f"bifrost-{member}" for member in range(count))
        assert members.addresses == tuple(f"bifrost-{member}.bifrost-pods:{port}" for member in range(count))
    (pods,) = [one for one in of_kind(objects, "Service") if one["metadata"]["name"] == "bifrost-pods"]
    assert pods["spec"]["publishNotReadyAddresses"] is True, "members find each other before they are ready"


def test_a_chart_s_configuration_with_every_value_is_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAME", "bifrost-1")
    (config,) = of_kind(chart(*EVERYTHING), "ConfigMap")
    (tmp_path / "gateway.yaml").write_text(config["data"]["cluster.yaml"])
    found = load(tmp_path / "gateway.yaml")
    assert found.web.tls is not None
    assert found.web.hosts == ["bifrost", "plant.example"]
    (tmp_path / "gateway.yaml").write_text("gateway: {name: again}\n")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "cluster.yaml").write_text(config["data"]["cluster.yaml"])
    with pytest.raises(ProblemsError, match=r"gateway\.name"):
        load(tmp_path / "gateway.yaml")  # the chart's keys are the chart's


@pytest.mark.parametrize("name", VARIANTS)
def test_a_pod_is_given_longer_to_end_than_it_may_drain(name: str) -> None:
    spec = pod(chart(*VARIANTS[name]))
    command = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    drain = int(command[command.index("--timeout") + 1].removesuffix("s"))
    assert spec["terminationGracePeriodSeconds"] >= drain + 15
    assert "--if-leaving" in command


def test_the_verbs_that_pods_run_exist() -> None:
    from typer.main import get_command

    from bifrost.cli import app

    container = pod(chart())["containers"][0]
    for command in (container["command"], container["lifecycle"]["preStop"]["exec"]["command"]):
        verb = get_command(app).commands[command[1]]  # type: ignore[attr-defined]
        options = {option for parameter in verb.params for option in parameter.opts}
        assert command[0] == "bifrost"
        assert {word for word in command[2:] if word.startswith("-")} <= options


def test_the_alerts_are_those_of_k8s_observability() -> None:
    wanted = rule_object()["spec"]
    assert yaml.safe_load(RULES.read_text())["spec"] == wanted, "make k8s-rules"
    (rule,) = of_kind(chart(*EVERYTHING), "PrometheusRule")
    assert rule["spec"] == wanted


# ---------------------------------------------------------------------- threats


@pytest.mark.threat(28)
@pytest.mark.parametrize("arguments", [*VARIANTS.values(), EVERYTHING], ids=[*VARIANTS, "everything"])
def test_a_pod_meets_the_restricted_standard(arguments: tuple[str, ...]) -> None:
    spec = pod(chart(*arguments))
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] >= 1000
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert {next(iter(set(volume) - {"name"})) for volume in spec["volumes"]} <= {"configMap", "secret", "emptyDir"}
    for container in [*spec["containers"], *spec.get("initContainers", [])]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "hostPort" not in json.dumps(container["ports"])
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert writable == {"/data", "/tmp"}
    held = "leases.enabled=true" in str(arguments) or "cloud.yaml" in str(arguments)
    assert spec["automountServiceAccountToken"] is held
    for role in of_kind(chart(*arguments), "Role"):
        assert role["rules"] == [
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]}
        ]


@pytest.mark.threat(25)
@pytest.mark.parametrize("name", ["base", "edge", "cloud"])
def test_nothing_comes_in_but_to_the_port_of_the_api(name: str) -> None:
    for objects in (chart(*VARIANTS[name]), kustomized(folder(name))):
        (policy,) = of_kind(objects, "NetworkPolicy")
        (workload,) = of_kind(objects, "StatefulSet")
        assert policy["spec"]["policyTypes"] == ["Ingress"]
        assert (
            policy["spec"]["podSelector"]["matchLabels"].items()
            <= workload["spec"]["template"]["metadata"]["labels"].items()
        )
        assert policy["spec"]["ingress"] == [{"ports": [{"port": "api", "protocol": "TCP"}]}]
        (container,) = pod(objects)["containers"]
        assert [(port["name"], port["containerPort"]) for port in container["ports"]] == [("api", 8080)]
        for service in of_kind(objects, "Service"):
            assert [port["targetPort"] for port in service["spec"]["ports"]] == ["api"]


@pytest.mark.threat(25)
def test_only_the_members_of_a_cluster_reach_each_other_s_port() -> None:
    for objects in (chart(*VARIANTS["cluster"]), kustomized(folder("cluster"))):
        (policy,) = of_kind(objects, "NetworkPolicy")
        api, members = policy["spec"]["ingress"]
        assert api == {"ports": [{"port": "api", "protocol": "TCP"}]}
        assert members == {
            "ports": [{"port": "bytewax", "protocol": "TCP"}],
            "from": [{"podSelector": policy["spec"]["podSelector"]}],
        }
        (container,) = pod(objects)["containers"]
        assert [(port["name"], port["containerPort"]) for port in container["ports"]] == [
            ("api", 8080),
            ("bytewax", 2101),
        ]
        for service in of_kind(objects, "Service"):
            assert [port["targetPort"] for port in service["spec"]["ports"]] == ["api"]


@pytest.mark.threat(28)
@pytest.mark.parametrize(
    "path",
    [
        "requirements.lock",
        *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "tests").rglob("*.txt") if "==" in p.read_text()),
    ],
)
def test_whatever_is_installed_from_a_package_index_is_pinned_by_its_hash(path: str) -> None:
    text = re.sub(r"\\\n\s*", " ", (ROOT / path).read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert lines
    for line in lines:
        assert re.match(r"^[A-Za-z0-9_.\[\]-]+==\S+(\s+;.*?)?(\s+--hash=sha256:[0-9a-f]{64})+$", line), line[:120]
