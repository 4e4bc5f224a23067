"""Options that several commands have, and the types of their values."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

DEFAULT_MAX_MB = 200
"""Most megabytes of one file that is saved."""


def whole_number(maximum: int) -> Callable[[str], int]:
    """Return a type for argparse: a whole number from 1 to `maximum`."""

    def number(text: str) -> int:
        if not 1 <= int(text) <= maximum:
            raise argparse.ArgumentTypeError(f"must be from 1 to {maximum}")
        return int(text)

    return number


def folder(text: str) -> Path:
    """Return a folder's path for argparse; `~` is the home folder, wherever the shell left it."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty name is no folder (. is this one)")
    expanded = os.path.expanduser(text)  # noqa: PTH111 - `Path.expanduser` raises without a home.
    if expanded.startswith("~"):
        raise argparse.ArgumentTypeError(
            f"the home folder of {text!r} is not known (./{text} is a folder of that name)"
        )
    return Path(expanded)


def add_max_mb(parser: argparse.ArgumentParser, condition: str = "") -> None:
    """Add `--max-mb`; `condition` begins its help where the option needs another one."""
    parser.add_argument(
        "--max-mb",
        type=whole_number(1_000_000),
        metavar="N",
        help=f"{condition}most megabytes of one file ({DEFAULT_MAX_MB}); a larger one is not saved",
    )
