"""Output of text to stdout and stderr.

Models, accounts, proxies and other processes choose names, errors and URLs. `guard_streams`
removes control characters from everything that is printed; `print_row`, `print_json` and `say`
also keep a row or a sentence on one line. Output of rich goes through `cli/console.py`.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

from replicate_mcp.errors import ReplicateMcpError
from replicate_mcp.platform.processes import fill_closed_descriptors, is_closed_pipe
from replicate_mcp.platform.terminal import is_msys_terminal, terminal_columns
from replicate_mcp.text import one_line, printable

MAX_SENTENCE_CHARACTERS = 4_000
"""Maximum length of a printed sentence, including what it quotes."""

NO_PROMPT = "(no prompt)"
"""Text shown for a task that has only an image as input."""

_LAYOUT = re.compile(r"([\n\t])")


class OutputFailed(ReplicateMcpError):
    """Writing to stdout failed.

    Attributes:
        was_closed: whether the reader closed the pipe, as `| head` does.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"The output could not be written: {error.strerror or error}.")
        self.was_closed = is_closed_pipe(error)


class PrintableStream:
    """Text stream that replaces control characters other than line ends and tabs with spaces.

    Args:
        stream: stream to write to.
        is_output: whether failed writes raise `OutputFailed`.
    """

    def __init__(self, stream: TextIO, *, is_output: bool = False) -> None:
        self.unguarded = stream
        self._is_output = is_output

    def write(self, text: str) -> int:
        """Write `text` after `keep_layout`."""
        with self._errors():
            self.unguarded.write(keep_layout(text))
        return len(text)

    def flush(self) -> None:
        """Flush the underlying stream."""
        with self._errors():
            self.unguarded.flush()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._is_output:
                raise
            raise OutputFailed(error) from None

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of `lines`."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unguarded, name)


def guard_streams() -> None:
    """Replace stdout and stderr with printable streams for the rest of the process.

    Standard streams that were closed at start are opened on the null device.
    """
    if None in (sys.stdin, sys.stdout, sys.stderr):
        fill_closed_descriptors()
        for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
            if getattr(sys, name) is None:
                setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, PrintableStream):
            if is_msys_terminal(stream):
                stream.reconfigure(encoding="utf-8", line_buffering=True)
            setattr(sys, name, PrintableStream(stream, is_output=name == "stdout"))


def drop_output() -> None:
    """Redirect stdout to the null device, so that flushing its buffer at exit succeeds."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def unguarded(stream: TextIO) -> TextIO:
    """Return the stream below a guarded one, for writers of escape sequences."""
    return cast(TextIO, getattr(stream, "unguarded", stream))


def keep_layout(text: str) -> str:
    """Return `text` in printable form, keeping line ends and tabs."""
    if text.isprintable():
        return text
    return "".join(
        part if part in ("\n", "\t") else printable(part) for part in _LAYOUT.split(text)
    )


def cell(text: str) -> str:
    """Return `text` (a name or a URL) as one printable line, unshortened and with its spaces."""
    return printable(text)


def print_row(*cells: str) -> None:
    """Print one tab-separated line to stdout, for pipes."""
    print("\t".join(map(cell, cells)))


def print_json(document: object) -> None:
    """Print `document` to stdout as JSON, with non-ASCII characters escaped."""
    import json

    print(json.dumps(document, indent=2, ensure_ascii=True))


def say(sentence: str, command: str = "") -> None:
    """Print a sentence to stderr: wrapped between words on a terminal, else on one line.

    Args:
        sentence: text to print, shortened to `MAX_SENTENCE_CHARACTERS`.
        command: command for the user to type next, printed unshortened on a line of its own.
    """
    line = one_line(sentence, MAX_SENTENCE_CHARACTERS)
    if columns := terminal_columns(sys.stderr):
        line = wrapped(line, columns)
    print(line, file=sys.stderr, flush=True)
    if command:
        print(f"  {cell(command)}", file=sys.stderr, flush=True)


def wrapped(line: str, columns: int, *, hanging: int = 0) -> str:
    """Wrap `line` between words, keeping commands in backquotes in one piece.

    Args:
        line: text to wrap.
        columns: width of the terminal.
        hanging: number of spaces before each line but the first.
    """
    import textwrap

    joined = re.sub(r"`[^`]*`", lambda quoted: quoted[0].replace(" ", "\0"), line)
    lines = textwrap.wrap(
        joined,
        max(20, columns),
        subsequent_indent=" " * hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace("\0", " ")
