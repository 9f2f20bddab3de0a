"""All routes of a gateway."""

from typing import TYPE_CHECKING

from fastapi import APIRouter

from web.routes.certificates import certificates_router
from web.routes.cloud import cloud_router
from web.routes.configuration import configuration_router
from web.routes.data import data_router
from web.routes.diagnostics import diagnostics_router
from web.routes.discovery import discovery_router
from web.routes.drain import drain_router
from web.routes.explain import explain_router
from web.routes.health import health_router
from web.routes.letters import letters_router
from web.routes.oidc import oidc_router
from web.routes.secrets import secrets_router
from web.routes.session import session_router
from web.routes.sources import sources_router
from web.routes.spools import spools_router
from web.routes.targets import targets_router
from web.routes.users import users_router
from web.routes.zerobus import zerobus_router
from web.static_files import static_router
from web.watch import Watch

if TYPE_CHECKING:
    from flows.process import Process


def every_router(process: "Process", watch: Watch | None = None) -> list[APIRouter]:
    """The routers of all areas.

    Args:
        process: The gateway.
        watch: What watches it; begun now when None.
    """
    watch = watch or Watch(process)
    return [
        health_router(process),
        session_router(),
        oidc_router(),
        users_router(),
        sources_router(process),
        targets_router(process, watch.recent),
        zerobus_router(process),
        configuration_router(process),
        secrets_router(process),
        certificates_router(lambda: process.config),
        explain_router(process),
        discovery_router(process.config.gateway, process.discovery),
        diagnostics_router(process),
        letters_router(process),
        spools_router(process),
        drain_router(process),
        data_router(process),
        cloud_router(process),
        *watch.routers(),
        static_router(),
    ]
