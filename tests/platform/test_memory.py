"""The allocator of the C library."""

import subprocess
import sys

import pytest

from replicate_mcp.platform.memory import memory_trimmer

THREADS = """
import ctypes, sys, threading
from pathlib import Path
from replicate_mcp.platform.memory import share_one_arena

if sys.argv[1] == "one":
    share_one_arena()
malloc = ctypes.CDLL(None).malloc
malloc.restype = ctypes.c_void_p
together = threading.Barrier(5)

def allocate():
    malloc(ctypes.c_size_t(1000))
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads:
    thread.start()
maps = Path("/proc/self/maps").read_text()
together.wait()
# An arena of a thread reserves 64 MiB of addresses, most of them without access.
ranges = [line.split()[0].split("-") for line in maps.splitlines() if "---p" in line]
print(sum(int(end, 16) - int(start, 16) > 40_000_000 for start, end in ranges))
"""


def _arenas(which: str) -> int:
    command = [sys.executable, "-c", THREADS, which]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(memory_trimmer() is None, reason="another C library")
def test_threads_share_one_arena() -> None:
    assert _arenas("each") > 1
    assert _arenas("one") == 1
