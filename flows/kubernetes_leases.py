"""Leases as objects of a Kubernetes cluster (coordination.k8s.io/v1), by its REST API and the pod's service account."""

import asyncio
import hashlib
import http.client
import json
import os
import re
import ssl
import urllib.parse
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from config.models import Configuration, LeaseSection
from flows.leases import ConflictError, Lease, Leases, LeaseStore, LeaseStoreError

_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_TIMEOUT: Final = 3.0  # seconds that the API may take
_AT_ONCE: Final = 4
_SOURCE: Final = "bifrost/source"  # annotation with the source's name, which the lease's cannot be


class KubernetesLeases(LeaseStore):
    """The leases of one namespace.

    Args:
        section: What the configuration says.
        environment: The pod's environment, which names the API.
    """

    def __init__(self, section: LeaseSection, environment: Mapping[str, str] = os.environ) -> None:
        self._prefix = section.prefix
        self._token = section.token_file or _ACCOUNT / "token"
        self._ca = section.ca_file or _ACCOUNT / "ca.crt"
        self._namespace = section.namespace
        self._endpoint = section.endpoint
        if self._endpoint is None and (host := environment.get("KUBERNETES_SERVICE_HOST")):
            port = environment.get("KUBERNETES_SERVICE_PORT", "443")
            self._endpoint = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self._threads = ThreadPoolExecutor(_AT_ONCE, "lease")
        self._idle: list[http.client.HTTPConnection] = []  # append and pop are whole, whichever thread does them

    def name(self, source: str) -> str:
        """Name of a source's lease: that of an object of the cluster, and another for each source."""
        plain = re.sub(r"[^a-z0-9]+", "-", source.lower()).strip("-")[:40].strip("-") or "source"
        return f"{self._prefix}-{plain}-{hashlib.sha256(source.encode()).hexdigest()[:10]}"

    @override
    async def get(self, source: str) -> Lease | None:
        code, found = await self._ask("GET", f"/{self.name(source)}", None)
        return None if code == 404 else self._lease(code, found)

    @override
    async def put(self, source: str, holder: str, seconds: int, before: Lease | None) -> Lease:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        same = before is not None and before.holder == holder and before.acquired
        metadata: dict[str, Any] = {"name": self.name(source), "annotations": {_SOURCE: source}}
        spec = {
            "holderIdentity": holder,
            "leaseDurationSeconds": seconds,
            "acquireTime": before.acquired if before is not None and same else now,
            "renewTime": now,
            "leaseTransitions": 0 if before is None else before.transitions + (not same and bool(holder)),
        }
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
        if before is None:
            code, found = await self._ask("POST", "", body)
        else:
            metadata["resourceVersion"] = before.version
            code, found = await self._ask("PUT", f"/{self.name(source)}", body)
        if code in (404, 409):  # there already, changed or gone since
            raise ConflictError
        return self._lease(code, found)

    def _lease(self, code: int, found: Any) -> Lease:
        if code not in (200, 201):
            said = found.get("message") if isinstance(found, dict) else None
            raise LeaseStoreError(f"the cluster's API answers {code}: {str(said or 'no reason')[:200]}")
        try:
            spec = found.get("spec") or {}
            return Lease(
                str(spec.get("holderIdentity") or ""),
                str(found["metadata"]["resourceVersion"]),
                int(spec.get("leaseDurationSeconds") or 0),
                int(spec.get("leaseTransitions") or 0),
                str(spec.get("acquireTime") or ""),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise LeaseStoreError("the cluster's API answers what is no lease") from error

    async def _ask(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._asked, method, path, body)

    def _asked(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        """In a thread of this store alone. The token is read anew, because it is renewed."""
        if self._endpoint is None:
            raise LeaseStoreError(
                "this is no pod of a cluster: KUBERNETES_SERVICE_HOST is not set; set leases.endpoint"
            )
        try:
            token = self._token.read_text(encoding="ascii").strip()
            namespace = self._namespace or (_ACCOUNT / "namespace").read_text(encoding="ascii").strip()
        except (OSError, UnicodeError) as error:
            raise LeaseStoreError(f"the pod has no service account: {error}") from error
        headers = {"authorization": f"Bearer {token}", "accept": "application/json", "content-type": "application/json"}
        url = f"/apis/coordination.k8s.io/v1/namespaces/{urllib.parse.quote(namespace)}/leases{path}"
        kept = self._idle.pop() if self._idle else None
        connection = kept or self._connection()
        try:
            try:
                answer = self._sent(connection, method, url, body, headers)
            except (http.client.RemoteDisconnected, ConnectionError):
                if kept is None:
                    raise
                connection.close()  # it was idle too long; what was sent is sent again, and a second change conflicts
                answer = self._sent(connection, method, url, body, headers)
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise LeaseStoreError(f"the cluster's API at {self._endpoint} cannot be asked: {error}") from error
        self._idle.append(connection)
        return answer

    @override
    def close(self) -> None:
        self._threads.shutdown(wait=False)
        while self._idle:
            self._idle.pop().close()

    def _connection(self) -> http.client.HTTPConnection:
        found = urllib.parse.urlsplit(self._endpoint or "")
        if found.scheme == "http":
            return http.client.HTTPConnection(found.hostname or "", found.port or 80, timeout=_TIMEOUT)
        try:
            context = ssl.create_default_context(cafile=str(self._ca))
        except OSError as error:
            raise LeaseStoreError(f"{self._ca} holds no certificates: {error}") from error
        return http.client.HTTPSConnection(found.hostname or "", found.port or 443, timeout=_TIMEOUT, context=context)

    def _sent(
        self, connection: http.client.HTTPConnection, method: str, url: str, body: Any, headers: dict[str, str]
    ) -> tuple[int, Any]:
        connection.request(method, url, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        said = answer.read()
        try:
            return answer.status, json.loads(said)
        except ValueError:
            return answer.status, None


def leases_of(config: Configuration) -> Leases | None:
    """Where the gateway of a configuration holds its sources; None for nowhere."""
    section = config.leases
    return None if section is None else Leases(KubernetesLeases(section), config.gateway, section.duration)
