"""Five open pages, as their browsers keep them: ``python -m benchmarks.pages PORT DIRECTORY``.

Overview, a page of 100 tags, one tag, the live tail with a filter, and the pipeline, which is fetched every two seconds as well.
Each is an event stream of its own. Prints ``open`` when each has had its first event; at the end of its input it prints
how many events and bytes came.
"""

import http.client
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from web.access.cli_token import cli_token

_SETTLE = 3.0  # seconds until what is made once has been made
_FILTER = "quality = 'GOOD' AND value > 99"


class _Page:
    def __init__(self, port: int, token: str, path: str) -> None:
        self._port, self._token, self._path = port, token, path
        self.opened = threading.Event()
        self.events = self.bytes = 0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        answer = _ask(self._port, self._token, self._path)
        if answer.status != 200:
            raise RuntimeError(f"{self._path}: {answer.status} {answer.read().decode()}")
        for line in answer:
            self.opened.set()
            self.bytes += len(line)
            self.events += line.startswith(b"event: ")


def _ask(port: int, token: str, path: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", path, headers={"authorization": f"Bearer {token}"})
    return connection.getresponse()


def _json(port: int, token: str, path: str) -> Any:
    with _ask(port, token, path) as answer:
        return json.loads(answer.read())


def main() -> None:
    """Keep the pages open."""
    port, token = int(sys.argv[1]), cli_token(Path(sys.argv[2])) or ""
    tags = [str(tag["id"]) for tag in _json(port, token, "/api/tags?limit=100")["tags"]]
    if len(tags) != 100:
        raise RuntimeError(f"{len(tags)} tags are there")
    paths = [
        "/api/events?topics=status",
        f"/api/events?topics=status,tags:{','.join(tags)}",
        f"/api/events?topics=status,tags:{tags[0]}",
        f"/api/tail?filter={quote(_FILTER)}",
        "/api/events?topics=status",
    ]
    pages = [_Page(port, token, path) for path in paths]
    if not all(page.opened.wait(20) for page in pages):
        raise RuntimeError("a page did not open")
    closing = threading.Event()
    threading.Thread(target=_poll, args=(port, token, closing), daemon=True).start()
    time.sleep(_SETTLE)
    began = time.monotonic()
    before = [(page.events, page.bytes) for page in pages]
    print("open", flush=True)
    sys.stdin.read()
    closing.set()
    took = time.monotonic() - began
    events = [page.events - told for page, (told, _) in zip(pages, before, strict=True)]
    sizes = [page.bytes - told for page, (_, told) in zip(pages, before, strict=True)]
    said = {"events_per_s": [round(count / took, 2) for count in events], "bytes_per_s": round(sum(sizes) / took)}
    print(json.dumps(said), flush=True)


def _poll(port: int, token: str, closing: threading.Event) -> None:
    while not closing.wait(2.0):
        _json(port, token, "/api/pipeline")


if __name__ == "__main__":
    main()
