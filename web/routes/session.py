"""Logging in and out, and the first user."""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from web.access.accounts import utc_now
from web.access.callers import Address, MaybeCaller, TheGate
from web.access.gate import Gate
from web.access.passwords import LEAST, PasswordError
from web.access.roles import Role
from web.access.sessions import COOKIE, LONGEST
from web.errors import ApiError

Text = Annotated[str, Field(max_length=256)]


class Login(BaseModel):
    """A user and the password."""

    model_config = ConfigDict(extra="forbid")

    user: Text
    password: Text


class FirstUser(BaseModel):
    """What makes the first user, an administrator."""

    model_config = ConfigDict(extra="forbid")

    token: Text = Field(description="the set-up token that the gateway printed at its first start")
    user: Text
    password: Text = Field(description=f"at least {LEAST} characters")


class NewPassword(BaseModel):
    """Another password of one's own."""

    model_config = ConfigDict(extra="forbid")

    old: Text
    new: Text


class Session(BaseModel):
    """Who is logged in."""

    setup_needed: bool = Field(description="whether there is no user yet, so that POST /api/setup is to be asked first")
    user: str | None = None
    role: Role | None = None
    csrf: str | None = Field(None, description="what X-CSRF-Token must say on every request that changes something")


def session_router() -> APIRouter:
    """Routes to log in and out."""
    router = APIRouter(tags=["access"])

    def begun(gate: Gate, response: Response, user: str, role: Role) -> Session:
        text, session = gate.sessions.begin(user)
        response.set_cookie(
            COOKIE, text, max_age=int(LONGEST), path="/", secure=gate.secure, httponly=True, samesite="strict"
        )
        return Session(setup_needed=False, user=user, role=role, csrf=session.csrf)

    def waited(gate: Gate, user: str, address: str) -> None:
        wait = gate.throttle.wait(user, address)
        if wait:
            seconds = max(1, round(wait))
            raise ApiError(
                429, f"too many tries to log in; the next one counts in {seconds} s", (), {"retry-after": str(seconds)}
            )

    @router.get("/api/session")
    def who(gate: TheGate, caller: MaybeCaller) -> Session:
        """Who is logged in, and whether there is a user at all."""
        return Session(
            setup_needed=gate.accounts.setup_needed,
            user=None if caller is None else caller.name,
            role=None if caller is None else caller.role,
            csrf=caller.session.csrf if caller is not None and caller.session is not None else None,
        )

    @router.post("/api/setup", responses={409: {"description": "there is a user already"}})
    def setup(order: FirstUser, request: Request, response: Response, gate: TheGate, address: Address) -> Session:
        """Make the first user, an administrator, with the set-up token; logs in."""
        if not gate.accounts.setup_needed:
            raise ApiError(409, "there is a user already; log in")
        waited(gate, "set-up", address)
        request.state.tried = "set-up"
        try:
            made = gate.accounts.finish_setup(order.token, order.user, order.password, utc_now())
        except PasswordError as error:
            raise ApiError(422, str(error), [("/body/password", str(error))]) from error
        except ValueError as error:
            raise ApiError(422, str(error), [("/body/user", str(error))]) from error
        if not made:
            gate.throttle.failed("set-up", address)
            raise ApiError(
                403, "this is not the set-up token, or it is too old; `bifrost users setup-token` makes another"
            )
        request.state.tried = order.user
        return begun(gate, response, order.user, "admin")

    @router.post("/api/session", responses={401: {"description": "not this user, or not this password"}})
    def log_in(order: Login, request: Request, response: Response, gate: TheGate, address: Address) -> Session:
        """Log in with a password."""
        waited(gate, order.user, address)
        request.state.tried = order.user
        user = gate.accounts.login(order.user, order.password)
        if user is None:
            gate.throttle.failed(order.user, address)
            raise ApiError(401, "there is no such user, or the password is another")
        gate.throttle.succeeded(order.user, address)
        return begun(gate, response, order.user, user.role)

    @router.delete("/api/session", status_code=204)
    def log_out(response: Response, gate: TheGate, caller: MaybeCaller) -> None:
        """Log out."""
        if caller is not None and caller.session is not None:
            gate.sessions.end(caller.session)
        response.delete_cookie(COOKIE, path="/", secure=gate.secure, httponly=True, samesite="strict")

    @router.put("/api/session/password", status_code=204)
    def change_password(order: NewPassword, gate: TheGate, caller: MaybeCaller, address: Address) -> None:
        """Change one's own password; logs out everywhere else."""
        if caller is None or caller.session is None or caller.session.role is not None:
            raise ApiError(403, "only a user who logged in with a password has one")
        waited(gate, caller.name, address)
        if gate.accounts.login(caller.name, order.old) is None:
            gate.throttle.failed(caller.name, address)
            raise ApiError(403, "the old password is another")
        try:
            gate.accounts.change_user(caller.name, order.new, None, utc_now())
        except PasswordError as error:
            raise ApiError(422, str(error), [("/body/new", str(error))]) from error
        gate.sessions.end_of(caller.name, but=caller.session)

    return router
