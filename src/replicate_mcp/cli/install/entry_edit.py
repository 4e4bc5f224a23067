"""A host's configuration with this server's entry added, updated or removed."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicate_mcp.cli.executable import own_command
from replicate_mcp.cli.install.config_file import ConfigFile
from replicate_mcp.cli.install.forwarded_settings import forwarded_network, forwarded_settings
from replicate_mcp.cli.install.hosts import INPUT, REFERENCE, Host
from replicate_mcp.cli.install.jsonc_edit import Path as Way
from replicate_mcp.cli.install.jsonc_edit import append, remove, set_value, value_at
from replicate_mcp.cli.install.questions import BASE_URL, TOKEN, checked_token
from replicate_mcp.cli.install.server_entry import other_server
from replicate_mcp.placeholders import placeholder
from replicate_mcp.settings import SETTING_NAMES
from replicate_mcp.settings_loader import load_settings, read_sources

UNKNOWN = ""
"""Placeholder for a token that is still to be read from the existing entry or from the user."""


@dataclass(frozen=True, slots=True)
class Place:
    """Location of the server's entry: a host's configuration file and a server name."""

    file: ConfigFile
    host: Host
    name: str

    @property
    def way(self) -> Way:
        """Path to the entry in the configuration file."""
        return self.host.servers, self.name

    def present(self, text: str) -> Any:
        """Return the value of the entry in `text`, or None if it is missing."""
        return value_at(text, self.way) if text.strip() else None

    def not_this_server(self, other: str) -> str:
        """Return the start of a sentence that says another server uses this name."""
        return f'"{self.name}" in {self.file.path} is not this server, it leads to {other}'


def new_entry(host: Host, env_file: str | None) -> dict[str, Any]:
    """Return the entry for the host: the command and the settings of this environment."""
    settings = load_settings(env_file=env_file)
    values, origins = read_sources(os.environ, env_file)
    command, *words = own_command()
    if env_file is not None:
        words += ["serve", "--env-file", str(Path(env_file).expanduser().resolve())]
    env = forwarded_settings(values, origins)
    if not settings.is_local:  # Loopback needs neither a proxy nor certificates.
        env |= forwarded_network(os.environ)
    if origins[TOKEN] != "file":
        # A local URL is the simulator's, whose tokens are not secret.
        asks = host.asks_for_secrets and not settings.is_local
        env[TOKEN] = REFERENCE if asks else checked_token(str(values.get(TOKEN, UNKNOWN)))
    entry: dict[str, Any] = {"type": "stdio"} if host.says_type else {}
    return entry | {"command": command, "args": words, "env": env}


def with_server(place: Place, entry: dict[str, Any], ask: Callable[[], str]) -> str:
    """Return the configuration with the server's entry added or updated.

    Keys that the user added to the entry are kept. If the entry belonged to another server, only
    settings of this server are kept.

    Args:
        place: the location of the entry.
        entry: the entry to write; a token that is `UNKNOWN` is replaced in it.
        ask: returns the token; called if neither the environment nor the existing entry has one.
    """
    text = place.file.text
    text = text if text.strip() else "{}\n"
    present = place.present(text)
    present = present if isinstance(present, dict) else {}
    there = present.get("env")
    there = dict(there) if isinstance(there, dict) else {}
    if other_server(present):
        present, there = {}, {name: there[name] for name in SETTING_NAMES if name in there}
    env: dict[str, str] = entry["env"]
    if there.get(BASE_URL) != env.get(BASE_URL):
        # A token must only be sent to the URL it was configured for.
        there = {name: value for name, value in there.items() if name not in (BASE_URL, TOKEN)}
    if TOKEN not in env:
        there.pop(TOKEN, None)  # It would override the server's file.
    elif env[TOKEN] == UNKNOWN:
        env[TOKEN] = _existing_token(there.get(TOKEN)) or ask()
    merged = present | entry | {"env": there | env}
    if not merged["args"]:
        del merged["args"]
    if not merged["env"]:
        del merged["env"]
    if env.get(TOKEN) == REFERENCE:
        inputs = value_at(text, ("inputs",)) or []
        if not any(is_token_input(each) for each in inputs):
            text = append(text, ("inputs",), token_input())
    return set_value(text, place.way, merged)


def without_server(place: Place) -> str:
    """Return the configuration without the server's entry, and without the token's unused input."""
    text = place.file.text
    if not text.strip():
        return text
    text = remove(text, place.way)
    if place.host.asks_for_secrets and REFERENCE not in text:
        for position, each in enumerate(value_at(text, ("inputs",)) or []):
            if is_token_input(each):
                return remove(text, ("inputs", position))
    return text


def token_input() -> dict[str, Any]:
    """Return the input by which a host prompts for the token itself."""
    return {
        "type": "promptString",
        "id": INPUT,
        "description": "Replicate's API token, from replicate.com/account/api-tokens",
        "password": True,
    }


def is_token_input(host_input: Any) -> bool:
    """Return whether one of a host's inputs is that of the token."""
    return isinstance(host_input, dict) and host_input.get("id") == INPUT


def _existing_token(token: Any) -> str | None:
    """Return the token of an entry, or None if it is missing or a placeholder."""
    if not isinstance(token, str) or not token:
        return None
    # Some hosts substitute variables themselves.
    return token if token.startswith("${") or placeholder(token) is None else None
