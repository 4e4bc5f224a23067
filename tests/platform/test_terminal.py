"""Git Bash on Windows: its terminal appears to programs as named pipes."""

import io
import os
from collections.abc import Iterator
from typing import TextIO

import pytest

from replicate_mcp.cli import printing
from replicate_mcp.cli.console import PrintableConsole
from replicate_mcp.cli.install import questions
from replicate_mcp.errors import InvalidInput
from replicate_mcp.platform import terminal

MINTTY = r"\msys-dd50a72ab4668b33-pty0-to-master"


@pytest.fixture
def git_bash(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Simulate Windows, started from Git Bash, with its names for pipes."""
    monkeypatch.setattr(terminal, "IS_WINDOWS", True)
    monkeypatch.setenv("MSYSTEM", "MINGW64")
    monkeypatch.setattr(terminal, "_pipe_name", lambda descriptor: MINTTY)
    return monkeypatch


@pytest.fixture
def pipe() -> Iterator[TextIO]:
    near, far = os.pipe()
    with os.fdopen(near, "rb"), os.fdopen(far, "w", encoding="cp1252") as stream:
        yield stream


@pytest.mark.parametrize(
    ("name", "is_terminal"),
    [
        (MINTTY, True),
        (r"\msys-dd50a72ab4668b33-pty12-from-master", True),
        (r"\cygwin-e022582115c10879-pty4-to-master", True),
        (r"\msys-dd50a72ab4668b33-5216-pipe-0x1", False),  # Of `| less`.
        ("", False),
    ],
)
def test_named_pipe_of_git_bash_is_a_terminal(
    git_bash: pytest.MonkeyPatch, pipe: TextIO, name: str, is_terminal: bool
) -> None:
    git_bash.setattr(terminal, "_pipe_name", lambda descriptor: name)
    assert terminal.is_terminal(pipe) is is_terminal


def test_other_pipes_and_streams_without_a_descriptor_are_not_terminals(
    git_bash: pytest.MonkeyPatch, pipe: TextIO
) -> None:
    assert not terminal.is_terminal(io.StringIO())
    git_bash.delenv("MSYSTEM")
    assert not terminal.is_terminal(pipe)


def test_git_bash_output_is_rendered_as_on_a_terminal(
    git_bash: pytest.MonkeyPatch, pipe: TextIO
) -> None:
    git_bash.setattr("sys.stdout", pipe)
    console = PrintableConsole()
    assert console.is_terminal
    assert not console.legacy_windows


def test_git_bash_output_is_utf_8_and_line_buffered(
    git_bash: pytest.MonkeyPatch,
) -> None:
    near, far = os.pipe()
    with (
        os.fdopen(near, "rb", buffering=0) as reader,
        os.fdopen(far, "w", encoding="cp1252") as stream,
    ):
        git_bash.setattr("sys.stdout", stream)
        git_bash.setattr("sys.stderr", io.StringIO())
        printing.guard_streams()
        print("✓ café")
        assert reader.read(100).decode() == "✓ café\n"


def test_token_is_not_prompted_for_where_input_cannot_be_hidden(
    git_bash: pytest.MonkeyPatch, pipe: TextIO
) -> None:
    git_bash.setattr("sys.stdin", pipe)
    with pytest.raises(InvalidInput, match="run this in PowerShell"):
        questions.prompt_token()


def test_confirmation_is_prompted_in_git_bash(
    git_bash: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    near, far = os.pipe()
    os.write(far, b"y\n")
    os.close(far)
    with os.fdopen(near, encoding="utf-8") as stream:
        git_bash.setattr("sys.stdin", stream)
        assert questions.confirm()
    assert capsys.readouterr().out == "Write this? [y/N] "
