"""Names of semaphores: registered names, and the names of accounts' own semaphores."""

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from replicate_mcp.errors import InvalidInput, SemaphoreInUse

if TYPE_CHECKING:
    from replicate_mcp.semaphores.permit_store import SemaphoreState

MAX_LIMIT = 10_000
"""Largest valid limit, above what any account allows; a larger one is probably a typing error."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ACCOUNT_PREFIX = "account:"


def account_semaphore(account: str) -> str:
    """Return the backend's name of an account's own semaphore."""
    return _ACCOUNT_PREFIX + account


def is_account(semaphore: str) -> bool:
    """Return whether `semaphore` is an account's own."""
    return semaphore.startswith(_ACCOUNT_PREFIX)


def account_of(semaphore: str) -> str:
    """Return the account whose own semaphore `semaphore` is."""
    return semaphore.removeprefix(_ACCOUNT_PREFIX)


def check_name(name: object) -> str:
    """Return `name` if it is a valid name to register.

    Raises:
        InvalidInput: it is not; the message describes a valid name.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidInput(
            f"semaphore {str(name)[:60]!r} is not a name: use 1 to 100 letters, digits, '.', '_' "
            "and '-', beginning with a letter or a digit."
        )
    return name


def check_limit(limit: object) -> int:
    """Return `limit` if it is valid.

    Raises:
        InvalidInput: it is not a whole number from 1 to `MAX_LIMIT`.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_LIMIT:
        raise InvalidInput(f"limit {limit!r} must be a whole number from 1 to {MAX_LIMIT}.")
    return limit


def visible_to(
    account: str, states: Iterable["SemaphoreState"], *, own_name: str
) -> list["SemaphoreState"]:
    """Return the account's own semaphore as `own_name`, then the registered ones."""
    own, named = [], []
    for state in states:
        if not is_account(state.name):
            named.append(state)
        elif account_of(state.name) == account:
            own.append(replace(state, name=own_name))
    return own + named


def check_removable(name: str, *, in_use: int, waiting: int, processes: int) -> None:
    """Check that a name to remove is not in use.

    Args:
        name: the name to remove.
        in_use: number of its units that are held.
        waiting: number of starts that wait for it.
        processes: number of other living processes that have registered it.

    Raises:
        SemaphoreInUse: the name is in use.
    """
    if in_use or waiting:
        raise SemaphoreInUse(
            f"semaphore '{name}' is in use ({in_use} in use, {waiting} waiting): remove it when "
            "its batches have ended, or cancel them."
        )
    if processes:
        others = "another running process" if processes == 1 else f"{processes} other processes"
        raise SemaphoreInUse(
            f"semaphore '{name}' is registered by {others}: stop them before you remove it. "
            f"`replicate-mcp semaphores unset {name}` only drops the limit that was set by hand."
        )


def unknown_semaphore(name: str, known: Iterable[str]) -> str:
    """Return the error message for a name that is not registered."""
    names = sorted(each for each in known if not is_account(each))
    there = f"known are {', '.join(names)}" if names else "none is registered"
    return f"semaphore '{name}' is not registered ({there}): register it first, or leave it out."
