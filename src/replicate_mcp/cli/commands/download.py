"""`replicate-mcp download`: save a batch's images on this machine before their URLs expire."""

import argparse
from typing import TYPE_CHECKING

from replicate_mcp.cli.main import OK, SOME_FAILED
from replicate_mcp.cli.options import add_max_mb, folder

if TYPE_CHECKING:
    from replicate_mcp.app.app import App


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the batch to save and the target folder."""
    parser.add_argument("batch", metavar="BATCH", help="a batch's id, or `latest`")
    parser.add_argument(
        "--to", type=folder, required=True, metavar="DIR", help="created if missing"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there")
    add_max_mb(parser)


def run(arguments: argparse.Namespace) -> int:
    """Save all files of a batch."""
    from replicate_mcp.cli.app_session import run_in_app
    from replicate_mcp.settings_loader import load_settings

    settings = load_settings(env_file=arguments.env_file)
    return run_in_app(settings, lambda app: _download(app, arguments))


async def _download(app: "App", arguments: argparse.Namespace) -> int:
    from replicate_mcp.cli.app_session import result_of
    from replicate_mcp.cli.downloader import Saver
    from replicate_mcp.cli.printing import say

    result = await result_of(app, arguments.batch)
    saver = Saver(
        arguments.to, app.settings.replicate_base_url, arguments.overwrite, arguments.max_mb
    )
    code = await saver.save_and_report(result)
    if result.pending_count:
        say(f"The batch still runs, {result.pending_count} of its tasks are to come.")
        return SOME_FAILED
    return OK if code == OK else SOME_FAILED
