"""A host's page around the gallery: the official bridge, in a real browser."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, FrameLocator, Locator, Page, Route

from browser import PATIENCE_MS
from npm import installed

FOLDER = Path(__file__).parent / "gallery_host"

PATH = "/host.html"

HTML = """<!doctype html><title>A host</title>
<style>
  body { margin: 0; background: %s }
  iframe { display: block; width: 100%%; border: 0; height: 80px }
</style>
<script>%s</script>"""


def host_script(folder: Path) -> str:
    """The host's script with all that it imports; the folder is for the bundler."""
    bundler = installed(FOLDER) / ".bin" / "esbuild"
    bundle = folder / "host.js"
    subprocess.run(
        [bundler, FOLDER / "host.js", "--bundle", "--log-level=warning", f"--outfile={bundle}"],
        check=True,
        timeout=60,
    )
    return bundle.read_text()


@dataclass
class HostPage:
    """A host's window, and what went on in it."""

    page: Page
    requested: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def view(self) -> FrameLocator:
        """The gallery."""
        return self.page.frame_locator("iframe")

    @property
    def tiles(self) -> Locator:
        return self.view.locator(".tile")

    def tile(self, name: str) -> Locator:
        return self.tiles.filter(has=self.page.frame_locator("iframe").get_by_text(name))

    def show(self, tool: str, given: dict[str, Any] | None, **more: Any) -> None:
        """Call a tool and show its view; unless `waits` is false, until the call is answered."""
        self.page.evaluate("(call) => host.show(call)", {"tool": tool, "given": given, **more})

    def seen(self, what: str) -> list[Any]:
        """What the host was asked to do: `opened`, `downloaded`, `modelContexts`, ..."""
        found: list[Any] = self.page.evaluate(f"host.{what}")
        return found

    def fits(self) -> bool:
        """Whether nothing in the view is wider than it."""
        fits: bool = self.view.locator("html").evaluate(
            "(root) => root.scrollWidth <= root.clientWidth"
        )
        return fits

    def _watch(self) -> None:
        self.page.on("request", lambda request: self.requested.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda said: self._hear(said.type, said.text))

    def _hear(self, kind: str, text: str) -> None:
        # Where the host opens no links, the view tries by itself, and a sandbox says no.
        if kind in ("error", "warning") and not text.startswith("Blocked opening"):
            self.complaints.append(text)


def open_host(
    browser: Browser, url: str, script: str, *, width: int = 760, ground: str = "#fff", **more: Any
) -> tuple[BrowserContext, HostPage]:
    """A host's window at the server's own address, as a page of it: nothing foreign may call it."""
    context = browser.new_context(viewport={"width": width, "height": 900}, **more)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()

    def answer(route: Route) -> None:
        route.fulfill(content_type="text/html", body=HTML % (ground, script))

    page.route(f"{url}{PATH}", answer)
    opened = HostPage(page)
    opened._watch()
    page.goto(f"{url}{PATH}")
    return context, opened
