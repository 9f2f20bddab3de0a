"""Everything that is needed to watch a gateway: its readings, its rates, and where readings go."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

from web.destinations import Destinations
from web.live import Live
from web.rates import Rates
from web.routes.live import live_router
from web.routes.tags import tags_router

if TYPE_CHECKING:
    from flows.process import Process


def watching(process: "Process", status: Callable[[], dict[str, Any]]) -> list[APIRouter]:
    """Begin to watch a gateway; returns the routes to do so.

    Args:
        process: The gateway.
        status: How it stands.
    """
    rates = Rates(process)
    live = Live(process, rates.note)
    process.live = live.show
    live.start()
    return [tags_router(live, Destinations(process)), live_router(process, live, rates, status)]
