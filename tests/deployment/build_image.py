"""Builds one variant with the stand-in for the base image: python -m tests.deployment.build_image all."""

import sys
import time
from pathlib import Path

from tests.deployment.containers import base_image, build, installed
from tests.deployment.image import facts_of

if __name__ == "__main__":
    installed()
    began = time.monotonic()
    base = base_image()
    print("base", time.monotonic() - began, flush=True)
    variant = sys.argv[1]
    mounts = ("--volume", "/etc/ssl/certs:/etc/ssl/certs:ro", "--volume", f"{Path.home()}/.cache/pip:/root/.cache/pip")
    build(f"localhost/bifrost:{variant}", base=base, extras=variant, arguments=mounts)
    print(facts_of(f"localhost/bifrost:{variant}", base), time.monotonic() - began)
