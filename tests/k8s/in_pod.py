"""Runs inside the pod of `pod.sh`: starts the container's command, looks around, and ends it as the kubelet would."""

import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

CONFIG = "/etc/bifrost/gateway.yaml"


def answers(path: str) -> int:
    """What the API answers; 0 when nothing does."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:8080{path}", timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def listening() -> list[int]:
    """Ports that something listens on, on any address."""
    found = set()
    for name in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == ("0A" if name.startswith("tcp") else "07"):
                found.add(int(local.split(":")[1], 16))
    return sorted(found)


def writable(*places: str) -> list[str]:
    """Folders in which a file can be made."""
    found = []
    for place in places:
        try:
            Path(place, "tried").write_text("x")
            found.append(place)
        except OSError:
            pass
    return found


def main(container: dict[str, Any], repo: str) -> dict[str, Any]:
    """What was seen."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    process = subprocess.Popen(container["command"])
    pause, deadline = threading.Event(), time.monotonic() + 60
    while answers(container["readinessProbe"]["httpGet"]["path"]) != 200 and time.monotonic() < deadline:
        pause.wait(0.1)
    seen = {
        "uid": status["Uid"].split()[0],
        "capabilities": int(status["CapBnd"], 16),
        "live": answers(container["livenessProbe"]["httpGet"]["path"]),
        "ready": answers(container["readinessProbe"]["httpGet"]["path"]),
        "without_login": answers("/api/status"),
        "listening": listening(),
        "writable": writable("/", "/usr", "/etc/bifrost", repo, "/data", "/tmp"),
    }
    seen["apply"] = subprocess.run(["bifrost", "config", "apply", "-c", CONFIG], check=False).returncode
    seen["prestop"] = subprocess.run(container["lifecycle"]["preStop"]["exec"]["command"], check=False).returncode
    process.terminate()
    return seen | {"exit": process.wait(30)}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]), sys.argv[2])) + "\n")
