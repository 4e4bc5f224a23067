"""Cost of a piece of work in this process: time, CPU time and memory."""

import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_SAMPLE_SECONDS = 0.02


@dataclass(slots=True)
class Cost:
    """Cost of a piece of work, over all threads of the process.

    Attributes:
        seconds: elapsed time.
        cpu_seconds: user and system time.
        waited_seconds: time without a core, as `seconds_without_core` returns it.
        grown_bytes: maximum growth of resident memory since the start.
        finished: whether the work ended by itself instead of being given up.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    waited_seconds: float = 0.0
    grown_bytes: int = 0
    finished: bool = True


@contextmanager
def counted() -> Iterator[Cost]:
    """Measure the cost of the block; the result is complete when the block ends."""
    cost, ended, at_first = Cost(), threading.Event(), _resident_bytes()

    def sample_memory() -> None:
        last = False
        while not last:
            last = ended.wait(_SAMPLE_SECONDS)
            cost.grown_bytes = max(cost.grown_bytes, _resident_bytes() - at_first)

    sampler = threading.Thread(target=sample_memory, daemon=True)
    sampler.start()
    waited, cpu, began = seconds_without_core(), time.process_time(), time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - began
        cost.cpu_seconds = time.process_time() - cpu
        cost.waited_seconds = seconds_without_core() - waited
        ended.set()
        sampler.join()


def seconds_without_core(pid: int | None = None) -> float:
    """Return the seconds since its start that a process's main thread was runnable without a core.

    Always 0 on systems other than Linux, which do not report it.
    """
    schedule = Path("/proc", str(pid or "self"), "schedstat")
    return int(schedule.read_text().split()[1]) / 1e9 if schedule.exists() else 0.0


def _resident_bytes() -> int:
    memory = Path("/proc/self/statm")
    if memory.exists():
        return int(memory.read_text().split()[1]) * resource.getpagesize()
    # Peak memory where the current value is unavailable: its growth is not larger.
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024
