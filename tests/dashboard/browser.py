"""A real browser, headless: the Chromium that is installed (Debian: chromium)."""

from __future__ import annotations

import contextlib
import re
import shutil
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["WAIT_MILLISECONDS", "Window", "open_chromium"]

WAIT_MILLISECONDS = 60_000
"""How long a page may take to show something. It ends hangs, and measures nothing."""

_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
  window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
"""


@contextlib.contextmanager
def open_chromium() -> Iterator[Any]:
    """Start it, or skip and say what is missing."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("there is no Chromium (Debian: apt-get install chromium)")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        # Its sandbox needs a user that is not root; it only ever sees this machine's own pages.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Window:
    """One window with the live page. At its end there must have been no complaint of the browser.

    Args:
        browser: From `open_chromium`.
        url: Of the page.
        width: In CSS pixels.
        scheme: ``light`` or ``dark``.
    """

    def __init__(self, browser: Any, url: str, width: int = 1280, scheme: str = "light") -> None:
        size = {"width": width, "height": 812}
        self._context = browser.new_context(viewport=size, color_scheme=scheme)
        self._context.add_init_script(_VIOLATIONS)
        self.page = self._context.new_page()
        self.page.set_default_timeout(WAIT_MILLISECONDS)
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._hear)
        self.page.goto(url)
        self.wait("#link.live")

    def wait(self, selector: str, text: str | re.Pattern[str] = "") -> str:
        """Wait until an element is there, with a text in it; return all of its text."""
        place = self.page.locator(selector)
        if text:
            place = place.filter(has_text=text)
        place.first.wait_for(state="attached")
        return str(place.first.inner_text())

    def texts(self, selector: str) -> list[str]:
        """The texts of all elements of a kind."""
        return [str(text) for text in self.page.locator(selector).all_inner_texts()]

    def ask(self, expression: str) -> Any:
        """Evaluate an expression in the page."""
        return self.page.evaluate(expression)

    def close(self) -> list[str]:
        """Close it; return what the browser complained of."""
        violations = self.ask("window.violations")
        self._context.close()
        return [*self.complaints, *violations]

    def _hear(self, message: Any) -> None:
        # A server that is gone is told here as well; it is what some tests are about.
        if message.type in ("error", "warning") and "net::ERR" not in message.text:
            self.complaints.append(message.text)
