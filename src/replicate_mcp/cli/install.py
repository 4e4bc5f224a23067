"""`replicate-mcp install`: writes this server into a host's configuration, or takes it out."""

import argparse
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replicate_mcp.cli.hosts import HOSTS, SERVER
from replicate_mcp.cli.main import OK, WRONG_USE
from replicate_mcp.errors import InvalidInput

if TYPE_CHECKING:
    from replicate_mcp.cli.config_file import ConfigFile
    from replicate_mcp.cli.hosts import Host
    from replicate_mcp.cli.json_text import Path as Way

TOKEN = "REPLICATE_API_TOKEN"  # noqa: S105 - the setting's name
BASE_URL = "REPLICATE_BASE_URL"

PASSED_ON = (
    BASE_URL,
    "REPLICATE_CONCURRENT_LIMIT",
    "REPLICATE_REQUESTS_PER_MINUTE",
    "DEFAULT_GLOBAL_SEMAPHORE_ID",
    "REPLICATE_MCP_DEFAULT_MODEL",
    "REPLICATE_MCP_BACKEND",
    "REPLICATE_MCP_WAIT_SECONDS",
    "REPLICATE_MCP_PREDICTION_SECONDS",
    "REPLICATE_MCP_BATCH_SECONDS",
    "REPLICATE_MCP_MAX_IMAGES_PER_DAY",
    "REPLICATE_MCP_JOURNAL_MB",
    "REPLICATE_MCP_CONFIRM_ABOVE",
    "REPLICATE_MCP_FILES",
)
"""Settings that a server on stdio uses and that may be read by others; hosts start servers without
the environment of the user's shell, so those set there are written down."""

UNKNOWN = ""
"""The token, as long as it is still to be found in the entry that is there, or with the user."""

INPUT = "replicate-api-token"
"""The id under which a host that asks for the token itself keeps it."""

REFERENCE = f"${{input:{INPUT}}}"
"""What stands for the token there."""

WITHOUT_ACCOUNT = (
    f"Without an account, `replicate-mcp simulate` stands in for Replicate: set {BASE_URL} and "
    f"{TOKEN} as it says when it starts."
)

ASKED_LATER = "(your token, asked for without --dry-run)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which host, and how far to go."""
    parser.add_argument("host", choices=HOSTS, metavar="HOST", help=", ".join(HOSTS))
    parser.add_argument("--remove", action="store_true", help="take the server out again")
    parser.add_argument("--dry-run", action="store_true", help="show the change, write nothing")
    parser.add_argument("--yes", action="store_true", help="write without asking")


def run(arguments: argparse.Namespace) -> int:
    """Show the change, ask, and write it."""
    import os

    from replicate_mcp.cli.config_file import ConfigFile
    from replicate_mcp.cli.hosts import Machine
    from replicate_mcp.cli.json_text import NotJson
    from replicate_mcp.cli.server_entry import other_server

    host = HOSTS[arguments.host]
    file = ConfigFile(host.file(Machine(sys.platform, Path.home(), os.environ)))
    entry: dict[str, Any] = {}
    if not arguments.remove:
        entry = _entry(host, arguments.env_file)
    try:
        other = other_server(_present(file.text, host))
        if arguments.remove and other:
            raise InvalidInput(
                f"{_not_this_one(file, other)}. Nothing was changed: take it out by hand if you "
                "mean it."
            )
        if arguments.remove:
            changed = _without_server(file.text, host)
        else:
            ask = _asked_later if arguments.dry_run else _asked_token
            changed = _with_server(file.text, host, entry, ask)
    except NotJson as error:
        _refuse(file, host, entry, str(error))
        return WRONG_USE
    if changed == file.text:
        print(f"{file.path} needs no change.")
        return OK
    if other:
        print(f"{_not_this_one(file, other)}. This server takes its place there.")
    _show(file, changed, host)
    if not str(entry.get("env", {}).get(TOKEN, REFERENCE)).startswith(("r8_", "${", "(")):
        print("This token does not begin with r8_, as Replicate's do: check it.", file=sys.stderr)
    if arguments.dry_run:
        print("A dry run: nothing was written.", file=sys.stderr)
        return OK
    if not arguments.yes and not _agreed():
        print("Nothing was written.", file=sys.stderr)
        return WRONG_USE
    was_open = file.is_open_to_others()
    holds_secret = entry.get("env", {}).get(TOKEN, REFERENCE) != REFERENCE
    backup = file.replace(changed, holds_secret=holds_secret)
    _tell(file, host, backup, entry)
    if was_open:
        private = "The file and its backup" if holds_secret else "The backup"
        print(f"{private} can be read by you alone now (mode 600): secrets may be in there.")
    return OK


