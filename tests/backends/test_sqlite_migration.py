"""Migration of an older state file to the current version, with all its data."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from backends.steps import OWN, begin, failed
from replicate_mcp.backends.space import BATCH_BYTES
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.backends.sqlite.database import APPLICATION_ID
from replicate_mcp.batches.journal import IdempotencyKey, IdempotencyKeyExists

VERSION_1 = (Path(__file__).parent / "schema_version_1.sql").read_text("utf-8")
"""The schema as version 1 had it."""

NOW = 1_000_000.0

PROMPT = "a red car " * 90

TASKS = f'[["{PROMPT}", "car.png", "o/m"]]'
ROW = (
    '{"task_index":0,"output_filename":"car.png","error":"It failed.",'
    '"error_code":"prediction_failed","retryable":true}'
)

OPEN = """
import sys, anyio
from replicate_mcp.backends.sqlite.backend import SqliteBackend

async def main():
    sys.stdin.readline()
    await (await SqliteBackend.open(sys.argv[1])).close()

anyio.run(main)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a file of version 1 with an ended batch, an unfinished one, and a cached value."""
    path = tmp_path / "state.db"
    with closing(sqlite3.connect(path)) as file:
        file.executescript(f"PRAGMA journal_mode = WAL; {VERSION_1}")
        file.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        file.execute("PRAGMA user_version = 1")
        for batch, ended_at, key in (("old", NOW - 60, "k"), ("runs", None, None)):
            file.execute(
                "INSERT INTO batch (id, caller, account, holder, semaphore, tasks, total, failed,"
                " created_at, ended_at, key, digest) VALUES (?, 'server', 'acme', 'gone',"
                " 'replicate-global', ?, 1, ?, ?, ?, ?, 'digest')",
                (batch, TASKS, ended_at is not None, NOW - 90, ended_at, key),
            )
        file.execute("INSERT INTO holder (id, port) VALUES ('gone', 9)")
        file.execute("INSERT INTO result VALUES ('old', 1, 0, ?)", (ROW,))
        file.execute("INSERT INTO memo VALUES ('account', 'acme', ?)", (NOW + 3600,))
        file.commit()
    return path


def bytes_of(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA user_version").fetchone() == (4,)
        return dict(file.execute("SELECT state, bytes FROM journal_bytes WHERE account = 'acme'"))


async def test_migrated_batches_are_present_and_count_towards_the_journal_quota(path: Path) -> None:
    backend = await SqliteBackend.open(str(path), clock=lambda: NOW, journal_bytes=7_000)
    await backend.declare_limit(OWN, 5, per_minute=600)
    # The process of the other batch is dead: the batch ended when the file was opened.
    assert {each.id for each in await backend.list_batches(["server"])} == {"old", "runs"}
    assert [task.prompt for task in await backend.tasks("old")] == [PROMPT]
    (row,) = await backend.results("old")
    assert (row.task_index, row.prompt) == (0, PROMPT)
    (interrupted,) = await backend.results("runs")
    written = len(interrupted.model_dump_json(exclude_none=True, exclude={"prompt"}))
    assert bytes_of(path) == {
        "running": 0,
        "ended": 2 * (BATCH_BYTES + len(TASKS)) + len(ROW) + written,
    }
    await begin(backend, "new", 1, prompt="p" * 1_000)
    assert [each.id for each in await backend.list_batches(["server"])] == ["new", "runs"]
    with pytest.raises(IdempotencyKeyExists):
        await begin(backend, "again", 1, key=IdempotencyKey("k", "digest"))
    await backend.record_results("new", [failed(0)])
    await backend.set_cached("account", "acme", seconds=10)
    assert await backend.get_cached("account") == "acme"
    await backend.close()


def test_processes_starting_concurrently_migrate_the_file_once(path: Path) -> None:
    starting = [
        subprocess.Popen([sys.executable, "-c", OPEN, str(path)], stdin=subprocess.PIPE)
        for _ in range(4)
    ]
    for process in starting:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.close()
    assert [process.wait(30) for process in starting] == [0] * 4
    bytes_of(path)
