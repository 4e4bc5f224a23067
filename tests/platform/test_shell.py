"""Quoted commands are parsed correctly by the user's shell."""

import errno
import shlex
import sys
from pathlib import Path

import pytest

from replicate_mcp.cli import executable
from replicate_mcp.errors import InvalidInput
from replicate_mcp.platform import processes, shell

WORDS = ["/Applications/My Tools/replicate-mcp", "generate", "it's a fox", "$HOME"]


def test_posix_shell_parses_the_quoted_command_unchanged() -> None:
    assert shlex.split(shell.command_line(WORDS)) == WORDS
    variables = shell.set_variables({"NAME": "it's $HOME", "OTHER": "1"})
    assert shlex.split(variables) == ["export", "NAME=it's $HOME", "OTHER=1"]
    assert shell.move_command("/a b/c", "d") == "mv '/a b/c' d"


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(shell, "IS_WINDOWS", True)
    monkeypatch.delenv("MSYSTEM", raising=False)
    return monkeypatch


def test_powershell_command_uses_powershell_quoting(windows: pytest.MonkeyPatch) -> None:
    variables = shell.set_variables({"NAME": "it's $HOME", "OTHER": "1"})
    assert variables == "$env:NAME = 'it''s $HOME'; $env:OTHER = '1'"
    assert shell.program("replicate-mcp") == "replicate-mcp.exe"
    assert shell.move_command("C:\\a b\\c", "d") == "move 'C:\\a b\\c' d"


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        (["replicate-mcp", "demo", "--keep"], "replicate-mcp demo --keep"),
        ([r"C:\Users\you\x.exe", "a", "--to", "DIR"], r"C:\Users\you\x.exe a --to DIR"),
        # A quoted program needs the call operator, which other shells do not know.
        ([r"C:\My Tools\x.exe", "show"], r"& 'C:\My Tools\x.exe' show"),
        (["x", "httpx[socks]", "$HOME", "a;b", ""], "x 'httpx[socks]' '$HOME' 'a;b' ''"),
        (["x", "it's", "it\u2019s"], "x 'it''s' 'it\u2019\u2019s'"),
        (["x", "-a.b"], "x '-a.b'"),
    ],
)
def test_powershell_parses_the_quoted_command_unchanged(
    windows: pytest.MonkeyPatch, words: list[str], typed: str
) -> None:
    assert shell.command_line(words) == typed


def test_git_bash_on_windows_uses_posix_quoting(
    windows: pytest.MonkeyPatch,
) -> None:
    windows.setenv("MSYSTEM", "MINGW64")
    words = [r"C:\My Tools\x.exe", "it's"]
    assert shlex.split(shell.command_line(words)) == words
    assert shell.set_variables({"NAME": "1"}) == "export NAME=1"


def test_package_hint_uses_the_tool_that_created_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/my tools/python")
    assert shell.install_command("pillow") == "'/my tools/python' -m pip install pillow"
    monkeypatch.setattr(shell, "find_spec", lambda name: None)
    assert shell.install_command("a[b]") == "uv pip install --python '/my tools/python' 'a[b]'"


def test_hint_names_the_program_as_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "replicate-mcp.exe"
    program.touch()
    # Windows starts programs without their extension.
    monkeypatch.setattr(sys, "argv", [str(program.with_suffix(""))])
    monkeypatch.setattr("shutil.which", lambda name: str(program))
    assert executable.as_typed("demo") == "replicate-mcp demo"
    # `uvx` adds its folder only to the program's own PATH.
    monkeypatch.setattr(sys, "prefix", "/home/you/.cache/uv/archive-v0/abc")
    assert executable.as_typed("demo") == f"{program.with_suffix('')} demo"
    monkeypatch.undo()
    monkeypatch.setattr(sys, "argv", [str(program)])
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert executable.as_typed("demo") == f"{program} demo"


@pytest.mark.parametrize(
    "prefix",
    [
        "/home/you/.cache/uv/archive-v0/abc",
        "/home/you/.local/pipx/.cache/abc",
        "/Users/you/Library/Caches/pipx/abc",
        "/Users/you/AppData/Local/pipx/Cache/abc",
    ],
)
def test_uvx_or_pipx_run_environment_is_reported_as_temporary(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", prefix)
    with pytest.raises(InvalidInput, match="passing installation"):
        executable.own_command()


def test_einval_means_closed_pipe_only_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    invalid = OSError(errno.EINVAL, "Invalid argument")
    assert not processes.is_closed_pipe(invalid)
    monkeypatch.setattr(processes, "IS_WINDOWS", True)
    assert processes.is_closed_pipe(invalid)
    assert processes.is_closed_pipe(BrokenPipeError())
    assert not processes.is_closed_pipe(ValueError())
