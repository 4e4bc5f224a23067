"""Checks of `doctor`, in order: Python, settings, state, network, token, Replicate."""

import sqlite3
import stat
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from replicate_mcp.app.app import App
from replicate_mcp.cli.app_session import run_in_app
from replicate_mcp.cli.commands.serve import server_token_users
from replicate_mcp.errors import ReplicateMcpError, Unauthorized
from replicate_mcp.platform.files import has_modes
from replicate_mcp.platform.shell import command_line, move_command
from replicate_mcp.replicate_api.exceptions import ApiStatusError, ReplicateApiError, RequestNotSent
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.settings import BACKEND, Settings
from replicate_mcp.settings_loader import unknown_setting_warnings
from replicate_mcp.tasks.model_name import ModelName
from replicate_mcp.user_files import state_file

BASE_URL = "REPLICATE_BASE_URL"

MIN_PYTHON = (3, 11)

TRY_ANOTHER = "check REPLICATE_API_TOKEN, or make one at https://replicate.com/account/api-tokens"


@dataclass(frozen=True, slots=True)
class Check:
    """Result of one check.

    Attributes:
        what: name of the checked item.
        fine: whether the check passed.
        sentence: its state, and how to correct it if it failed.
        is_warning: whether the item works but could be improved.
    """

    what: str
    fine: bool
    sentence: str
    is_warning: bool = False


