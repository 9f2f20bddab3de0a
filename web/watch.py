"""Everything that is needed to watch a gateway: its readings, its rates, and where readings go."""

from typing import TYPE_CHECKING

import pyarrow as pa
from fastapi import APIRouter

from web.destinations import Destinations
from web.live import Live
from web.rates import Rates
from web.routes.live import live_router
from web.routes.tags import tags_router
from web.status import status

if TYPE_CHECKING:
    from flows.process import Process


class Watch:
    """Watches a gateway from now on.

    Args:
        process: The gateway.
    """

    def __init__(self, process: "Process") -> None:
        self._process = process
        self._rates = Rates(process)
        self._live = Live(process, self._rates.note)
        if process.live is None:
            process.live = self._live.show
            self._live.start()

    def recent(self) -> list[pa.RecordBatch]:
        """The newest readings, normalized."""
        window = self._live.window()
        return [] if window is None else [window]

    def routers(self) -> list[APIRouter]:
        """The routes to watch it by."""
        process, live = self._process, self._live
        return [
            tags_router(live, Destinations(process)),
            live_router(process, live, self._rates, lambda: status(process)),
        ]
