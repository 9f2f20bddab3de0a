"""Prints a CycloneDX 1.6 bill of materials of a Python environment: python sbom.py --lock LOCK, run by its own Python.

What is in it is what is installed; the hashes of a package are those of the lock, by which it was installed.
"""

import argparse
import hashlib
import json
import re
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PRODUCT = "bifrost-gateway"


def normal(name: str) -> str:
    """A package's name as its index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: str) -> dict[str, list[str]]:
    """Hashes of each name==version of a lock."""
    found: dict[str, list[str]] = {}
    key = ""
    for line in lock.splitlines():
        if pinned := re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", line):
            key = f"{normal(pinned[1])}=={pinned[2]}"
            found.setdefault(key, [])
        elif hashed := re.search(r"--hash=sha256:([0-9a-f]{64})", line):
            found[key].append(hashed[1])
    return found


def licenses(about: metadata.PackageMetadata) -> list[dict[str, Any]]:
    """What a package says of its license, in the form that it says it."""
    expression = about.get("License-Expression")
    if expression:
        return [{"expression": expression}]
    classified = [
        line.rsplit(" :: ", 1)[-1] for line in about.get_all("Classifier") or () if line.startswith("License :: ")
    ]
    said = (about.get("License") or "").strip()
    names = classified or ([said] if said and "\n" not in said and len(said) < 100 else [])
    return [{"license": {"name": name}} for name in names]


def component(found: metadata.Distribution, known: dict[str, list[str]]) -> dict[str, Any]:
    """One package."""
    name, version = normal(found.metadata["Name"]), found.version
    made: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"pkg:pypi/{name}@{version}",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name}@{version}",
    }
    if said := licenses(found.metadata):
        made["licenses"] = said
    if hashes := known.get(f"{name}=={version}"):
        # of all its builds: which of them is installed is one of these
        made["properties"] = [{"name": "bifrost:lock:sha256", "value": value} for value in sorted(hashes)]
    return made


def needs(found: metadata.Distribution, present: dict[str, str]) -> list[str]:
    """References of the packages that one needs, as far as they are installed."""
    names = {normal(match[0]) for line in found.requires or () if (match := re.match(r"[A-Za-z0-9._-]+", line))}
    return sorted(present[name] for name in names if name in present)


def bill(lock: str, found: Iterable[metadata.Distribution], made: str) -> dict[str, Any]:
    """The whole bill.

    Args:
        lock: What they were installed by.
        found: The packages, Bifrost among them.
        made: The time that it tells.
    """
    known = pins(lock)
    installed = {normal(one.metadata["Name"]): one for one in found}
    refs = {name: f"pkg:pypi/{name}@{one.version}" for name, one in installed.items()}
    product = {**component(installed[PRODUCT], known), "type": "application"}
    parts = [component(one, known) for name, one in sorted(installed.items()) if name != PRODUCT]
    number = hashlib.sha256(json.dumps([product, parts], sort_keys=True).encode()).hexdigest()
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(number[:32], version=4)}",  # of what is in it: the same for the same
        "version": 1,
        "metadata": {"timestamp": made, "component": product},
        "components": parts,
        "dependencies": [{"ref": refs[name], "dependsOn": needs(one, refs)} for name, one in sorted(installed.items())],
    }


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--lock", type=Path, required=True, help="the lock that the environment was installed by")
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    print(json.dumps(bill(options.parse_args().lock.read_text(), metadata.distributions(), now), indent=1))
