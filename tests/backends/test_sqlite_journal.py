"""The journal's tables: sizes of batches, eviction order and retention."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from backends.steps import OWN, attempt, begin, failed, finish, succeeded, take_all
from replicate_mcp.backends.sqlite import cache
from replicate_mcp.backends.sqlite import journal as journal_module
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.batches.journal import IdempotencyKey
from replicate_mcp.errors import JournalFull

TASKS = '[["prompt 0", "0.png", "o/m"]]'

SIZE = 2048 + len(TASKS)
"""What a batch of one task counts as."""

DAY = 24 * 3600


class Journal:
    """A backend in memory with its own clock."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.backend: SqliteBackend

    async def make(self, name: str, key: str | None = None, *, ends: bool = True) -> None:
        """Open a batch of one task and end it with a result of negligible size."""
        self.now += 1
        named = None if key is None else IdempotencyKey(key, "digest")
        await begin(self.backend, name, 1, key=named)
        if ends:
            await self.end(name)

    async def end(self, name: str) -> None:
        def end(_: Any, journal: journal_module.JournalTables) -> None:
            journal._db.execute(
                "UPDATE batch SET failed = 1, ended_at = ?, state = 'ended' WHERE id = ?",
                (self.now, name),
            )

        await self.backend._step(end)
        await self.backend.dequeue(name)

    async def batch_ids(self) -> list[str]:
        return [batch.id for batch in await self.backend.list_batches(["server"])]

    async def bytes_by_state(self) -> dict[str, int]:
        found = await self.backend._step(lambda _, journal: journal._used_bytes("acme"))
        return {state: size for state, size in found.items() if size}


@asynccontextmanager
async def journal_of(allowance: int) -> AsyncIterator[Journal]:
    journal = Journal()
    journal.backend = await SqliteBackend.open(
        ":memory:", clock=lambda: journal.now, journal_bytes=allowance
    )
    await journal.backend.declare_limit(OWN, 9, per_minute=60_000)
    yield journal
    await journal.backend.close()


async def test_batch_size_is_that_of_its_stored_tasks_and_results() -> None:
    async with journal_of(1_000_000) as journal:
        backend = journal.backend
        permits = await take_all(backend, await begin(backend, "b", 2))
        size = 2048 + len('[["prompt 0", "0.png", "o/m"], ["prompt 1", "1.png", "o/m"]]')
        assert await journal.bytes_by_state() == {"running": size}
        error = failed(0).model_copy(update={"error": "\u00e9" * 10})
        size += (
            len(
                '{"task_index":0,"output_filename":"0.png","error":"","error_code":"prediction_failed"'
                ',"retryable":true}'
            )
            + 2 * 10
        )
        await finish(backend, permits[0], "b", error)
        assert await journal.bytes_by_state() == {"running": size}
        await backend.record_results("b", [error, succeeded(0, "p0")], waited=False)
        assert await journal.bytes_by_state() == {"running": size}, "nothing new was written"
        made = succeeded(1, "p1")
        size += len(made.model_copy(update={"prompt": None}).model_dump_json(exclude_none=True))
        await finish(backend, permits[1], "b", made)
        assert await journal.bytes_by_state() == {"ended": size}


@pytest.mark.parametrize(
    ("allowance", "batch_ids"),
    [
        (3 * SIZE, ["b3", "b2", "b1"]),
        (3 * SIZE - 1, ["b3", "b2"]),
        (2 * SIZE, ["b3", "b2"]),
        (2 * SIZE - 1, ["b3"]),
        (SIZE, ["b3"]),
    ],
)
async def test_new_batch_evicts_no_more_batches_than_needed(
    allowance: int, batch_ids: list[str]
) -> None:
    async with journal_of(allowance) as journal:
        for name in ("b1", "b2", "b3"):
            await journal.make(name)
        assert await journal.batch_ids() == batch_ids
        for name in ("b1", "b2", "b3"):
            assert len(await journal.backend.tasks(name)) == (name in batch_ids)


@pytest.mark.parametrize(
    ("allowance", "batch_ids"),
    [
        (2 * SIZE + 512, ["b3", "b2"]),
        (2 * SIZE + 511, ["b3"]),
        (SIZE + 2 * 512, ["b3"]),
    ],
)
async def test_evicting_batches_with_keys_frees_less(allowance: int, batch_ids: list[str]) -> None:
    async with journal_of(allowance) as journal:
        for name in ("b1", "b2", "b3"):
            await journal.make(name, name)
        assert await journal.batch_ids() == batch_ids
        gone = 3 - len(batch_ids)
        assert await journal.bytes_by_state() == {
            "ended": len(batch_ids) * SIZE,
            "forgotten": gone * 512,
        }


@pytest.mark.parametrize("allowance", [2 * SIZE, 2 * SIZE - 1])
async def test_quota_beside_a_running_batch_is_exact(allowance: int) -> None:
    async with journal_of(allowance) as journal:
        await journal.make("runs", ends=False)
        if allowance == 2 * SIZE:
            await journal.make("b", ends=False)
            assert await journal.batch_ids() == ["b", "runs"]
        else:
            with pytest.raises(JournalFull, match=r"take 0\.1 of 0\.1 MiB, .* 24 hours 0 MiB"):
                await journal.make("b")
            assert await journal.batch_ids() == ["runs"]


async def test_quota_beside_a_key_is_exact() -> None:
    async with journal_of(SIZE + 512) as journal:
        await journal.make("b1", "k")
        await journal.make("b2")
        await journal.make("b3")
        assert await journal.batch_ids() == ["b3"]
    async with journal_of(SIZE + 511) as journal:
        await journal.make("b1", "k")
        with pytest.raises(JournalFull):
            await journal.make("b2")
        assert await journal.batch_ids() == ["b1"]


