"""Transactions of processes that share a state file: atomic, serialised, and off the event loop."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from backends.steps import OWN, begin, failed, finish, state, take_all
from replicate_mcp.backends.sqlite import backend as backend_module
from replicate_mcp.backends.sqlite import database
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.cpu_bound import INLINE_BYTES
from replicate_mcp.errors import BackendUnavailable, InvalidInput


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[SqliteBackend]:
    backend = await SqliteBackend.open(str(tmp_path / "state.db"))
    await backend.declare_limit(OWN, 2, per_minute=60_000)
    yield backend
    await backend.close()


@pytest.fixture
def other(tmp_path: Path, backend: SqliteBackend) -> Iterator[sqlite3.Connection]:
    """Return another process's connection, whose transactions the test begins and ends."""
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as connection:
        yield connection


async def test_transaction_waits_for_another_off_the_event_loop_and_reads_its_changes(
    backend: SqliteBackend, other: sqlite3.Connection
) -> None:
    first, second = await take_all(backend, await begin(backend, "b", 4))
    done: list[str] = []

    async def do(name: str, step: Callable[[], Awaitable[object]]) -> None:
        await step()
        done.append(name)

    other.execute("BEGIN IMMEDIATE")
    other.execute("DELETE FROM permit WHERE id = ?", (first,))
    async with anyio.create_task_group() as group:
        group.start_soon(do, "first", lambda: finish(backend, first, "b", failed(0)))
        group.start_soon(do, "second", lambda: finish(backend, second, "b", failed(1)))
        begun = anyio.current_time()
        await anyio.sleep(0.1)
        assert anyio.current_time() - begun < 1
        assert done == []
        other.execute("COMMIT")
    assert done == ["first", "second"]
    assert await state(backend) == (2, 0)
    assert len(await backend.results("b")) == 2


async def test_rolled_back_transaction_of_another_changes_nothing(
    backend: SqliteBackend, other: sqlite3.Connection
) -> None:
    permits = await take_all(backend, await begin(backend, "b", 2))
    other.execute("BEGIN IMMEDIATE")
    other.execute("DELETE FROM permit")
    async with anyio.create_task_group() as group:
        group.start_soon(finish, backend, permits[0], "b", failed(0))
        await anyio.sleep(0.05)
        other.execute("ROLLBACK")
    assert await state(backend) == (1, 0)


async def test_transaction_that_fails_midway_is_rolled_back(backend: SqliteBackend) -> None:
    (permit, _) = await take_all(backend, await begin(backend, "b", 3))
    before = await backend.usage_by_holder()

    class Fault(Exception):
        pass

    def fail(*_: object) -> None:
        backend._database._connection.execute("DELETE FROM permit")
        raise Fault

    with pytest.raises(Fault):
        await backend._step(fail)
    assert await backend.usage_by_holder() == before
    await finish(backend, permit, "b", failed(0))


@pytest.mark.parametrize("characters", [1, 2 * INLINE_BYTES], ids=["inline", "in a thread"])
async def test_name_that_cannot_be_stored_is_refused(
    backend: SqliteBackend, characters: int
) -> None:
    with pytest.raises(InvalidInput, match="half a character"):
        await begin(backend, "\ud800", 1, prompt="x" * characters)
    assert await backend.list_batches(["server"]) == []
    assert await state(backend) == (0, 0)


async def test_transaction_that_never_gets_the_lock_raises_after_its_timeout(
    backend: SqliteBackend, other: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (database.LOCK_TIMEOUT_SECONDS, database.LONG_LOCK_TIMEOUT_SECONDS) == (0.02, 10.0)
    monkeypatch.setattr(backend_module, "LONG_LOCK_TIMEOUT_SECONDS", 0.5)
    other.execute("BEGIN IMMEDIATE")
    begun = anyio.current_time()
    with pytest.raises(BackendUnavailable, match=r"locked by another process .* doctor"):
        await backend.admit()
    assert anyio.current_time() - begun >= 0.5
    other.execute("ROLLBACK")
    assert (await backend.admit()).offers == ()


async def test_concurrent_admissions_of_two_processes_do_not_grant_the_same_units(
    tmp_path: Path, backend: SqliteBackend, other: sqlite3.Connection
) -> None:
    """Let both processes read two free units before either gets its transaction."""
    theirs = await SqliteBackend.open(str(tmp_path / "state.db"))
    await theirs.declare_limit(OWN, 2, per_minute=60_000)
    other.execute("BEGIN IMMEDIATE")
    async with anyio.create_task_group() as group:
        group.start_soon(begin, backend, "b1", 2)
        group.start_soon(begin, theirs, "b2", 2)
        await anyio.sleep(0.05)
        other.execute("COMMIT")
    assert await state(backend) == (2, 2)
    offers = [*(await backend.admit()).offers, *(await theirs.admit()).offers]
    assert len({offer.permit for offer in offers}) == 2
    await theirs.close()
