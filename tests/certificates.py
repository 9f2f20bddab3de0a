"""An authority of a test, with certificates of a server on 127.0.0.1 and of its client, as files."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme

IDENTITY = "gateway-1"


class Authority:
    """Files that are replaced by `issue`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ca, self.server_cert, self.server_key = folder / "ca.pem", folder / "server.pem", folder / "server.key"
        self.client_cert, self.client_key = folder / "client.pem", folder / "client.key"
        self.issue()

    def issue(self, *, expired: bool = False) -> None:
        """Begin a new authority, and certify server and client; with `expired` the server's has run out."""
        authority = self._authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.ca))
        end = datetime.now(UTC) - timedelta(days=1) if expired else None
        server = authority.issue_cert("127.0.0.1", "localhost", not_after=end)
        client = authority.issue_cert(f"{IDENTITY}@plant", common_name=IDENTITY)
        for issued, cert, key in (
            (server, self.server_cert, self.server_key),
            (client, self.client_cert, self.client_key),
        ):
            cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
            issued.private_key_pem.write_to_path(str(key))
            key.chmod(0o600)  # libpq takes no other

    def stranger(self, name: str) -> tuple[Path, Path]:
        """A certificate of the same authority for another client."""
        issued = self._authority.issue_cert(f"{name}@plant", common_name=name)
        cert, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        return cert, key

    def mosquitto(self) -> list[str]:
        """Settings of a listener that asks its clients for certificates."""
        return [
            f"cafile {self.ca}",
            f"certfile {self.server_cert}",
            f"keyfile {self.server_key}",
            "require_certificate true",
        ]

    def client(self) -> dict[str, Any]:
        """Settings of a target that is the client."""
        return {"ca_file": str(self.ca), "cert_file": str(self.client_cert), "key_file": str(self.client_key)}
