"""Logging in and out, and the first user."""

from typing import Annotated

from fastapi import APIRouter, Cookie, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from web.access.accounts import utc_now
from web.access.callers import Address, MaybeCaller, TheGate
from web.access.gate import Gate
from web.access.passwords import LEAST, PasswordError
from web.access.roles import Role
from web.access.sessions import COOKIE, LOG_IN_COOKIE, LONGEST
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
    oidc: str | None = Field(
        None, description="what the button of the log-in by OpenID Connect says; null when there is none (web_ui.oidc)"
    )
    problem: str | None = Field(
        None, description="why the log-in by OpenID Connect that this browser tried in the last minute came to nothing"
    )


class LoggedOut(BaseModel):
    """What is left to do to log out."""

    location: str = Field(description="where the browser goes to log out at the OpenID provider too")


def waited(gate: Gate, user: str, address: str) -> None:
    """See that another try to log in may be evaluated.

    Raises:
        ApiError: There were too many.
    """
    wait = gate.throttle.wait(user, address)
    if wait:
        seconds = max(1, round(wait))
        raise ApiError(
            429, f"too many tries to log in; the next one counts in {seconds} s", (), {"retry-after": str(seconds)}
        )


def keep(response: Response, text: str, seconds: float, *, secure: bool) -> None:
    """Give a browser the cookie of its session."""
    response.set_cookie(COOKIE, text, max_age=int(seconds), path="/", secure=secure, httponly=True, samesite="strict")


def session_router() -> APIRouter:
    """Routes to log in and out."""
    router = APIRouter(tags=["access"])

    def begun(gate: Gate, response: Response, user: str, role: Role) -> Session:
        text, session = gate.sessions.begin(user)
        keep(response, text, LONGEST, secure=gate.secure)
        return Session(setup_needed=False, user=user, role=role, csrf=session.csrf)

    @router.get("/api/session")
    def who(
        gate: TheGate,
        caller: MaybeCaller,
        tried: Annotated[str, Cookie(alias=LOG_IN_COOKIE, include_in_schema=False)] = "",
    ) -> Session:
        """Who is logged in, and whether there is a user at all."""
        section = gate.config.web.oidc
        return Session(
            setup_needed=gate.accounts.setup_needed,
            user=None if caller is None else caller.name,
            role=None if caller is None else caller.role,
            csrf=caller.session.csrf if caller is not None and caller.session is not None else None,
            oidc=None if section is None else section.label,
            problem=(gate.oidc.told(tried) if gate.oidc is not None and caller is None else "") or None,
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

    @router.delete(
        "/api/session",
        status_code=204,
        responses={200: {"model": LoggedOut, "description": "logged out here, and the provider wants to hear of it"}},
    )
    def log_out(gate: TheGate, caller: MaybeCaller) -> Response:
        """Log out; who came by OpenID Connect is told where to log out at the provider too, if it has such a place."""
        response, session = Response(status_code=204), caller.session if caller is not None else None
        if session is not None:
            gate.sessions.end(session)
            place = gate.oidc.leave(session.id_token) if gate.oidc is not None and session.id_token else ""
            if place:
                response = JSONResponse(LoggedOut(location=place).model_dump())
        response.delete_cookie(COOKIE, path="/", secure=gate.secure, httponly=True, samesite="strict")
        return response

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
