"""`replicate-mcp retry`: make tasks of a batch again, in a new batch."""

import argparse
from typing import TYPE_CHECKING

from replicate_mcp.cli.commands.generate import (
    add_output_arguments,
    check_output_arguments,
    run_batch,
)
from replicate_mcp.tasks.task import MAX_TASKS

if TYPE_CHECKING:
    from replicate_mcp.app.app import App
    from replicate_mcp.app.preparation import BatchRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the batch, the tasks to make again, and the options for the output."""
    parser.add_argument(
        "batch",
        nargs="?",
        metavar="BATCH",
        help="a batch's id, or `latest`; otherwise the newest with something to retry",
    )
    parser.add_argument(
        "--task",
        type=_index,
        action="append",
        metavar="N",
        help="make this task again, even a made one; may be repeated. Otherwise: the failed ones "
        "that are retryable",
    )
    parser.add_argument(
        "--new-seed", action="store_true", help="choose new seeds; otherwise they stay the same"
    )
    add_output_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the new batch, print its results, and save the images if `--out` is given."""
    from replicate_mcp.cli.app_session import run_in_app
    from replicate_mcp.settings_loader import load_settings

    check_output_arguments(arguments)
    settings = load_settings(env_file=arguments.env_file)
    if arguments.out is not None:
        from replicate_mcp.cli.downloader import make_folder

        make_folder(arguments.out, [])  # Fails before anything is created.
    return run_in_app(settings, lambda app: _retry(app, arguments))


def _index(text: str) -> int:
    if not 0 <= int(text) < MAX_TASKS:
        raise argparse.ArgumentTypeError(f"must be from 0 to {MAX_TASKS - 1}")
    return int(text)


async def _retry(app: "App", arguments: argparse.Namespace) -> int:
    from replicate_mcp.app.preparation import BatchRequest, Retry
    from replicate_mcp.cli.app_session import result_of

    caller = app.caller()
    batch = arguments.batch or await app.batches.newest_to_retry(caller)
    if batch == "latest":
        batch = (await result_of(app, batch)).batch_id
    retry = Retry(batch, arguments.task, arguments.new_seed)

    async def request() -> "BatchRequest":
        return BatchRequest(retry=retry)

    return await run_batch(app, caller, arguments, request)
