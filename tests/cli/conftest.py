"""Fixtures for tests of the command line: the real program in its own process, and a simulator."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from replicate_mcp.simulator import Simulator

TOKEN = "r8_acme_1"
SECONDS = 30


@dataclass
class CommandLine:
    """Runs `replicate-mcp`; arguments are its words, keywords its environment variables."""

    folder: Path
    environment: dict[str, str]
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __call__(
        self, *words: object, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self._command(words),
            input=stdin,
            capture_output=True,
            text=True,
            env=self.environment | environment,
            cwd=self.folder,
            timeout=SECONDS,
            check=False,
        )

    def start(self, *words: object, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self._command(words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment | environment,
            cwd=self.folder,
        )
        self._started.append(process)
        return process

    def stop(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.communicate()

    @staticmethod
    def _command(words: tuple[object, ...]) -> list[str]:
        return [sys.executable, "-m", "replicate_mcp", *map(str, words)]


def open_terminal() -> tuple[int, int]:
    """Open a pseudo-terminal and return its ends; skip the test where the system has none."""
    pty = pytest.importorskip("pty", reason="no pseudo-terminals here", exc_type=ImportError)
    ends: tuple[int, int] = pty.openpty()
    return ends


def on_terminal(replicate_mcp: CommandLine, *words: str, columns: str, stderr: bool = False) -> str:
    """Return what a command prints to a terminal of `columns`; with `stderr`, including that."""
    leader, follower = open_terminal()
    with subprocess.Popen(
        [sys.executable, "-m", "replicate_mcp", *words],
        stdout=follower,
        stderr=follower if stderr else subprocess.DEVNULL,
        env=replicate_mcp.environment | {"COLUMNS": columns, "TERM": "xterm", "NO_COLOR": "1"},
    ):
        os.close(follower)
        text = b""
        # Linux signals the end of a terminal by an error.
        with contextlib.suppress(OSError), os.fdopen(leader, "rb", buffering=0) as screen:
            while chunk := screen.read(4096):
                text += chunk
    return text.decode()


def of_the_system() -> dict[str, str]:
    """Return the variables that programs need to start, on Windows too."""
    return {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}


@pytest.fixture
def replicate_mcp(simulator: Simulator, tmp_path: Path) -> Iterator[CommandLine]:
    environment = {
        **of_the_system(),
        **dict.fromkeys(("HOME", "USERPROFILE"), str(tmp_path / "home")),
        "REPLICATE_API_TOKEN": TOKEN,
        "REPLICATE_BASE_URL": simulator.url,
        "REPLICATE_MCP_BACKEND": f"sqlite:///{tmp_path / 'state' / 'state.db'}",
        "REPLICATE_REQUESTS_PER_MINUTE": "60000",
    }
    command_line = CommandLine(tmp_path, environment)
    yield command_line
    command_line.stop()