async def test_batch_with_an_open_attempt_is_not_evicted_but_another_is() -> None:
    async with journal_of(2 * SIZE - 1) as journal:
        (permit,) = await take_all(journal.backend, await begin(journal.backend, "followed", 1))
        await journal.end("followed")
        with pytest.raises(JournalFull):
            await journal.make("b", ends=False)
        assert await journal.batch_ids() == ["followed"]
        await journal.backend.release(permit)
        await journal.make("b", ends=False)
        assert await journal.batch_ids() == ["b"]
    async with journal_of(2 * SIZE) as journal:
        await take_all(journal.backend, await begin(journal.backend, "runs", 1))
        await journal.make("ended")
        await journal.make("b")
        assert await journal.batch_ids() == ["b", "runs"]


async def test_idempotency_key_and_its_quota_are_free_after_a_day() -> None:
    async with journal_of(SIZE + 2 * 512) as journal:
        for name in ("b1", "b2", "b3"):
            await journal.make(name, name)
        with pytest.raises(JournalFull, match=r"take 0 of 0\.1 MiB, .* 24 hours 0\.1 MiB"):
            await journal.make("b4", "b4")
        journal.now += DAY
        await journal.make("without a key")
        assert await journal.batch_ids() == ["without a key"]
        journal.now += DAY
        await journal.make("b1", "b1")
        journal.now += DAY + 1
        await journal.backend.check_idempotency_key("server", "b1")
        assert await journal.batch_ids() == []


async def test_data_older_than_a_day_is_deleted(tmp_path: Path) -> None:
    path, now = tmp_path / "state.db", 20 * DAY + 100.0

    async def opened() -> SqliteBackend:
        backend = await SqliteBackend.open(str(path), clock=lambda: now)
        await backend.declare_limit(OWN, 9, per_minute=60_000)
        return backend

    async def use(name: str) -> None:
        backend = await opened()
        (offer,) = (await begin(backend, name, 1)).offers
        await backend.record_attempts({offer.permit: attempt(name, 0)})
        await finish(backend, offer.permit, name, failed(0, f"prediction of {name}"))
        await backend.set_cached(name, "answer", seconds=DAY)
        await backend.close()

    def left() -> list[set[Any]]:
        with closing(sqlite3.connect(path)) as file:
            return [
                {row[0] for row in file.execute(f"SELECT {what}")}
                for what in (
                    "id FROM batch", "batch FROM task_list", "batch FROM result",
                    "id FROM prediction", "key FROM memo", "day FROM usage",
                )
            ]  # fmt: skip

    def expected(*names: str, days: set[int]) -> list[set[Any]]:
        batches = set(names)
        return [batches] * 3 + [{f"prediction of {name}" for name in names}, batches, days]

    await use("old")
    now += DAY - 1
    await use("new")
    assert left() == expected("old", "new", days={20, 21})
    now += 2
    await (await opened()).close()
    assert left() == expected("new", days={20, 21})
    now += DAY - 2
    await (await opened()).close()
    assert left() == expected("new", days={21})
    now += 2
    await (await opened()).close()
    assert left() == expected(days={21})


async def test_cache_quota_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MEMO_BYTES", 3 * (512 + 2 + 100))
    async with journal_of(1_000_000) as journal:

        async def remembered() -> list[str]:
            keys = [f"k{number}" for number in range(6)]
            return [key for key in keys if await journal.backend.get_cached(key)]

        for number in range(3):
            await journal.backend.set_cached(f"k{number}", "v" * 100, seconds=10)
        assert await remembered() == ["k0", "k1", "k2"]
        await journal.backend.set_cached("k3", "v" * 100, seconds=10)
        assert await remembered() == ["k1", "k2", "k3"]
        await journal.backend.set_cached("k4", "v" * 101, seconds=10)
        assert await remembered() == ["k3", "k4"]
        await journal.backend.set_cached("k5", "v" * 99, seconds=10)
        assert await remembered() == ["k3", "k4", "k5"]


async def test_unknown_items_are_absent() -> None:
    async with journal_of(1_000_000) as journal:
        backend = journal.backend
        assert not await backend.claim_prediction(7, "unknown", "p1")
        assert await backend.list_prediction_ids("acme") == set()
        reads: list[Callable[[str], Awaitable[object]]] = [
            backend.tasks, backend.results, backend.get_batch, backend.get_cached,
        ]  # fmt: skip
        assert [await read("unknown") for read in reads] == [[], [], None, None]
        await backend.record_results("unknown", [failed(0)])
        await backend.cancel_batch("unknown")
        assert await journal.batch_ids() == []


async def test_state_file_never_loses_running_predictions() -> None:
    async with journal_of(1_000_000) as journal:
        backend = journal.backend
        assert await backend.has_lost_state("acme") is False
        admission = await backend.import_running("acme", [])
        assert (admission.offers, admission.retry_in, admission.paused_for) == ((), None, None)
        assert await backend.interrupted_batches() == []
        assert await backend.config_warnings() == []


async def test_ended_batch_is_in_no_queue() -> None:
    async with journal_of(1_000_000) as journal:
        backend = journal.backend

        async def queued() -> list[str]:
            return await backend._step(
                lambda permits, _: [
                    entry for (entry,) in permits._db.execute("SELECT entry FROM queue")
                ]
            )

        (permit,) = await take_all(backend, await begin(backend, "b", 1))
        await take_all(backend, await begin(backend, "runs", 1))
        assert await queued() == ["b", "runs"]
        await finish(backend, permit, "b", failed(0))
        assert await queued() == ["runs"]
