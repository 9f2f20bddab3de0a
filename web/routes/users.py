"""Users, API tokens and the audit, for administrators."""

from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from web.access.accounts import NAME, LastAdminError, NameTakenError, UnknownNameError, utc_now
from web.access.callers import TheGate
from web.access.guard import audit_more
from web.access.passwords import LEAST, PasswordError
from web.access.roles import Role
from web.errors import ApiError

Name = Annotated[str, Field(pattern=f"^{NAME.pattern}$", max_length=63)]
PathName = Annotated[str, Path(max_length=63)]


class User(BaseModel):
    """A user."""

    name: str
    role: Role
    created_time: datetime
    changed_time: datetime = Field(description="when the password was set")


class NewUser(BaseModel):
    """A user to be made."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "olga", "password": "three plain words", "role": "operator"}]},
    )

    name: Name
    password: str = Field(max_length=256, description=f"at least {LEAST} characters")
    role: Role = "viewer"


class UserChange(BaseModel):
    """What is to be another in a user."""

    model_config = ConfigDict(extra="forbid")

    password: Annotated[str, Field(max_length=256)] | None = None
    role: Role | None = None


class Token(BaseModel):
    """An API token, without its text."""

    id: str
    name: str
    role: Role
    created_time: datetime
    expires_time: datetime | None


class NewToken(BaseModel):
    """An API token to be made."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"name": "scada", "role": "viewer", "days": 365}]}
    )

    name: Name
    role: Role = "viewer"
    days: Annotated[int, Field(ge=1, le=3650, strict=True)] | None = Field(
        90, description="days until it is worth nothing; null for never"
    )


class TokenText(Token):
    """An API token that was just made."""

    token: str = Field(description="its text; it is shown this once")


class Users(BaseModel):
    """All users."""

    users: list[User]


class Tokens(BaseModel):
    """All API tokens."""

    tokens: list[Token]


class AuditPage(BaseModel):
    """Entries of the audit, the newest first."""

    total: int
    entries: list[dict[str, Any]]


def users_router() -> APIRouter:
    """Routes to look after users and tokens."""
    router = APIRouter(tags=["access"])
    taken: dict[int | str, dict[str, Any]] = {
        409: {"description": "the name is taken, or it is the last administrator"}
    }

    @router.get("/api/users")
    def users(gate: TheGate) -> Users:
        """All users."""
        return Users(
            users=[
                User(name=name, role=user.role, created_time=user.created, changed_time=user.changed)
                for name, user in sorted(gate.accounts.users().items())
            ]
        )

    @router.post("/api/users", status_code=201, responses=taken)
    def add_user(order: NewUser, request: Request, gate: TheGate) -> User:
        """Add a user."""
        audit_more(request.state, user=order.name, role=order.role)
        now = utc_now()
        try:
            gate.accounts.add_user(order.name, order.password, order.role, now)
        except NameTakenError as error:
            raise ApiError(409, str(error)) from error
        except PasswordError as error:
            raise ApiError(422, str(error), [("/body/password", str(error))]) from error
        return User(name=order.name, role=order.role, created_time=now, changed_time=now)

    @router.put("/api/users/{name}", responses=taken)
    def change_user(name: PathName, order: UserChange, request: Request, gate: TheGate) -> User:
        """Give a user another password or role; a new password logs the user out everywhere."""
        audit_more(request.state, role=order.role or "", password="another" if order.password else "")
        try:
            gate.accounts.change_user(name, order.password, order.role, utc_now())
        except UnknownNameError as error:
            raise ApiError(404, str(error)) from error
        except LastAdminError as error:
            raise ApiError(409, str(error)) from error
        except PasswordError as error:
            raise ApiError(422, str(error), [("/body/password", str(error))]) from error
        if order.password is not None:
            gate.sessions.end_of(name)
        user = gate.accounts.user(name)
        if user is None:
            raise ApiError(404, f"there is no user `{name}`")
        return User(name=name, role=user.role, created_time=user.created, changed_time=user.changed)

    @router.delete("/api/users/{name}", status_code=204, responses=taken)
    def remove_user(name: PathName, gate: TheGate) -> None:
        """Remove a user, who is logged out everywhere."""
        try:
            gate.accounts.remove_user(name)
        except UnknownNameError as error:
            raise ApiError(404, str(error)) from error
        except LastAdminError as error:
            raise ApiError(409, str(error)) from error
        gate.sessions.end_of(name)

    @router.get("/api/tokens")
    def tokens(gate: TheGate) -> Tokens:
        """All API tokens, without their texts."""
        return Tokens(
            tokens=[
                Token(id=number, name=one.name, role=one.role, created_time=one.created, expires_time=one.expires)
                for number, one in gate.accounts.tokens().items()
            ]
        )

    @router.post("/api/tokens", status_code=201, responses=taken)
    def add_token(order: NewToken, request: Request, gate: TheGate) -> TokenText:
        """Make an API token; its text is shown this once."""
        audit_more(request.state, token=order.name, role=order.role)
        now = utc_now()
        expires = None if order.days is None else now + timedelta(days=order.days)
        try:
            number, text = gate.accounts.add_token(order.name, order.role, expires, now)
        except NameTakenError as error:
            raise ApiError(409, str(error)) from error
        return TokenText(
            id=number, name=order.name, role=order.role, created_time=now, expires_time=expires, token=text
        )

    @router.delete("/api/tokens/{token_id}", status_code=204)
    def remove_token(token_id: PathName, request: Request, gate: TheGate) -> None:
        """Remove an API token, which is worth nothing from now on."""
        try:
            audit_more(request.state, token=gate.accounts.remove_token(token_id))
        except UnknownNameError as error:
            raise ApiError(404, str(error)) from error

    @router.get("/api/audit")
    def audit(
        gate: TheGate, offset: Annotated[int, Query(ge=0)] = 0, limit: Annotated[int, Query(ge=1, le=500)] = 100
    ) -> AuditPage:
        """Who did what, the newest first."""
        total, entries = gate.audit.newest(offset, limit)
        return AuditPage(total=total, entries=entries)

    return router
