"""The system's browser, for tests of what people see."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Dialog, Locator, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")

NO_BROWSER = (
    f"This was NOT tried: there is no browser ({', '.join(NAMES)}). Install one: "
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
    # A view in a sandbox may load images from loopback, where the simulator is.
    "--disable-features=LocalNetworkAccessChecks",
)

PATIENCE_MS = 15_000


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Starts it; skips where there is none, and fails in CI."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(NO_BROWSER)
        pytest.skip(NO_BROWSER)
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield launched
        launched.close()


def dialogs_of(page: Page) -> list[str]:
    """Return the list to which each dialog that a script opens in the page is added."""
    opened: list[str] = []

    def note(dialog: Dialog) -> None:
        opened.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", note)
    return opened


def exact_texts(elements: Locator) -> list[str]:
    """Return the elements' texts as they are: with spaces, NULs and unpaired surrogates."""
    found = elements.evaluate_all("(all) => all.map((each) => JSON.stringify(each.textContent))")
    return [json.loads(text) for text in found]