def _entry(host: "Host", env_file: str | None) -> dict[str, Any]:
    """What the host has to know: the command, and what is set in this environment alone."""
    import os

    from replicate_mcp.cli.executable import own_command
    from replicate_mcp.cli.server_entry import holds_password
    from replicate_mcp.settings import load_settings, read_sources

    settings = load_settings(env_file=env_file)
    values, origins = read_sources(os.environ, env_file)
    command, *words = own_command()
    if env_file is not None:
        words += ["serve", "--env-file", str(Path(env_file).expanduser().resolve())]
    env = {}
    for name in PASSED_ON:
        if origins[name] != "environment":
            continue
        if holds_password(str(values[name])):
            print(
                f"{name} holds a password, and is not written there: put it into the file that "
                "--env-file names.",
                file=sys.stderr,
            )
            continue
        env[name] = str(values[name])
    if origins[TOKEN] != "file":
        # What is on this machine is the simulator, whose tokens are no secrets.
        asks = host.asks_for_secrets and not settings.is_local
        env[TOKEN] = REFERENCE if asks else str(values.get(TOKEN, UNKNOWN))
    entry: dict[str, Any] = {"type": "stdio"} if host.says_type else {}
    return entry | {"command": command, "args": words, "env": env}


def _with_server(text: str, host: "Host", entry: dict[str, Any], ask: Callable[[], str]) -> str:
    """The configuration with the server in it; what a user has added to its entry stays.

    Of an entry that was another server's, only the settings of this one stay.
    """
    from replicate_mcp.cli.json_text import append, put, value_at
    from replicate_mcp.cli.server_entry import other_server
    from replicate_mcp.settings import SETTING_NAMES

    text = text if text.strip() else "{}\n"
    present = _present(text, host)
    present = present if isinstance(present, dict) else {}
    there = present.get("env")
    there = dict(there) if isinstance(there, dict) else {}
    if other_server(present):
        present, there = {}, {name: there[name] for name in SETTING_NAMES if name in there}
    env: dict[str, str] = entry["env"]
    if there.get(BASE_URL) != env.get(BASE_URL):
        # A token goes nowhere but where it was meant for.
        there = {name: value for name, value in there.items() if name not in (BASE_URL, TOKEN)}
    if TOKEN not in env:
        there.pop(TOKEN, None)  # The server reads it from its own file, which this would hide.
    elif env[TOKEN] == UNKNOWN:
        env[TOKEN] = there.get(TOKEN) or ask()
    merged = present | entry | {"env": there | env}
    if not merged["args"]:
        del merged["args"]
    if not merged["env"]:
        del merged["env"]
    if env.get(TOKEN) == REFERENCE:
        inputs = value_at(text, ("inputs",)) or []
        if not any(_is_ours(each) for each in inputs):
            text = append(text, ("inputs",), _token_input())
    return put(text, (host.servers, SERVER), merged)


def _without_server(text: str, host: "Host") -> str:
    from replicate_mcp.cli.json_text import remove, value_at

    if not text.strip():
        return text
    text = remove(text, (host.servers, SERVER))
    if host.asks_for_secrets:
        for position, each in enumerate(value_at(text, ("inputs",)) or []):
            if _is_ours(each):
                return remove(text, ("inputs", position))
    return text


def _present(text: str, host: "Host") -> Any:
    """What stands in the server's place; None where nothing does."""
    from replicate_mcp.cli.json_text import value_at

    return value_at(text, (host.servers, SERVER)) if text.strip() else None