def python() -> Check:
    """Check that this Python version is supported and can import the dependencies."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < MIN_PYTHON:
        least = ".".join(map(str, MIN_PYTHON))
        return Check("Python", False, f"{version} is too old: install {least} or newer.")
    try:
        import replicate  # noqa: F401
    except Exception as error:  # an unsupported Python version can make the import raise anything
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
    """Return a failed check for each unknown setting in the environment."""
    return [
        Check("settings", False, sentence)
        for sentence in unknown_setting_warnings(environ).values()
    ]


def surroundings(settings: Settings, problems: Collection[str]) -> list[Check]:
    """Check the state, then the network, then the token and Replicate.

    Args:
        settings: settings of this process.
        problems: names of invalid settings; checks that depend on them are skipped.
    """

    async def check(app: App) -> list[Check]:
        checks = [] if BACKEND in problems else await _state(app, settings)
        has_state = bool(checks) and checks[0].fine
        checks += [
            *_folder(settings),
            *_images(settings),
            Check("who may use the server's token over HTTP", True, server_token_users(settings)),
        ]
        if BASE_URL in problems:
            return checks
        return [*checks, *(await _network(settings)), *(await _replicate(app, has_state=has_state))]

    return run_in_app(settings, check)


async def _state(app: App, settings: Settings) -> list[Check]:
    path = state_file(settings.backend)
    try:
        backend = await app.backend()
        await backend.semaphores()
        advice = await backend.config_warnings()
    except ReplicateMcpError as error:
        said = str(error) if path is None else state_advice(path, error)
        return [Check("state", False, said)]
    if path is None:
        what = settings.backend.partition(":")[0]
        warnings = [Check("state", True, each, is_warning=True) for each in advice]
        return [Check("state", True, f"{what}, opened."), *warnings]
    # `semaphores()` has removed the locks of dead processes; one of the others is our own.
    others = len(list(path.parent.glob(f"{path.name}.*.lock"))) - 1
    living = {0: "no other process uses it", 1: "1 other living process uses it"}
    said = living.get(others, f"{others} other living processes use it")
    return [Check("state", True, f"{path} opens; {said}.")]


def state_advice(path: Path, error: ReplicateMcpError) -> str:
    """Return what is wrong with a state file, and how to correct it."""
    cause = error.__cause__
    code = cause.sqlite_errorcode & 0xFF if isinstance(cause, sqlite3.Error) else None
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        move = move_command(str(path), f"{path}.damaged")
        return (
            f"{path} is damaged ({cause}): stop the programs that use it, then move it away, with "
            f"{path.name}-wal and {path.name}-shm where they are: {move}. What it knew is "
            "lost: the batches of the last 24 hours, limits that were set by hand, and what runs "
            "at Replicate now."
        )
    if code == sqlite3.SQLITE_FULL:
        return f"{path} cannot grow, since its disk is full: free some space there."
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return (
            f"{path} cannot be written by this user ({cause}): make the file and its folder "
            f"yours and writable, or set {BACKEND} to sqlite:///another/path.db."
        )
    return str(error)


def _folder(settings: Settings) -> Iterator[Check]:
    """Check that other users can neither read the state file nor replace it."""
    path = state_file(settings.backend)
    if path is None or not has_modes() or not path.exists():
        return
    mode = stat.S_IMODE(path.parent.stat().st_mode)
    if path.stat().st_mode & 0o077:
        yield Check(
            "state file", False, f"others can read it: {command_line(['chmod', '600', str(path)])}"
        )
    elif mode & 0o022 and not mode & stat.S_ISVTX:
        yield Check(
            "state folder",
            False,
            f"its mode {mode:03o} lets others write there: "
            f"{command_line(['chmod', '700', str(path.parent)])}",
        )
    else:
        yield Check("state folder", True, f"mode {mode:03o}; the file is this user's alone.")


def _images(settings: Settings) -> Iterator[Check]:
    if settings.files is not None:
        there = settings.files.is_dir()
        said = "images in it can be named as inputs." if there else "no such folder: make it."
        yield Check("images", there, f"{settings.files}: {said}")


async def _network(settings: Settings) -> list[Check]:
    """Check the TLS certificates and the proxy used for Replicate."""
    from replicate_mcp.replicate_api.proxies import find_proxy
    from replicate_mcp.tls import TlsSettingsError, client_context, trust_source

    try:
        client_context()
    except TlsSettingsError as error:
        certificates = Check("certificates", False, f"{error}.")
    else:
        certificates = Check("certificates", True, f"those of {trust_source()} are trusted.")
    url = urlsplit(settings.replicate_base_url)
    proxy = await find_proxy(url.scheme, url.hostname or "")
    said = f"{proxy} is used." if proxy else f"none for {url.hostname}."
    return [certificates, Check("proxy", True, said)]


async def _replicate(app: App, *, has_state: bool) -> list[Check]:
    base_url = app.settings.replicate_base_url
    wrong = _wrong_token(app)
    # Without a valid token, a 401 still shows that Replicate is reachable.
    gateway = Gateway("none" if wrong else app.caller().token, base_url)
    reached = Check("Replicate", True, f"{base_url} answers.")
    try:
        account = await gateway.account()
        model = [await _default_model(app, gateway, account)] if has_state else []
    except ApiStatusError as refusal:
        said = f"Replicate answered {refusal.status} to it ({refusal.detail}): {TRY_ANOTHER}."
        return [reached, wrong or Check("token", False, said)]
    except ReplicateApiError as fault:
        said = f"{base_url} cannot be reached: {fault}."
        if not isinstance(fault, RequestNotSent):
            said = (
                f"{base_url} does not answer ({fault}): check the network and REPLICATE_BASE_URL."
            )
        unreached = Check("Replicate", False, said)
        return [unreached, wrong or Check("token", False, "it could not be tried.")]
    finally:
        await gateway.aclose()
    known = Check("token", True, f"it belongs to the account {account}.")
    limits = [await _limits(app)] if has_state and wrong is None else []
    return [reached, wrong or known, *model, *limits]


def _wrong_token(app: App) -> Check | None:
    """Return a failed check if no usable token is configured."""
    try:
        app.caller()
    except Unauthorized as error:
        return Check("token", False, str(error))
    return None


async def _default_model(app: App, gateway: Gateway, account: str) -> Check:
    name = app.settings.default_model
    advice = "Set REPLICATE_MCP_DEFAULT_MODEL to one of `replicate-mcp models`."
    try:
        model = await (await app.models()).find(ModelName.parse(name), gateway, account)
    except ValueError as error:
        return Check("default model", False, f"{error} {advice}")
    except ReplicateApiError as fault:
        return Check("default model", False, f"{name} could not be resolved ({fault}).")
    if model is None:
        return Check("default model", False, f"Replicate knows no {name}. {advice}")
    if model.schema is None:
        return Check("default model", True, f"{name}; its inputs are not available at the moment.")
    return Check("default model", True, f"{name} takes {len(model.schema.fields)} inputs.")


async def _limits(app: App) -> Check:
    try:
        states = await app.semaphores.list_for(app.caller())
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
    """Return why an account's limit differs from this process's setting."""
    if limit == setting:
        return ""
    # The lowest limit that processes declare applies; only a manual limit can be higher.
    lower = ", or another process's setting is lower" if limit < setting else ""
    return f" ({limit} was set by hand{lower}; the setting here says {setting})"
