"""State that earlier versions wrote is migrated, and its batches are read; never misread.

`state_version_N.sql` and `redis_layout_N.json` were written by the program at its SQLite version N
and Redis layout N: an ended batch of two tasks with a key, and a batch of three that ran.
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
from replicate_mcp.batches.journal import IdempotencyKey, IdempotencyKeyExists, RetriedTasks
from replicate_mcp.errors import BackendUnavailable

HERE = Path(__file__).parent

NOW = 1_000_000.0


VERSIONS = [2, 3]


async def check_batches(backend: Backend, version: int) -> None:
    """Check that both batches are as they were, with inputs since version 3."""
    found = {each.id: each for each in await backend.list_batches(["server"])}
    assert set(found) == {"b_ended", "b_runs"}
    assert found["b_ended"].retry is None
    assert found["b_runs"].retry == (RetriedTasks("b_ended", (1, 0, 1)) if version > 2 else None)
    assert {each.resumed for each in found.values()} == {0}
    assert (found["b_ended"].succeeded, found["b_ended"].failed) == (1, 1)
    for each in found:
        assert await backend.inputs(each) == (f"inputs of {each}" if version > 2 else None)
    assert {row.task_index for row in await backend.results("b_ended")} == {0, 1}
    assert len(await backend.tasks("b_runs")) == 3
    with pytest.raises(IdempotencyKeyExists):
        await backend.check_idempotency_key("server", "k")


def state_file(folder: Path, version: int) -> Path:
    """Return a state file of an earlier version."""
    path = folder / "state.db"
    with closing(sqlite3.connect(path)) as file:
        file.executescript((HERE / f"state_version_{version}.sql").read_text("utf-8"))
        file.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        file.commit()
    return path


@pytest.mark.parametrize("version", VERSIONS)
async def test_state_file_of_an_earlier_version_is_migrated(tmp_path: Path, version: int) -> None:
    path = state_file(tmp_path, version)
    backend = await SqliteBackend.open(str(path), clock=lambda: NOW)
    await backend.declare_limit(OWN, 5, per_minute=600)
    await check_batches(backend, version)
    # Its process is gone, and no other resumes it.
    rows = await backend.results("b_runs")
    assert sorted(row.task_index for row in rows) == [0, 1, 2]
    await begin(backend, "b_new", 1, key=IdempotencyKey("other", "digest"))
    assert len(await backend.list_batches(["server"])) == 3
    await backend.close()
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,) == (4,)
        created = sqlite3.connect(":memory:")
        created.executescript(
            (HERE.parents[1] / "src/replicate_mcp/backends/sqlite/schema.sql").read_text("utf-8")
        )
        for table in ("batch", "task_list"):
            columns = f"SELECT name, type, \"notnull\" FROM pragma_table_info('{table}')"
            assert file.execute(columns).fetchall() == created.execute(columns).fetchall()
        created.close()


def test_state_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = state_file(tmp_path, VERSIONS[-1])
    with closing(sqlite3.connect(path)) as file:
        file.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")

    async def opened() -> None:
        await SqliteBackend.open(str(path))

    import anyio

    with pytest.raises(BackendUnavailable, match="was written by a newer replicate-mcp: upgrade"):
        anyio.run(opened)


def write_keys(client: Redis, prefix: str, layout: int) -> None:
    """Write the keys of an earlier layout, under a prefix."""
    text = (HERE / f"redis_layout_{layout}.json").read_text("utf-8")
    keys: dict[str, tuple[str, Any]] = json.loads(text)
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


@pytest.mark.parametrize("layout", VERSIONS)
@pytest.mark.parametrize("kind", KINDS)
async def test_redis_of_an_earlier_layout_is_taken_over(
    kind: str, layout: int, servers: Callable[[str], RunningServer]
) -> None:
    server, prefix = servers(kind), token_hex(4)
    with Redis(port=server.port) as client:
        write_keys(client, prefix, layout)
        generation = client.hget(f"{{{prefix}}}:generation", "id")
        backend = await RedisBackend.open(server.url(prefix), clock=lambda: NOW)
        await backend.declare_limit(OWN, 5, per_minute=600)
        await check_batches(backend, layout)
        # Versions that would misread this one's rows are refused from now on.
        assert client.hget(f"{{{prefix}}}:generation", "layout") == b"4"
        assert client.hget(f"{{{prefix}}}:generation", "id") != generation
        await begin(backend, "b_new", 1)
        assert await backend.get_batch("b_new") is not None
        await backend.close()
