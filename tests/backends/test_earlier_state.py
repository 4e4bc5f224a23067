"""State that the release before wrote is migrated, and its batches are read; never misread.

`state_version_2.sql` and `redis_layout_2.json` were written by the program at its SQLite version 2
and Redis layout 2: an ended batch of two tasks with a key, and a batch of three that ran.
"""

import base64
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from redis import Redis

from backends.servers import KINDS, RunningServer
from backends.steps import OWN, begin
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.backends.sqlite.database import APPLICATION_ID, SCHEMA_VERSION
from replicate_mcp.batches.backend import Backend
from replicate_mcp.batches.journal import IdempotencyKey, IdempotencyKeyExists
from replicate_mcp.errors import BackendUnavailable

HERE = Path(__file__).parent

NOW = 1_000_000.0


async def check_batches(backend: Backend) -> None:
    """Check that both batches are as they were, without inputs."""
    found = {each.id: each for each in await backend.list_batches(["server"])}
    assert set(found) == {"b_ended", "b_runs"}
    assert {each.retry for each in found.values()} == {None}
    assert (found["b_ended"].succeeded, found["b_ended"].failed) == (1, 1)
    assert [await backend.inputs(each) for each in found] == [None, None]
    assert {row.task_index for row in await backend.results("b_ended")} == {0, 1}
    assert len(await backend.tasks("b_runs")) == 3
    with pytest.raises(IdempotencyKeyExists):
        await backend.check_idempotency_key("server", "k")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a state file of the version before."""
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as file:
        file.executescript((HERE / "state_version_2.sql").read_text("utf-8"))
        file.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        file.commit()
    return path


async def test_state_file_of_the_version_before_is_migrated(path: Path) -> None:
    backend = await SqliteBackend.open(str(path), clock=lambda: NOW)
    await backend.declare_limit(OWN, 5, per_minute=600)
    await check_batches(backend)
    # Its process is gone.
    rows = await backend.results("b_runs")
    assert sorted(row.task_index for row in rows) == [0, 1, 2]
    await begin(backend, "b_new", 1, key=IdempotencyKey("other", "digest"))
    assert len(await backend.list_batches(["server"])) == 3
    await backend.close()
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,) == (3,)
        created = sqlite3.connect(":memory:")
        created.executescript(
            (HERE.parents[1] / "src/replicate_mcp/backends/sqlite/schema.sql").read_text("utf-8")
        )
        for table in ("batch", "task_list"):
            columns = f"SELECT name, type, \"notnull\" FROM pragma_table_info('{table}')"
            assert file.execute(columns).fetchall() == created.execute(columns).fetchall()
        created.close()


def test_state_file_of_a_newer_version_is_refused(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")

    async def opened() -> None:
        await SqliteBackend.open(str(path))

    import anyio

    with pytest.raises(BackendUnavailable, match="was written by a newer replicate-mcp: upgrade"):
        anyio.run(opened)


def write_keys(client: Redis, prefix: str) -> None:
    """Write the keys of the layout before, under a prefix."""
    keys: dict[str, tuple[str, Any]] = json.loads((HERE / "redis_layout_2.json").read_text("utf-8"))
    read = base64.b64decode
    for name, (kind, value) in keys.items():
        key = f"{{{prefix}}}:{name}"
        if kind == "string":
            client.set(key, read(value).replace(b"{old}", f"{{{prefix}}}".encode()))
        elif kind == "hash":
            client.hset(
                key,
                mapping={
                    read(field): read(each).replace(b"{old}", f"{{{prefix}}}".encode())
                    for field, each in value.items()
                },
            )
        elif kind == "list":
            client.rpush(key, *map(read, value))
        elif kind == "zset":
            client.zadd(key, {read(member): float(score) for member, score in value})


@pytest.mark.parametrize("kind", KINDS)
async def test_redis_of_the_layout_before_is_taken_over(
    kind: str, servers: Callable[[str], RunningServer]
) -> None:
    server, prefix = servers(kind), token_hex(4)
    with Redis(port=server.port) as client:
        write_keys(client, prefix)
        generation = client.hget(f"{{{prefix}}}:generation", "id")
        backend = await RedisBackend.open(server.url(prefix), clock=lambda: NOW)
        await backend.declare_limit(OWN, 5, per_minute=600)
        await check_batches(backend)
        # Versions that would misread this one's rows are refused from now on.
        assert client.hget(f"{{{prefix}}}:generation", "layout") == b"3"
        assert client.hget(f"{{{prefix}}}:generation", "id") != generation
        await begin(backend, "b_new", 1)
        assert await backend.get_batch("b_new") is not None
        await backend.close()
