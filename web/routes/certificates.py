"""Certificates on the gateway's HTTP port: looked at by viewers, made, imported, trusted and renewed by administrators.

Keys are written, and never answered.
"""

import base64
import binascii
import contextlib
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi import Path as InPath
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from config.certificates import (
    AmbiguousCertificateError,
    CertificatesDesk,
    CertificatesError,
    NoSuchCertificateError,
    Wanted,
)
from config.certificates.forms import KeyKind, Kind
from config.models import Configuration
from web.access.guard import audit_more
from web.errors import ApiError

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="what its files are called")]
Host = Annotated[str, Field(min_length=1, max_length=253)]
Days = Annotated[int | None, Field(ge=1, le=36_500, description="how long it holds")]
Number = Annotated[str, InPath(max_length=95, description="its id, the SHA-256, or the first 8 digits of it")]
_BASE64 = r"^[A-Za-z0-9+/]*={0,2}$"
_LARGEST = 200_000  # characters of a file that is imported, in base64
_LARGEST_KEY = 20_000


class Certificate(BaseModel):
    """A certificate."""

    id: str = Field(description="SHA-256 of the certificate")
    owner: str = Field(description="the first source or target that uses it; empty when none does")
    kind: Literal["own", "trusted", "issuer", "rejected", "ca"]
    subject: str
    issuer: str
    serial: str
    thumbprint: str = Field(description="SHA-1, as OPC UA shows it")
    not_before: str
    not_after: str
    days_left: float
    state: Literal["ok", "soon", "expired", "not_yet"]
    authority: bool
    self_signed: bool
    hosts: list[str]
    application_uris: list[str]
    used_by: list[str] = Field(description="sources and targets with the key that names it")
    file: str
    note: str


class Certificates(BaseModel):
    """All certificates."""

    gateway: str
    certificates: list[Certificate]


class Made(Certificate):
    """A certificate that was made, kept or renewed."""

    key_file: str | None = Field(None, description="where its key lies, readable by its owner alone")
    previous_file: str | None = Field(None, description="where the one before is kept")


