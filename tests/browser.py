"""The system's browser, for tests of the dashboard and the gallery."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Dialog,
    Locator,
    Page,
    expect,
    sync_playwright,
)

BROWSER_COMMANDS = ("chromium", "chromium-browser", "google-chrome")

NO_BROWSER = (
    f"This was NOT tested: no browser was found ({', '.join(BROWSER_COMMANDS)}). Install one: "
    "apt-get install chromium"
)

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # Let a sandboxed view load images from loopback, where the simulator runs.
    "--disable-features=LocalNetworkAccessChecks",
)

TIMEOUT_MS = 15_000
HEIGHT = 900


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Run the browser. If none is installed, skip the test, or fail it in CI."""
    command = next(filter(None, map(shutil.which, BROWSER_COMMANDS)), None)
    if command is None:
        if os.environ.get("CI"):
            pytest.fail(NO_BROWSER)
        pytest.skip(NO_BROWSER)
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=command, args=ARGUMENTS)
        yield launched
        launched.close()


class Pages:
    """Pages of a browser, each in its own context; the next test takes a page that is left.

    A new context and its renderers take more than a second of CPU time.

    Args:
        browser: the browser, which closes the pages.
        script: a script that every document of the pages runs first.
    """

    def __init__(self, browser: Browser, script: str = "") -> None:
        self._browser = browser
        self._script = script
        self._left: list[Page] = []

    def take(self, width: int) -> Page:
        """Return an empty page of this width."""
        if self._left:
            page = self._left.pop()
            page.set_viewport_size({"width": width, "height": HEIGHT})
            return page
        context = self._browser.new_context(viewport={"width": width, "height": HEIGHT})
        context.set_default_timeout(TIMEOUT_MS)
        context.add_init_script(self._script)
        return context.new_page()

    def leave(self, page: Page) -> None:
        """Empty a page for the next test, whose server has another origin, and so other storage."""
        for event, listener in _listeners.pop(page, ()):
            page.remove_listener(event, listener)
        for other in page.context.pages:
            other.unroute_all(behavior="ignoreErrors")  # A routed request may be in flight.
            if other is not page:
                other.close()
        page.context.unroute_all(behavior="ignoreErrors")
        page.context.clear_permissions()
        page.mouse.move(0, 0)
        page.goto("about:blank")
        self._left.append(page)


_listeners: dict[Page, list[tuple[Any, Any]]] = {}
"""Listeners of each page, to be removed when its test leaves it."""


def _listen(page: Page, event: Any, listener: Any) -> None:
    page.on(event, listener)
    _listeners.setdefault(page, []).append((event, listener))


def watch(
    page: Page,
    requested: list[str],
    console_errors: list[str],
    is_error: Callable[[str], bool],
) -> None:
    """Append the URLs that a page requests, its exceptions, and what it logs as an error.

    Args:
        page: the page.
        requested: receives the URLs.
        console_errors: receives the errors.
        is_error: whether a logged error or warning counts.
    """

    def on_console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and is_error(message.text):
            console_errors.append(message.text)

    _listen(page, "request", lambda request: requested.append(request.url))
    _listen(page, "pageerror", lambda error: console_errors.append(str(error)))
    _listen(page, "console", on_console)


def dialogs_of(page: Page) -> list[str]:
    """Return a list that collects the messages of the dialogs opened by scripts in the page."""
    opened: list[str] = []

    def record(dialog: Dialog) -> None:
        opened.append(dialog.message)
        dialog.dismiss()

    _listen(page, "dialog", record)
    return opened


def exact_texts(elements: Locator) -> list[str]:
    """Return the elements' exact texts, with spaces, NULs and unpaired surrogates."""
    texts = elements.evaluate_all("(all) => all.map((each) => JSON.stringify(each.textContent))")
    return [json.loads(text) for text in texts]
