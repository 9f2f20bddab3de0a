"""The pod as the chart renders it, with its image, by `podman kube play`: what a kubelet is told, told to podman.

What podman (4.3, as Debian 12 has it) does not do is done for it, and nothing else is changed: see `playable`.
"""

import asyncio
import copy
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as mqtt
import yaml
from paho.mqtt.enums import CallbackAPIVersion

from tests.deployment.containers import inspected, podman
from tests.deployment.seen import SUBSCRIBED, answers, arrived, expect, process_facts, publish, until
from tests.k8s_rendered import Object, chart, of_kind, pod
from tests.mosquitto_broker import Broker, program
from tests.ports import free_port

POD: Final = "bifrost-0"
CONTAINER: Final = "bifrost-0-bifrost"
CLAIM: Final = "data-bifrost-0"
SECRET: Final = "plant"
PASSWORD: Final = "correct-horse"
_FIRST: Final = 500
_ALL: Final = 800

CONFIG: Final = """
gateway:
  cloud: {{connectors: {{lake: {{type: delta, endpoint: /data/delta, flush_interval: 0.5}}}}}}
sources:
  - name: cell
    protocol: mqtt
    endpoint: mqtt://host.containers.internal:{port}
    client_id: pod
    username: pod
    password: ${{file:/run/secrets/plant/password}}
    subscriptions:
      - {{topic: plant/+/+, pattern: "plant/{{device_id}}/{{tag_name}}"}}
"""


def playable(objects: list[Object], image: str, config: Path, port: int) -> tuple[Object, Object]:
    """The claim of the pod `bifrost-0` and the pod, as the StatefulSet's controller makes them, for podman.

    Args:
        objects: What the chart renders.
        image: The image to run, which is not pulled.
        config: The ConfigMap's files as a kubelet lays them out: podman makes no folder below such a volume.
        port: Where the pod's port is found on this machine.
    """
    (stateful,) = of_kind(objects, "StatefulSet")
    template, (claim,) = stateful["spec"]["template"], stateful["spec"]["volumeClaimTemplates"]
    spec = copy.deepcopy(pod(objects))
    (container,) = spec["containers"]
    container |= {"image": image, "imagePullPolicy": "Never"}
    (told,) = container["ports"]
    told |= {"hostPort": port, "hostIP": "127.0.0.1"}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        del container[probe]  # podman asks with a curl inside the image, which has none; the test asks from outside
    for volume in spec["volumes"]:
        if "configMap" in volume:
            del volume["configMap"]
            volume["hostPath"] = {"path": str(config), "type": "Directory"}
        if "secret" in volume:
            volume["secret"]["optional"] = False  # the same as without it, which ends podman 4.3 with a fault
    spec["volumes"].append({"name": claim["metadata"]["name"], "persistentVolumeClaim": {"claimName": CLAIM}})
    return (
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": claim["spec"]},
        {"apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"] | {"name": POD}, "spec": spec},
    )


