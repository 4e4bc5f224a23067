"""Make the README's pictures from actual runs against the simulator."""

import io
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageFilter, ImageStat
from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # for the host page and the browser

from browser import running_browser  # noqa: E402
from conftest import environment  # noqa: E402
from http_api.conftest import ADMIN_KEY, Server, running_server  # noqa: E402
from mcp_server.host_page import host_script, open_host  # noqa: E402
from npm import installed  # noqa: E402
from replicate_mcp.simulator import Simulator, running_simulator  # noqa: E402

FOLDER = ROOT / "docs" / "pictures"

COLUMNS, LINES = 90, 9

PROMPTS = {
    "harbour": "a quiet harbour at dawn, fishing boats under low fog",
    "red_car": "a red car in the rain, seen through a window",
    "lighthouse": "a lighthouse on a cliff, long exposure",
    "blue_house": "a blue house among birches [fail]",
    "market": "a market in Lisbon, watercolour",
    "tram": "an old tram climbing a hill",
    "foxes": "foxes in the snow, paper cut",
    "paper_boat": "a paper boat on a wide river",
    "greenhouse": "a glass greenhouse at night",
    "rice_fields": "terraced rice fields from above",
    "night_train": "a night train between mountains",
    "lemons": "a bowl of lemons, still life",
}

TASKS: list[dict[str, Any]] = [
    {"prompt": prompt, "output_filename": f"{name}.jpg", "seed": number}
    for number, (name, prompt) in enumerate(PROMPTS.items())
]

SECONDS = "0.6,0.9,0.8,0.7,60,0.8,0.9,60,0.7,60,60,60"
"""Seconds of each prediction: six are made, one fails, and five are still running."""

IN_A_CONVERSATION = """
  body { padding: 14px } iframe { border: 1px solid %s; border-radius: 14px }
"""


