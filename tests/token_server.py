"""A token endpoint of OAuth 2 for tests: hands out signed tokens for client id and secret, over HTTP on loopback."""

import base64
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _number(value: int) -> str:
    return _text(value.to_bytes((value.bit_length() + 7) // 8, "big"))


class TokenServer:
    """Knows one client; use it with `with`.

    Attributes:
        key: What it signs with.
        lifetime: Seconds that a token is good for.
        given: How many tokens it has handed out.
    """

    def __init__(self, key: rsa.RSAPrivateKey, issuer: str, client: tuple[str, str], audience: str) -> None:
        self.key = key
        self.lifetime = 300.0
        self.given = 0
        self._claims = {"iss": issuer, "aud": audience, "sub": client[0]}
        expected = base64.b64encode(":".join(client).encode()).decode()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                given = unquote(self.headers.get("Authorization", "")).removeprefix("Basic ")
                good = given == expected
                said = server.token() if good else {"error": "invalid_client"}
                body = json.dumps(said).encode()
                self.send_response(200 if good else 401)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/token"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def token(self) -> dict[str, Any]:
        """A token, as the endpoint answers."""
        self.given += 1
        now = time.time()
        claims = self._claims | {"iat": int(now), "exp": int(now + self.lifetime)}
        parts = [{"alg": "RS256", "kid": "one", "typ": "JWT"}, claims]
        signed = ".".join(_text(json.dumps(part).encode()) for part in parts)
        signature = self.key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return {
            "access_token": f"{signed}.{_text(signature)}", "token_type": "Bearer", "expires_in": int(self.lifetime),
        }  # fmt: skip


def key_set(key: rsa.RSAPrivateKey) -> str:
    """The public part of a key, as the servers that check tokens read it."""
    public = key.public_key().public_numbers()
    one = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "one", "n": _number(public.n), "e": _number(public.e)}
    return json.dumps({"keys": [one]})