def laid_out(objects: list[Object], folder: Path) -> None:
    """Write the files of the ConfigMap as the pod's volume names them."""
    (found,) = of_kind(objects, "ConfigMap")
    volume = next(one for one in pod(objects)["volumes"] if "configMap" in one)
    for item in volume["configMap"]["items"]:
        path = folder / item["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found["data"][item["key"]])


def status(port: int, path: str) -> int:
    """What the API answers; 0 when nothing does."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def remove() -> None:
    """Remove what was made, as far as it is there."""
    for command in (("pod", "rm", "--force", POD), ("volume", "rm", CLAIM, SECRET), ("secret", "rm", SECRET)):
        podman(*command, check=False)


async def run(image: str, folder: Path) -> dict[str, Any]:
    """Play the pod, look at it, let readings through it, and end and begin it again with its volume."""
    folder.chmod(0o755)
    reached, port = free_port(), free_port()
    (folder / "broker").mkdir()
    passwords = folder / "broker" / "passwords"
    settings = (
        f"listener {reached} 0.0.0.0",
        "allow_anonymous false",
        f"password_file {passwords}",
        "max_queued_messages 0",
    )
    await asyncio.to_thread(program)
    made = await asyncio.create_subprocess_exec("mosquitto_passwd", "-b", "-c", str(passwords), "pod", PASSWORD)
    await made.wait()
    (folder / "values.yaml").write_text(CONFIG.format(port=reached))
    objects = chart("--set", f"secrets={{{SECRET}}}", "--set-file", f"config={folder / 'values.yaml'}")
    laid_out(objects, folder / "config")
    claim, play = folder / "claim.yaml", folder / "pod.yaml"
    for path, made_so in zip((claim, play), playable(objects, image, folder / "config", port), strict=True):
        path.write_text(yaml.safe_dump(made_so))
    # podman 4.3 writes into the file what stands in the Secret, without decoding it
    (folder / "secret.yaml").write_text(
        yaml.safe_dump(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET}, "data": {"password": PASSWORD}}
        )
    )
    remove()
    podman("secret", "create", SECRET, str(folder / "secret.yaml"))
    try:
        async with Broker(folder / "broker", settings) as broker:
            for path in (claim, play):
                await asyncio.to_thread(podman, "kube", "play", str(path), seconds=300)
            await until(lambda: answers(port, "/readyz"), "the pod ready", CONTAINER)
            await until(lambda: SUBSCRIBED in broker.log(), "subscribed", CONTAINER)
            found = {
                name: status(port, path)
                for name, path in (("live", "/livez"), ("ready", "/readyz"), ("without_login", "/api/status"))
            }
            expect(
                found == {"live": 200, "ready": 200, "without_login": 401}, f"pod: probes and the API answer {found}"
            )
            facts, (asked,) = process_facts(CONTAINER), pod(objects)["containers"]
            expect(
                facts["Uid"].split() == ["1000"] * 4 and int(facts["CapBnd"], 16) == 0, "pod: user 1000, no capability"
            )
            expect(
                (facts["NoNewPrivs"], facts["Seccomp"], facts["root"]) == ("1", "2", "ro"),
                "pod: no new privileges, seccomp, root read-only",
            )
            memory = inspected("container", CONTAINER)["HostConfig"]["Memory"]
            expect(
                memory == 1 << 30 and asked["resources"]["limits"]["memory"] == "1Gi",
                "pod: the memory limit is that of the chart",
            )
            volume = Path(inspected("volume", CLAIM)["Mountpoint"])
            table = volume / "delta" / "readings"
            client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="counter")
            client.username_pw_set("pod", PASSWORD)
            client.connect("127.0.0.1", broker.port)
            client.loop_start()
            await asyncio.to_thread(publish, client, 0, _FIRST)
            await until(lambda: len(set(arrived(table))) >= _FIRST, "the pod's readings in the Delta table", CONTAINER)
            expect(True, f"pod: {_FIRST} readings arrive, read with the password of the Secret")
            for name, command in (
                ("config apply", ["bifrost", "config", "apply", "-c", asked["command"][-1]]),
                ("preStop", asked["lifecycle"]["preStop"]["exec"]["command"]),
            ):
                await asyncio.to_thread(podman, "exec", CONTAINER, *command)
                expect(True, f"pod: {name} ends well")
            await asyncio.to_thread(podman, "stop", "--time", "20", CONTAINER)
            code = inspected("container", CONTAINER)["State"]["ExitCode"]
            expect(code == 0, f"pod: stopped with exit code {code}")
            await asyncio.to_thread(podman, "kube", "down", str(play))
            await asyncio.to_thread(publish, client, _FIRST, _ALL)
            client.loop_stop()
            await asyncio.to_thread(podman, "kube", "play", str(play), seconds=300)
            await until(
                lambda: len(set(arrived(table))) >= _ALL, "what came without the pod in the Delta table", CONTAINER
            )
            lost = _ALL - len(set(arrived(table)))
            expect(lost == 0, f"pod: begun again with its volume, {_ALL} messages, {lost} lost")
    finally:
        remove()
    return found | {"user": 1000, "messages": _ALL, "lost": lost, "exit_code": code, "by": podman("--version")}
