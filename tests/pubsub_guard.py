"""What Google has before its services, for tests: TLS, and a look at who calls; what passes goes on to the fake as it is.

It is let in who shows a token that the one service account which it knows has signed, as Google's documentation has it.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import exceptions, jwt

from tests.certificates import Authority

ACCOUNT = "gateway@plant-telemetry.iam.gserviceaccount.com"
SCOPE = "https://www.googleapis.com/auth/pubsub"
_ONWARD = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 200), ("grpc.max_receive_message_length", -1)]  # fmt: skip


def key_file(path: Path, key: rsa.RSAPrivateKey, key_id: str = "1", **changes: str) -> Path:
    """The key file of the service account, as Google's console hands it out."""
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    content = {
        "type": "service_account",
        "project_id": "plant-telemetry",
        "private_key_id": key_id,
        "private_key": secret.decode(),
        "client_email": ACCOUNT,
        "client_id": "1",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    path.write_text(json.dumps(content | changes))
    return path


def new_key() -> rsa.RSAPrivateKey:
    """A private key."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class PubSubGuard(grpc.GenericRpcHandler):
    """Listens with the certificate of `authority`, read again for each connection.

    Args:
        port: Where the fake listens.
        authority: Who certifies it.
        folder: Gets the key file of the service account.

    Attributes:
        port: Where it listens.
        account: The key file.
        refused: Why callers were not let in.
    """

    def __init__(self, port: int, authority: Authority, folder: Path) -> None:
        self._authority = authority
        key = new_key()
        self.account = key_file(folder / "account.json", key)
        self._public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.refused: list[str] = []
        self._onward = grpc.insecure_channel(f"127.0.0.1:{port}", options=_ONWARD)
        self._server = grpc.server(ThreadPoolExecutor(16), [self], options=[("grpc.max_receive_message_length", -1)])
        credentials = grpc.dynamic_ssl_server_credentials(self._certificate(), self._certificate)
        self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()

    def _certificate(self) -> grpc.ServerCertificateConfiguration:
        files = self._authority
        return grpc.ssl_server_certificate_configuration(
            [(files.server_key.read_bytes(), files.server_cert.read_bytes())]
        )

    def wait(self) -> None:
        """Return when it has found the fake again, as who calls it would."""
        grpc.channel_ready_future(self._onward).result(20)

    def end(self) -> None:
        """Stop listening."""
        self._server.stop(0).wait()
        self._onward.close()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """How a call is answered."""
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._pass(handler_call_details.method, request, context)
        )

    def _pass(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        told = dict(context.invocation_metadata())
        self._let_in(str(told.get("authorization", "")), context)
        routing = [(key, value) for key, value in told.items() if key == "x-goog-request-params"]
        try:
            answer: bytes = self._onward.unary_unary(method)(
                request, timeout=context.time_remaining(), metadata=routing
            )
        except grpc.RpcError as error:
            if isinstance(error, grpc.Call):
                context.abort(error.code(), error.details() or "")
            raise
        return answer

    def _let_in(self, authorization: str, context: grpc.ServicerContext) -> None:
        kind, _, token = authorization.partition(" ")
        try:
            assert kind == "Bearer", authorization
            claims = jwt.decode(token, certs=self._public)  # type: ignore[no-untyped-call]
            assert (claims["iss"], claims["sub"], claims.get("scope")) == (ACCOUNT, ACCOUNT, SCOPE), claims
        except (ValueError, KeyError, AssertionError, exceptions.GoogleAuthError) as error:
            self.refused.append(str(error))
            context.abort(
                grpc.StatusCode.UNAUTHENTICATED,
                "Request had invalid authentication credentials. Expected OAuth 2 access token",
            )
