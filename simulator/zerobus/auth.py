"""OAuth tokens and Unity Catalog grants.

Tokens are JSON Web Tokens (RFC 7519) signed with HMAC-SHA256 under a key kept with the data, so that they outlive a
restart of the emulator as real ones outlive a restart of the service. A token with ``authorization_details`` (RFC 9396) is
good for one table.
"""

import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc

from simulator.zerobus.errors import Refused

_RESOURCE: Final = re.compile(r"api://databricks/workspaces/([^/]+)/zerobusDirectWriteApi\Z")
PRIVILEGES: Final = {
    "CATALOG": ("USE CATALOG",),
    "SCHEMA": ("USE SCHEMA",),
    "TABLE": ("SELECT", "MODIFY"),
}


class OAuthError(Exception):
    """An error answer of the token endpoint (RFC 6749 §5.2)."""

    def __init__(self, status: int, error: str, description: str) -> None:
        super().__init__(description)
        self.status = status
        self.error = error


@dataclass(frozen=True)
class Claims:
    """What a token says: whose it is, and for which table; None: for Unity Catalog only."""

    client: str
    table: str | None


@dataclass
class Grants:
    """Which privileges a client lacks. A client has every privilege until it is revoked."""

    revoked: set[tuple[str, str, str]] = field(default_factory=set)  # client, securable, privilege

    def missing(self, client: str, table: str) -> list[str]:
        """What `client` lacks to write to `table`, as ``PRIVILEGE on SECURABLE``."""
        catalog, schema, _ = table.split(".")
        securables = {"CATALOG": catalog, "SCHEMA": f"{catalog}.{schema}", "TABLE": table}
        return [
            f"{privilege} on {kind} {name}"
            for kind, name in securables.items()
            for privilege in PRIVILEGES[kind]
            if (client, name, privilege) in self.revoked
        ]


class Authority:
    """Mints and checks tokens.

    Args:
        key_file: where the signing key is kept; made if missing.
        clients: secret by client id.
        workspace: the workspace id that a token's resource must name; None accepts every one.
        now: the clock, in seconds since 1970.
    """

    def __init__(
        self, key_file: Path, clients: Mapping[str, str], workspace: str | None = None, now: Any = time.time
    ) -> None:
        if not key_file.exists():
            fd = os.open(key_file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "w") as file:
                file.write(secrets.token_hex(32))
        self._key = bytes.fromhex(key_file.read_text().strip())
        self._clients = dict(clients)
        self._workspace = workspace
        self._now = now
        self._valid_from = 0.0
        self.grants = Grants()
        self.ttl = 3600.0

    def mint(self, authorization: str, form: Mapping[str, str]) -> dict[str, Any]:
        """Answer a token request.

        Args:
            authorization: the ``Authorization`` header (Basic).
            form: the fields of the body.

        Raises:
            OAuthError: it is refused.
        """
        client = self._authenticate(authorization)
        if form.get("grant_type") != "client_credentials":
            raise OAuthError(400, "unsupported_grant_type", "grant_type must be client_credentials")
        if form.get("scope") != "all-apis":
            raise OAuthError(400, "invalid_scope", "scope must be all-apis")
        table = None
        if form.get("authorization_details"):
            table = self._requested_table(client, form)
        issued = self._now()
        token = self._sign({"sub": client, "table": table, "iat": issued, "exp": issued + self.ttl})
        return {"access_token": token, "token_type": "Bearer", "expires_in": int(self.ttl), "scope": "all-apis"}

    def verify(self, authorization: str) -> Claims:
        """The claims of a bearer token.

        Raises:
            Refused: UNAUTHENTICATED: it is missing, not ours, revoked or expired.
        """
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, "no bearer token")
        body, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(body)):
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, "the access token is not valid")
        claims = json.loads(_unpadded(body.partition(".")[2]))
        if claims["exp"] <= self._now():
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, "the access token has expired")
        if claims["iat"] < self._valid_from:
            raise Refused(grpc.StatusCode.UNAUTHENTICATED, "the access token was revoked")
        return Claims(claims["sub"], claims["table"])

    def check_write(self, claims: Claims, table: str) -> None:
        """Check that a token and its client may write to a table.

        Raises:
            Refused: PERMISSION_DENIED.
        """
        if claims.table != table:
            raise Refused(
                grpc.StatusCode.PERMISSION_DENIED, f"the access token is for {claims.table or 'no table'}, not {table}"
            )
        missing = self.grants.missing(claims.client, table)
        if missing:
            raise Refused(grpc.StatusCode.PERMISSION_DENIED, f"{claims.client} lacks {', '.join(missing)}")

    def revoke_tokens(self) -> None:
        """Make every token that was issued until now invalid."""
        self._valid_from = self._now()

    def _authenticate(self, authorization: str) -> str:
        scheme, _, encoded = authorization.partition(" ")
        try:
            client, _, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        except ValueError:
            client, secret = "", ""
        known = self._clients.get(client)
        if scheme.lower() != "basic" or known is None or not hmac.compare_digest(known.encode(), secret.encode()):
            raise OAuthError(401, "invalid_client", "Client authentication failed")
        return client

    def _requested_table(self, client: str, form: Mapping[str, str]) -> str:
        """The table that ``authorization_details`` ask for, after everything about them has been checked."""
        resource = _RESOURCE.match(form.get("resource", ""))
        if resource is None or (self._workspace is not None and resource[1] != self._workspace):
            raise OAuthError(400, "invalid_target", f"resource {form.get('resource', '')!r} is not this workspace's")
        try:
            details = json.loads(form["authorization_details"])
            asked = {
                item["object_type"]: (item["object_full_path"], set(item["privileges"]))
                for item in details
                if item["type"] == "unity_catalog_privileges"
            }
            table = asked["TABLE"][0]
            catalog, schema, _ = table.split(".")
            complete = all(
                asked[kind][0] == name and set(PRIVILEGES[kind]) <= asked[kind][1]
                for kind, name in (("CATALOG", catalog), ("SCHEMA", f"{catalog}.{schema}"), ("TABLE", table))
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OAuthError(400, "invalid_authorization_details", f"cannot be read: {error}") from error
        if not complete:
            raise OAuthError(
                400,
                "invalid_authorization_details",
                "USE CATALOG on the catalog, USE SCHEMA on the schema, SELECT and MODIFY on the table are needed",
            )
        missing = self.grants.missing(client, table)
        if missing:
            raise OAuthError(400, "invalid_authorization_details", f"{client} lacks {', '.join(missing)}")
        return str(table)

    def _sign(self, claims: dict[str, Any]) -> str:
        header = _packed(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
        body = f"{header}.{_packed(json.dumps(claims).encode())}"
        return f"{body}.{self._signature(body).decode()}"

    def _signature(self, body: str) -> bytes:
        return _packed(hmac.new(self._key, body.encode(), hashlib.sha256).digest()).encode()


def _packed(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
