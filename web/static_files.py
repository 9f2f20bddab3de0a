"""The browser's pages: the files that `make ui` built, or a plain page that says how to build them."""

import mimetypes
import re
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, HTMLResponse

from web.errors import ApiError

FOLDER: Final = Path(__file__).parent / "static"
HASHED: Final = "assets"  # below it each file's name tells its content, so that it never changes
FOREVER: Final = "public, max-age=31536000, immutable"
ASK: Final = "no-cache"
_NAME: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
_NOT_BUILT: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Bifrost</title></head><body>
<h1>The gateway runs; its pages were not built</h1>
<p>The image's variant <code>edge</code> leaves the pages out; in a copy of the sources <code>make ui</code> builds them (it needs
Node 20.19 or later). The API is there without them: <a href="openapi.json">openapi.json</a>, and so is the command
<code>bifrost status</code>.</p>
</body></html>
"""


def static_router() -> APIRouter:
    """Routes of the browser's pages."""
    router, folder = APIRouter(include_in_schema=False), FOLDER

    @router.get("/")
    def index() -> Response:
        """The page that holds all others; which of them is shown stands behind `#`."""
        page = folder / "index.html"
        if not page.is_file():
            return HTMLResponse(_NOT_BUILT, headers={"cache-control": ASK})
        return _file(page, ASK)

    @router.get(f"/{HASHED}/{{name}}")
    def asset(name: str, request: Request) -> Response:
        """A script, style or picture."""
        return _answer(folder / HASHED, name, FOREVER, request)

    @router.get("/icon.svg")
    def icon(request: Request) -> Response:
        """The picture of the tab."""
        return _answer(folder, "icon.svg", ASK, request)

    return router


def _answer(folder: Path, name: str, cache: str, request: Request) -> Response:
    path = folder / name
    if not _NAME.fullmatch(name) or path.is_symlink() or not path.is_file():
        raise ApiError(404, f"there is nothing at {request.url.path}")
    return _file(path, cache)


def _file(path: Path, cache: str) -> Response:
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return FileResponse(path, media_type=kind, headers={"cache-control": cache})
