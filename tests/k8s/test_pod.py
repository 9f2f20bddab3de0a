"""The pod is run as it is rendered: command, environment, user, volumes and rights, without a cluster and without an image."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.k8s_rendered import ROOT, kustomized, of_kind, pod

HERE = Path(__file__).parent


@pytest.mark.threat(25, 28)
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("folder", "name"), [("base", "bifrost-0"), ("overlays/cluster", "bifrost-1")])
def test_the_rendered_pod_runs_as_a_user_without_rights_on_a_root_that_nobody_can_write(
    folder: str, name: str, tmp_path: Path
) -> None:
    objects = kustomized(folder)
    (config,), (container,) = of_kind(objects, "ConfigMap"), pod(objects)["containers"]
    for item in next(one for one in pod(objects)["volumes"] if one["name"] == "config")["configMap"]["items"]:
        path = tmp_path / "config" / item["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(config["data"][item["key"]])
    for place in ("data", "root"):
        (tmp_path / place).mkdir()
    user = pod(objects)["securityContext"]["runAsUser"]
    os.chown(tmp_path / "data", user, user)
    environment = {"PATH": f"{ROOT}/.venv/bin:/usr/bin:/bin", "HOME": "/data"}
    environment |= {one["name"]: one.get("value", name) for one in container["env"]}
    assert environment["POD_NAME"] == name
    script = [str(ROOT / ".venv/bin/python"), str(HERE / "in_pod.py"), json.dumps(container), str(ROOT)]
    told = subprocess.run(
        ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", str(HERE / "pod.sh"), *(str(tmp_path / "root"), str(ROOT), sys.base_prefix, str(tmp_path / "config"), str(tmp_path / "data")), "env", "-i", *(f"{name}={value}" for name, value in environment.items()), *script],
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr[-3000:]
    seen = json.loads(told.stdout.splitlines()[-1])
    assert seen == {
        "uid": str(user),
        "capabilities": 0,
        "live": 200,
        "ready": 200,
        "without_login": 401,
        "listening": [8080],  # a member of a cluster that waits for the first one is alive and ready: it reads
        "writable": ["/data", "/tmp"],
        "apply": 0,
        "prestop": 0,
        "exit": 0,
    }
