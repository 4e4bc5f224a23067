"""Run a page's examples as printed, in a temporary home directory with a simulator.

`replicate-mcp`, curl, Python and the shell are real. `STAND_INS` replaces the commands that cannot
run here or do not terminate.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from docs.blocks import ROOT, Block
from replicate_mcp.simulator import Simulator

TOKEN = "r8_docs_1"
SECONDS = 180

STAND_INS = {
    # Servers run in the background once they listen, and replace an earlier server of the page.
    # `--watch` gets SIGINT after its first output. `install` runs without confirmation.
    "replicate-mcp": """
        started="$LOGS/$BASHPID"
        case " $* " in
          *" serve --http "* | *" simulate "*)
            for old in "$LOGS"/*.$1; do
              kill "$(cat "$old")" && while kill -0 "$(cat "$old")" 2>/dev/null; do sleep 0.05; done
              rm "$old"
            done
            "$PYTHON" -m replicate_mcp "$@" >"$started.log" 2>&1 </dev/null &
            echo $! >"$started.$1"
            until grep -qs http:// "$started.log"; do
              kill -0 $! 2>/dev/null || { cat "$started.log"; exit 1; }
              sleep 0.05
            done ;;
          *" --watch "*)
            script -qefc "exec env --default-signal=INT '$PYTHON' -m replicate_mcp $*" \
              "$started.log" >/dev/null </dev/null &
            until grep -qs semaphore "$started.log"; do kill -0 $! || exit 1; sleep 0.05; done
            pkill -INT -P $!
            wait $! || [ $? = 130 ] ;;
          *" install "*) exec "$PYTHON" -m replicate_mcp "$@" --yes ;;
          *) exec "$PYTHON" -m replicate_mcp "$@" ;;
        esac""",
    # Creates a virtual environment without packages from an index.
    "python3": """
        if [ "$1 $2" = "-m venv" ]; then
          rm -rf "$3"; mkdir -p "$3" && ln -s "$STAND_INS" "$3/bin"
        else exec "$PYTHON" "$@"; fi""",
    "python": """exec "$PYTHON" "$@" """,
    "pip": """[ "$1" = install ]""",
    "uv": """[ "$1 $2" = "tool install" ]""",
    "pipx": """[ "$1" = install ]""",
    "uvx": """[ "$1" = --from ] && shift 2 && exec "$@" """,
    # Checks that the targets exist; other tests run them.
    "make": """exec /usr/bin/make -n -C "$ROOT" "$@" >/dev/null""",
    # Fails the example on an HTTP error.
    "curl": """exec /usr/bin/curl --fail-with-body "$@" """,
    # Docker is not available here; `tests/deploy` checks these files.
    "docker": """
        case "$1 $2" in
          "compose up") [ -f "$ROOT/docker-compose.yml" ] && [ -f .env ] ;;
          "build -t" | "run -p") [ -f "$ROOT/Dockerfile" ] ;;
          *) exit 1 ;;
        esac""",
    # Tests cannot install Claude Code.
    "claude": """[ "$1 $2" = "mcp add" ]""",
}

REDIS = "rediss://:password@redis.example.com:6379/0"
"""The Redis URL in the examples."""


NEEDED = ("bash", "curl", "make", "openssl", "pkill", "script")
"""Programs that the stand-ins require, on Linux."""


def require_the_programs() -> None:
    """Skip the test if a required program is missing; fail in CI."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if sys.platform != "linux":
        missing = ["Linux"]
    if missing:
        assert not os.environ.get("CI"), f"{missing} is missing: examples were not tested"
        pytest.skip(f"{missing} is missing: examples are not tested")


class Sandbox:
    """A page's home directory; its blocks run in order and share exported variables."""

    def __init__(self, folder: Path, simulator: Simulator, elsewhere: dict[str, str]) -> None:
        self.home = folder / "home"
        self.work = self.home / "replicate-mcp"
        self._logs = folder / "logs"
        self._exported = folder / "exported"
        stand_ins = folder / "bin"
        for made in (self.work, self._logs, stand_ins):
            made.mkdir(parents=True)
        shutil.copy(ROOT / ".env.example", self.work)
        for name, script in STAND_INS.items():
            file = stand_ins / name
            file.write_text(f"#!/usr/bin/env bash\nshopt -s nullglob\n{script}\n")
            file.chmod(0o755)
        # The installation folder of the start pages.
        installed = self.home / ".replicate-mcp"
        installed.mkdir()
        (installed / "bin").symlink_to(stand_ins)
        http, simulated = _free_ports(2)
        self._elsewhere = elsewhere | {
            "r8_your_token": TOKEN,  # Servers reject the placeholder.
            "--host 0.0.0.0": "--host 127.0.0.1",  # Tests listen on loopback only.
            "127.0.0.1:8000": f"127.0.0.1:{http}",
            "--port 8000": f"--port {http}",
            "127.0.0.1:8765": f"127.0.0.1:{simulated}",
            "--port 8765": f"--port {simulated}",
            "C:/Company/ca.pem": "/etc/ssl/certs/ca-certificates.crt",
        }
        self.environment = {
            "PATH": f"{stand_ins}:/usr/bin:/bin",
            "HOME": str(self.home),
            "PYTHON": sys.executable,
            "ROOT": str(ROOT),
            "LOGS": str(self._logs),
            "STAND_INS": str(stand_ins),
            "REPLICATE_BASE_URL": simulator.url,
            "REPLICATE_API_TOKEN": TOKEN,
        }

    def here(self, text: str) -> str:
        """Replace the printed addresses by this machine's."""
        for printed, real in self._elsewhere.items():
            text = text.replace(printed, real)
        return text

    def run(self, *words: str, stdin: str | None = None, **variables: str) -> str:
        """Run a program and return its output; fail the test if it fails."""
        done = subprocess.run(
            words, input=stdin, cwd=self.work, env=self.environment | variables,
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def shell(self, block: Block) -> str:
        """Run a block as if pasted into a shell."""
        script = self._logs / "block.sh"
        script.write_text(
            f"touch '{self._exported}' && . '{self._exported}'\nset -euo pipefail\n"
            f"{self.here(block.text)}\ndeclare -px >'{self._exported}'\n"
        )
        return self.run("/bin/bash", str(script))

    def close(self) -> None:
        """Stop the background servers."""
        for file in [*self._logs.glob("*.serve"), *self._logs.glob("*.simulate")]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(file.read_text()), signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    """Return distinct free ports."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in listeners]
