"""Runs tests/deployment/test_gateway.sh where no registry of images is reached: python -m tests.deployment.stand_ins. Minutes, as root.

Our image is built on a Debian base made by debootstrap, mosquitto and Prometheus are Debian's in the layout of the public images.
Grafana is not to be had so, and is left out. What is built already stays as it is; `--anew` builds it again.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.deployment.containers import ROOT, base_image, build, engine, installed, podman

IMAGE: Final = "localhost/bifrost:all"
# a machine that is itself a container gives no more files and processes than this
LIMITS: Final = "--ulimit nofile=1024:1024 --ulimit nproc=1024:1024"
COUNTERPARTS: Final = ROOT / "tests" / "counterparts"
LIBRARY: Final = ROOT / "build" / "counterparts" / "compose" / "lib"
STAND_INS: Final = ("mosquitto", "prometheus")


def main() -> None:
    """Build what is missing, and run the script."""
    installed()
    subprocess.run(["sh", str(COUNTERPARTS / "compose" / "install.sh")], check=True, timeout=600)
    if podman("info", "--format", "{{.Host.NetworkBackend}}") == "cni":
        subprocess.run(["sh", str(COUNTERPARTS / "container-names.sh")], check=True, timeout=600)
    base, anew = base_image(), "--anew" in sys.argv
    if anew or not podman("images", "--quiet", IMAGE, check=False):
        mounts = ("--volume", "/etc/ssl/certs:/etc/ssl/certs:ro", "--volume", f"{Path.home()}/.cache/pip:/cache/pip")
        build(IMAGE, base=base, arguments=mounts)
    for name in STAND_INS:
        if anew or not podman("images", "--quiet", f"localhost/bifrost-{name}", check=False):
            podman(
                "build", "--format", "docker", "--isolation", "chroot", "--layers=false", "--network", "host", "--quiet",
                "--build-arg", f"BASE_IMAGE={base}", "--file", "tests/deployment/stand-ins.Dockerfile", "--target", name,
                "--tag", f"localhost/bifrost-{name}", "tests/deployment",
                seconds=600, quiet=False,
            )  # fmt: skip
    environment = {
        "ENGINE": " ".join(engine()),
        "COMPOSE": f"{sys.executable} -m podman_compose",
        "PYTHONPATH": str(LIBRARY),
        "RUN_ARGS": LIMITS,
        "SERVICES": f"simulator gateway zerobus {' '.join(STAND_INS)}",
        "BIFROST_IMAGE": IMAGE,
        **{f"{name.upper()}_IMAGE": f"localhost/bifrost-{name}" for name in STAND_INS},
    }
    script = ROOT / "tests" / "deployment" / "test_gateway.sh"
    sys.exit(subprocess.run(["bash", str(script)], env=environment | os.environ, check=False).returncode)


if __name__ == "__main__":
    main()
