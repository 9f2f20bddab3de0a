"""Checks a bill of materials by the schema of CycloneDX, which a library of the CycloneDX project brings."""

import json
from typing import Any


def check_bill(bill: dict[str, Any]) -> None:
    """Raise where `bill` is not what the schema says, or names a package without a version or lock's hash."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill))
    assert wrong is None, wrong
    assert bill["metadata"]["component"]["name"] == "bifrost-gateway"
    bare = [part["name"] for part in bill["components"] if not part.get("properties")]
    assert not bare, f"not from the lock: {bare}"
