"""What `install` asks the user: for the token, and whether to write."""

import sys
from contextlib import suppress

from replicate_mcp.cli.executable import as_typed
from replicate_mcp.errors import InvalidInput
from replicate_mcp.platform.terminal import is_msys_terminal, is_terminal

TOKEN = "REPLICATE_API_TOKEN"  # noqa: S105 - the setting's name
BASE_URL = "REPLICATE_BASE_URL"

PROMPTED_LATER = "(your token, asked for without --dry-run)"


def checked_token(token: str) -> str:
    """Return a token as it is.

    Raises:
        InvalidInput: it is text that stands for one.
    """
    from replicate_mcp.placeholders import NOT_A_TOKEN, placeholder

    if (what := placeholder(token)) is not None:
        raise InvalidInput(NOT_A_TOKEN.format(what=what))
    return token


def prompt_token() -> str:
    """The token, typed unseen.

    Raises:
        InvalidInput: nobody is there to type it, or nothing was typed.
    """
    from getpass import getpass

    token = ""
    without_account = (
        f"Without an account, `{as_typed('simulate')}` stands in for Replicate: set {BASE_URL} and "
        f"{TOKEN} as it says when it starts."
    )
    if not sys.stdin.isatty():
        # What is typed can be hidden in a console alone.
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
    """Return what stands for the token in a dry run."""
    return PROMPTED_LATER


def confirm() -> bool:
    """Return whether the change is to be written."""
    if not is_terminal(sys.stdin):
        print("Add --yes to write it without being asked.", file=sys.stderr)
        return False
    return _is_yes("Write this?")


def agreed_to_replace(name: str) -> bool:
    """Return whether another server may go; `--yes` does not say so."""
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
