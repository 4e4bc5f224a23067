"""Freed memory goes back to the system, measured in processes of their own."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps freed memory")

MIB = 2**20

BEFORE = """
import anyio, sys, threading
from replicate_mcp.platform.memory import FreeMemory, memory_trimmer, return_large_blocks

if memory_trimmer() is None:
    sys.exit(77)

def held():
    with open("/proc/self/smaps_rollup") as file:
        return 1024 * sum(int(line.split()[1]) for line in file if line.startswith("Private_"))
"""

LARGE_BLOCKS = """
def use():
    bytearray(16 * 2**20)  # From then on, glibc keeps blocks of up to this size.
    [bytearray(4 * 2**20) for _ in range(6)]

at_rest = held()
thread = threading.Thread(target=use)
thread.start()
thread.join()
print(held() - at_rest)
"""

SMALL_BLOCKS = """
async def main():
    at_rest = held()
    blocks = [bytearray(60_000) for _ in range(1_000)]
    last = blocks.pop()  # Above the others, so that the heap cannot shrink.
    del blocks
    memory, before = FreeMemory(0.05), threading.active_count()
    memory.return_soon()
    memory.return_soon()
    with anyio.fail_after(30):
        while held() - at_rest > 8 * 2**20 or threading.active_count() > before:
            await anyio.sleep(0.02)
    print(held() - at_rest)

anyio.run(main)
"""


def printed_by(program: str) -> int:
    run = subprocess.run(
        [sys.executable, "-c", BEFORE + program], capture_output=True, text=True, check=False
    )
    if run.returncode == 77:
        pytest.skip("another C library")
    assert run.returncode == 0, run.stderr
    return int(run.stdout)


def test_large_blocks_are_returned_when_they_are_freed() -> None:
    assert printed_by(LARGE_BLOCKS) > 8 * MIB, "glibc keeps them by itself"
    assert printed_by("return_large_blocks()\n" + LARGE_BLOCKS) < 2 * MIB


def test_freed_memory_is_returned_soon_and_leaves_no_thread() -> None:
    assert printed_by(SMALL_BLOCKS) <= 8 * MIB
