"""What processes left that are gone without a word: the others find out, and take it back."""

import subprocess
import sys
from pathlib import Path

import pytest

from backends.acting import state
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.backends.sqlite.life_lock import LifeLock
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.semaphores.permits import QueueEntry

HOLD_A_UNIT = """
import sys, anyio
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.semaphores.permits import QueueEntry

async def main():
    backend = await SqliteBackend.open(sys.argv[1])
    await backend.register("team", 1)
    room = await backend.join(QueueEntry("theirs", ("team",), None, 1))
    await backend.take([offer.permit for offer in room.offers])
    print("held", flush=True)
    sys.stdin.read()

anyio.run(main)
"""


def holding(path: Path) -> subprocess.Popen[bytes]:
    """A process that holds the only unit of a semaphore."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_A_UNIT, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_process_is_dead_once_it_holds_its_lock_no_more(tmp_path: Path) -> None:
    path = str(tmp_path / "state.db")
    here, living, leaving = (LifeLock(path, name) for name in ("here", "living", "leaving"))
    assert here.dead(["living", "leaving"]) == []
    leaving._lock.release(force=True)  # As the system does when a process dies.
    for _ in range(2):
        assert here.dead(["living", "leaving", "unknown"]) == ["leaving", "unknown"]
        assert living.dead(["here"]) == []
    for name in ("leaving", "unknown", "never seen"):
        here.clear(name)
    assert {file.name for file in tmp_path.iterdir()} == {
        "state.db.here.lock",
        "state.db.living.lock",
    }
    living.release()
    assert [file.name for file in tmp_path.iterdir()] == ["state.db.here.lock"]
    assert here.dead(["living"]) == ["living"]
    here.release()


def test_a_lock_that_cannot_be_opened_is_no_sign_of_death(tmp_path: Path) -> None:
    here = LifeLock(str(tmp_path / "state.db"), "here")
    (tmp_path / "state.db.other.lock").mkdir()
    assert here.dead(["other"]) == []
    here.release()


def test_a_lock_that_cannot_be_held_is_named_with_a_way_out(tmp_path: Path) -> None:
    path = str(tmp_path / "state.db")
    (tmp_path / "state.db.folder.lock").mkdir()
    held = LifeLock(path, "held")
    for name in ("folder", "held"):
        with pytest.raises(
            BackendUnavailable, match=rf"\.{name}\.lock cannot be held \(.*or to mem"
        ):
            LifeLock(path, name)
    held.release()


async def test_a_lock_that_cannot_be_taken_away_is_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.db"
    with holding(path) as other:
        living = await SqliteBackend.open(str(path))
        await living.register("team", 1)
        other.kill()

    def open_elsewhere(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "used by another process", str(self))

    # As Windows does.
    monkeypatch.setattr(Path, "unlink", open_elsewhere)
    assert await state(living, "team") == (0, 0)
    await living.close()


async def test_what_the_dead_held_is_handed_on_though_the_clock_was_set_back(
    tmp_path: Path,
) -> None:
    now = 1_000_000.0
    path = tmp_path / "state.db"
    with holding(path) as other:
        living = await SqliteBackend.open(str(path), clock=lambda: now)
        assert (await living.join(QueueEntry("mine", ("team",), None, 1))).offers == ()
        other.kill()
    now -= 3_600
    assert len((await living.admit()).offers) == 1
    await living.close()
