"""MCP hosts supported by `install`: the location and format of their configuration."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from replicate_mcp.platform.paths import Machine

SERVER = "replicate"
"""Default name of this server in a host's configuration."""

INPUT = "replicate-api-token"
"""Id of the token input in a host that prompts for secrets itself."""

REFERENCE = f"${{input:{INPUT}}}"
"""Reference to the token in such a host's configuration."""


@dataclass(frozen=True, slots=True)
class Host:
    """Program that starts MCP servers.

    Attributes:
        title: display name.
        servers: key in the configuration that holds the servers.
        file: returns the path of the user-wide configuration.
        then: what the user has to do after the installation.
        says_type: whether an entry names its transport.
        asks_for_secrets: whether the host prompts for the token and stores it encrypted, so that
            the file only refers to it.
        takes_comments: whether the configuration may have comments and trailing commas.
    """

    title: str
    servers: str
    file: Callable[[Machine], Path]
    then: str
    says_type: bool = False
    asks_for_secrets: bool = False
    takes_comments: bool = True


def _claude_desktop(machine: Machine) -> Path:
    name = "claude_desktop_config.json"
    usual = machine.settings / "Claude" / name
    if machine.platform != "win32":
        return usual
    # On Windows a packaged app reads only its own redirected folder instead of the usual one
    # (anthropics/claude-code #26073).
    local = Path(machine.environ.get("LOCALAPPDATA") or machine.home / "AppData" / "Local")
    packaged = sorted((local / "Packages").glob("Claude_*/LocalCache/Roaming/Claude"))
    return packaged[0] / name if packaged else usual


def _claude_code(machine: Machine) -> Path:
    return Path(machine.environ.get("CLAUDE_CONFIG_DIR") or machine.home) / ".claude.json"


HOSTS = {
    "claude": Host(
        "Claude Desktop",
        "mcpServers",
        _claude_desktop,
        "Quit Claude Desktop and open it again.",
        takes_comments=False,
    ),
    "claude-code": Host(
        "Claude Code",
        "mcpServers",
        _claude_code,
        "Start a new session; `/mcp` shows the server there.",
        says_type=True,
        takes_comments=False,
    ),
    "cursor": Host(
        "Cursor",
        "mcpServers",
        lambda machine: machine.home / ".cursor" / "mcp.json",
        "Restart Cursor.",
    ),
    "vscode": Host(
        "VS Code",
        "servers",
        lambda machine: machine.settings / "Code" / "User" / "mcp.json",
        "Run `MCP: List Servers` in VS Code and start it.",
        says_type=True,
        asks_for_secrets=True,
    ),
}

ALIASES = {
    "claude-desktop": "claude",
    "claude_desktop": "claude",
    "claude_code": "claude-code",
    "code": "vscode",
    "vs-code": "vscode",
}
"""Alternative names of hosts."""
