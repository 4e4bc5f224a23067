"""The hosts that `install` knows: where each keeps its servers, and how an entry looks there."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from replicate_mcp.platform.paths import Machine

SERVER = "replicate"
"""The name under which hosts know this server."""


@dataclass(frozen=True, slots=True)
class Host:
    """A program that starts MCP servers.

    Attributes:
        servers: the key of its configuration under which they stand.
        file: its configuration of all of the user's projects.
        says_type: whether an entry tells its transport.
        asks_for_secrets: whether the host asks for the token itself and keeps it encrypted, so that
            the file only refers to it.
        then: what the user does next.
        takes_comments: whether its configuration may have comments and trailing commas.
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
    # Windows gives a packaged app a folder of its own in place of the usual one, and the app
    # reads that alone (anthropics/claude-code #26073).
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
"""Other words for the hosts."""
