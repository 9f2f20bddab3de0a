"""A gateway with some routes of the API and no login before them: python bare_gateway.py FOLDER PORT [reading]."""

import asyncio
import os
import socket
import sys
import threading
from pathlib import Path

from fastapi import FastAPI
from typing_extensions import override

from config.models import Configuration
from connectors.settings import TagMapping
from normalization.rules import Rule
from tests.flows.numbered import NumberedConfig, TellingConfig

RULES = (Rule("warm", "tag_name LIKE 'temp%'", ("first",), 1),)


def sources(folder: Path) -> tuple[NumberedConfig, ...]:
    """Two sources of numbers, scaled; of the second each tag is in a place of its own."""
    tags = [TagMapping(match="*", unit="°C", scale=0.1)]
    return tuple(
        NumberedConfig(
            name=f"{name}_line",
            protocol=name,  # type: ignore[arg-type]
            acked=folder / f"{name}.acked",
            site="plant1",
            area=name,
            rate=500,
            tag_count=50,
            tags=tags,
        )
        for name in ("mqtt", "opcua")
    )


def configuration(folder: Path, *, reading: bool = False) -> Configuration:
    """Two targets that tell what they got; temperatures go to the first, all else to the second."""
    return Configuration(
        gateway="gw",
        directory=folder / "data",
        sources=sources(folder) if reading else (),
        targets={name: TellingConfig(path=folder / f"{name}.jsonl") for name in ("first", "second")},
        rules=RULES,
        default=("second",),
        port=None,
        log_level="warning",
    )


def main() -> None:
    """Run until a signal comes."""
    from flows.port import status

    import bifrost.run
    from flows.process import Process
    from web import errors
    from web.routes.cloud import cloud_router
    from web.routes.data import data_router
    from web.watch import watching

    class Served(Process):
        @override
        def open_stores(self) -> None:
            super().open_stores()
            app = FastAPI()
            errors.install(app)
            for router in (data_router(self), cloud_router(self), *watching(self, lambda: status(self))):
                app.include_router(router)
            threading.Thread(target=_serve, args=(app, int(sys.argv[2])), daemon=True).start()

    bifrost.run.Process = Served  # type: ignore[misc]
    sys.exit(bifrost.run.run(configuration(Path(sys.argv[1]), reading="reading" in sys.argv)))


def _serve(app: FastAPI, port: int) -> None:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    asyncio.run(server.serve(sockets=[socket.create_server(("127.0.0.1", port))]))


if __name__ == "__main__":
    os.environ.pop("BYTEWAX_RECOVERY_DIRECTORY", None)
    main()
