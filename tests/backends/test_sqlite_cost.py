"""The cost of SQLite calls does not grow with unrelated data, counted in instructions."""

from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from backends.steps import begin, failed, take_all
from replicate_mcp.backends.space import BATCH_BYTES
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.batches.journal import IdempotencyKey
from replicate_mcp.semaphores.names import account_semaphore
from replicate_mcp.semaphores.permit_store import QueueEntry
from replicate_mcp.tasks.result import TaskFailure


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[SqliteBackend]:
    backend = await SqliteBackend.open(str(tmp_path / "state.db"), clock=lambda: 1_000_000.0)
    await backend.declare_limit(account_semaphore("acme"), 1, per_minute=600)
    yield backend
    await backend.close()


async def instructions(backend: SqliteBackend, step: Callable[[], Coroutine[Any, Any, Any]]) -> int:
    """Return how many virtual machine instructions of SQLite a call takes."""
    counted = 0

    def count() -> int:
        nonlocal counted
        counted += 1
        return 0

    connection = backend._database._connection
    connection.set_progress_handler(count, 1)
    await step()
    connection.set_progress_handler(None, 0)
    return counted


async def test_admission_cost_is_independent_of_the_number_of_accounts(
    backend: SqliteBackend,
) -> None:
    await begin(backend, "b", 2)
    with_one = await instructions(backend, backend.admit)
    for number in range(300):
        await backend.declare_limit(account_semaphore(f"user-{number}"), 60, per_minute=600)
    assert await instructions(backend, backend.admit) < with_one * 1.1


async def test_polling_orphans_of_many_accounts_reaps_dead_holders_once_a_second(
    backend: SqliteBackend,
) -> None:
    steps: list[str] = []
    backend._database._connection.set_trace_callback(steps.append)
    for number in range(100):
        assert await backend.orphans(f"user-{number}") == []
    backend._database._connection.set_trace_callback(None)
    assert sum(step.startswith("BEGIN") for step in steps) <= 102


async def test_idle_polls_test_only_the_locks_of_processes_with_work(tmp_path: Path) -> None:
    """Idle processes would cost the square of their number otherwise."""
    path, now = str(tmp_path / "state.db"), [1_000_000.0]
    one, *others = [await SqliteBackend.open(path, clock=lambda: now[0]) for _ in range(6)]
    await others[0].declare_limit(account_semaphore("acme"), 1, per_minute=600)
    await take_all(others[0], await begin(others[0], "b", 1))
    await begin(others[1], "b2", 1)
    await others[1].dequeue("b2")
    await others[2].enqueue(QueueEntry("context", (account_semaphore("acme"),), None, 1))
    for other in others:
        assert other._lock is not None
        other._lock._lock.release()  # As if it were dead.
    now[0] += 1
    assert len(await one.orphans("acme")) == 1
    assert [type(row) for row in await one.results("b2")] == [TaskFailure]
    assert sorted(map(str, tmp_path.glob("*.lock"))) == sorted(
        f"{path}.{each._holder}.lock" for each in (one, *others[3:])
    )
    await one.admit()
    assert [str(lock) for lock in tmp_path.glob("*.lock")] == [f"{path}.{one._holder}.lock"]
    for each in (one, *others):
        await each.close()


async def test_cost_of_a_batch_is_independent_of_the_results_in_the_journal(
    backend: SqliteBackend,
) -> None:
    made = 0

    async def fill(batches: int) -> None:
        nonlocal made
        for _ in range(batches):
            made += 1
            await begin(backend, f"ended-{made}", 100)
            await backend.record_results(f"ended-{made}", [failed(task) for task in range(100)])
            for task in range(100):
                await backend.claim_prediction(
                    made * 1000 + task, f"ended-{made}", f"{made} {task}"
                )

    async def costs(batch: str) -> list[int]:
        permits: list[int] = []

        async def opened() -> None:
            permits.extend(await take_all(backend, await begin(backend, batch, 2, resumable=True)))

        return [
            await instructions(backend, step)
            for step in (
                opened,
                lambda: backend.finish(permits[0], batch, failed(0, f"p of {batch}")),
                lambda: backend.get_batch(batch),
                lambda: backend.results(batch),
                lambda: backend.unstarted_tasks(batch),
                lambda: backend.resumable_batches("acme"),
                lambda: backend.record_results(batch, [failed(1)]),
                lambda: backend._step(lambda _, journal: journal.forget_old()),
            )
        ]

    await fill(2)
    before = await costs("first")
    await fill(20)
    for less, more in zip(before, await costs("second"), strict=True):
        assert more < less * 1.2 + 50


async def test_opening_and_listing_cost_is_independent_of_the_number_of_batches(
    tmp_path: Path,
) -> None:
    now = 1_000_000.0
    # Most are evicted early and leave their keys.
    backend = await SqliteBackend.open(
        str(tmp_path / "state.db"), clock=lambda: now, journal_bytes=200 * BATCH_BYTES
    )
    others = account_semaphore("other")
    for name in (account_semaphore("acme"), others):
        await backend.declare_limit(name, 1, per_minute=600)

    async def make(number: int, account: str) -> None:
        batch = f"{account}-{number}"
        await begin(backend, batch, 1, account=account, key=IdempotencyKey(batch, "digest"))
        await backend.record_results(batch, [failed(0)])
        await backend.dequeue(batch)

    async def costs(number: int) -> tuple[int, int]:
        made = await instructions(backend, lambda: make(number, "acme"))
        return made, await instructions(backend, lambda: backend.list_batches(["server"], limit=10))

    for number in range(200):
        await make(number, "acme")
    made, listed = await costs(200)
    for number in range(300, 600):
        now += 1
        await make(number, "acme")
        await make(number, "other")
    made_later, listed_later = await costs(600)
    assert len(await backend.list_batches(["server"], limit=1_000)) < 300
    assert made_later < made * 1.5
    assert listed_later < listed * 1.5
    await backend.close()