def _not_this_one(file: "ConfigFile", other: str) -> str:
    return f'"{SERVER}" in {file.path} is not this server, it leads to {other}'


def _token_input() -> dict[str, Any]:
    return {
        "type": "promptString",
        "id": INPUT,
        "description": "Replicate's API token, from replicate.com/account/api-tokens",
        "password": True,
    }


def _is_ours(host_input: Any) -> bool:
    return isinstance(host_input, dict) and host_input.get("id") == INPUT


def _asked_token() -> str:
    """The token, typed unseen.

    Raises:
        InvalidInput: nobody is there to type it, or nothing was typed.
    """
    from getpass import getpass

    token = ""
    if not sys.stdin.isatty():
        raise InvalidInput(
            f"No token is set: put one from https://replicate.com/account/api-tokens into {TOKEN}, "
            f"or run this in a terminal, to be asked for it. {WITHOUT_ACCOUNT}"
        )
    print(WITHOUT_ACCOUNT, file=sys.stderr)
    with suppress(EOFError):
        token = getpass("Replicate API token (from replicate.com/account/api-tokens; not shown): ")
    if not token.strip():
        raise InvalidInput("No token was given; nothing was changed.")
    return token.strip()


def _asked_later() -> str:
    return ASKED_LATER


def _agreed() -> bool:
    if not sys.stdin.isatty():
        print("Add --yes to write it without being asked.", file=sys.stderr)
        return False
    with suppress(EOFError):
        return input("Write this? [y/N] ").strip().lower() in ("y", "yes")
    print(file=sys.stderr)
    return False


def _show(file: "ConfigFile", changed: str, host: "Host") -> None:
    from replicate_mcp.cli.json_text import value_at
    from replicate_mcp.cli.server_entry import is_shown, other_server, words_of
    from replicate_mcp.cli.showing_changes import difference

    words = [
        word
        for entry in (_present(file.text, host), _present(changed, host))
        if not other_server(entry)
        for word in words_of(entry)
    ]

    def shown(way: "Way", value: str) -> bool:
        is_of_input = len(way) == 1 and value in _token_input().values()
        return (
            is_of_input
            or value == ASKED_LATER
            or is_shown(way, value, variables=PASSED_ON, words=words)
        )

    inputs = (value_at(changed, ("inputs",)) or []) if host.asks_for_secrets else []
    ours: list[Way] = [
        (host.servers, SERVER),
        *(("inputs", position) for position, each in enumerate(inputs) if _is_ours(each)),
    ]
    print(difference(file.path, file.text, changed, ours=ours, is_shown=shown))


def _tell(file: "ConfigFile", host: "Host", backup: Path | None, entry: Mapping[str, Any]) -> None:
    """Say what was written where, and what is next."""
    print(f"Written: {file.path}" + (f" (before: {backup})" if backup else ""))
    if not entry:
        print(f"{host.title} forgets the server when it is restarted.")
        if backup and not host.asks_for_secrets:
            print("The backup may still hold its token: delete it when you do not need it.")
        return
    if entry["env"].get(TOKEN, REFERENCE) != REFERENCE:
        print(f"The token is in that file, where {host.title} reads it.")
    print(host.then)
    if entry["env"].get(TOKEN) == REFERENCE:
        print(f"{host.title} asks for the token once, and keeps it encrypted.")


def _refuse(file: "ConfigFile", host: "Host", entry: Mapping[str, Any], reason: str) -> None:
    """Print why nothing was changed, and what the user can put there by hand."""
    import json

    from replicate_mcp.cli.printing import say

    said = f"{file.path} was not changed: {reason}."
    if not entry:
        say(said)
        return
    shown = dict(entry)
    if shown["env"].get(TOKEN, REFERENCE) != REFERENCE:
        shown["env"] = shown["env"] | {TOKEN: "r8_your_token"}
    snippet = json.dumps({SERVER: shown}, indent=2)
    say(f'{said} Correct it, or put this under "{host.servers}" yourself:')
    print(snippet, file=sys.stderr)
