"""All routes of a gateway."""

from typing import TYPE_CHECKING

from fastapi import APIRouter

from web.routes.health import health_router
from web.routes.letters import letters_router
from web.routes.session import session_router
from web.routes.spools import spools_router
from web.routes.users import users_router

if TYPE_CHECKING:
    from flows.process import Process


def every_router(process: "Process") -> list[APIRouter]:
    """The routers of all areas.

    Args:
        process: The gateway.
    """
    return [
        health_router(process),
        session_router(),
        users_router(),
        letters_router(process),
        spools_router(process),
    ]
