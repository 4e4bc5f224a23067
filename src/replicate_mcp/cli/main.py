"""Entry point of `replicate-mcp`: imports and runs the module of the given command."""

import importlib
import io
import logging
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol, cast

from replicate_mcp.cli import logs
from replicate_mcp.cli.printing import OutputFailed, drop_output, guard_streams, say
from replicate_mcp.errors import ReplicateMcpError
from replicate_mcp.platform.processes import raise_descriptor_limit

if TYPE_CHECKING:
    import argparse

log = logging.getLogger(__name__)

OK, SOME_FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130
"""Exit codes: success, some tasks failed, usage or configuration error, interrupted by Ctrl-C."""

COMMANDS = {
    "serve": "serve MCP on stdin and stdout (what a host starts; the default)",
    "generate": "make images from prompts",
    "retry": "make failed tasks of a batch again, or chosen ones",
    "batches": "list your batches of the last 24 hours, or show one",
    "download": "save a batch's images on this machine",
    "semaphores": "show the limits and who uses them, watch, set, unset or remove them",
    "models": "list known models, or show one model's inputs",
    "install": "write this server into the configuration of Claude, Claude Code, Cursor or VS Code",
    "doctor": "check the settings, the state and connectivity to Replicate",
    "demo": "watch the whole product work, without an account",
    "simulate": "run the stand-in for Replicate's API",
}


class Command(Protocol):
    """Interface of a command's module."""

    def add_arguments(self, parser: "argparse.ArgumentParser") -> None:
        """Add the command's arguments to `parser`."""

    def run(self, arguments: Any) -> int:
        """Run the command and return the exit code."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Escape characters that the terminal's encoding lacks instead of raising.
            stream.reconfigure(errors="backslashreplace")
    guard_streams()
    try:
        try:
            return _run(words)
        finally:
            sys.stdout.flush()
    except OutputFailed as error:
        drop_output()
        if error.was_closed:  # The reader closed the pipe on purpose, as `| head` does.
            return OK
        say(str(error))
        return SOME_FAILED


def _run(words: list[str]) -> int:
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help", "--version")):
        words.insert(0, "serve")
    name = words[0]
    if name not in COMMANDS:
        _parser().parse_args(words[:1])
        return WRONG_USE
    logs.configure()
    raise_descriptor_limit()
    command = cast(Command, importlib.import_module(f"replicate_mcp.cli.commands.{name}"))
    try:
        return command.run(_parsed(command, name, words[1:]))
    except OutputFailed:
        raise
    except ReplicateMcpError as error:
        say(str(error))
        return WRONG_USE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception:  # an internal error, whose message may quote anything
        log.critical("The command failed by a fault of its own.", exc_info=True)
        return SOME_FAILED


def _parsed(command: Command, name: str, words: list[str]) -> Any:
    if not words and (arguments := getattr(command, "NO_ARGUMENTS", None)) is not None:
        return arguments  # As hosts start a server, which saves the memory of the parser.
    import argparse

    parser = argparse.ArgumentParser(prog=f"replicate-mcp {name}", description=_sentence(name))
    parser.add_argument("--env-file", metavar="FILE", help="a file of settings, NAME=value a line")
    command.add_arguments(parser)
    return parser.parse_args(words)


def _parser() -> "argparse.ArgumentParser":
    import argparse

    parser = argparse.ArgumentParser(
        prog="replicate-mcp",
        description="Prompts in, image URLs out, through Replicate.",
        epilog="`replicate-mcp COMMAND --help` describes each.",
    )
    version = f"replicate-mcp {metadata.version('replicate-mcp')}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, what in COMMANDS.items():
        commands.add_parser(name, help=what)
    return parser


def _sentence(name: str) -> str:
    what = COMMANDS[name]
    return what[0].upper() + what[1:] + "."
