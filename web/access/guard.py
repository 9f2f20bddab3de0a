"""What every request passes before a route sees it: the host, the rate, who asks, the role, the origin, the body."""

import asyncio
import hmac
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from config.oidc import CALLBACK
from delivery.disk import StoreError
from web.access.accounts import utc_now
from web.access.gate import Caller, Gate, same_origin
from web.access.roles import Need, allows, need_of
from web.errors import body_of

if TYPE_CHECKING:
    from fastapi.routing import RouteContext

log = structlog.get_logger()

GATEWAY_HEADER: Final = "bifrost-gateway"
CSRF_HEADER: Final = "x-csrf-token"
_SAFE: Final = ("GET", "HEAD", "OPTIONS")
_JSON: Final = re.compile(r"application/(?:[a-z0-9.+-]+\+)?json(?:\s*;.*)?", re.IGNORECASE)
_LOOK_AGAIN: Final = 5.0  # seconds after which a stream's caller is looked up again
_READ_ON: Final = 4 * 1024 * 1024  # bytes of a body that is too large that are read all the same
POLICY: Final = "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
_HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)


@dataclass(frozen=True, slots=True)
class _Guarded:
    pattern: re.Pattern[str]
    methods: frozenset[str]
    need: Need
    path: str


class Doors:
    """The routes of an app with what each asks for, in the order in which the app looks at them.

    Args:
        routes: The app's routes.
    """

    def __init__(self, routes: "Iterable[RouteContext]") -> None:
        self._routes = [
            _Guarded(
                route.path_regex, frozenset({method}), need_of(method, route.path or "") or "admin", route.path or ""
            )
            for route in routes
            for method in sorted(route.methods or ())
        ]

    def methods(self, path: str) -> list[str]:
        """What may be asked of a path."""
        return sorted({method for route in self._routes if route.pattern.match(path) for method in route.methods})

    def need(self, method: str, path: str) -> tuple[Need, str]:
        """What a request asks for, and the route's path; a page that is no route of the API is open.

        Args:
            method: Its method.
            path: Its path.
        """
        for route in self._routes:
            if method in route.methods and route.pattern.match(path):
                return route.need, route.path
        if any(route.pattern.match(path) for route in self._routes) or path == "/api" or path.startswith("/api/"):
            return "viewer", ""  # there is nothing, or not in this way: who is logged in hears so
        return "open", ""


