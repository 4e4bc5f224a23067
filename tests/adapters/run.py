"""`make adapters`: test the MCP adapters of agent frameworks, each in its own environment.

Each `client.py` starts the server over stdio, converts all tools, and calls `generate_images` with
the arguments of a model for two images in 16:9. The requests that reach the simulator are checked.
"""

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from replicate_mcp.simulator import running_simulator

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / ".adapters"
CLIENTS = sorted(file.parent.name for file in HERE.glob("*/client.py"))
TOOLS = {"generate_images", "get_batch", "cancel_batch", "list_semaphores", "find_models"}
TASK = {"prompt": "a red car", "aspect_ratio": "16:9", "num_outputs": 2}
INSTALL_SECONDS, CLIENT_SECONDS = 600, 120


def python_of(name: str) -> Path:
    """Return the interpreter of an adapter's environment; install it if its pins changed."""
    folder = ENVIRONMENTS / name
    pins = HERE / name / "requirements.txt"
    python, marker = folder / "bin" / "python", folder / "installed.txt"
    if not marker.exists() or marker.read_text() != pins.read_text():
        subprocess.run(
            [sys.executable, "-m", "venv", "--clear", str(folder)],
            check=True,
            timeout=CLIENT_SECONDS,
        )
        pip = [str(python), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
        subprocess.run(
            [*pip, "--prefer-binary", "--require-hashes", "-r", str(pins)],
            check=True,
            timeout=INSTALL_SECONDS,
        )
        marker.write_text(pins.read_text())
    return python


def try_client(name: str) -> str:
    """Run a client with its own server and simulator; return a line about the result."""
    python = python_of(name)
    with tempfile.TemporaryDirectory() as folder, running_simulator() as simulator:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": folder,
            "REPLICATE_API_TOKEN": "r8_acme_1",
            "REPLICATE_BASE_URL": simulator.url,
            "REPLICATE_MCP_BACKEND": "memory",
        }
        given = {
            "command": [sys.executable, "-m", "replicate_mcp"],
            "environment": environment,
            "arguments": {"tasks": [TASK]},
        }
        ran = subprocess.run(
            [str(python), str(HERE / name / "client.py"), json.dumps(given)],
            capture_output=True,
            text=True,
            timeout=CLIENT_SECONDS,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr[-4_000:]
        report: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
        assert set(report["tools"]) == TOOLS, report["tools"]
        predictions = simulator.predictions("acme")
        assert len(predictions) == 1, (report, predictions)
        received = predictions[0]["input"]
        assert TASK.items() <= received.items(), (report, received)
        assert "is completed: 1 of 1 made" in report["told"], report["told"]
    return f"{name}: 16:9 and two images arrived"


def main() -> int:
    """Run all adapters, or the named ones; return the exit code."""
    names = sys.argv[1:] or CLIENTS
    failed = 0
    with ThreadPoolExecutor(2) as pool:
        for name, trial in [(name, pool.submit(try_client, name)) for name in names]:
            try:
                print(trial.result())
            except (AssertionError, subprocess.SubprocessError) as error:
                failed += 1
                print(f"{name}: failed\n{error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
