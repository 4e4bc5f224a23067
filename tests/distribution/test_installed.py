"""The wheel, installed by pip and by uv into a home with a space and an umlaut, and used there."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

import pytest

from conftest import environment
from replicate_mcp.simulator import Simulator

pytestmark = pytest.mark.soak

WINDOWS = os.name == "nt"
SCRIPTS = "Scripts" if WINDOWS else "bin"
UV = Path(sys.executable).with_name("uv")

CODE_PAGE = "cp1252"
"""How Windows of western Europe and America encodes what goes through a pipe."""

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


@dataclass(frozen=True)
class Installation:
    """The command of an installed wheel, and the home of its user."""

    home: Path
    command: Path

    def variables(self, **more: str) -> dict[str, str]:
        """Return the environment of a user who has set `more`."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("REPLICATE", "XDG_", "PYTHON", "CONCURRENT_"))
        }
        home = dict.fromkeys(("HOME", "USERPROFILE"), str(self.home))
        data = dict.fromkeys(("APPDATA", "LOCALAPPDATA"), str(self.home / "AppData"))
        # The default encoding on Windows.
        encoding = {} if WINDOWS else {"PYTHONIOENCODING": CODE_PAGE}
        return kept | home | data | encoding | more

    def start(self, *words: str, **variables: str) -> subprocess.Popen[str]:
        """Start the command with its output in pipes."""
        return subprocess.Popen(
            [self.command, *words],
            env=self.variables(**variables),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding=CODE_PAGE,
        )

    def run(self, *words: str, **variables: str) -> str:
        """Return the output of the command, which has to succeed."""
        return finish(self.start(*words, **variables))


def finish(process: subprocess.Popen[str]) -> str:
    """Return the output of a process, which has to succeed without a failing thread."""
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors + out
    assert not any(word in errors for word in ("Traceback", "Exception", "Warning")), errors
    return out


def with_pip(place: Path, package: str) -> None:
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    pip = (place / SCRIPTS / "python", "-m", "pip", "--disable-pip-version-check")
    subprocess.run([*pip, "install", "-qq", "--only-binary", ":all:", package], check=True)


def with_uv(place: Path, package: str) -> None:
    subprocess.run([UV, "venv", "-q", "--python", sys.executable, place], check=True)
    install = (UV, "pip", "install", "-q", "--python", place, "--only-binary", ":all:")
    subprocess.run([*install, package], check=True)


@pytest.fixture(scope="module", params=[with_pip, with_uv])
def installed(
    request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Installation:
    home = tmp_path_factory.mktemp("Jürgen Groß")
    place = home / "replicate mcp"
    request.param(place, f"replicate-mcp[simulator] @ {wheel.as_uri()}")
    return Installation(
        home, place / SCRIPTS / ("replicate-mcp.exe" if WINDOWS else "replicate-mcp")
    )


@pytest.fixture
def variables(simulator: Simulator, tmp_path: Path) -> dict[str, str]:
    return environment(simulator, tmp_path)


def test_demo_makes_all_its_images(installed: Installation) -> None:
    shown = installed.run("demo", "--tasks", "4", "--limit", "2", "--seconds", "0.2")
    assert "4" in shown


def test_doctor_finds_no_problem(installed: Installation, variables: dict[str, str]) -> None:
    assert "token: it belongs to the account acme" in installed.run("doctor", **variables)


def test_install_writes_a_working_entry_and_remove_deletes_it(
    installed: Installation, variables: dict[str, str]
) -> None:
    installed.run("install", "cursor", "--yes", **variables)
    config = installed.home / ".cursor" / "mcp.json"
    entry = json.loads(config.read_text("utf-8"))["mcpServers"]["replicate"]
    assert Path(entry["command"]) == installed.command
    assert tools_of(entry["command"], entry.get("args", []), installed.variables())
    installed.run("install", "cursor", "--remove", "--yes", **variables)
    assert json.loads(config.read_text("utf-8")).get("mcpServers", {}) == {}


def test_installed_command_starts_in_an_empty_environment(installed: Installation) -> None:
    # Programs on Windows need this variable to use the network.
    bare = {"SYSTEMROOT": os.environ["SYSTEMROOT"]} if WINDOWS else {}
    assert "generate_images" in tools_of(installed.command, [], bare)


def tools_of(command: str | Path, words: list[str], variables: dict[str, str]) -> set[str]:
    """Return the names of the tools of a server started by a command."""
    initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    listing = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    with subprocess.Popen(
        [command, *words],
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        watchdog = Timer(60, process.kill)
        watchdog.start()
        for each in (INITIALIZE, initialized, listing):
            process.stdin.write(json.dumps(each) + "\n")
        process.stdin.flush()
        answer = next(each for each in map(json.loads, process.stdout) if each["id"] == 2)
        process.stdin.close()
        assert "Traceback" not in process.stderr.read()
        watchdog.cancel()
    return {tool["name"] for tool in answer["result"]["tools"]}


def test_second_process_continues_when_the_first_is_killed_at_a_limit_of_one(
    installed: Installation, variables: dict[str, str], simulator: Simulator
) -> None:
    limit = {**variables, "REPLICATE_CONCURRENT_LIMIT": "1"}
    simulator.configure(predict_seconds=1)
    killed = installed.start("generate", "a red car", "a blue car", **limit)
    simulator.wait_for(account="acme", within=60, in_flight=1)
    other = installed.start("generate", "a green car", "--json", **limit)
    killed.kill()
    killed.communicate()
    assert json.loads(finish(other))["successful_count"] == 1
    account = simulator.account("acme")
    assert (account["created"], account["max_in_flight"]) == (2, 1)


def test_filenames_folded_by_the_file_system_become_separate_files(
    installed: Installation, variables: dict[str, str], tmp_path: Path
) -> None:
    names = ["Café.png", "cafe\N{COMBINING ACUTE ACCENT}.png", "CAFÉ.PNG"]
    tasks = [{"prompt": name, "output_filename": name} for name in names]
    file = tmp_path / "tasks.json"
    file.write_text(json.dumps(tasks), "utf-8")
    folder = tmp_path / "Bilder für dich"
    installed.run("generate", "--file", str(file), "--out", str(folder), **variables)
    saved = [each for each in folder.iterdir() if each.stat().st_size]
    assert len(saved) == len(names)
    again = installed.run("download", "latest", "--to", str(folder), **variables)
    assert len(list(folder.iterdir())) == len(names), again
