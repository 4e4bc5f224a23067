"""Printed commands use the syntax of the user's shell."""

import argparse
import shlex
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from docs.powershell import faults
from replicate_mcp.cli import diagnostics, executable
from replicate_mcp.cli.commands import simulate
from replicate_mcp.errors import BackendUnavailable, InvalidInput
from replicate_mcp.platform import shell
from replicate_mcp.settings_loader import load_settings
from replicate_mcp.simulator import __main__ as simulator

PYTHON = r"C:\Program Files\Python\python.exe"


def of_simulate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the command that `simulate` prints for another terminal."""

    def run(*_: object, on_ready: Callable[[str], None], **__: object) -> None:
        on_ready("http://127.0.0.1:8765")

    monkeypatch.setattr(simulator, "run", run)
    parser = argparse.ArgumentParser()
    simulator.add_arguments(parser)
    simulator.main(parser.parse_args([]))
    return capsys.readouterr().out.splitlines()[1].strip()


def of_settings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the command that creates an admin key when one is too short."""
    with pytest.raises(InvalidInput) as raised:
        load_settings({"REPLICATE_MCP_ADMIN_API_KEY": "short"}, "/dev/null")
    return str(raised.value).split("`")[1]


def of_doctor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the command that moves a damaged state file; its folder has a space, as on macOS."""
    error = BackendUnavailable("")
    error.__cause__ = damaged = sqlite3.DatabaseError("malformed")
    damaged.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    file = Path("/Users/you/Library/Application Support/replicate-mcp/state.db")
    return (
        diagnostics.state_advice(file, error)
        .partition("where they are: ")[2]
        .partition(". What")[0]
    )


def of_missing_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the command that installs the simulator's packages."""
    monkeypatch.setattr(simulate, "find_spec", lambda name: None)
    with pytest.raises(InvalidInput) as raised:
        simulate.require_simulator()
    return str(raised.value).partition(": ")[2]


def of_generate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the command that saves the images afterwards."""
    monkeypatch.setattr(sys, "argv", [PYTHON.replace("python.exe", "replicate-mcp")])
    return executable.as_typed("download", "b_1", "--to", "DIR")


HINTS = [of_simulate, of_settings, of_doctor, of_missing_packages, of_generate]

Hint = Callable[[pytest.MonkeyPatch, pytest.CaptureFixture[str]], str]


@pytest.mark.parametrize("hint", HINTS, ids=lambda hint: hint.__name__)
@pytest.mark.parametrize("system", ["windows", "git bash", "posix"])
def test_hint_is_valid_in_the_shell_it_is_for(
    hint: Hint, system: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shell, "IS_WINDOWS", system != "posix")
    monkeypatch.setattr(sys, "executable", PYTHON)
    monkeypatch.delenv("MSYSTEM", raising=False)
    if system == "git bash":
        monkeypatch.setenv("MSYSTEM", "MINGW64")
    said = hint(monkeypatch, capsys)
    if system == "windows":
        assert faults(said) == [], said
        assert "export" not in said
        return
    words = shlex.split(said)
    match hint.__name__:
        case "of_simulate":
            url = "REPLICATE_BASE_URL=http://127.0.0.1:8765"
            assert words == ["export", url, "REPLICATE_API_TOKEN=r8_demo"]
        case "of_doctor":
            assert words[0] == "mv"
            assert words[2] == f"{words[1]}.damaged"
        case "of_generate":
            assert words[1:] == ["download", "b_1", "--to", "DIR"]
        case _:
            assert words[0] == PYTHON
