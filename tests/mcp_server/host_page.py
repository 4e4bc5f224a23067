"""A host page that shows the gallery through the official bridge, in a real browser."""

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, FrameLocator, Locator, Page, Route

from browser import HEIGHT, TIMEOUT_MS, watch
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
    """Bundle the host's script with its imports; the bundler writes to `folder`."""
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
    """A host's window, with its requests and console errors."""

    page: Page
    requested: list[str] = field(default_factory=list)
    console_errors: list[str] = field(default_factory=list)

    @property
    def view(self) -> FrameLocator:
        """The gallery's frame."""
        return self.page.frame_locator("iframe")

    @property
    def tiles(self) -> Locator:
        return self.view.locator(".tile")

    def tile(self, name: str) -> Locator:
        return self.tiles.filter(has=self.page.frame_locator("iframe").get_by_text(name))

    def show(self, tool: str, arguments: dict[str, Any] | None, **more: Any) -> None:
        """Call a tool and show its view; wait for the call's result unless `waits` is false."""
        self.page.evaluate(
            "(call) => host.show(call)", {"tool": tool, "toolArguments": arguments, **more}
        )

    def recorded(self, kind: str) -> list[Any]:
        """Return the recorded calls of one kind, such as `opened` or `modelContextUpdates`."""
        calls: list[Any] = self.page.evaluate(f"host.{kind}")
        return calls

    def fits(self) -> bool:
        """Whether the view has no horizontal overflow."""
        fits: bool = self.view.locator("html").evaluate(
            "(root) => root.scrollWidth <= root.clientWidth"
        )
        return fits

    @staticmethod
    def is_error(text: str) -> bool:
        # If the host opens no links, the view tries to open a window, and the sandbox blocks it.
        return not text.startswith("Blocked opening")


def open_host(
    browser: Browser, url: str, script: str, *, width: int = 760, ground: str = "#fff", **more: Any
) -> tuple[BrowserContext, HostPage]:
    """Open a host page in a context of its own."""
    context = browser.new_context(viewport={"width": width, "height": HEIGHT}, **more)
    context.set_default_timeout(TIMEOUT_MS)
    return context, host_on(context.new_page(), url, script, ground=ground)


def host_on(page: Page, url: str, script: str, *, ground: str = "#fff") -> HostPage:
    """Load a host page on the server's own origin, since the server rejects foreign origins."""

    def serve_page(route: Route) -> None:
        route.fulfill(content_type="text/html", body=HTML % (ground, script))

    page.route(f"{url}{PATH}", serve_page)
    host = HostPage(page)
    watch(page, host.requested, host.console_errors, host.is_error)
    page.goto(f"{url}{PATH}")
    return host
