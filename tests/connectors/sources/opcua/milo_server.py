"""The Eclipse Milo process of the interop tests, and certificates made for tests."""

import datetime
import subprocess
import sys
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

from connectors.sources.opcua.certificates import thumbprint
from tests.connectors.sources.opcua.server_process import ServerProcess
from tests.ports import free_port

COUNTERPART = Path(__file__).parents[3] / "counterparts" / "opcua-milo"
BUILT = Path(__file__).parents[4] / "build" / "counterparts" / "opcua-milo"
URI = "urn:milo.test:server"
LAB = "urn:milo.test:lab"
DAY = datetime.timedelta(days=1)


def install() -> None:
    """Fetch and compile it where that was not done yet."""
    subprocess.run(["/bin/sh", str(COUNTERPART / "install.sh")], check=True, timeout=300, stdout=sys.stderr)


class MiloServer(ServerProcess):
    """A server in `folder`, which holds its certificate and its trust list; see the counterpart's `Server.java`.

    Args:
        folder: Its folder.
        chain: Its certificate and the issuers that it sends along; it makes one when there is none.
        host: The host that it announces.
    """

    def __init__(self, folder: Path, *chain: "Made", host: str = "127.0.0.1") -> None:
        self.folder = folder
        if chain:
            self.take(*chain)
        self.port = free_port()
        self.endpoint = f"opc.tcp://127.0.0.1:{self.port}/milo"
        self._host = host
        self.start()

    def start(self) -> None:
        java = ["java", "-Xmx160m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"]
        command = [
            *java,
            f"{BUILT}/classes:{BUILT}/libraries/*",
            "Server",
            str(self.port),
            str(self.folder),
            self._host,
        ]
        self.launch(command, "Milo", 120)

    def command(self, line: str) -> None:
        self.say(line)

    def trust(self, certificate: bytes) -> None:
        """Let an application in."""
        name = thumbprint(x509.load_der_x509_certificate(certificate))
        (self.folder / "pki" / "trusted" / "certs" / f"{name}.der").write_bytes(certificate)

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate((self.folder / "own" / "certificate.pem").read_bytes())

    def take(self, *chain: "Made") -> None:
        """Have this certificate and its issuers from the next start on."""
        own = self.folder / "own"
        own.mkdir(parents=True, exist_ok=True)
        (own / "certificate.pem").write_bytes(b"".join(one.pem for one in chain))
        (own / "key.pem").write_bytes(chain[0].key_pem)


class Made:
    """A certificate with its key, made for a test; an authority when `ca` says so.

    Args:
        name: Its common name.
        issuer: Who signs it; itself when absent.
        uri: ApplicationUri in it.
        hosts: Host names in it.
        begin, end: When it is valid.
        bits: Of its key.
        key: Its key, when it is not to have a new one.
        sha1: Sign as old devices do.
        extensions: Further ones, each with whether it is critical; they stand in the place of its usual KeyUsage.
    """

    def __init__(
        self,
        name: str,
        issuer: "Made | None" = None,
        *,
        uri: str | None = URI,
        hosts: tuple[str, ...] = ("localhost",),
        ca: bool = False,
        path_length: int | None = None,
        begin: datetime.datetime | None = None,
        end: datetime.datetime | None = None,
        bits: int = 2048,
        key: Any = None,
        sha1: bool = False,
        extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    ) -> None:
        now = datetime.datetime.now(datetime.UTC)
        self.key = key or rsa.generate_private_key(public_exponent=65537, key_size=bits)
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(issuer.name if issuer else self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin or now - DAY)
            .not_valid_after(end or now + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
        )
        if uri is not None and not ca:
            names = [x509.UniformResourceIdentifier(uri), *(x509.DNSName(host) for host in hosts)]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        for extension, critical in extensions or ((usage(ca=ca, self_signed=issuer is None), True),):
            builder = builder.add_extension(extension, critical=critical)
        self.certificate = builder.sign((issuer or self).key, hashes.SHA256())
        if sha1:
            self.certificate = _signed_with_sha1(self.certificate, (issuer or self).key)

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        plain = serialization.NoEncryption()
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)

    def revocation_list(
        self, *revoked: "Made", end: datetime.datetime | None = None, begin: datetime.datetime | None = None
    ) -> x509.CertificateRevocationList:
        """Its list of revoked certificates."""
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.name)
            .last_update(begin or now - DAY)
            .next_update(end or now + 30 * DAY)
        )
        for one in revoked:
            entry = x509.RevokedCertificateBuilder(one.certificate.serial_number, now - DAY)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, hashes.SHA256())


def _signed_with_sha1(certificate: x509.Certificate, key: rsa.RSAPrivateKey) -> x509.Certificate:
    """The same certificate with another algorithm and signature, which cryptography makes no more."""
    sha256_with_rsa = b"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b"
    der = certificate.public_bytes(serialization.Encoding.DER).replace(sha256_with_rsa, sha256_with_rsa[:-1] + b"\x05")
    signed = x509.load_der_x509_certificate(der).tbs_certificate_bytes
    signature = key.sign(signed, PKCS1v15(), hashes.SHA1())
    return x509.load_der_x509_certificate(der[: -len(signature)] + signature)


def usage(*, ca: bool, self_signed: bool = True, encipher: bool = True) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=True, key_encipherment=encipher, data_encipherment=encipher,
        key_agreement=False, key_cert_sign=ca or self_signed, crl_sign=ca, encipher_only=False, decipher_only=False,
    )  # fmt: skip
