"""What `doctor` looks at, from the machine outwards: Python, the state, the token, Replicate."""

import os
import sqlite3
import stat
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata

from replicate_mcp.access import Caller
from replicate_mcp.app import App
from replicate_mcp.cli.serve import server_token_users
from replicate_mcp.cli.session import in_app, without_simulator
from replicate_mcp.errors import ReplicateMcpError, Unauthorized
from replicate_mcp.replicate_api.faults import Fault, Refusal
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.settings import Settings, not_heeded, state_file
from replicate_mcp.tasks.models import ModelName

LEAST_PYTHON = (3, 11)

TRY_ANOTHER = "check REPLICATE_API_TOKEN, or make one at https://replicate.com/account/api-tokens"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at, and a sentence on how it is and what to do."""

    what: str
    fine: bool
    sentence: str


def python() -> Check:
    """Whether this Python runs all of it."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        return Check("Python", False, f"{version} is too old: install {least} or newer.")
    try:
        import replicate  # noqa: F401
    except Exception as error:  # what its import raises on an unsupported Python is its own affair
        return Check(
            "Python",
            False,
            f"the replicate package does not load on {version} ({error}): use Python 3.12 or 3.13.",
        )
    client = metadata.version("replicate")
    return Check(
        "Python",
        True,
        f"{version}, with SQLite {sqlite3.sqlite_version} and the replicate package {client}.",
    )


def names(environ: Mapping[str, str]) -> list[Check]:
    """Names in the environment that are meant as settings and are none."""
    return [Check("settings", False, sentence) for sentence in not_heeded(environ)]


def surroundings(settings: Settings) -> list[Check]:
    """The state, then the token and what it opens."""

    async def look(app: App) -> list[Check]:
        state = await _state(app, settings)
        # Without its state the app cannot be asked anything, and nothing more can be said.
        return [
            state,
            *_folder(settings),
            *_images(settings),
            Check("who may use the server's token over HTTP", True, server_token_users(settings)),
            *(await _replicate(app) if state.fine else []),
        ]

    return in_app(settings, look)


async def _state(app: App, settings: Settings) -> Check:
    try:
        backend = await app.backend()
        await backend.semaphores()
    except ReplicateMcpError as error:
        return Check("state", False, str(error))
    path = state_file(settings.backend)
    if path is None:
        what = settings.backend.partition(":")[0]
        if advice := await backend.advice():
            return Check("state", False, f"{what} answers, but {' And '.join(advice)}")
        return Check("state", True, f"{what}, opened.")
    # Asking for the semaphores has cleared away the locks of the dead; one of the rest is ours.
    others = len(list(path.parent.glob(f"{path.name}.*.lock"))) - 1
    living = {0: "no other process uses it", 1: "1 other living process uses it"}
    said = living.get(others, f"{others} other living processes use it")
    return Check("state", True, f"{path} opens; {said}.")


def _folder(settings: Settings) -> Iterator[Check]:
    """Whether others on this machine can read prompts, or put a file of their own in place."""
    path = state_file(settings.backend)
    if path is None or os.name == "nt" or not path.exists():
        return
    mode = stat.S_IMODE(path.parent.stat().st_mode)
    if path.stat().st_mode & 0o077:
        yield Check("state file", False, f"others can read it: chmod 600 {path}")
    elif mode & 0o022 and not mode & stat.S_ISVTX:
        yield Check(
            "state folder",
            False,
            f"its mode {mode:03o} lets others write there: chmod 700 {path.parent}",
        )
    else:
        yield Check("state folder", True, f"mode {mode:03o}; the file is this user's alone.")


def _images(settings: Settings) -> Iterator[Check]:
    if settings.files is not None:
        there = settings.files.is_dir()
        said = "images in it can be named as inputs." if there else "no such folder: make it."
        yield Check("images", there, f"{settings.files}: {said}")


async def _replicate(app: App) -> list[Check]:
    base_url = app.settings.replicate_base_url
    # Without a token Replicate answers 401, which shows that it is there.
    caller = Caller("server", app.settings.token or "none")
    reached = Check("Replicate", True, f"{base_url} answers.")
    gateway = Gateway(caller.token, base_url)
    try:
        account = await gateway.account()
        model = await _default_model(app, gateway, account)
    except Refusal as refusal:
        said = f"Replicate answered {refusal.status} to it ({refusal.detail})"
        return [reached, _token(app, Check("token", False, f"{said}: {TRY_ANOTHER}."))]
    except Fault as fault:
        advice = "check the network, the proxy and REPLICATE_BASE_URL"
        said = (
            without_simulator(app.settings) or f"{base_url} cannot be reached ({fault}): {advice}."
        )
        unreached = Check("Replicate", False, said)
        return [unreached, _token(app, Check("token", False, "it could not be tried."))]
    finally:
        await gateway.aclose()
    known = Check("token", True, f"it belongs to the account {account}.")
    return [reached, _token(app, known), model, await _limits(app, caller)]


def _token(app: App, tried: Check) -> Check:
    """What trying the token told, if there is one."""
    try:
        app.caller()
    except Unauthorized as error:
        return Check("token", False, str(error))
    return tried


async def _default_model(app: App, gateway: Gateway, account: str) -> Check:
    name = app.settings.default_model
    advice = "set REPLICATE_MCP_DEFAULT_MODEL to one of `replicate-mcp models`"
    try:
        model = await (await app.models()).find(ModelName.parse(name), gateway, account)
    except ValueError as error:
        return Check("default model", False, f"{error}; {advice}.")
    except Fault as fault:
        return Check("default model", False, f"{name} could not be looked up ({fault}).")
    if model is None:
        return Check("default model", False, f"Replicate knows no {name}: {advice}.")
    if model.schema is None:
        return Check("default model", True, f"{name}; its inputs could not be had just now.")
    return Check("default model", True, f"{name} takes {len(model.schema.fields)} inputs.")


async def _limits(app: App, caller: Caller) -> Check:
    try:
        states = await app.semaphores.seen_by(caller)
    except ReplicateMcpError as error:
        return Check("limits", False, str(error))
    said = []
    for state in states:
        line = f"{state.name} {state.in_use} of {state.limit} in use, {state.waiting} waiting"
        if state.name == app.settings.default_semaphore:
            line += _other_limit(state.limit, app.settings.concurrent_limit)
        if state.requests_per_minute is not None:
            line += f", {state.requests_per_minute:g} creations a minute"
        if state.throttled_until is not None:
            line += f", throttled until {state.throttled_until:%H:%M:%S} UTC"
        said.append(line)
    return Check("limits", True, "; ".join(said) + ".")


def _other_limit(limit: int, setting: int) -> str:
    """Why an account's limit is another than this process's setting."""
    if limit == setting:
        return ""
    # The lowest of what processes declare rules; only a hand can have set a higher one.
    lower = ", or another process's setting is lower" if limit < setting else ""
    return f" ({limit} was set by hand{lower}; the setting here says {setting})"
