"""The app behind the port: the guard, errors of one form, and the routes of every area."""

from collections.abc import Iterable
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts
from starlette.types import ASGIApp

from web import errors
from web.access.gate import Gate
from web.access.guard import Doors, Guard
from web.access.roles import need_of

_METHODS: Final = ("get", "put", "post", "delete", "patch")
_DESCRIPTION: Final = """\
The gateway's HTTP API. Log in with `POST /api/session` (a cookie, and `X-CSRF-Token` on whatever changes something), or send
an API token: `Authorization: Bearer bfr_…`. Errors are `{"detail": …, "problems": […]}`. `x-role` says who may use a route."""
_ERRORS: Final = {
    400: "the request cannot be understood",
    401: "no login",
    403: "the role is not enough, or the request comes from another site",
    404: "there is nothing of this name",
    408: "the body did not come in time",
    413: "the body is too large",
    415: "the body is not JSON",
    421: "the gateway is not called so",
    422: "the request is not as the route takes it",
    429: "too many requests",
    500: "the gateway made a mistake",
    503: "the gateway cannot do this at the moment",
}


def create_app(gate: Gate, routers: Iterable[APIRouter]) -> ASGIApp:
    """The app behind the port.

    Args:
        gate: What decides who comes in.
        routers: The routes.
    """
    app = api(routers)
    return Guard(app, gate, lambda: Doors(_contexts(app)))


def api(routers: Iterable[APIRouter]) -> FastAPI:
    """The app without its guard, whose OpenAPI tells everything.

    Args:
        routers: The routes.
    """
    app = FastAPI(
        title="Bifrost",
        description=_DESCRIPTION,
        version=_version(),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        separate_input_output_schemas=False,
    )
    errors.install(app)
    for router in routers:
        app.include_router(router)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = described(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _contexts(app: FastAPI) -> Any:
    return [context for context in iter_route_contexts(app.routes) if getattr(context, "path_regex", None) is not None]


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("bifrost-gateway")
    except PackageNotFoundError:
        return "0"


def described(app: FastAPI) -> dict[str, Any]:
    """OpenAPI 3.1 of an app: also who may use a route, and every error that it answers.

    Args:
        app: The app.
    """
    found = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, openapi_version="3.1.0"
    )
    parts = found.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    error = errors.ErrorAnswer.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= {**error.pop("$defs", {}), "ErrorAnswer": error}
    parts["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "an API token, `bfr_…`"},
        "login": {"type": "apiKey", "in": "cookie", "name": "bifrost_session"},
    }
    for path, item in found.get("paths", {}).items():
        for method in _METHODS:
            if method in item:
                _describe(item[method], method, path)
    _link(found.get("paths", {}))
    return found


# What is made under a name can be asked for under it.
_LINKS: Final = {
    "POST /api/users": (("PUT /api/users/{name}", "DELETE /api/users/{name}"), "name", "$request.body#/name"),
    "POST /api/tokens": (("DELETE /api/tokens/{token_id}",), "token_id", "$response.body#/id"),
    "POST /api/sources": (
        ("GET /api/sources/{name}", "PUT /api/sources/{name}", "DELETE /api/sources/{name}"),
        "name",
        "$request.body#/name",
    ),
    "POST /api/targets": (
        ("GET /api/targets/{name}", "PUT /api/targets/{name}", "DELETE /api/targets/{name}"),
        "name",
        "$request.body#/name",
    ),
}


def _link(paths: dict[str, Any]) -> None:
    for made, (operations, parameter, value) in _LINKS.items():
        method, path = made.split(" ")
        for other in operations:
            to, there = other.split(" ")
            if path in paths and there in paths:
                links = paths[path][method.lower()]["responses"]["201"].setdefault("links", {})
                target = paths[there][to.lower()]["operationId"]
                links[target] = {"operationId": target, "parameters": {parameter: value}}


def _describe(operation: dict[str, Any], method: str, path: str) -> None:
    need = need_of(method.upper(), path) or "admin"
    operation["x-role"] = need
    ways: list[dict[str, list[str]]] = [{"token": []}, {"login": []}]
    operation["security"] = [] if need == "open" else [{}, *ways] if need == "metrics" else ways
    statuses = {400, 421, 422, 429, 500, 503}
    if need != "open":
        statuses |= {401, 403}
    if "{" in path:
        statuses |= {404}
    if method != "get":
        statuses |= {403, 408, 413, 415}
    known = operation.setdefault("responses", {})
    for status in sorted(statuses | {int(status) for status in known if status.isdigit() and int(status) >= 400}):
        said = known.get(str(status), {}).get("description")
        own = said if said and said != "Validation Error" else None
        known[str(status)] = {
            "description": own or _ERRORS.get(status, "it is not done"),
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}},
        }
    operation["responses"] = dict(sorted(known.items()))
