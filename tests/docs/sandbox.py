"""A home in which a page's examples run as they are printed, beside a simulator.

Real are `replicate-mcp` with all it starts, curl, Python and everything of the shell. What cannot
run here, or not without an end, is stood in for; `STAND_INS` has all of it.
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
    # Servers go on in the background once they listen, in place of an earlier one of the page;
    # `--watch` ends as with Ctrl-C once it has shown something; `install` finds nobody to ask.
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
    # A virtual environment without what pip would install from an index.
    "python3": """
        if [ "$1 $2" = "-m venv" ]; then
          rm -rf "$3"; mkdir -p "$3" && ln -s "$STAND_INS" "$3/bin"
        else exec "$PYTHON" "$@"; fi""",
    "python": """exec "$PYTHON" "$@" """,
    "pip": """[ "$1" = install ]""",
    "uv": """[ "$1 $2" = "tool install" ]""",
    "pipx": """[ "$1" = install ]""",
    "uvx": """[ "$1" = --from ] && shift 2 && exec "$@" """,
    # Targets are tried by what they are made for; here, that they are there.
    "make": """exec /usr/bin/make -n -C "$ROOT" "$@" >/dev/null""",
    # An answer that tells of an error fails the example.
    "curl": """exec /usr/bin/curl --fail-with-body "$@" """,
    # There is no engine here; `tests/deploy` holds these files against what they rely on.
    "docker": """
        case "$1 $2" in
          "compose up") [ -f "$ROOT/docker-compose.yml" ] && [ -f .env ] ;;
          "build -t" | "run -p") [ -f "$ROOT/Dockerfile" ] ;;
          *) exit 1 ;;
        esac""",
    # Not a package of any registry's that tests could install.
    "claude": """[ "$1 $2" = "mcp add" ]""",
}

REDIS = "rediss://:password@redis.example.com:6379/0"
"""The server of the examples."""


NEEDED = ("bash", "curl", "make", "openssl", "pkill", "script")
"""Of the system, which has to be Linux: what is stood in for is written for its programs."""


def require_the_programs() -> None:
    """Skip where they are missing, and fail in CI."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if sys.platform != "linux":
        missing = ["Linux"]
    if missing:
        assert not os.environ.get("CI"), f"{missing} is missing: examples were not tried"
        pytest.skip(f"{missing} is missing: examples are not tried")


class Sandbox:
    """One page's home; its blocks run one after the other, and see what those before exported."""

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
        # Where the first lines of every beginning install it.
        installed = self.home / ".replicate-mcp"
        installed.mkdir()
        (installed / "bin").symlink_to(stand_ins)
        http, simulated = _free_ports(2)
        self._elsewhere = elsewhere | {
            "r8_your_token": TOKEN,  # Which no server takes for a token.
            "--host 0.0.0.0": "--host 127.0.0.1",  # What is tried listens on loopback alone.
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
        """The text with this machine's addresses in place of those that are printed."""
        for printed, real in self._elsewhere.items():
            text = text.replace(printed, real)
        return text

    def run(self, *words: str, stdin: str | None = None, **variables: str) -> str:
        """What a program prints; that it fails fails the test."""
        done = subprocess.run(
            words, input=stdin, cwd=self.work, env=self.environment | variables,
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def shell(self, block: Block) -> str:
        """Run a block as somebody would who pastes it."""
        script = self._logs / "block.sh"
        script.write_text(
            f"touch '{self._exported}' && . '{self._exported}'\nset -euo pipefail\n"
            f"{self.here(block.text)}\ndeclare -px >'{self._exported}'\n"
        )
        return self.run("/bin/bash", str(script))

    def close(self) -> None:
        """End what goes on in the background."""
        for file in [*self._logs.glob("*.serve"), *self._logs.glob("*.simulate")]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(file.read_text()), signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    """Return different ports that are free at this moment."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in listeners]
