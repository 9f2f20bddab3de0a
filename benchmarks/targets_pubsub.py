"""Google Cloud Pub/Sub: readings per second from a spool into the fake that the tests use, with both payloads.

The fake is a process on the same cores, written in Go; the real service is further away and faster. ``python -m
benchmarks.targets_pubsub [ROWS]``; the last line it prints is the answer in JSON.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from benchmarks.targets import WARM, deliver
from connectors.targets.pubsub import PubSubConfig
from tests.contract.writers.pubsub import message_rows
from tests.pubsub_server import PubSubServer

ROWS: Final = 200_000


def measure(server: PubSubServer, payload: str, rows: int) -> dict[str, Any]:
    """One run with one payload."""
    own = {"project": f"bench-{payload}", "payload": payload}
    config = PubSubConfig.model_validate({"name": "pubsub", "endpoint": server.endpoint, "provider_config": own})
    with tempfile.TemporaryDirectory(prefix="bifrost-bench-") as directory:
        found = deliver(config, rows, Path(directory))
    there = sum(len(message_rows(message.data)) for message in server.messages(own["project"]))
    if there != rows + WARM:
        raise RuntimeError(f"{rows + WARM} readings were acknowledged, the server has {there}")
    return found


def main() -> None:
    """Measure both payloads in this process."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    server, found = PubSubServer(), {}
    try:
        for payload in ("reading", "array"):
            found[payload] = measure(server, payload, rows)
            print(f"google-pubsub, {payload}: {found[payload]['rows_per_s']:,} readings/s")
    finally:
        server.end()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
