"""Logging in by OpenID Connect: to the provider, and back."""

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import structlog
from fastapi import APIRouter, Cookie, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from config.oidc import CALLBACK, OidcSection
from web.access.callers import Address, TheGate
from web.access.gate import Gate
from web.access.guard import audit_more
from web.access.sessions import LOG_IN_COOKIE
from web.errors import ApiError
from web.routes.session import keep, waited

if TYPE_CHECKING:
    from web.access.oidc.log_ins import LogIns

log = structlog.get_logger()

_WHO = "oidc:"  # in the audit and for the throttle, while nobody is known; no user is called so
_SECONDS = 600
Said = Annotated[str, Query(max_length=8_192)]


class Onward(BaseModel):
    """Where to log in."""

    location: str = Field(description="where the browser goes to log in")


def _configured(gate: Gate) -> tuple[OidcSection, "LogIns"]:
    section = gate.config.web.oidc
    if section is None:
        raise ApiError(404, "this gateway has no log-in by OpenID Connect; web_ui.oidc of its configuration sets it up")
    if gate.oidc is None:
        raise ApiError(
            503, "a package is missing on the gateway: pip install 'bifrost-gateway[oidc]'; then start it anew"
        )
    return section, gate.oidc


def _bind(response: Response, section: OidcSection, text: str, seconds: int = _SECONDS) -> None:
    """Give a browser the cookie of its log-in; lax, because it comes back from another site."""
    path = f"{urlsplit(section.public_url).path}/api/session"
    response.set_cookie(
        LOG_IN_COOKIE, text, max_age=seconds, path=path, secure=section.secure, httponly=True, samesite="lax"
    )


def oidc_router() -> APIRouter:
    """Routes to log in by OpenID Connect."""
    router = APIRouter(tags=["access"])
    absent: dict[int | str, dict[str, Any]] = {404: {"description": "there is no log-in by OpenID Connect"}}
    elsewhere: dict[int | str, dict[str, Any]] = {
        409: {"description": "the browser knows the gateway by another address than the provider"}
    }

    @router.post("/api/session/oidc", responses={**absent, **elsewhere})
    def begin(request: Request, response: Response, gate: TheGate, address: Address) -> Onward:
        """Begin a log-in by OpenID Connect (web_ui.oidc), by the authorization code flow with PKCE."""
        from web.access.oidc.claims import OidcError

        section, log_ins = _configured(gate)
        if request.headers.get("host", "").lower() != urlsplit(section.public_url).netloc.lower():
            raise ApiError(
                409, f"this log-in works at {section.public_url}/ alone, the address that the provider knows; open that"
            )
        waited(gate, _WHO, address)
        try:
            text, location = log_ins.begin()
        except OidcError as error:
            raise ApiError(503, str(error)) from error
        _bind(response, section, text)
        return Onward(location=location)

    @router.get(
        CALLBACK,
        status_code=303,
        response_class=RedirectResponse,
        responses={303: {"description": "to the pages, logged in or not; GET /api/session tells"}, **absent},
    )
    def come_back(
        request: Request,
        gate: TheGate,
        address: Address,
        state: Said = "",
        code: Said = "",
        error: Said = "",
        iss: Said = "",
        tried: Annotated[str, Cookie(alias=LOG_IN_COOKIE, include_in_schema=False)] = "",
    ) -> RedirectResponse:
        """Come back from the provider, which sends the browser here."""
        from web.access.oidc.claims import OidcError
        from web.access.oidc.log_ins import Answer, StrangerError

        section, log_ins = _configured(gate)
        response = RedirectResponse(f"{section.public_url}/", 303)
        try:
            who, token = log_ins.finish(tried, Answer(state, code, error, iss))
        except OidcError as problem:
            reason = str(problem)
            if not isinstance(problem, StrangerError):  # anybody can send those
                request.state.tried = problem.name or _WHO
                audit_more(request.state, reason=reason)
                gate.throttle.failed(_WHO, address)
                log.warning("a log-in by OpenID Connect came to nothing", reason=reason, user=problem.name or None)
            request.state.result = "refused"
            _bind(response, section, log_ins.tell(tried, reason))
            return response
        gate.throttle.succeeded(_WHO, address)
        request.state.tried, request.state.result = who.name, "done"
        audit_more(request.state, role=who.role, subject=who.subject)
        text, _ = gate.sessions.begin(who.name, who.role, section.session_time, token)
        keep(response, text, section.session_time, secure=section.secure or gate.secure)
        _bind(response, section, "", 0)
        return response

    return router
