"""Dead processes on SQLite: others detect them and take over their permits and batches."""

import subprocess
import sys
from pathlib import Path

import pytest

from backends.steps import OWN, begin, state, take_all
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.backends.sqlite.liveness_lock import LifeLock
from replicate_mcp.backends.sqlite.orphans import has_orphans
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.semaphores.permit_store import QueueEntry
from replicate_mcp.tasks.result import TaskFailure

HOLD_A_UNIT = """
import sys, anyio
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.semaphores.permit_store import QueueEntry

async def main():
    backend = await SqliteBackend.open(sys.argv[1])
    await backend.register("team", 1)
    room = await backend.enqueue(QueueEntry("theirs", ("team",), None, 1))
    await backend.accept_offers([offer.permit for offer in room.offers])
    print("held", flush=True)
    sys.stdin.read()

anyio.run(main)
"""


def holding(path: Path) -> subprocess.Popen[bytes]:
    """Return a process that holds the only unit of a semaphore."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD_A_UNIT, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_process_is_dead_once_its_lock_is_released(tmp_path: Path) -> None:
    path = str(tmp_path / "state.db")
    here, living, leaving = (LifeLock(path, name) for name in ("here", "living", "leaving"))
    assert here.dead(["living", "leaving"]) == []
    leaving._lock.release(force=True)  # The system does this when a process dies.
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


def test_unopenable_lock_does_not_prove_a_dead_process(tmp_path: Path) -> None:
    here = LifeLock(str(tmp_path / "state.db"), "here")
    (tmp_path / "state.db.other.lock").mkdir()
    assert here.dead(["other"]) == []
    here.release()


def test_unavailable_lock_is_reported_with_a_remedy(tmp_path: Path) -> None:
    path = str(tmp_path / "state.db")
    (tmp_path / "state.db.folder.lock").mkdir()
    held = LifeLock(path, "held")
    for name in ("folder", "held"):
        with pytest.raises(
            BackendUnavailable, match=rf"\.{name}\.lock cannot be held \(.*or to mem"
        ):
            LifeLock(path, name)
    held.release()


class Machine:
    """Processes with one state file, which the test can kill."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 1_000_000.0

    async def open(self, label: str = "") -> SqliteBackend:
        backend = await SqliteBackend.open(str(self.path), label=label, clock=lambda: self.now)
        await backend.declare_limit(OWN, 1, per_minute=60_000)
        await backend.register("team", 1)
        return backend

    async def die(self, backend: SqliteBackend) -> None:
        """Release what the system releases for a dead process."""
        assert backend._lock is not None
        backend._lock._lock.release(force=True)
        await backend._doorbell.close()
        backend._database.close()

    def files(self) -> int:
        return len(list(self.path.parent.glob("*.lock")))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "state.db")


async def test_dead_holders_are_reaped_once_a_second(machine: Machine) -> None:
    living, dying = await machine.open(), await machine.open()
    machine.now += 10
    assert (await living.admit()).offers == ()
    (offer,) = (await dying.enqueue(QueueEntry("theirs", ("team",), None, 1))).offers
    await dying.accept_offers([offer.permit])
    await living.enqueue(QueueEntry("mine", ("team",), None, 1))
    await machine.die(dying)
    for passed, offers in ((0.0, 0), (0.5, 0), (0.499, 0), (0.001, 1)):
        machine.now += passed
        assert len((await living.admit()).offers) == offers
    assert machine.files() == 1, "its lock is taken away"
    await living.close()
    assert machine.files() == 0


async def test_listing_orphans_reaps_dead_holders_once_a_second(machine: Machine) -> None:
    living, dying = await machine.open(), await machine.open()
    permits = await take_all(dying, await begin(dying, "b", 2))
    await machine.die(dying)
    assert await living.orphans("acme") == []
    machine.now += 1
    assert [each.permit for each in await living.orphans("acme")] == permits
    rows = [row for row in await living.results("b") if isinstance(row, TaskFailure)]
    assert [(row.task_index, row.error_code, row.retryable) for row in rows] == [
        (1, "interrupted", True)
    ]
    assert (rows[0].prompt, rows[0].output_filename) == ("prompt 1", "1.png")
    assert await state(living) == (1, 0)
    await living.close()


async def test_reading_usage_or_removing_a_name_reaps_dead_holders_immediately(
    machine: Machine,
) -> None:
    living, first, second = [await machine.open() for _ in range(3)]
    await first.register("first's", 1)
    for backend in (living, second):
        await backend.register("shared", 1)
    await machine.die(first)
    assert {each.name for each in await living.semaphores()} == {OWN, "team", "shared"}
    await machine.die(second)
    await living.remove("shared")
    assert {each.name for each in await living.semaphores()} == {OWN, "team"}
    await living.close()