class _Refused(Exception):
    def __init__(self, status: int, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


class Guard:
    """The middleware.

    Args:
        app: The app behind it.
        gate: What decides who comes in.
        doors: Called once, at the first request: what the routes ask for.
    """

    def __init__(self, app: ASGIApp, gate: Gate, doors: Callable[[], Doors]) -> None:
        self._app, self._gate, self._make_doors = app, gate, doors
        self._doors: Doors | None = None
        self._under_way: Counter[str] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            else:  # there is no route of this kind
                await send({"type": "websocket.close", "code": 1008})
            return
        await _Request(self, scope, receive, send).serve()

    @property
    def doors(self) -> Doors:
        """What the routes ask for."""
        if self._doors is None:
            self._doors = self._make_doors()
        return self._doors


class _Request:
    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self._guard, self._gate, self._scope = guard, guard._gate, scope  # noqa: SLF001
        self._receive, self._send = receive, send
        self._method: str = scope["method"]
        self._path: str = scope["path"]
        self._headers: dict[str, str] = {}
        for name, value in scope["headers"]:  # the first counts where one stands twice
            self._headers.setdefault(name.decode("latin-1"), value.decode("latin-1"))
        client = scope.get("client")
        self._address = str(client[0]) if client else "local"
        self._caller: Caller | None = None
        self._route = ""
        self._status = 0
        self._looked = 0.0
        self._ended = False

    async def serve(self) -> None:
        under_way = self._guard._under_way  # noqa: SLF001
        try:
            self._admit()
            receive = await self._body()
        except _Refused as refused:
            await self._refuse(refused)
        except StoreError as error:
            await self._refuse(_Refused(503, str(error)))
        else:
            who = self._who
            if under_way[who] >= self._gate.limits.at_once:
                await self._refuse(
                    _Refused(429, "too many requests at once; wait for some of them", **{"retry-after": "1"})
                )
                return
            under_way[who] += 1
            try:
                state = self._scope.setdefault("state", {})
                state["caller"], state["address"], state["gate"] = self._caller, self._address, self._gate
                await self._guard._app(self._scope, receive, self._answer)  # noqa: SLF001
            finally:
                under_way[who] -= 1
                if not under_way[who]:
                    del under_way[who]
        finally:
            await self._note()

    @property
    def _who(self) -> str:
        return f"{self._address} {self._caller.name if self._caller is not None else ''}"

    # ------------------------------------------------------------------ before

    def _admit(self) -> None:
        gate, headers = self._gate, self._headers
        local = self._scope.get("server")
        host = headers.get("host", "")
        if not gate.knows_host(host, str(local[0]) if local else None):
            raise _Refused(
                421, "this gateway is not called so; use its address, or name it in web_ui.hosts of its configuration"
            )
        self._caller = gate.caller(headers.get("authorization", ""), headers.get("cookie", ""))
        wait = gate.rates.take(self._who)
        if wait:
            raise _Refused(429, "too many requests; wait a little", **{"retry-after": str(max(1, round(wait)))})
        need, self._route = self._guard.doors.need(self._method, self._path)
        if need == "metrics":
            need = "open" if gate.metrics_open else "viewer"
        if self._caller is None and need != "open":
            raise _Refused(
                401, "log in, or send an API token: Authorization: Bearer bfr_…", **{"www-authenticate": "Bearer"}
            )
        if self._caller is not None and not allows(self._caller.role, need):
            raise _Refused(403, f"this wants the role {need}, and {self._caller.name} is {self._caller.role}")
        if self._method not in _SAFE:
            self._unsafe(host)

    def _unsafe(self, host: str) -> None:
        headers = self._headers
        origin = headers.get("origin")
        if origin is not None and not same_origin(origin, host, secure=self._gate.secure):
            raise _Refused(403, "this page was not served by the gateway, and may not ask it to change something")
        if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise _Refused(403, "another site may not ask the gateway to change something")
        session = self._caller.session if self._caller is not None else None
        logs_in = self._route == "/api/session" and self._method == "POST"  # which is no matter of who was logged in
        said = headers.get(CSRF_HEADER, "").encode()
        if session is not None and not logs_in and not hmac.compare_digest(said, session.csrf.encode()):
            raise _Refused(403, "the header X-CSRF-Token is not that of this login; GET /api/session tells it")
        if self._has_body() and not _JSON.fullmatch(headers.get("content-type", "")):
            raise _Refused(415, "the body must be JSON, with Content-Type: application/json")

    def _has_body(self) -> bool:
        return self._headers.get("content-length", "0") != "0" or "transfer-encoding" in self._headers

    async def _body(self) -> Receive:
        """The body, which is small, as a whole, so that no route waits for one."""
        if not self._has_body():
            return self._receive
        limits = self._gate.limits
        too_large = _Refused(413, f"the body is larger than {limits.body:,} bytes; send it in parts")
        said = self._headers.get("content-length", "0")
        told = int(said) if said.isdigit() else _READ_ON + limits.body
        if told > limits.body and (told >= _READ_ON + limits.body or "expect" in self._headers):
            raise too_large
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(limits.read_timeout):
                while size < _READ_ON + limits.body:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        break
                    size += len(message.get("body", b""))
                    if max(size, told) > limits.body:
                        parts.clear()  # it is read on: who is still sending does not see an answer before a closed connection
                    else:
                        parts.append(message.get("body", b""))
                    if not message.get("more_body"):
                        break
        except TimeoutError:
            if max(size, told) <= limits.body:
                raise _Refused(408, f"the body did not come within {limits.read_timeout:g} s") from None
        if max(size, told) > limits.body:
            raise too_large
        whole: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

        async def receive() -> Message:
            return whole.pop() if whole else await self._receive()

        return receive

    # ------------------------------------------------------------------ after

    async def _answer(self, message: Message) -> None:
        if self._ended:
            return
        if message["type"] == "http.response.start":
            self._status = message["status"]
            self._looked = asyncio.get_running_loop().time()
            headers = list(message.get("headers", ()))
            if self._status == 405:  # the app knows of one route of several
                allowed = ", ".join(self._guard.doors.methods(self._path)).encode()
                headers = [*(pair for pair in headers if pair[0].lower() != b"allow"), (b"allow", allowed)]
            message = {**message, "headers": [*headers, *self._added(headers)]}
        elif message.get("more_body") and self._caller is not None:
            now = asyncio.get_running_loop().time()
            if now - self._looked > _LOOK_AGAIN:
                self._looked = now
                seen = self._gate.caller(self._headers.get("authorization", ""), self._headers.get("cookie", ""))
                if seen is None or seen.role != self._caller.role:  # who reads this stream may not any more
                    self._ended = True
                    message = {"type": "http.response.body", "body": b"", "more_body": False}
        await self._send(message)

    def _added(self, present: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[bytes, bytes]]:
        names = {name.lower() for name, _ in present}
        yield from (pair for pair in _HEADERS if pair[0] not in names)
        yield GATEWAY_HEADER.encode(), self._gate.config.gateway.encode()
        if self._gate.secure:
            yield b"strict-transport-security", b"max-age=31536000"
        if b"cache-control" not in names and not self._path.startswith("/static/"):
            yield b"cache-control", b"no-store"

    async def _refuse(self, refused: _Refused) -> None:
        body = json.dumps(body_of(refused.detail), ensure_ascii=False).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(name.encode(), value.encode()) for name, value in refused.headers.items()]
        if refused.status in (408, 413):
            headers.append((b"connection", b"close"))  # what is left of the body must not be read as a request
        await self._answer({"type": "http.response.start", "status": refused.status, "headers": headers})
        await self._answer({"type": "http.response.body", "body": body, "more_body": False})

    async def _note(self) -> None:
        """Audit what was to change something, and what was refused to somebody who is known."""
        if (self._method in _SAFE and self._route not in AUDITED) or self._route in NOT_AUDITED:
            return
        state = self._scope.get("state", {})
        # Who comes back from the OpenID provider is who it says, whoever was logged in before.
        known = self._caller.name if self._caller is not None and self._route != CALLBACK else ""
        who = known or state.get("tried") or "nobody"
        result = state.get("result") or (
            "done"
            if 200 <= self._status < 300
            else f"refused {self._status}"
            if self._status < 500
            else f"failed {self._status}"
        )
        if not known and "tried" not in state and result != "done":
            return  # a flood of those must not drive what matters out of the audit
        what = f"{self._method} {self._path}"
        await asyncio.to_thread(
            self._gate.audit.note, who, what, self._address, result, utc_now(), **state.get("audit", {})
        )


AUDITED: Final = ("/api/support-bundle", "/api/config", CALLBACK)  # although they only look


NOT_AUDITED: Final = (  # although they are posted: these only look, and readings have an account of their own
    "/api/explain",
    "/api/config/plan",
    "/api/rules/test",
    "/api/data",
    "/api/cloud/connectors/{name}/data",
    "/api/session/oidc",  # and what comes of this one is told when the browser comes back
)


def audit_more(state: Any, **more: object) -> None:
    """Say more of a request in its audit entry.

    Args:
        state: The request's state.
        more: Names and what stands for them; no secrets.
    """
    state.audit = {**getattr(state, "audit", {}), **more}
