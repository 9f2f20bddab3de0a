"""Who may do what: one table of every route. A route that is not in it is an administrator's alone."""

from typing import Final, Literal

Role = Literal["viewer", "operator", "admin"]
Need = Literal["open", "metrics", "viewer", "operator", "admin"]

ROLES: Final[tuple[Role, ...]] = ("viewer", "operator", "admin")

# open: without login; metrics: without login where the listener is this machine's alone or web_ui.metrics says so.
MATRIX: Final[dict[str, Need]] = {
    "GET /livez": "open",
    "GET /readyz": "open",
    "GET /health": "open",  # in full with a login
    "GET /metrics": "metrics",
    "GET /": "open",  # the browser's pages, which ask for everything else
    "GET /icon.svg": "open",
    "GET /assets/{name}": "open",
    "GET /openapi.json": "viewer",
    # ------------------------------------------------ access
    "POST /api/setup": "open",
    "GET /api/session": "open",
    "POST /api/session": "open",
    "DELETE /api/session": "open",
    "POST /api/session/oidc": "open",
    "GET /api/session/oidc/callback": "open",  # where the provider sends the browser back to
    "PUT /api/session/password": "viewer",
    "GET /api/users": "admin",
    "POST /api/users": "admin",
    "PUT /api/users/{name}": "admin",
    "DELETE /api/users/{name}": "admin",
    "GET /api/tokens": "admin",
    "POST /api/tokens": "admin",
    "DELETE /api/tokens/{token_id}": "admin",
    "GET /api/audit": "admin",
    # ------------------------------------------------ looking
    "GET /api/status": "viewer",
    "GET /api/metrics": "viewer",
    "GET /api/ledger": "viewer",
    "GET /api/pipeline": "viewer",
    "GET /api/events": "viewer",
    "GET /api/tail": "viewer",
    "GET /api/tags": "viewer",
    "GET /api/tags/tree": "viewer",
    "GET /api/tags/{tag_id}": "viewer",
    "GET /api/versions": "viewer",
    "GET /api/logs": "viewer",
    "GET /api/logs/follow": "viewer",
    "POST /api/explain": "viewer",
    # ------------------------------------------------ sources, targets, rules
    "GET /api/sources": "viewer",
    "GET /api/sources/browse": "operator",
    "GET /api/sources/{name}": "viewer",
    "POST /api/sources": "admin",
    "PUT /api/sources/{name}": "admin",
    "DELETE /api/sources/{name}": "admin",
    "POST /api/sources/test": "operator",
    "GET /api/targets": "viewer",
    "GET /api/targets/{name}": "viewer",
    "POST /api/targets": "admin",
    "PUT /api/targets/{name}": "admin",
    "DELETE /api/targets/{name}": "admin",
    "POST /api/targets/test": "operator",
    "GET /api/rules": "viewer",
    "PUT /api/rules": "admin",
    "POST /api/rules/test": "viewer",
    "GET /api/schema/sources": "viewer",
    "GET /api/schema/targets": "viewer",
    # ------------------------------------------------ readings from outside
    "POST /api/data": "operator",
    "POST /api/cloud/connectors/{name}/data": "operator",
    "GET /api/cloud/connectors/{name}/config": "viewer",
    "GET /api/cloud/health": "viewer",
    "GET /api/cloud/metrics": "viewer",
    "GET /api/zerobus": "viewer",
    # ------------------------------------------------ store and forward
    "GET /api/spools": "viewer",
    "GET /api/spools/peek": "viewer",
    "GET /api/spools/export": "viewer",
    "POST /api/spools/purge": "operator",
    "GET /api/drain": "viewer",
    "POST /api/drain": "operator",
    "GET /api/dead-letters": "viewer",
    "GET /api/dead-letters/each": "viewer",
    "GET /api/dead-letters/export": "viewer",
    "POST /api/dead-letters/replay": "operator",
    "POST /api/dead-letters/purge": "operator",
    # ------------------------------------------------ configuration
    "GET /api/config": "admin",  # the files as they are: a secret may stand in one
    "GET /api/config/show": "viewer",
    "GET /api/config/schema": "viewer",
    "POST /api/config/plan": "admin",
    "POST /api/config/apply": "admin",
    "GET /api/config/history": "viewer",
    "GET /api/config/history/{number}": "admin",
    "POST /api/config/rollback": "admin",
    "PUT /api/log-level": "admin",
    "GET /api/support-bundle": "admin",
    # ------------------------------------------------ secrets and certificates
    "GET /api/secrets": "admin",
    "PUT /api/secrets/{name}": "admin",
    "DELETE /api/secrets/{name}": "admin",
    "GET /api/certificates": "viewer",
    "POST /api/certificates/ca": "admin",
    "POST /api/certificates/server": "admin",
    "POST /api/certificates/client": "admin",
    "POST /api/certificates/application": "admin",
    "POST /api/certificates/import": "admin",
    "POST /api/certificates/{certificate_id}/trust": "admin",
    "POST /api/certificates/{certificate_id}/reject": "admin",
    "POST /api/certificates/{certificate_id}/renew": "admin",
    "DELETE /api/certificates/{certificate_id}": "admin",
    # ------------------------------------------------ discovery
    "GET /api/discovery/servers": "viewer",
    "POST /api/discovery/scan": "operator",
    "DELETE /api/discovery/scan": "operator",
    "POST /api/discovery/servers/{server_id}/draft": "operator",
}


def _key(method: str, path: str) -> str:
    """Names in braces do not count: another word for the same place is the same route."""
    return f"{method} " + "/".join("{}" if part.startswith("{") else part for part in path.split("/"))


_BY_KEY: Final = {_key(*route.split(" ", 1)): need for route, need in MATRIX.items()}


def need_of(method: str, path: str) -> Need | None:
    """What a route asks for; None when it is not in the table.

    Args:
        method: Its method.
        path: Its path with names in braces, as in OpenAPI.
    """
    return _BY_KEY.get(_key(method, path))


def allows(role: Role, need: Need) -> bool:
    """Whether a role is enough."""
    return need in ("open", "metrics") or ROLES.index(role) >= ROLES.index(need)