async def test_new_process_reaps_dead_holders_and_ends_their_batches(
    machine: Machine,
) -> None:
    dying = await machine.open("dying")
    await take_all(dying, await begin(dying, "b", 2))
    assert [share.holder for share in await dying.usage_by_holder()] == ["dying"]
    await machine.die(dying)
    coming = await SqliteBackend.open(str(machine.path), clock=lambda: machine.now)
    assert [share.holder for share in await coming.usage_by_holder()] == [""]
    machine.now += 60 * 60
    await coming.admit()
    await coming.admit()
    rows = [row for row in await coming.results("b") if isinstance(row, TaskFailure)]
    assert [(row.task_index, row.error_code, row.retryable) for row in rows] == [
        (1, "interrupted", True),
        (0, "create_outcome_unknown", False),
    ]
    assert (rows[1].prompt, rows[1].output_filename) == ("prompt 0", "0.png")
    await coming.register("mine", 1)
    await coming.enqueue(QueueEntry("mine", ("mine",), None, 1))
    assert [share.holder for share in await coming.usage_by_holder()] == [""], "it has no label"
    await coming.close()


async def test_usage_is_reported_by_holder(machine: Machine) -> None:
    file, memory = await machine.open(), await SqliteBackend.open(":memory:")
    assert (file.scope, memory.scope) == ("machine", "process")
    for backend in (file, memory):
        await backend.close()


async def test_undeletable_lock_file_of_a_dead_holder_blocks_no_reaping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.db"
    with holding(path) as other:
        living = await SqliteBackend.open(str(path))
        await living.register("team", 1)
        other.kill()

    def open_elsewhere(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "used by another process", str(self))

    # As on Windows.
    monkeypatch.setattr(Path, "unlink", open_elsewhere)
    assert await state(living, "team") == (0, 0)
    await living.close()


async def test_permits_of_dead_holders_are_reoffered_after_the_clock_was_set_back(
    tmp_path: Path,
) -> None:
    now = 1_000_000.0
    path = tmp_path / "state.db"
    with holding(path) as other:
        living = await SqliteBackend.open(str(path), clock=lambda: now)
        assert (await living.enqueue(QueueEntry("mine", ("team",), None, 1))).offers == ()
        other.kill()
    now -= 3_600
    assert len((await living.admit()).offers) == 1
    await living.close()


async def test_attempts_are_orphans_once_their_process_is_dead(machine: Machine) -> None:
    path = machine.path
    assert not has_orphans(path)
    assert not path.exists()
    running = await machine.open()
    assert not has_orphans(path)
    await take_all(running, await begin(running, "b", 1))
    assert not has_orphans(path)
    assert machine.files() == 1
    await machine.die(running)
    assert has_orphans(path)
    assert has_orphans(path), "the search changes nothing"
    living = await machine.open()
    assert has_orphans(path), "its process is not registered any more"
    await living.declare_limit(OWN, 3, per_minute=60_000)
    assert await take_all(living, await begin(living, "b2", 1))
    assert has_orphans(path), "beside an attempt of a living process"
    await living.close()


async def test_offers_and_permits_without_an_attempt_are_no_orphans(machine: Machine) -> None:
    dying = await machine.open()
    (offer,) = (await dying.enqueue(QueueEntry("theirs", ("team",), None, 1))).offers
    await dying.accept_offers([offer.permit])
    await machine.die(dying)
    assert not has_orphans(machine.path)


async def test_abandoned_attempts_are_orphans(machine: Machine) -> None:
    running = await machine.open()
    (permit,) = await take_all(running, await begin(running, "b", 1))
    await running.abandon(permit)
    assert has_orphans(machine.path)
    await running.close()


async def test_process_that_just_left_gets_no_new_lock_file(machine: Machine) -> None:
    leaving = await machine.open()
    await take_all(leaving, await begin(leaving, "b", 1))
    assert leaving._lock is not None
    leaving._lock.release()
    assert has_orphans(machine.path)
    assert machine.files() == 0
    await machine.die(leaving)


def test_search_for_orphans_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with holding(path) as other:
        other.kill()
    files = [path, tmp_path / "state.db-wal"]  # What a process that is killed leaves.
    before = [file.read_bytes() for file in files]
    assert not has_orphans(path)
    assert [file.read_bytes() for file in files] == before


def test_unreadable_state_file_may_have_orphans(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_text("something else entirely, and longer than a header " * 3)
    assert has_orphans(tmp_path / "state.db")
    (tmp_path / "folder").mkdir()
    assert has_orphans(tmp_path / "folder")
    assert has_orphans(tmp_path / ("long" * 100)), "its name is too long for the system"


async def test_batch_that_waits_for_a_process_is_left_to_those_that_run_batches_on(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state.db"
    backend = await SqliteBackend.open(str(path))
    await backend.declare_limit(OWN, 1, per_minute=600)
    await begin(backend, "b", 1, resumable=True)
    assert not has_orphans(path, resumes=True), "its process lives"
    await backend.close()
    assert has_orphans(path, resumes=True)
    assert not has_orphans(path)
