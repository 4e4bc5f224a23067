"""Prompts of `install`: for the token and for confirmation."""

import sys
from contextlib import suppress

from replicate_mcp.cli.executable import as_typed
from replicate_mcp.errors import InvalidInput
from replicate_mcp.platform.terminal import is_msys_terminal, is_terminal

TOKEN = "REPLICATE_API_TOKEN"  # noqa: S105 - the setting's name
BASE_URL = "REPLICATE_BASE_URL"

PROMPTED_LATER = "(your token, asked for without --dry-run)"


def checked_token(token: str) -> str:
    """Return `token` unchanged.

    Raises:
        InvalidInput: the token is a placeholder.
    """
    from replicate_mcp.placeholders import NOT_A_TOKEN, placeholder

    if (what := placeholder(token)) is not None:
        raise InvalidInput(NOT_A_TOKEN.format(what=what))
    return token


def prompt_token() -> str:
    """Prompt for the token without echo.

    Raises:
        InvalidInput: stdin is not a console, or nothing was entered.
    """
    from getpass import getpass

    token = ""
    without_account = (
        f"Without an account, `{as_typed('simulate')}` stands in for Replicate: set {BASE_URL} and "
        f"{TOKEN} as it says when it starts."
    )
    if not sys.stdin.isatty():
        # Input can be hidden only in a console.
        terminal = "PowerShell" if is_msys_terminal(sys.stdin) else "a terminal"
        raise InvalidInput(
            f"No token is set: put one from https://replicate.com/account/api-tokens into {TOKEN}, "
            f"or run this in {terminal}, to be asked for it. {without_account}"
        )
    print(without_account, file=sys.stderr)
    with suppress(EOFError):
        token = getpass("Replicate API token (from replicate.com/account/api-tokens; not shown): ")
    if not token.strip():
        raise InvalidInput("No token was given; nothing was changed.")
    return checked_token(token.strip())


def asked_later() -> str:
    """Return the text that stands for the token in a dry run."""
    return PROMPTED_LATER


def confirm() -> bool:
    """Return whether the user agrees to write the change."""
    if not is_terminal(sys.stdin):
        print("Add --yes to write it without being asked.", file=sys.stderr)
        return False
    return _is_yes("Write this?")


def agreed_to_replace(name: str) -> bool:
    """Return whether the user agrees to replace another server; `--yes` does not cover that."""
    if not is_terminal(sys.stdin):
        print(
            f"Another server is called {name} there: give this one another name with --name, "
            "or run this in a terminal, to be asked whether to replace the other.",
            file=sys.stderr,
        )
        return False
    return _is_yes(f'Replace the other server "{name}"?')


def _is_yes(question: str) -> bool:
    with suppress(EOFError):
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    print(file=sys.stderr)
    return False
