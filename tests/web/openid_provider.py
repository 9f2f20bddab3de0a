"""An OpenID provider for tests that does what it is told, also what no honest one does; over HTTP or TLS on loopback."""

import base64
import contextlib
import hashlib
import json
import ssl
import threading
import time
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any, Self
from urllib.parse import parse_qs, unquote_plus, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tests.certificates import Authority

CLIENT, SECRET = "bifrost", "known to both: 100 %25+&/="
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@cache
def rsa_key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """The key of a number."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def pem(key: Private) -> bytes:
    """The public part, as text: what a confused verifier would take as an HMAC's key."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def jwk(key: Private, kid: str = "one", **more: Any) -> dict[str, Any]:
    """The public part of a key as a member of a JWK set."""
    kind = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return {**kind.to_jwk(key.public_key(), as_dict=True), "kid": kid, "use": "sig", **more}  # type: ignore[arg-type]


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def signed(claims: dict[str, Any], key: Any = None, algorithm: str = "RS256", **header: Any) -> str:
    """A token."""
    return jwt.encode(claims, rsa_key() if key is None else key, algorithm, {"kid": "one", **header})


class Provider:
    """Use it with `with`.

    Attributes:
        keys: Its JWK set.
        changes: What its discovery document says otherwise; None takes a key out.
        token: Makes the ID token of its claims.
        answers: What it answers instead, by path: given the handler.
        asked: Paths that were asked for.
    """

    def __init__(self, authority: Authority | None = None) -> None:
        self.keys: list[Any] = [jwk(rsa_key())]
        self.changes: dict[str, Any] = {}
        self.token: Callable[[dict[str, Any]], Any] = signed
        self.answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {}
        self.asked: list[str] = []
        self.forms: list[dict[str, str]] = []
        self._numbers = count()
        self._codes: dict[str, tuple[dict[str, Any], str, str]] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.asked.append(self.path)
                if self.path in provider.answers:
                    with contextlib.suppress(OSError):  # who asked has had enough
                        provider.answers[self.path](self)
                elif self.path == "/.well-known/openid-configuration":
                    send(self, 200, provider.document())
                else:
                    send(self, *((200, {"keys": provider.keys}) if self.path == "/keys" else (404, {})))

            def do_POST(self) -> None:
                provider.asked.append(self.path)
                form = {
                    k: v[0] for k, v in parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()).items()
                }
                provider.forms.append(form)
                if self.path in provider.answers:
                    with contextlib.suppress(OSError):  # who asked has had enough
                        provider.answers[self.path](self)
                else:
                    send(self, *provider.exchanged(form, self.headers.get("Authorization", "")))

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        if authority is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(authority.server_cert, authority.server_key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_port
        self.issuer = f"{'http' if authority is None else 'https'}://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def document(self) -> dict[str, Any]:
        """The discovery document."""
        places = {
            "authorization_endpoint": "/auth",
            "token_endpoint": "/token",
            "jwks_uri": "/keys",
            "end_session_endpoint": "/end",
        }
        said: dict[str, Any] = {
            "issuer": self.issuer,
            **{name: self.issuer + path for name, path in places.items()},
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "id_token_signing_alg_values_supported": ["RS256", "ES256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        } | self.changes
        return {name: value for name, value in said.items() if value is not None}

    def log_in(self, location: str, **claims: Any) -> dict[str, str]:
        """Somebody logs in where the gateway sent the browser; what the browser is to bring back."""
        assert location.startswith(f"{self.issuer}/auth?")
        asked = {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}
        assert (asked["response_type"], asked["code_challenge_method"], asked["client_id"]) == ("code", "S256", CLIENT)
        now = int(time.time())
        said = {
            "iss": self.issuer, "aud": CLIENT, "sub": "0815", "iat": now, "exp": now + 60, "nonce": asked["nonce"],
            "preferred_username": "olga", "roles": ["plant-operators"],
        } | claims  # fmt: skip
        code = f"code-{next(self._numbers)}"
        kept = {name: value for name, value in said.items() if value is not None}
        self._codes[code] = (kept, asked["code_challenge"], asked["redirect_uri"])
        return {"code": code, "state": asked["state"], "iss": self.issuer}

    def exchanged(self, form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        """What is answered to who brings a code."""
        if authorization:
            login = base64.b64decode(authorization.removeprefix("Basic ")).decode().split(":")
            client = tuple(unquote_plus(one) for one in login)
        else:
            client = (form.get("client_id", ""), form.get("client_secret", ""))
        if client != (CLIENT, SECRET):
            return 401, {"error": "invalid_client"}
        claims, challenge, redirect = self._codes.pop(form["code"], ({}, "", ""))
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        proof = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if not claims or proof != challenge or form["redirect_uri"] != redirect:
            return 400, {"error": "invalid_grant", "error_description": "secret-looking words"}
        return 200, {"token_type": "Bearer", "access_token": "unused", "id_token": self.token(claims)}


def send(handler: BaseHTTPRequestHandler, status: int, said: Any, **headers: str) -> None:
    """An answer."""
    body = said if isinstance(said, bytes) else json.dumps(said).encode()
    handler.send_response(status)
    for name, value in {"content-type": "application/json", "content-length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
