"""What a stretch of work costs this process: time, CPU time and memory."""

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
    """Of one stretch of work, over all threads of the process.

    Attributes:
        seconds: that went by.
        cpu_seconds: of user and system time.
        waited_seconds: without a core, as `seconds_without_core` tells.
        grown_bytes: how far resident memory rose above where it began, at its highest.
        finished: whether the work came to its end, and was not given up.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    waited_seconds: float = 0.0
    grown_bytes: int = 0
    finished: bool = True


@contextmanager
def counted() -> Iterator[Cost]:
    """Count what the block costs; known when it ends."""
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
    """How long a process's main thread could have run, but others had the cores, since its start.

    Always 0 where the system does not tell: only Linux does.
    """
    schedule = Path("/proc", str(pid or "self"), "schedstat")
    return int(schedule.read_text().split()[1]) / 1e9 if schedule.exists() else 0.0


def _resident_bytes() -> int:
    memory = Path("/proc/self/statm")
    if memory.exists():
        return int(memory.read_text().split()[1]) * resource.getpagesize()
    # The highest so far, where the system does not tell the present one: its growth is no larger.
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return highest if sys.platform == "darwin" else highest * 1024
