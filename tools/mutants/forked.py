"""Run a function in a forked process that reports the result of each test."""

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

PASSED, FAILED, NOT_APPLIED = b"p", b"f", b"n"

MIN_TEST_SECONDS = 5.0
SLOWDOWN = 10
"""Factor of a test's normal duration; beyond it the test hangs and the mutant is detected."""


class Verdict(StrEnum):
    """Result of running the tests against a mutant."""

    KILLED = "killed"
    TIMED_OUT = "timed out"
    SURVIVED = "survived"
    UNREACHED = "unreached"
    INVALID = "invalid"
    """The mutant is not a valid program and does not count."""
    NOT_APPLIED = "not applied"
    """The mutated code runs at import and needs a process that has not imported it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Verdict on a mutant, and the number of tests that passed before it."""

    verdict: Verdict
    passed: int = 0


def patience(seconds: float) -> float:
    """Return the timeout of a test that takes `seconds` without a mutant.

    It is longer on a busy machine, though not much, since `seconds` is, too.
    """
    return (MIN_TEST_SECONDS + SLOWDOWN * seconds) * min(2.0, busyness())


def busyness() -> float:
    """Return how many processes compete for each core, at least 1."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def run_forked(run: Callable[[int], None], limits: Sequence[float]) -> Outcome:
    """Fork and follow the results of the tests that the child runs.

    Args:
        run: runs the tests; writes `PASSED` or `FAILED` to the descriptor after each test, or
            `NOT_APPLIED`.
        limits: timeout of each test, in seconds.
    """
    child, read_end = fork(run)
    try:
        for passed, limit in enumerate(limits):
            if not select.select([read_end], [], [], limit)[0]:
                return Outcome(Verdict.TIMED_OUT, passed)
            match os.read(read_end, 1):
                case b"p":
                    continue
                case b"n":
                    return Outcome(Verdict.NOT_APPLIED)
                case _:
                    # A test failed, or the process ended early.
                    return Outcome(Verdict.KILLED, passed)
        return Outcome(Verdict.SURVIVED, len(limits))
    finally:
        os.close(read_end)
        end(child)


def fork(run: Callable[[int], None]) -> tuple[int, int]:
    """Run `run` in a child with its own process group; return its id and the pipe's read end."""
    read_end, write_end = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        os.close(write_end)
        return child, read_end
    os.close(read_end)
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        run(write_end)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ask_to_end(child: int) -> None:
    """Send SIGTERM, so that the child ends its own children, then kill it."""
    os.kill(child, signal.SIGTERM)
    for _ in range(50):
        if os.waitpid(child, os.WNOHANG)[0]:
            return
        time.sleep(0.1)
    end(child)


def exit_when_asked() -> None:
    """Handle SIGTERM by `sys.exit`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def end(child: int) -> None:
    """Kill a child and all the processes that it started."""
    for kill in (os.killpg, os.kill):
        try:
            kill(child, signal.SIGKILL)
            break
        except ProcessLookupError:
            continue
    os.waitpid(child, 0)


def log_to(path: Path) -> None:
    """Redirect this process's output to a file."""
    with path.open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
