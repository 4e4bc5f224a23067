"""`replicate-mcp demo`: run the simulator, the real server and a real MCP client together."""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replicate_mcp.cli.main import OK, SOME_FAILED
from replicate_mcp.cli.options import whole_number
from replicate_mcp.errors import InvalidInput, ReplicateUnavailable

if TYPE_CHECKING:
    from mcp import StdioServerParameters

    from replicate_mcp.cli.progress_bar import ProgressBar
    from replicate_mcp.cli.sample_tasks import Task
    from replicate_mcp.simulator import Simulator

ACCOUNT = "demo"
TOKEN = f"r8_{ACCOUNT}"
"""Token for the simulator, which accepts any `r8_NAME` and uses NAME as the account."""

OUT_OF_THE_WAY = 60_000
"""Creations per minute, set high enough not to matter: the demo shows the concurrency limit."""

SIMULATOR_POLL_SECONDS = 0.1
"""Interval at which the simulator is polled for the number of predictions in flight."""

SHOWN_FILES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for the size and duration of the demo."""
    parser.add_argument(
        "--tasks", type=whole_number(1_000), default=24, metavar="N", help="images (24)"
    )
    parser.add_argument(
        "--limit",
        type=whole_number(1_000),
        default=8,
        metavar="L",
        help="predictions in flight (8)",
    )
    parser.add_argument(
        "--seconds", default="0.8-2", help="how long a prediction takes (0.8-2)", metavar="S"
    )
    parser.add_argument(
        "--keep", action="store_true", help="keep the simulator, and so the URLs, until Enter"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; return 0 if every image was made within the limit."""
    import tempfile

    from replicate_mcp.cli.commands.simulate import require_simulator
    from replicate_mcp.cli.sample_tasks import sample_tasks
    from replicate_mcp.simulator import SimulatorSettings, running_simulator_process

    require_simulator()
    try:
        settings = SimulatorSettings().changed(
            {
                "predict_seconds": arguments.seconds,
                "requests_per_minute": OUT_OF_THE_WAY,
                "burst": OUT_OF_THE_WAY,
                "other_requests_per_minute": OUT_OF_THE_WAY,
                "other_burst": OUT_OF_THE_WAY,
            }
        )
    except ValueError:
        raise InvalidInput("--seconds takes a number like 1.5, or a range like 0.8-2.") from None
    tasks = sample_tasks(arguments.tasks)
    _explain(arguments)
    with (
        # On Windows, another program can hold a file open for a moment.
        tempfile.TemporaryDirectory(
            prefix="replicate-mcp-demo-", ignore_cleanup_errors=True
        ) as folder,
        running_simulator_process(settings) as simulator,
    ):
        results, seconds = _play(simulator, Path(folder), tasks, arguments.limit)
        _show_files(results)
        code = _conclude(simulator, results, seconds, arguments)
        _part(simulator, arguments.keep)
    return code


def _explain(arguments: argparse.Namespace) -> None:
    number = f"{arguments.tasks} image" + ("s" if arguments.tasks > 1 else "")
    seconds = arguments.seconds.replace("-", " to ")
    _print_next_steps("Three programs on this machine, and no account:")
    for name, what in (
        ("simulator", f"stands in for Replicate's API; a prediction takes {seconds} s there"),
        (
            "server",
            f"replicate-mcp as a host starts it, with a limit of {arguments.limit} at once",
        ),
        ("client", f"asks the server for {number}, in one call of its tool generate_images"),
    ):
        _print_next_steps(what, lead=f"  {name:<9}  ")
    _say()


def _play(
    simulator: "Simulator", folder: Path, tasks: "list[Task]", limit: int
) -> tuple[list[dict[str, Any]], float]:
    """Run the client; return the pages of its result and the elapsed seconds."""
    import anyio
    from mcp import StdioServerParameters

    from replicate_mcp.cli.progress_bar import ProgressBar

    settings_file = folder / "none.env"
    settings_file.touch()
    server = StdioServerParameters(
        command=sys.executable,
        # An empty settings file keeps the user's own settings out of the demo.
        args=["-P", "-m", "replicate_mcp", "serve", "--env-file", str(settings_file)],
        env={
            "REPLICATE_API_TOKEN": TOKEN,
            "REPLICATE_BASE_URL": simulator.url,
            "REPLICATE_MCP_BACKEND": f"sqlite:///{folder / 'state.db'}",
            "REPLICATE_CONCURRENT_LIMIT": str(limit),
            "REPLICATE_REQUESTS_PER_MINUTE": str(OUT_OF_THE_WAY),
        },
    )
    with (folder / "server.log").open("w+") as log, ProgressBar(len(tasks), limit=limit) as bar:
        try:
            return anyio.run(_ask, server, log, simulator, tasks, bar)
        except ExceptionGroup as group:
            log.seek(0)
            # Printed directly, since the error's message is limited to one line.
            print(log.read(), end="", file=sys.stderr)
            reason = repr(group.exceptions[0])
            raise ReplicateUnavailable(f"The server of the demo failed: {reason}") from group


