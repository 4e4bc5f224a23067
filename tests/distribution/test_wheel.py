"""The wheel contains only the package, and runs on a machine with nothing else installed."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from distribution.conftest import ROOT

VERSION = json.loads((ROOT / "server.json").read_text("utf-8"))["version"]
UV = Path(sys.executable).with_name("uv")


def test_wheel_contains_exactly_the_package_files(wheel: Path) -> None:
    source = ROOT / "src"
    files = {
        file.relative_to(source).as_posix()
        for file in (source / "replicate_mcp").rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in inside if ".dist-info/" not in name} == files
    for kind in (".lua", ".sql", ".json", ".html", ".js", ".css", ".svg", "py.typed"):
        assert any(name.endswith(kind) for name in inside), kind


def test_wheel_metadata_names_command_licence_and_registry_entry(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        metadata = archive.read(f"{folder}/METADATA").decode()
        entry_points = archive.read(f"{folder}/entry_points.txt").decode()
    assert f"\nVersion: {VERSION}\n" in metadata
    assert "\nLicense-Expression: MIT\n" in metadata
    assert "mcp-name: " in metadata
    assert "replicate-mcp = replicate_mcp.cli.main:main" in entry_points


class Machine:
    """A user's machine with uv and nothing else installed."""

    def __init__(self, home: Path) -> None:
        self.home = home
        kept = {name: value for name, value in os.environ.items() if "REPLICATE" not in name}
        self.environment = kept | {
            "HOME": str(home),
            "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache" / "uv")),
            "UV_TOOL_DIR": str(home / "tools"),
            "UV_TOOL_BIN_DIR": str(home / "bin"),
            "UV_PYTHON": sys.executable,
            "REPLICATE_API_TOKEN": "r8_acme_1",
        }

    def run(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            words, env=self.environment, cwd=self.home, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.soak
def test_uvx_runs_the_package_and_install_rejects_its_temporary_environment(
    wheel: Path, machine: Machine
) -> None:
    uvx = (str(UV), "tool", "run", "--from", str(wheel), "replicate-mcp")
    assert f"replicate-mcp {VERSION}" in machine.run(*uvx, "--version")
    assert "passing installation" in machine.run(*uvx, "install", "cursor", "--yes", code=2)


@pytest.mark.soak
def test_tool_installation_is_persistent_and_writes_its_own_path(
    wheel: Path, machine: Machine
) -> None:
    machine.run(str(UV), "tool", "install", str(wheel))
    command = str(machine.home / "bin" / "replicate-mcp")
    assert f"replicate-mcp {VERSION}" in machine.run(command, "--version")
    machine.run(command, "install", "cursor", "--yes")
    written = json.loads((machine.home / ".cursor" / "mcp.json").read_text())
    started = Path(written["mcpServers"]["replicate"]["command"])
    assert started.is_relative_to(machine.home / "tools")
    assert f"replicate-mcp {VERSION}" in machine.run(str(started), "--version")
