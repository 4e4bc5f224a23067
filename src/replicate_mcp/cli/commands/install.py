"""`replicate-mcp install`: add this server to a host's configuration, or remove it."""

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replicate_mcp.cli.install.hosts import ALIASES, HOSTS, REFERENCE, SERVER
from replicate_mcp.cli.install.questions import (
    PROMPTED_LATER,
    TOKEN,
    agreed_to_replace,
    asked_later,
    confirm,
    prompt_token,
)
from replicate_mcp.cli.main import OK, WRONG_USE
from replicate_mcp.errors import InvalidInput

if TYPE_CHECKING:
    from replicate_mcp.cli.install.entry_edit import Place
    from replicate_mcp.cli.install.jsonc_edit import Path as Way

HIDDEN = "(hidden: it holds a password)"

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the host and the options of the installation."""
    parser.add_argument(
        "host",
        choices=HOSTS,
        type=lambda word: ALIASES.get(word.lower(), word),
        metavar="HOST",
        help=", ".join(HOSTS),
    )
    parser.add_argument("--remove", action="store_true", help="take the server out again")
    parser.add_argument(
        "--name", default=SERVER, help=f"what the server is called there ({SERVER})"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the change, write nothing")
    parser.add_argument("--yes", action="store_true", help="write without asking")


def run(arguments: argparse.Namespace) -> int:
    """Show the change, ask for confirmation, and write it."""
    from replicate_mcp.cli.install.entry_edit import new_entry, with_server, without_server
    from replicate_mcp.cli.install.jsonc_edit import NotJson
    from replicate_mcp.cli.install.server_entry import other_server

    place = _place(arguments)
    file = place.file
    entry = {} if arguments.remove else new_entry(place.host, arguments.env_file)
    try:
        other = other_server(place.present(file.text))
        if arguments.remove:
            if other:
                raise InvalidInput(
                    f"{place.not_this_server(other)}. Nothing was changed: take it out by hand if "
                    "you mean it."
                )
            changed = without_server(place)
        else:
            ask = asked_later if arguments.dry_run else prompt_token
            changed = with_server(place, entry, ask)
    except NotJson as error:
        _refuse(place, entry, str(error))
        return WRONG_USE
    if arguments.remove and changed == file.text:
        print(f'There is no "{place.name}" in {file.path}: nothing to remove.')
        return OK
    _warn_of_comments(place, changed)
    if changed == file.text and not file.has_mark:
        print(f"{file.path} needs no change.")
        return OK
    return _write(place, entry, changed, other, arguments)


def _place(arguments: argparse.Namespace) -> "Place":
    """Return the location of the entry.

    Raises:
        InvalidInput: the name is invalid, or the user has no home folder.
    """
    from replicate_mcp.cli.install.config_file import ConfigFile
    from replicate_mcp.cli.install.entry_edit import Place
    from replicate_mcp.platform.paths import Machine

    if not _NAME.fullmatch(arguments.name):
        raise InvalidInput("--name takes letters, digits, - and _, 64 at most.")
    try:
        home = Path.home()
    except RuntimeError:
        raise InvalidInput("This user has no home folder: set HOME to it.") from None
    host = HOSTS[arguments.host]
    return Place(ConfigFile(host.file(Machine.current(home))), host, arguments.name)


def _write(
    place: "Place",
    entry: Mapping[str, Any],
    changed: str,
    other: str | None,
    arguments: argparse.Namespace,
) -> int:
    """Show the change and write it if the user confirms."""
    from replicate_mcp.cli.install.forwarded_settings import NETWORK_VARIABLES, describe_network
    from replicate_mcp.cli.install.server_entry import holds_password

    env: Mapping[str, str] = entry.get("env", {})
    if other:
        print(f"{place.not_this_server(other)}. This server takes its place there.")
    _show(place, changed)
    if place.file.has_mark:
        print(f"The byte order mark at the beginning goes: {place.host.title} may not read it.")
    network = {name: value for name, value in env.items() if name in NETWORK_VARIABLES}
    for sentence in describe_network(network):
        print(sentence, file=sys.stderr)
    if not str(env.get(TOKEN, REFERENCE)).startswith(("r8_", "${", "(")):
        print("This token does not begin with r8_, as Replicate's do: check it.", file=sys.stderr)
    if arguments.dry_run:
        print("A dry run: nothing was written.", file=sys.stderr)
        return OK
    if other and not agreed_to_replace(place.name):
        print("Nothing was written.", file=sys.stderr)
        return WRONG_USE
    if not arguments.yes and not confirm():
        print("Nothing was written.", file=sys.stderr)
        return WRONG_USE
    was_open = place.file.is_open_to_others()
    has_password = any(holds_password(value, name) for name, value in network.items())
    holds_secret = has_password or env.get(TOKEN, REFERENCE) != REFERENCE
    backup = place.file.replace(changed, holds_secret=holds_secret)
    _print_next_steps(place, backup, entry)
    if was_open:
        private = "The file and its backup" if holds_secret else "The backup"
        print(f"{private} can be read by you alone now (mode 600): secrets may be in there.")
    return OK


def _warn_of_comments(place: "Place", text: str) -> None:
    """Warn that a host with a strict JSON parser cannot read its configuration file."""
    import json

    if place.host.takes_comments or not text.strip():
        return
    try:
        json.loads(text)
    except ValueError:
        print(
            f"{place.host.title} reads strict JSON: take the comments and trailing commas out of "
            f"{place.file.path}.",
            file=sys.stderr,
        )


def _show(place: "Place", changed: str) -> None:
    from replicate_mcp.cli.install.entry_edit import is_token_input, token_input
    from replicate_mcp.cli.install.forwarded_settings import FORWARDED_SETTINGS, NETWORK_VARIABLES
    from replicate_mcp.cli.install.jsonc_edit import value_at
    from replicate_mcp.cli.install.redacted_diff import difference
    from replicate_mcp.cli.install.server_entry import is_shown, other_server, words_of

    file, host = place.file, place.host
    words = [
        word
        for entry in (place.present(file.text), place.present(changed))
        if not other_server(entry)
        for word in words_of(entry)
    ]
    variables = (*FORWARDED_SETTINGS, *NETWORK_VARIABLES)

    def shown(way: "Way", value: str) -> bool:
        is_of_input = len(way) == 1 and value in token_input().values()
        return (
            is_of_input
            or value == PROMPTED_LATER
            or is_shown(way, value, variables=variables, words=words)
        )

    inputs = (value_at(changed, ("inputs",)) or []) if host.asks_for_secrets else []
    ours: list[Way] = [
        place.way,
        *(("inputs", position) for position, each in enumerate(inputs) if is_token_input(each)),
    ]
    print(difference(file.path, file.text, changed, ours=ours, is_shown=shown))


def _print_next_steps(place: "Place", backup: Path | None, entry: Mapping[str, Any]) -> None:
    """Print which file was written and what the user should do next."""
    file, host = place.file, place.host
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


def _refuse(place: "Place", entry: Mapping[str, Any], reason: str) -> None:
    """Print why nothing was changed, and the entry to add manually."""
    import json

    from replicate_mcp.cli.printing import say

    said = f"{place.file.path} was not changed: {reason}."
    if not entry:
        say(said)
        return
    from replicate_mcp.cli.install.server_entry import holds_password

    env = dict(entry["env"])
    env |= {name: HIDDEN for name, value in env.items() if holds_password(value, name)}
    shown = dict(entry) | {"env": env}
    if shown["env"].get(TOKEN, REFERENCE) != REFERENCE:
        shown["env"] = shown["env"] | {TOKEN: "r8_your_token"}
    snippet = json.dumps({place.name: shown}, indent=2)
    say(f'{said} Correct it, or put this under "{place.host.servers}" yourself:')
    print(snippet, file=sys.stderr)
