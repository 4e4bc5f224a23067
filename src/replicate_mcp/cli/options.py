"""Options shared by several commands, and the types of their values."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

DEFAULT_MAX_MB = 200
"""Default maximum size of a saved file, in megabytes."""


def whole_number(maximum: int) -> Callable[[str], int]:
    """Return an argparse type for integers from 1 to `maximum`."""

    def number(text: str) -> int:
        if not 1 <= int(text) <= maximum:
            raise argparse.ArgumentTypeError(f"must be from 1 to {maximum}")
        return int(text)

    return number


def folder(text: str) -> Path:
    """Return a folder's path for argparse, with a leading `~` expanded."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty name is no folder (. is this one)")
    expanded = os.path.expanduser(text)  # noqa: PTH111 - `Path.expanduser` raises without a home.
    if expanded.startswith("~"):
        raise argparse.ArgumentTypeError(
            f"the home folder of {text!r} is not known (./{text} is a folder of that name)"
        )
    return Path(expanded)


def add_max_mb(parser: argparse.ArgumentParser, condition: str = "") -> None:
    """Add `--max-mb`, with `condition` prepended to its help."""
    parser.add_argument(
        "--max-mb",
        type=whole_number(1_000_000),
        metavar="N",
        help=f"{condition}most megabytes of one file ({DEFAULT_MAX_MB}); a larger one is not saved",
    )
