"""What a step costs does not grow with what nobody asks for; counted, not timed."""

from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from backends.acting import begin
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.semaphores.registry import account_semaphore


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[SqliteBackend]:
    backend = await SqliteBackend.open(str(tmp_path / "state.db"), clock=lambda: 1_000_000.0)
    await backend.declare(account_semaphore("acme"), 1, per_minute=600)
    yield backend
    await backend.close()


async def instructions(backend: SqliteBackend, step: Callable[[], Coroutine[Any, Any, Any]]) -> int:
    """How many instructions of SQLite's machine a step takes."""
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


async def test_an_admission_costs_the_same_however_many_accounts_a_process_has_seen(
    backend: SqliteBackend,
) -> None:
    await begin(backend, "b", 2)
    with_one = await instructions(backend, backend.admit)
    for number in range(300):
        await backend.declare(account_semaphore(f"user-{number}"), 60, per_minute=600)
    assert await instructions(backend, backend.admit) < with_one * 1.1


async def test_looking_for_what_was_left_to_many_accounts_looks_for_the_dead_once_a_second(
    backend: SqliteBackend,
) -> None:
    steps: list[str] = []
    backend._database._connection.set_trace_callback(steps.append)
    for number in range(100):
        assert await backend.orphans(f"user-{number}") == []
    backend._database._connection.set_trace_callback(None)
    assert sum(step.startswith("BEGIN") for step in steps) <= 102
