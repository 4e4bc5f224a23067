"""`replicate-mcp batches`: list the batches of the last 24 hours from the journal."""

import argparse
from typing import TYPE_CHECKING

from replicate_mcp.cli.main import OK

if TYPE_CHECKING:
    from replicate_mcp.app.app import App
    from replicate_mcp.tasks.result import ListedBatch

MAX_BATCHES = 1_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the batch to show and the output format."""
    parser.add_argument(
        "batch", nargs="?", metavar="BATCH", help="the results of this one; or `latest`"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """List the caller's batches, or show one."""
    from replicate_mcp.cli.app_session import run_in_app
    from replicate_mcp.settings_loader import load_settings

    settings = load_settings(env_file=arguments.env_file)
    if arguments.batch is None:
        return run_in_app(settings, lambda app: _list(app, arguments.json))
    return run_in_app(settings, lambda app: _show(app, arguments.batch, arguments.json))


async def _show(app: "App", batch: str, as_document: bool) -> int:
    from replicate_mcp.cli import output
    from replicate_mcp.cli.app_session import result_of
    from replicate_mcp.cli.printing import say

    result = await result_of(app, batch)
    output.show(result, as_document=as_document)
    say(output.summary(result))
    return OK


async def _list(app: "App", as_document: bool) -> int:
    from replicate_mcp.cli.console import PrintableConsole
    from replicate_mcp.cli.printing import NO_PROMPT, cell, print_json, print_row, say
    from replicate_mcp.cli.tables import print_table
    from replicate_mcp.tasks.result import as_json
    from replicate_mcp.text import one_line

    found = await app.batches.list(app.access.local_reader(), limit=MAX_BATCHES)
    console = PrintableConsole()
    if as_document:
        print_json([as_json(each) for each in found])
    elif not found:
        say("There is no batch of the last 24 hours.")
    elif not console.is_terminal:
        for each in found:
            counts = map(str, (each.successful_count, each.failed_count, each.total_tasks))
            began = each.created_at.isoformat(timespec="seconds")
            prompt = one_line(each.first_prompt or "")
            print_row(each.batch_id, _status(each), *counts, began, prompt)
    else:
        rows = [
            (
                cell(each.batch_id),
                _ago(each),
                _status(each) + (", resumed" if each.resumed else ""),
                f"{each.successful_count} of {each.total_tasks}",
                one_line(each.first_prompt or NO_PROMPT),
            )
            for each in found
        ]
        columns = ("batch", "began", "status", "made", "first prompt")
        print_table(console, columns, rows, text="first prompt", cut=True)
    return OK


def _status(batch: "ListedBatch") -> str:
    return "stopping" if batch.is_stopping else batch.status


def _ago(batch: "ListedBatch") -> str:
    import time

    minutes = int(time.time() - batch.created_at.timestamp()) // 60
    if minutes < 1:
        return "just now"
    return f"{minutes} min ago" if minutes < 60 else f"{minutes // 60} h ago"
