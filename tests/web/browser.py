"""Chromium on a gateway's pages. What a page complains of, and every dialog that it opens, is noted."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, Page, expect, sync_playwright

SCREENSHOTS: Final = Path(__file__).parents[2] / "build" / "screenshots"
WIDE, NARROW = (1280, 800), (390, 844)
_WAIT: Final = 20_000.0  # ms
expect.set_options(timeout=_WAIT)  # a test tells what is there in the end; how quick it is, a test of its own


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, without a window."""
    path = shutil.which("chromium")
    assert path is not None, "chromium is missing: sh tests/counterparts/chromium.sh"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """A page of a gateway.

    Attributes:
        page: The page.
        complaints: What it wrote to the console as a warning or an error, and errors that nobody caught.
        dialogs: What it said in dialogs.
    """

    def __init__(self, browser: Browser, port: int, size: tuple[int, int] = WIDE, scheme: str = "light") -> None:
        self.origin = f"http://127.0.0.1:{port}/"
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            color_scheme=scheme,  # type: ignore[arg-type]
            reduced_motion="reduce",
        )
        self.page: Page = context.new_page()
        self.page.set_default_timeout(_WAIT)
        self.complaints: list[str] = []
        self.dialogs: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console",
            lambda said: (
                self.complaints.append(f"{said.text} {said.location.get('url', '')}")
                if said.type in ("error", "warning")
                else None
            ),
        )
        self.page.on("dialog", self._note)

    def _note(self, dialog: object) -> None:
        self.dialogs.append(dialog.message)  # type: ignore[attr-defined]
        dialog.dismiss()  # type: ignore[attr-defined]

    def go(self, place: str, heading: str = "") -> None:
        """Go to a page by its address, and wait until it is there."""
        self.page.goto(f"{self.origin}#/{place}")
        if heading:
            expect(self.page.get_by_role("heading", name=heading, level=1, exact=True)).to_be_visible(timeout=_WAIT)

    def log_in(self, user: str, password: str) -> None:
        """Log in."""
        self.page.goto(self.origin)
        self.page.get_by_label("User").fill(user)
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_role("button", name="Log in", exact=True).click()
        expect(self.page.get_by_role("heading", name="Overview")).to_be_visible(timeout=_WAIT)

    def press(self, name: str) -> None:
        """Press a button."""
        self.page.get_by_role("button", name=name, exact=True).click()

    def shows(self, text: str, where: str = "main") -> None:
        """Wait until a text is seen."""
        expect(self.page.locator(where).get_by_text(text).first).to_be_visible(timeout=_WAIT)

    def picture(self, name: str) -> None:
        """Keep what is seen."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")

    def close(self) -> None:
        """Close it, with its cookies."""
        self.page.context.close()