async def _ask(
    server: "StdioServerParameters",
    log: Any,
    simulator: "Simulator",
    tasks: "list[Task]",
    bar: "ProgressBar",
) -> tuple[list[dict[str, Any]], float]:
    import anyio
    from mcp import Client
    from mcp.client.stdio import stdio_client

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        # Progress messages count finished tasks; predictions in flight have their own bar.
        bar.update(progress, message if message and progress else f"0/{len(tasks)} done")

    async def watch_limit() -> None:
        while True:
            stats = await anyio.to_thread.run_sync(simulator.stats)
            bar.show_in_flight(stats["accounts"].get(ACCOUNT, {}).get("in_flight", 0))
            await anyio.sleep(SIMULATOR_POLL_SECONDS)

    async def call(tool: str, **arguments: Any) -> dict[str, Any]:
        answer = await client.call_tool(tool, arguments, progress_callback=on_progress)
        if answer.is_error or not isinstance(answer.structured_content, dict):
            raise ReplicateUnavailable(f"{tool} was refused: {answer.content}")
        return answer.structured_content

    async with Client(stdio_client(server, errlog=log)) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(watch_limit)
            started = time.perf_counter()
            pages = [await call("generate_images", tasks=tasks)]
            while "next_step" in pages[-1]:
                last = pages[-1]
                pages.append(
                    await call(
                        "get_batch",
                        batch_id=last["batch_id"],
                        after=last["cursor"],
                        wait_seconds=45,
                    )
                )
            seconds = time.perf_counter() - started
            group.cancel_scope.cancel()
        bar.hide_in_flight()
        last = pages[-1]
        bar.update(last["successful_count"] + last["failed_count"], f"{len(tasks)} done")
    return pages, seconds


def _show_files(pages: list[dict[str, Any]]) -> None:
    from replicate_mcp.cli.printing import cell
    from replicate_mcp.text import one_line

    rows = sorted(
        (row for page in pages for row in page["successful_results"]),
        key=lambda row: int(row["task_index"]),
    )
    files = [
        (cell(file["filename"]), cell(file["url"]))
        for row in rows
        for file in row["generated_files"]
    ]
    width = max((len(name) for name, _ in files[:SHOWN_FILES]), default=0)
    _say()
    for name, url in files[:SHOWN_FILES]:
        _say(f"  {name:<{width}}  ", end="")
        _say(url, style="cyan")
    if len(files) > SHOWN_FILES:
        _say(f"  … and {len(files) - SHOWN_FILES} more", style="dim")
    for page in pages:
        for failed in page["failed_results"]:
            _say(f"  {cell(failed['output_filename'])}: {one_line(failed['error'])}", style="red")
    _say()


def _conclude(
    simulator: "Simulator",
    pages: list[dict[str, Any]],
    seconds: float,
    arguments: argparse.Namespace,
) -> int:
    """Print the summary from the simulator's counters; return the exit code."""
    from replicate_mcp.cli.utilisation import fullness

    made, limit = pages[-1]["successful_count"], arguments.limit
    seen = fullness(simulator.timeline(ACCOUNT), limit=limit, tasks=arguments.tasks)
    within = seen.most <= limit
    kept = f"The limit of {limit} was " + (
        "never exceeded" if within else f"EXCEEDED: {seen.most} were in flight"
    )
    if seen.share is not None:
        # Rounded down, so that the figure never overstates.
        kept += f" and kept {int(seen.share * 100)}% full while images waited"
    images = f"{made} image" + ("s" if made != 1 else "")
    if seen.prediction_seconds > seconds:
        kept += f" (one at a time would have taken {seen.prediction_seconds:.1f} s)"
    _print_next_steps(f"{images} in {seconds:.1f} s. {kept}.", style="bold")
    return OK if within and made == arguments.tasks else SOME_FAILED


def _part(simulator: "Simulator", keep: bool) -> None:
    from replicate_mcp.cli.executable import as_typed

    if keep:
        _print_next_steps(
            f"The simulator at {simulator.url} goes on, and the URLs work, until you press Enter."
        )
        sys.stdin.readline()
    else:
        again = as_typed("demo", "--keep")
        _print_next_steps("The simulator and its URLs are gone now. To view the images:")
        _say(f"  {again}")


def _print_next_steps(sentence: str, *, lead: str = "", style: str = "") -> None:
    """Print `lead` in bold followed by `sentence`, wrapped between words on a terminal."""
    from rich.text import Text

    from replicate_mcp.cli.console import PrintableConsole
    from replicate_mcp.cli.printing import wrapped

    console = PrintableConsole()
    line = lead + sentence
    if console.is_terminal:
        line = wrapped(line, console.width, hanging=len(lead))
    text = Text(line, style=style)
    text.stylize("bold", 0, len(lead))
    console.print(text, soft_wrap=True)
    sys.stdout.flush()


def _say(text: str = "", *, style: str = "", end: str = "\n") -> None:
    from rich.text import Text

    from replicate_mcp.cli.console import PrintableConsole

    # Soft wrapping by the terminal keeps a URL in one piece.
    PrintableConsole().print(Text(text, style=style), soft_wrap=True, end=end)
    sys.stdout.flush()