def main() -> None:
    """Make all pictures."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with running_browser() as browser, tempfile.TemporaryDirectory() as folder:
        script = host_script(Path(folder))
        for theme in ("light", "dark"):
            with playground() as (simulator, server):
                gallery(browser, script, simulator, server, theme)
        with playground() as (simulator, server):
            dashboard(browser, simulator, server)
        terminal(browser)
        figures(Path(folder))


@contextmanager
def playground() -> Iterator[tuple[Simulator, Server]]:
    """Run a simulator, and a server with a limit of four concurrent predictions."""
    with (
        tempfile.TemporaryDirectory() as folder,
        running_simulator(predict_seconds=SECONDS) as simulator,
        running_server(
            environment(simulator, Path(folder))
            | {"REPLICATE_CONCURRENT_LIMIT": "4", "REPLICATE_REQUESTS_PER_MINUTE": "600"}
        ) as server,
    ):
        yield simulator, server


def gallery(
    browser: Browser, script: str, simulator: Simulator, server: Server, theme: str
) -> None:
    """Take a picture of the gallery in the middle of a batch."""
    ground, line = ("#ffffff", "#e3e4dd") if theme == "light" else ("#1b1c1a", "#343733")
    context, host = open_host(
        browser, server.url, script, width=800, ground=ground, device_scale_factor=1.25
    )
    host.page.set_viewport_size({"width": 800, "height": 1000})
    host.page.add_style_tag(content=IN_A_CONVERSATION % line)
    host.show(
        "generate_images",
        {"tasks": [{**each, "aspect_ratio": "4:3"} for each in TASKS]},
        context={"theme": theme},
        waits=False,
    )
    expect(host.view.locator("a.picture[data-loaded]")).to_have_count(6)
    settle(host.page)
    write(host.page.locator("body").screenshot(), f"gallery-{theme}.png")
    context.close()


def dashboard(browser: Browser, simulator: Simulator, server: Server) -> None:
    """Take a picture of the dashboard while two batches share a limit."""
    admin = {"x_admin_api_key": ADMIN_KEY}
    server.post("/global-semaphores", {"semaphore_id": "posters", "limit": 3}, **admin)
    context = browser.new_context(
        viewport={"width": 1120, "height": 770}, device_scale_factor=1.25, color_scheme="light"
    )
    page = context.new_page()
    page.goto(server.url)
    body = {"tasks": TASKS, "external_semaphore_id": "posters"}
    server.post("/generate-batch", body, prefer="respond-async")
    expect(page.locator(".thumbnail[data-loaded] img")).to_have_count(6)
    settle(page)
    write(page.screenshot(), "dashboard.png")
    context.close()


def terminal(browser: Browser) -> None:
    """Take a picture of `replicate-mcp demo` on a terminal with half of its images made."""
    page = browser.new_page(device_scale_factor=1.5)
    library = installed(Path(__file__).parent / "terminal") / "@xterm" / "xterm"
    page.set_content("<div id='terminal' style='display: inline-block; padding: 14px'></div>")
    page.add_style_tag(path=library / "css" / "xterm.css")
    page.add_script_tag(path=library / "lib" / "xterm.js")
    page.evaluate(
        "([written, cols, rows]) => new Promise((done) => {"
        " const theme = { background: '#1b1c1a', foreground: '#eceee9', cursor: 'transparent' };"
        " const place = document.getElementById('terminal');"
        " place.style.background = theme.background;"
        " const terminal = new Terminal({ cols, rows, theme, fontSize: 14, scrollback: 0 });"
        " terminal.open(place);"
        " terminal.write(written, done); })",
        [run_until_half("replicate-mcp demo --tasks 60"), COLUMNS, LINES],
    )
    settle(page)
    write(page.locator("#terminal").screenshot(), "terminal.png")
    page.close()


def figures(folder: Path) -> None:
    """Plot the benchmarks for every limit and number of servers, in about 20 minutes."""
    plot, fleet = folder / "figures.png", folder / "fleet.json"
    engine = [str(ROOT / "benchmarks" / "engine.py"), "--full", "--runs", "1", "--plot", str(plot)]
    for program in (
        [str(ROOT / "benchmarks" / "fleet.py"), "--backends", "redis", "--results", str(fleet)],
        [*engine, "--fleet", str(fleet)],
    ):
        subprocess.run([sys.executable, *program], check=True)
    write(plot.read_bytes(), plot.name)


def run_until_half(command: str) -> str:
    """Return the terminal output of `command` up to when at least 30 of its 60 images are done."""
    process, terminal = pty.fork()
    if process == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES=str(LINES))
        os.execv(sys.executable, [sys.executable, "-m", *command.replace("-", "_", 1).split()])
    written = f"$ {command}\r\n"
    while not re.search(r"[3-4]\d/60 done", written):
        written += os.read(terminal, 65_536).decode(errors="replace")
    # A frame is complete when the next one begins.
    whole, _, _ = written.rpartition("\r\x1b[2K\x1b[1A")
    os.kill(process, signal.SIGINT)
    with suppress(OSError):  # raised at the end of the terminal's output
        while os.read(terminal, 65_536):
            pass
    os.waitpid(process, 0)
    os.close(terminal)
    return whole


def settle(page: Page) -> None:
    """Wait until the page's fade-in animations have ended."""
    page.wait_for_timeout(700)


def write(picture: bytes, name: str) -> None:
    """Write a picture with 256 colours, in the quantization that is closer to the original."""
    whole = Image.open(io.BytesIO(picture)).convert("RGB")
    choices = [
        whole.quantize(palette=whole.quantize(256, method))
        for method in (Image.Quantize.MEDIANCUT, Image.Quantize.FASTOCTREE)
    ]
    nearest = min(choices, key=lambda each: difference(whole, each))
    nearest.save(FOLDER / name, optimize=True)
    print(f"{FOLDER.relative_to(ROOT) / name}: {(FOLDER / name).stat().st_size // 1000} kB")


def difference(picture: Image.Image, other: Image.Image) -> float:
    """Return the difference between two blurred pictures, so that dithering is ignored."""
    soft = ImageFilter.GaussianBlur(2)
    pair = (each.convert("RGB").filter(soft) for each in (picture, other))
    return sum(ImageStat.Stat(ImageChops.difference(*pair)).rms)


if __name__ == "__main__":
    main()
