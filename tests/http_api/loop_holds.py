"""A server that measures in thread CPU time how long each callback blocks its event loop."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MAX_HOLD_SECONDS = 0.1
"""Longest that anything may hold an event loop."""

HOLDING = """
import asyncio, gc, json, signal, sys, time, traceback
path = sys.argv.pop()
holds = []
stack = ""

def note_stack(_signal, frame):  # Where a long callback is, for the message of a failing test.
    global stack
    frames = traceback.extract_stack(frame)
    stack = " < ".join(f"{f.name}:{f.lineno}" for f in reversed(frames[-12:]))

# Not from a thread: reading the frames of another running thread crashes Python 3.11.
signal.signal(signal.SIGVTALRM, note_stack)

def measured(handle):
    global stack
    modules, began, stack = len(sys.modules), time.thread_time(), ""
    signal.setitimer(signal.ITIMER_VIRTUAL, 0.03)
    run(handle)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    held = time.thread_time() - began
    if held > 0.02 and len(sys.modules) == modules:  # Imports are made once.
        holds.append((held, stack or repr(handle)[:300]))

run = asyncio.Handle._run

collecting_since = 0.0

def collected(phase, info):  # Collections hold the loop as well, and are no callback's own.
    global collecting_since, stack
    if phase == "start":
        collecting_since = time.thread_time()
    elif (took := time.thread_time() - collecting_since) > 0.01:
        stack = f"garbage collection of {took * 1000:.0f} ms, generation {info['generation']}"

gc.callbacks.append(collected)

asyncio.Handle._run = measured
asyncio.TimerHandle._run = measured

def write(*_):
    longest = sorted(holds, reverse=True)[:5]
    holds.clear()
    with open(path + ".part", "w") as file:
        json.dump(longest, file)
    import os
    os.replace(path + ".part", path)

signal.signal(signal.SIGUSR1, write)
from replicate_mcp.cli.main import main
sys.exit(main())
"""


class Holds:
    """The longest holds of a server's event loop since the last query."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "holds.json"

    def program(self) -> list[str]:
        """Return the server program, without its arguments."""
        script = self._path.with_suffix(".py")
        script.write_text(HOLDING.replace("sys.argv.pop()", repr(str(self._path))))
        return [sys.executable, str(script)]

    def longest(self, process: "subprocess.Popen[Any]") -> tuple[float, str]:
        """Return the longest hold in seconds and its callback; (0, "") if none took over 20 ms."""
        self._path.unlink(missing_ok=True)
        process.send_signal(signal.SIGUSR1)
        until = time.monotonic() + 60
        while not self._path.exists():
            assert time.monotonic() < until, "the server's loop does not come round"
            time.sleep(0.02)
        found = json.loads(self._path.read_text())
        return tuple(found[0]) if found else (0.0, "")


def largest_values(size: int, marks: int) -> dict[str, bytes]:
    """Return one JSON value of each kind that is slow to parse: many bytes, or many values."""
    many = marks // 2
    return {
        "text": b'"' + b"x" * size + b'"',
        "escapes": b'"' + b"\\u00e9" * (size // 6) + b'"',
        "utf8": b'"' + "é".encode() * (size // 2) + b'"',
        "data URI": b'"data:image/png;base64,' + b"A" * (size - 30) + b'"',
        "numbers": b"[" + b",".join([b"1"] * marks) + b"]",
        "long numbers": b"["
        + b",".join([b"1.2345678901234567e-10"] * min(marks, size // 24))
        + b"]",
        "objects": b"[" + b",".join([b"{}"] * many) + b"]",
        "names": b"{" + b",".join(b'"n%d":1' % n for n in range(min(marks, size // 12))) + b"}",
        "depth": b"[" * many + b"]" * many,
        "depth of objects": b'{"a":' * many + b"1" + b"}" * many,
    }
