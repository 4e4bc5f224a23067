"""The system's browser, for tests of the dashboard and the gallery."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Dialog, Locator, Page, expect, sync_playwright

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


def dialogs_of(page: Page) -> list[str]:
    """Return a list that collects the messages of the dialogs opened by scripts in the page."""
    opened: list[str] = []

    def record(dialog: Dialog) -> None:
        opened.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", record)
    return opened


def exact_texts(elements: Locator) -> list[str]:
    """Return the elements' exact texts, with spaces, NULs and unpaired surrogates."""
    texts = elements.evaluate_all("(all) => all.map((each) => JSON.stringify(each.textContent))")
    return [json.loads(text) for text in texts]
