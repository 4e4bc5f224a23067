"""Commands whose standard streams are closed, full, or not read."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from replicate_mcp.simulator import Simulator

from .conftest import SECONDS, CommandLine

CLOSED, FULL, NOT_READ = ">&-", ">/dev/full", "| true"
UNWRITTEN = [(CLOSED, "Bad file descriptor"), (FULL, "No space left on device")]


def redirected(
    command: CommandLine, redirection: str, *words: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command, in a shell where a stream is closed, and return its exit code."""
    if redirection in (FULL, NOT_READ, ""):
        return _run_without_a_shell(command, redirection, *words, **environment)
    return subprocess.run(
        [
            *("bash", "-c", f'"$@" {redirection}; exit "${{PIPESTATUS[0]}}"', "bash"),
            *(sys.executable, "-m", "replicate_mcp", *words),
        ],
        env=command.environment | environment,
        cwd=command.folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def _run_without_a_shell(
    command: CommandLine, redirection: str, *words: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    reading, writing = os.pipe()
    os.close(reading)
    with Path(FULL.removeprefix(">")).open("w") as full, os.fdopen(writing, "w") as not_read:
        return subprocess.run(
            [sys.executable, "-m", "replicate_mcp", *words],
            env=command.environment | environment,
            cwd=command.folder,
            stdout={FULL: full, NOT_READ: not_read}.get(redirection, subprocess.PIPE),
            stderr=subprocess.PIPE,
            text=True,
            timeout=SECONDS,
            check=False,
        )


@pytest.mark.parametrize(("redirection", "reason"), UNWRITTEN)
@pytest.mark.parametrize("words", ["models", "doctor", "batches --json", "models --help"])
def test_unwritable_output_is_reported_in_one_line(
    replicate_mcp: CommandLine, redirection: str, reason: str, words: str
) -> None:
    ran = redirected(replicate_mcp, redirection, *words.split())
    assert (ran.returncode, ran.stderr) == (1, f"The output could not be written: {reason}.\n")


@pytest.mark.parametrize(("redirection", "reason"), UNWRITTEN)
def test_batch_with_unwritable_results_is_named_and_saved(
    replicate_mcp: CommandLine, redirection: str, reason: str, tmp_path: Path
) -> None:
    ran = redirected(replicate_mcp, redirection, "generate", "a car", "--out", "pictures")
    assert ran.returncode == 1
    first, command, summary, saved = ran.stderr.splitlines()
    assert first == f"The output could not be written: {reason}. To show the results:"
    batch = re.fullmatch(r"Batch (b_\w+): 1 of 1 made\.", summary)
    assert batch is not None
    assert command == f"  {sys.executable} -m replicate_mcp batches {batch[1]}"
    assert saved == "Saved 1 of 1 file in pictures."
    assert (tmp_path / "pictures" / "generated_image_1.webp").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [("models", 0), ("batches", 0), ("generate car", 0), ("generate [fail]", 1)],
)
def test_closed_output_pipe_is_not_a_failure(
    replicate_mcp: CommandLine, words: str, code: int
) -> None:
    ran = redirected(replicate_mcp, NOT_READ, *words.split())
    assert ran.returncode == code
    assert "output" not in ran.stderr
    assert "Traceback" not in ran.stderr


def test_serve_with_closed_stdin_exits_immediately(replicate_mcp: CommandLine) -> None:
    ran = redirected(replicate_mcp, "<&-", "serve")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_in_memory_results_are_not_suggested_to_other_commands(
    replicate_mcp: CommandLine, simulator: Simulator
) -> None:
    for redirection in ("", FULL):
        ran = redirected(
            replicate_mcp, redirection, "generate", "car", REPLICATE_MCP_BACKEND="memory"
        )
        assert "replicate-mcp" not in ran.stderr
        assert "The URLs work for one hour. To save the images, give --out DIR" in ran.stderr
    assert simulator.account("acme")["created"] == 2
