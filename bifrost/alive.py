"""The image's health check: `python -m bifrost.alive` ends with 0 while the gateway's port says that it lives. Costs no import of ours."""

import os
import ssl
import sys
import urllib.error
import urllib.request
from typing import Final

DEFAULT: Final = "http://127.0.0.1:8080/livez"
_PATIENCE: Final = 4.0


def alive(url: str) -> str | None:
    """None when the gateway behind `url` lives; else what is wrong.

    Args:
        url: Its `/livez`; a certificate is not checked, since who answers inside the container is the gateway.
    """
    context = ssl._create_unverified_context() if url.startswith("https:") else None  # noqa: S323, SLF001 - see above
    try:
        with urllib.request.urlopen(url, timeout=_PATIENCE, context=context):  # noqa: S310 - the operator's own URL
            return None
    except urllib.error.HTTPError as error:
        with error:
            return error.read(1000).decode(errors="replace")
    except OSError as error:
        return f"{url} does not answer: {error}"


if __name__ == "__main__":
    wrong = alive(os.environ.get("BIFROST_HEALTH_URL", DEFAULT))
    if wrong is not None:
        sys.exit(wrong)