class _Order(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name
    common_name: str | None = Field(
        None, min_length=1, max_length=64, description="of its subject; the name when absent"
    )
    organization: str = Field("", max_length=64)
    days: Days = None
    key: KeyKind | None = Field(None, description="kind of its key")


class NewAuthority(_Order):
    """An authority to be made."""


class NewCertificate(_Order):
    """A server's or client's certificate to be made."""

    hosts: list[Host] = Field([], max_length=100, description="host names and IP addresses that it is for")
    by: Name | None = Field(None, description="the authority that signs; self-signed when absent")


class NewApplication(NewCertificate):
    """An OPC UA application's certificate to be made."""

    source: str | None = Field(None, max_length=63, description="the source that it is for: takes its ApplicationUri")
    uri: str = Field("", max_length=255, description="ApplicationUri, where it is for another application")


class Import(BaseModel):
    """Certificates that come from elsewhere."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    data: str = Field(max_length=_LARGEST, pattern=_BASE64, description="the file in base64: PEM, DER or PKCS#12")
    key: SecretStr | None = Field(
        None, max_length=_LARGEST_KEY, description="file of its key in base64, where it is apart"
    )
    password: SecretStr | None = Field(None, max_length=1024, description="what the key is encrypted with")
    source: str | None = Field(None, max_length=63, description="an OPC UA source that is to know it; no key is kept")
    to: Literal["trusted", "issuer"] = Field("trusted", description="what it is to that source")


class Trust(BaseModel):
    """Who is to trust a certificate."""

    model_config = ConfigDict(extra="forbid")

    owner: str | None = Field(None, max_length=63, description="the source, where several refused it")
    issuer: bool = Field(False, description="to complete chains only")


class Reject(BaseModel):
    """Who is to trust a certificate no longer."""

    model_config = ConfigDict(extra="forbid")

    owner: str | None = Field(None, max_length=63, description="the source, where several trust it")


class Renew(BaseModel):
    """How a certificate is renewed."""

    model_config = ConfigDict(extra="forbid")

    days: Days = None


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except NoSuchCertificateError as error:
        raise ApiError(404, str(error)) from error
    except AmbiguousCertificateError as error:
        raise ApiError(409, str(error)) from error
    except CertificatesError as error:
        raise ApiError(422, str(error)) from error
    except OSError as error:
        raise ApiError(503, f"{error.filename}: {error.strerror}") from error


def _bytes(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ApiError(422, f"{what} is not base64", [(f"/body/{what}", "write the file in base64")]) from None


def certificates_router(config: Callable[[], Configuration]) -> APIRouter:
    """Routes to look after certificates: GET is a viewer's, the rest an administrator's.

    Args:
        config: Gives the configuration that holds now.
    """
    router = APIRouter(prefix="/api/certificates", tags=["certificates"])
    desk = CertificatesDesk(config)
    taken: dict[int | str, dict[str, Any]] = {
        404: {"description": "there is none"},
        409: {"description": "several are meant, or it is taken or in use"},
    }

    def made(request: Request, order: _Order, kind: Kind, **more: Any) -> dict[str, Any]:
        audit_more(request.state, name=order.name)
        given = Wanted(
            kind,
            order.common_name or order.name,
            order.organization,
            tuple(getattr(order, "hosts", ())),
            getattr(order, "uri", ""),
            order.days,
        )
        with _told():
            return desk.create(order.name, given, key=order.key, **more)

    @router.get("")
    def listed() -> Certificates:
        """All that the configuration uses, that sources refused, and that were made here."""
        with _told():
            return Certificates.model_validate({"gateway": config().gateway, **desk.listed()})

    @router.post("/ca", status_code=201, responses=taken)
    def authority(order: NewAuthority, request: Request) -> Made:
        """Make an authority."""
        return Made.model_validate(made(request, order, "ca"))

    @router.post("/server", status_code=201, responses=taken)
    def server(order: NewCertificate, request: Request) -> Made:
        """Make a server's certificate."""
        return Made.model_validate(made(request, order, "server", by=order.by))

    @router.post("/client", status_code=201, responses=taken)
    def client(order: NewCertificate, request: Request) -> Made:
        """Make a client's certificate."""
        return Made.model_validate(made(request, order, "client", by=order.by))

    @router.post("/application", status_code=201, responses=taken)
    def application(order: NewApplication, request: Request) -> Made:
        """Make an OPC UA application's certificate."""
        return Made.model_validate(made(request, order, "application", by=order.by, source=order.source))

    @router.post("/import", status_code=201, responses=taken)
    def keep(order: Import, request: Request) -> Made:
        """Keep certificates from elsewhere, with their key."""
        audit_more(request.state, name=order.name, source=order.source or "")
        key = _bytes(order.key.get_secret_value(), "key") if order.key is not None else None
        password = order.password.get_secret_value() if order.password is not None else None
        with _told():
            kept = desk.import_(
                order.name, _bytes(order.data, "data"), key=key, password=password, source=order.source, to=order.to
            )
        return Made.model_validate(kept)

    @router.post("/{certificate_id}/trust", responses=taken)
    def trust(certificate_id: Number, order: Trust) -> Certificate:
        """Let an OPC UA source trust a certificate that it refused."""
        with _told():
            return Certificate.model_validate(desk.trust(certificate_id, owner=order.owner, issuer=order.issuer))

    @router.post("/{certificate_id}/reject", responses=taken)
    def reject(certificate_id: Number, order: Reject) -> Certificate:
        """Trust a certificate no longer."""
        with _told():
            return Certificate.model_validate(desk.reject(certificate_id, owner=order.owner))

    @router.post("/{certificate_id}/renew", responses=taken)
    def renew(certificate_id: Number, order: Renew) -> Made:
        """Give a certificate other dates; who uses it connects anew."""
        with _told():
            return Made.model_validate(desk.renew(certificate_id, days=order.days))

    @router.delete("/{certificate_id}", responses=taken)
    def remove(certificate_id: Number, owner: str | None = None) -> Certificate:
        """Delete a certificate that was refused, or one of those made here that nobody uses."""
        with _told():
            return Certificate.model_validate(desk.remove(certificate_id, owner=owner))

    return router
