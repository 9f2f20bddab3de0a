"""The files of the browser's pages: what they are served as, how long they are kept, and that nothing else is."""

from pathlib import Path

import pytest

from tests.web.served import Served, served
from web import static_files

BUILT = {
    "index.html": "<!doctype html><title>built</title>",
    "icon.svg": "<svg/>",
    "assets/index-Ab12.js": "1",
    "assets/index-Ab12.css": "a{}",
}


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as the build leaves it, with something secret beside it."""
    folder = tmp_path / "static"
    for name, text in BUILT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (tmp_path / "secret").write_text("canary")
    (folder / "assets" / "link").symlink_to(tmp_path / "secret")
    monkeypatch.setattr(static_files, "FOLDER", folder)
    return folder


def asked(gateway: Served, path: str) -> tuple[int, str, str, str]:
    answer = gateway.client().get(path)
    return answer.status, answer.headers.get("content-type", ""), answer.headers["cache-control"], answer.body.decode()


def test_each_file_has_its_type_and_only_names_that_tell_the_content_are_kept(built: Path, tmp_path: Path) -> None:
    with served(tmp_path) as gateway:
        ask, forever = "no-cache", "public, max-age=31536000, immutable"
        assert asked(gateway, "/") == (200, "text/html; charset=utf-8", ask, BUILT["index.html"])
        assert asked(gateway, "/icon.svg") == (200, "image/svg+xml", ask, "<svg/>")
        assert asked(gateway, "/assets/index-Ab12.js") == (200, "text/javascript; charset=utf-8", forever, "1")
        assert asked(gateway, "/assets/index-Ab12.css") == (200, "text/css; charset=utf-8", forever, "a{}")
        policy = gateway.client().get("/").headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy


@pytest.mark.threat(20)
def test_nothing_but_the_built_files_is_served(built: Path, tmp_path: Path) -> None:
    with served(tmp_path) as gateway:
        for path in (
            "/assets/../index.html",
            "/assets/..%2findex.html",
            "/assets/..%2f..%2fsecret",
            "/assets/%2e%2e/secret",
            "/assets/..%5c..%5csecret",
            "/assets//etc/passwd",
            "/assets/%2fetc%2fpasswd",
            "/assets/link",
            "/assets/",
            "/assets",
            "/assets/.",
            "/assets/index-Ab12.js/x",
            "/assets/index-Ab12.js%00.css",
            "/index.html",
            "/../secret",
        ):
            status, _, cache, body = asked(gateway, path)
            assert (status, cache) == (404, "no-store"), path
            assert "canary" not in body


def test_without_a_build_a_plain_page_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_files, "FOLDER", tmp_path / "nothing")
    with served(tmp_path) as gateway:
        status, kind, _, body = asked(gateway, "/")
        assert (status, kind) == (200, "text/html; charset=utf-8")
        assert "make ui" in body
        assert asked(gateway, "/assets/index.js")[0] == 404
