"""Commands as the user's shell reads them back."""

import errno
import shlex
import sys

import pytest

from replicate_mcp.cli import executable
from replicate_mcp.errors import InvalidInput
from replicate_mcp.platform import processes, shell

WORDS = ["/Applications/My Tools/replicate-mcp", "generate", "it's a fox", "$HOME"]


def test_a_posix_shell_reads_a_command_back_as_it_was() -> None:
    assert shlex.split(shell.command_line(WORDS)) == WORDS
    assert shlex.split(shell.set_variable("NAME", "it's $HOME")) == ["export", "NAME=it's $HOME"]


def test_powershell_gets_its_own_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "IS_WINDOWS", True)
    assert shell.set_variable("NAME", "it's $HOME") == "$env:NAME = 'it''s $HOME'"
    assert shell.command_line(["C:\\My Tools\\x.exe", "show"]) == '"C:\\My Tools\\x.exe" show'
    assert shell.program("replicate-mcp") == "replicate-mcp.exe"


@pytest.mark.parametrize(
    "prefix",
    [
        "/home/you/.cache/uv/archive-v0/abc",
        "/home/you/.local/pipx/.cache/abc",
        "/Users/you/Library/Caches/pipx/abc",
        "/Users/you/AppData/Local/pipx/Cache/abc",
    ],
)
def test_an_environment_of_uvx_or_pipx_run_is_told_as_passing(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", prefix)
    with pytest.raises(InvalidInput, match="passing installation"):
        executable.own_command()


def test_windows_says_einval_of_a_pipe_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    invalid = OSError(errno.EINVAL, "Invalid argument")
    assert not processes.is_closed_pipe(invalid)
    monkeypatch.setattr(processes, "IS_WINDOWS", True)
    assert processes.is_closed_pipe(invalid)
    assert processes.is_closed_pipe(BrokenPipeError())
    assert not processes.is_closed_pipe(ValueError())
