"""`replicate-mcp semaphores`: show, watch, set, unset and remove limits."""

import argparse
from typing import TYPE_CHECKING

from replicate_mcp.cli.main import OK
from replicate_mcp.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from replicate_mcp.app.app import App
    from replicate_mcp.semaphores.permit_store import HolderUsage, SemaphoreState
    from replicate_mcp.semaphores.status import SemaphoreStatus

WATCH_POLL_SECONDS = 0.25
"""Polling interval of `--watch`."""

BAR_WIDTHS = ((100, 24), (76, 8))
"""Pairs of minimum terminal width and bar width, in columns; narrower terminals get no bar."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the operation and the output options."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="set NAME LIMIT | unset NAME | remove NAME",
        help="set a limit by hand, which stays until it is set again or unset; or remove a name. "
        "NAME is a registered or a new name, or `replicate-global` for your account's own limit",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="show them live, until Ctrl-C; elsewhere than on a terminal, after each change",
    )
    parser.add_argument("--json", action="store_true", help="print JSON; with --watch, on one line")


def run(arguments: argparse.Namespace) -> int:
    """List or watch the semaphores, or change one."""
    from replicate_mcp.cli.app_session import run_in_app
    from replicate_mcp.settings_loader import load_settings

    settings = load_settings(env_file=arguments.env_file)
    match arguments.words:
        case []:
            work = _watch if arguments.watch else _list
            return run_in_app(settings, lambda app: work(app, arguments.json))
        case ["set", name, limit] if limit.isdecimal():
            return run_in_app(settings, lambda app: _set(app, name, int(limit)))
        case ["set", *_]:
            raise InvalidInput("Say which and how many, like: semaphores set thumbnails 5")
        case ["unset", name]:
            return run_in_app(settings, lambda app: _unset(app, name))
        case ["remove", name]:
            return run_in_app(settings, lambda app: _remove(app, name))
        case ["unset" | "remove" as word, *_]:
            raise InvalidInput(f"Give one name, like: semaphores {word} thumbnails")
        case [word, *_]:
            raise InvalidInput(
                f"'{word}' is not known here: use `semaphores set NAME LIMIT`, `semaphores unset "
                "NAME` or `semaphores remove NAME`."
            )
    return OK


async def _set(app: "App", name: str, limit: int) -> int:
    from replicate_mcp.cli.executable import as_typed
    from replicate_mcp.cli.printing import say

    _print_state(await app.semaphores.set(name, limit))
    say(
        "It stays until it is set again, whatever processes declare. To drop it:",
        as_typed("semaphores", "unset", name),
    )
    return OK


async def _unset(app: "App", name: str) -> int:
    from replicate_mcp.cli.printing import print_row, say

    state = await app.semaphores.unset(name)
    if state is None:
        print_row(f"{name}: removed, since no running process has registered it.")
    else:
        _print_state(state)
        say("This is the lowest limit that running processes declare.")
    return OK


async def _remove(app: "App", name: str) -> int:
    from replicate_mcp.cli.printing import print_row

    await app.semaphores.remove(name)
    print_row(f"{name}: removed.")
    return OK


def _print_state(state: "SemaphoreStatus") -> None:
    from replicate_mcp.cli.printing import print_row

    in_use = f"{state.in_use} in use, {state.waiting} waiting"
    print_row(f"{state.name}: {state.limit} at once, {in_use}.")


async def _list(app: "App", as_document: bool) -> int:
    from replicate_mcp.cli.console import PrintableConsole
    from replicate_mcp.cli.printing import print_json, say
    from replicate_mcp.cli.tables import print_apart

    states, shares = await _show_table(app)
    console = PrintableConsole()
    if as_document:
        print_json(_document(states, shares))
    elif not states:
        say("No process uses a semaphore now, and none was set by hand.")
    elif not console.is_terminal:
        _print_rows(app, states)
    else:
        print_apart(console, _table(app, states, shares, console.width))
    return OK


def _document(
    states: "list[SemaphoreState]", shares: "list[HolderUsage]"
) -> list[dict[str, object]]:
    from dataclasses import asdict

    return [
        asdict(state)
        | {
            "available": state.available,
            "holders": [asdict(each) for each in shares if each.semaphore == state.name],
        }
        for state in states
    ]


def _print_rows(app: "App", states: "list[SemaphoreState]") -> None:
    from replicate_mcp.cli.printing import print_row

    for state in states:
        counts = map(str, (state.limit, state.in_use, state.waiting))
        print_row(_shown(app, state.name), *counts)


async def _watch(app: "App", as_document: bool) -> int:
    from replicate_mcp.cli.console import PrintableConsole

    console = PrintableConsole()
    if as_document or not console.is_terminal:
        await _watch_in_lines(app, as_document)
    else:
        await _watch_live(app, console)
    return OK


async def _watch_in_lines(app: "App", as_document: bool) -> None:
    """Print the semaphores after each change: one line of JSON, or rows after an empty line."""
    import json
    import sys

    import anyio

    from replicate_mcp.cli.interrupts import Interrupts

    printed: object = None
    with Interrupts(before_leaving=lambda: None) as interrupts:
        while not interrupts.interrupted.is_set():
            states, shares = await _show_table(app)
            found = _document(states, shares)
            counted = [
                (each["name"], each["limit"], each["in_use"], each["waiting"]) for each in found
            ]
            now = found if as_document else counted
            if now != printed:
                if as_document:
                    print(json.dumps(found))
                else:
                    if printed is not None:
                        print()
                    _print_rows(app, states)
                sys.stdout.flush()
                printed = now
            with anyio.move_on_after(WATCH_POLL_SECONDS):
                await interrupts.interrupted.wait()


async def _watch_live(app: "App", console: "Console") -> None:
    import anyio
    from rich.live import Live

    from replicate_mcp.cli.interrupts import Interrupts

    with (
        Live(
            console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        ) as live,
        Interrupts(before_leaving=live.stop) as interrupts,
    ):
        while not interrupts.interrupted.is_set():
            live.update(_table(app, *await _show_table(app), console.width), refresh=True)
            with anyio.move_on_after(WATCH_POLL_SECONDS):
                await interrupts.interrupted.wait()


async def _show_table(app: "App") -> "tuple[list[SemaphoreState], list[HolderUsage]]":
    """Return all semaphores with their usage by holder.

    They are not filtered by caller: any user who can open the backend can read all of its state.
    """
    backend = await app.backend()
    return await backend.semaphores(), await backend.usage_by_holder()


def _shown(app: "App", name: str) -> str:
    from replicate_mcp.semaphores.names import account_of, is_account

    own = app.settings.default_semaphore
    return f"{own} ({account_of(name)})" if is_account(name) else name


def _table(
    app: "App", states: "list[SemaphoreState]", shares: "list[HolderUsage]", width: int
) -> "Table":
    from rich.text import Text

    from replicate_mcp.cli.printing import cell
    from replicate_mcp.cli.tables import plain_table

    table = plain_table()
    bar_width = next((bar for columns, bar in BAR_WIDTHS if width >= columns), 0)
    table.add_column("semaphore", overflow="fold")
    table.add_column("", width=bar_width)
    used = max((len(_in_use(state)) for state in states), default=0)
    table.add_column("in use", justify="right", min_width=used)
    table.add_column("waiting", justify="right", min_width=len("waiting"))
    table.add_column("creations a minute", min_width=len("creations"))
    for state in states:
        table.add_row(
            Text(cell(_shown(app, state.name)), style="bold"),
            _bar(state, bar_width),
            _in_use(state),
            str(state.waiting),
            _rate(state),
        )
        for share in shares:
            if share.semaphore == state.name:
                who = cell(share.holder) or "left by a process that is gone"
                row = (f"  {who}", "", str(share.in_use), str(share.waiting), "")
                table.add_row(*row, style="dim")
    return table


def _in_use(state: "SemaphoreState") -> str:
    return f"{state.in_use} of {state.limit}"


def _bar(state: "SemaphoreState", width: int) -> str:
    filled = min(width, round(width * state.in_use / state.limit))
    return "█" * filled + "░" * (width - filled)


def _rate(state: "SemaphoreState") -> str:
    if state.requests_per_minute is None:
        return ""
    rate = f"{state.requests_per_minute:.3g}"
    if state.throttled_for is None:
        return rate
    return f"{rate}, throttled for {state.throttled_for:.0f} s"
