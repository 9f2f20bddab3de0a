"""Unity Catalog over HTTP: the token endpoint and the description of a table. Blocking; call it in a worker thread."""

import base64
import json
import ssl
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import Request, urlopen

from connectors.targets.zerobus.errors import HttpError

_LARGEST_ANSWER: Final = 8 * 1024 * 1024

Privilege = tuple[str, str, str]  # privilege, kind of object, full name of the object


class Catalog:
    """One service principal's view of a workspace.

    Args:
        url: The workspace's URL.
        client_id: Application id of the service principal.
        client_secret: Its OAuth secret.
        timeout: Seconds for one request.
    """

    def __init__(self, url: str, client_id: str, client_secret: str, timeout: float) -> None:
        self._url = url
        self._basic = base64.b64encode(f"{client_id}:{client_secret}".encode()).decode()
        self._timeout = timeout

    def token(self) -> str:
        """A token for the workspace's API.

        Raises:
            HttpError: The endpoint refuses.
            OSError: The endpoint cannot be reached.
        """
        return self._token({})

    def table_token(self, endpoint: str, table: str) -> str:
        """A token that may write to `table` through ZeroBus, as the SDK asks for it; refused when a grant is missing.

        Args:
            endpoint: The ZeroBus endpoint, whose first label names the workspace.
            table: Full name of the table.
        """
        details: dict[tuple[str, str], dict[str, Any]] = {}
        for privilege, kind, name in privileges(table):
            detail = details.setdefault(
                (kind, name),
                {
                    "type": "unity_catalog_privileges",
                    "privileges": [],
                    "object_type": kind,
                    "object_full_path": name,
                },
            )
            detail["privileges"].append(privilege)
            if kind == "TABLE":
                detail["operations"] = ["zerobuswrite"]
        workspace = (urlsplit(endpoint).hostname or "").split(".")[0]
        return self._token(
            {
                "resource": f"api://databricks/workspaces/{workspace}/zerobusDirectWriteApi",
                "authorization_details": json.dumps(list(details.values())),
            }
        )

    def table(self, name: str) -> dict[str, Any]:
        """What Unity Catalog says about a table: ``columns``, ``table_type``, ``data_source_format`` and more."""
        return self._ask(
            f"{self._url}/api/2.1/unity-catalog/tables/{quote(name, safe='')}", f"Bearer {self.token()}", None
        )

    def _token(self, extra: dict[str, str]) -> str:
        form = {"grant_type": "client_credentials", "scope": "all-apis"} | extra
        answer = self._ask(f"{self._url}/oidc/v1/token", f"Basic {self._basic}", urlencode(form).encode())
        token = answer.get("access_token")
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            raise HttpError(502, "the token endpoint's answer has no usable access_token")
        return token

    def _ask(self, url: str, authorization: str, form: bytes | None) -> dict[str, Any]:
        request = Request(  # noqa: S310  # Url admits http and https only
            url, data=form, headers={"Authorization": authorization, "Accept": "application/json"}
        )
        try:
            # a context of its own, which reads the authorities as they are now; the one of `urllib` stays as it began
            context = ssl.create_default_context() if url.startswith("https:") else None
            with urlopen(request, timeout=self._timeout, context=context) as response:  # noqa: S310
                body = response.read(_LARGEST_ANSWER)
        except HTTPError as error:
            with error:
                detail = error.read(4096).decode("utf-8", "replace").strip()
                raise HttpError(
                    error.code, f"{urlsplit(url).path} answered {error.code}: {detail}", _seconds(error)
                ) from None
        except URLError as error:
            msg = f"{url} cannot be reached: {error.reason}"
            raise OSError(msg) from error
        try:
            answer = json.loads(body)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise HttpError(502, f"{urlsplit(url).path} did not answer with a JSON object")
        return answer


def _seconds(error: HTTPError) -> float | None:
    value = error.headers.get("Retry-After", "")
    return float(value) if value.isdecimal() else None


def privileges(table: str) -> list[Privilege]:
    """What a writer of `table` must be granted."""
    catalog, schema, _ = table.split(".")
    return [
        ("USE CATALOG", "CATALOG", catalog),
        ("USE SCHEMA", "SCHEMA", f"{catalog}.{schema}"),
        ("SELECT", "TABLE", table),
        ("MODIFY", "TABLE", table),
    ]
