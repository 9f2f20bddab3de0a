"""What a running gateway's port answers to the token that it writes for commands on its machine."""

import urllib.request
from pathlib import Path

from web.access.cli_token import cli_token


def get(port: int, path: str, directory: Path) -> str:
    """Ask a gateway.

    Args:
        port: Its port.
        path: What is asked for.
        directory: The gateway's directory, where its token is.
    """
    headers = {"authorization": f"Bearer {cli_token(directory)}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())
