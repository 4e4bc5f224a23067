"""Hostile text: each backend returns it unchanged, and no other data changes."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from secrets import token_hex

import pytest

from backends.servers import KINDS, RunningServer, open_for_admission
from backends.steps import OWN, failed, state, take_all
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.batches.backend import Backend
from replicate_mcp.batches.journal import (
    IdempotencyKey,
    IdempotencyKeyExists,
    JournalTask,
    NewBatch,
)
from replicate_mcp.errors import InvalidInput
from replicate_mcp.semaphores.names import account_semaphore
from replicate_mcp.semaphores.permit_store import QueueEntry
from replicate_mcp.tasks.result import TaskFailure

HOSTILE = [
    "\x1b]52;c;aGk=\x07", "\x1b[2J", "\u202e", "\u2066", "a\0b", "\0", "x" * 65_536,
    "a\r\nb", "\r\n", "<img src=x onerror=alert(1)>", "javascript:alert(1)", "]]>", "{{7*7}}",
    "%0a", "../", "..\\", "CON", "a\u0300",
    # Redis: its protocol, patterns and scripts.
    "\r\n*1\r\n$8\r\nFLUSHALL\r\n", "*", "?", "[a-z]", "$-1\r\n", "+OK\r\n", ":1\r\n",
    "'); redis.call('FLUSHALL') --", "]] redis.call('FLUSHALL') --[[", "%S+ %d*$", "^(.*)$",
    "{other}:", "b:other", "all", "total", "running", "!1e99 other digest", "other digest",
    # SQL and JSON.
    "'; DROP TABLE batch; --", '" OR 1=1 --', "%", "_", '{"a": 1}', "[]", "null", '"', "\\",
    "\\u0000", "\\ud800", "a b", " ", "a:b", "a:b:c", "\U0001f600",
]  # fmt: skip

HALF_A_CHARACTER = "a\ud800b"


@pytest.fixture(params=["sqlite", *KINDS])
async def backend(
    request: pytest.FixtureRequest, tmp_path: Path, servers: Callable[[str], RunningServer]
) -> AsyncIterator[Backend]:
    """Return a backend with a batch, a key, a semaphore and a cached value of others."""
    backend: Backend
    if request.param in KINDS:
        server, prefix = servers(request.param), token_hex(4)
        await open_for_admission(server, prefix, "acme")
        backend = await RedisBackend.open(server.url(prefix))
    else:
        backend = await SqliteBackend.open(str(tmp_path / "state.db"))
    await backend.declare_limit(OWN, 3, per_minute=60_000)
    await backend.register("team", 7)
    await begin(backend, "other", key=IdempotencyKey("other", "digest"))
    await backend.record_results("other", [failed(0)])
    await backend.set_cached("other", "answer", seconds=600)
    yield backend
    await backend.close()


async def begin(
    backend: Backend,
    batch: str,
    *,
    caller: str = "server",
    account: str = "acme",
    shown: str = "replicate-global",
    task: JournalTask | None = None,
    key: IdempotencyKey | None = None,
) -> None:
    await backend.open_batch(
        NewBatch(
            batch, caller, account, shown, (task or JournalTask("prompt 0", "0.png", "o/m"),), key
        ),
        QueueEntry(batch, (account_semaphore(account),), account, 1),
    )


async def assert_untouched(backend: Backend) -> None:
    batch = await backend.get_batch("other")
    assert batch is not None
    assert (batch.status, batch.failed, batch.caller) == ("completed", 1, "server")
    assert [task.prompt for task in await backend.tasks("other")] == ["prompt 0"]
    assert await backend.results("other") == [failed(0)]
    assert await backend.get_cached("other") == "answer"
    with pytest.raises(IdempotencyKeyExists):
        await backend.check_idempotency_key("server", "other")
    assert {"team", OWN} <= {each.name for each in await backend.semaphores()}
    assert (await state(backend, "team")) == (0, 0)


async def test_hostile_text_in_a_batch_round_trips(backend: Backend) -> None:
    for number, text in enumerate(HOSTILE):
        batch_id, task = f"b{number}", JournalTask(text, text, text)
        key = IdempotencyKey(text, text)
        await begin(backend, batch_id, caller=text, shown=text, task=task, key=key)
        batch = await backend.get_batch(batch_id)
        assert batch is not None
        assert (batch.caller, batch.account, batch.semaphore) == (text, "acme", text)
        assert await backend.tasks(batch_id) == [task]
        assert [each.id for each in await backend.list_batches([text])] == [batch_id]
        for again in (
            backend.check_idempotency_key(text, text),
            begin(backend, "again", caller=text, key=IdempotencyKey(text, "another")),
        ):
            with pytest.raises(IdempotencyKeyExists) as taken:
                await again
            assert (taken.value.batch_id, taken.value.digest) == (batch_id, text)
        row = TaskFailure(
            task_index=0, prompt=text, output_filename=text, error=text,
            error_code="prediction_failed", prediction_id=text, retryable=False,
        )  # fmt: skip
        (permit,) = await take_all(backend, await backend.admit())
        assert await backend.claim_prediction(permit, batch_id, text)
        assert text in await backend.list_prediction_ids("acme")
        assert await backend.finish(permit, batch_id, row) is not None
        assert await backend.results(batch_id) == [row]
        assert await state(backend) == (0, 0)
    await assert_untouched(backend)


async def test_accounts_with_hostile_names_have_separate_limits_and_batches(
    backend: Backend,
) -> None:
    for number, text in enumerate(HOSTILE):
        name, batch_id = account_semaphore(text), f"b{number}"
        await backend.declare_limit(name, 5, per_minute=600)
        await begin(backend, batch_id, caller="token:x", account=text)
        batch = await backend.get_batch(batch_id)
        assert batch is not None
        assert batch.account == text
        assert [each.limit for each in await backend.semaphores() if each.name == name] == [5]
        await backend.record_results(batch_id, [failed(0)])
        assert len(await backend.results(batch_id)) == 1
    await assert_untouched(backend)


async def test_lookups_with_hostile_names_find_nothing_and_change_nothing(
    backend: Backend,
) -> None:
    for text in HOSTILE:
        for read in (backend.tasks, backend.results, backend.open_attempts):
            assert await read(text) == []
        assert await backend.get_batch(text) is None
        assert await backend.list_batches([text]) == []
        assert await backend.get_cached(text) is None
        assert await backend.list_prediction_ids(text) == set()
        await backend.check_idempotency_key(text, text)
        await backend.cancel_batch(text)
        await backend.record_results(text, [failed(0)])
    await assert_untouched(backend)


async def test_cache_accepts_hostile_keys(backend: Backend) -> None:
    for text in HOSTILE:
        await backend.set_cached(text, text, seconds=600)
    for text in HOSTILE:
        assert await backend.get_cached(text) == text
    await assert_untouched(backend)


async def test_lone_surrogate_round_trips_in_a_prompt_and_is_rejected_in_a_name(
    backend: Backend,
) -> None:
    half = HALF_A_CHARACTER
    task = JournalTask(half, half, half)
    await begin(backend, "b", task=task)
    assert await backend.tasks("b") == [task]
    for refused in (
        backend.get_batch(half),
        backend.results(half),
        backend.get_cached(half),
        backend.set_cached("key", half, seconds=600),
        backend.check_idempotency_key("server", half),
        begin(backend, "b2", key=IdempotencyKey(half, "digest")),
        backend.cancel_batch(half),
    ):
        with pytest.raises(InvalidInput, match="half a character"):
            await refused
    assert await backend.get_batch("b2") is None
    await assert_untouched(backend)
