"""A schema registry with Confluent's API, over HTTP. Blocking; call it in a worker thread."""

import base64
import http.client
import json
import ssl
from typing import Any, Final
from urllib.parse import quote, urlsplit

from connectors.contract import AuthError, CapacityError, ConfigError, DeliveryError, TransientError
from connectors.targets.kafka.config import RegistrySettings
from connectors.wire.tls import tls_context

_TYPE: Final = "application/vnd.schemaregistry.v1+json"
_LARGEST_ANSWER: Final = 4 * 1024 * 1024


class Registry:
    """Finds the numbers of schemas."""

    def __init__(self, settings: RegistrySettings, timeout: float) -> None:
        self._settings = settings
        self._timeout = timeout
        self._base = urlsplit(settings.endpoint)

    def schema_id(self, subject: str, kind: str, schema: str) -> int:
        """The number of a schema, which is registered unless that is not wanted.

        Args:
            subject: Name that its versions have.
            kind: AVRO or PROTOBUF.
            schema: The schema.

        Raises:
            DeliveryError: The registry cannot be reached, or does not take it.
        """
        body = {"schema": schema} | ({"schemaType": kind} if kind != "AVRO" else {})
        path = f"/subjects/{quote(subject, safe='')}"
        if self._settings.register_ == "auto":
            path += "/versions"
        status, answer = self._ask("POST", path, body)
        if status == 200 and isinstance(answer.get("id"), int):
            return int(answer["id"])
        raise self._failure(status, answer, subject)

    def is_compatible(self, subject: str, kind: str, schema: str) -> tuple[bool, str]:
        """Whether the registry would take a schema, and what it says of that; registers nothing."""
        body = {"schema": schema} | ({"schemaType": kind} if kind != "AVRO" else {})
        path = f"/compatibility/subjects/{quote(subject, safe='')}/versions/latest?verbose=true"
        status, answer = self._ask("POST", path, body)
        if status == 404:
            return True, f"`{subject}` is new"
        if status != 200:
            raise self._failure(status, answer, subject)
        if answer.get("is_compatible"):
            return True, f"`{subject}` takes the schema"
        return False, " ".join(str(message) for message in answer.get("messages") or ["it does not say why"])[:500]

    def _failure(self, status: int, answer: dict[str, Any], subject: str) -> DeliveryError:
        text = f"{self._settings.endpoint}: {answer.get('message') or f'it answers {status}'}"[:700]
        if status in {401, 403}:
            return AuthError(f"{text} (check `registry`: username and password, or token)")
        if status == 404 and self._settings.register_ == "never":
            return ConfigError(f"{text} (register the schema under `{subject}`, or set `register: auto`)")
        if status == 409:
            return ConfigError(
                f"{text} (the schema of readings does not fit those of `{subject}`: choose another topic or subject, or "
                "change the subject's compatibility)"
            )
        if status in {404, 405, 422, 400}:
            return ConfigError(f"{text} (check `registry.endpoint` and the subject `{subject}`)")
        if status == 429:
            return CapacityError(text)
        return TransientError(text)

    def _ask(self, method: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        headers = {"Content-Type": _TYPE, "Accept": f"{_TYPE}, application/json"}
        own = self._settings
        if own.token is not None:
            headers["Authorization"] = f"Bearer {own.token.get_secret_value()}"
        elif own.username:
            password = own.password.get_secret_value() if own.password else ""
            headers["Authorization"] = f"Basic {base64.b64encode(f'{own.username}:{password}'.encode()).decode()}"
        try:
            connection = self._connection()
            try:
                connection.request(method, self._base.path + path, json.dumps(body).encode(), headers)
                response = connection.getresponse()
                status, said = response.status, response.read(_LARGEST_ANSWER)
            finally:
                connection.close()
        except ssl.SSLError as error:
            raise ConfigError(f"{own.endpoint}: {error.reason or error} (check `registry.tls`)") from error
        except (OSError, http.client.HTTPException) as error:
            raise TransientError(
                f"{own.endpoint}: {error or type(error).__name__} (check `registry.endpoint`)"
            ) from error
        try:
            answer = json.loads(said)
        except ValueError:
            answer = None
        return status, answer if isinstance(answer, dict) else {}

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._base.hostname or "", self._base.port
        if self._base.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self._timeout)
        tls = self._settings.tls
        context = tls_context(tls) if tls is not None else ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=self._timeout, context=context)
