"""Opening a state file: initial content, waiting for other processes, and rejected files."""

import operator
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from backends.steps import OWN, begin, failed
from replicate_mcp.backends.sqlite import database
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.backends.sqlite.database import Busy, Database, open_database
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.platform import file_system


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """Return the connection of another program."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0.05)) as connection:
        yield connection


def opened_in_thread(path: Path) -> tuple[threading.Thread, list[Database]]:
    found: list[Database] = []
    thread = threading.Thread(target=lambda: found.append(open_database(str(path))), daemon=True)
    thread.start()
    return thread, found


def count(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def test_new_file_has_our_application_id_and_uses_wal(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    open_database(str(path)).close()
    with raw(path) as other:
        assert other.execute("PRAGMA application_id").fetchone() == (0x52504C4D,)
        assert other.execute("PRAGMA user_version").fetchone() == (4,)
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert count(other, "batch") == 0


def test_file_of_a_newer_version_is_rejected_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    open_database(str(path)).close()
    with raw(path) as other:
        other.execute("PRAGMA user_version = 5")
    with pytest.raises(BackendUnavailable, match=r"by a newer replicate-mcp: upgrade this one"):
        open_database(str(path))
    with raw(path) as other:
        assert other.execute("PRAGMA user_version").fetchone() == (5,)
        other.execute("PRAGMA user_version = 4")
    open_database(str(path)).close()


@pytest.mark.parametrize(
    ("version", "is_new_enough"),
    [((3, 34, 99), False), ((3, 35, 0), True), ((3, 50, 0), True), ((4, 0, 0), True),
     ((2, 99, 0), False)],
)  # fmt: skip
def test_sqlite_3_35_is_the_minimum_version(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, int, int], is_new_enough: bool
) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", version)
    if is_new_enough:
        open_database(":memory:").close()
    else:
        with pytest.raises(BackendUnavailable, match=r"and 3\.35\.0 or newer is needed"):
            open_database(":memory:")


def test_opening_waits_for_another_reader_of_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with raw(path) as other:
        other.execute("BEGIN")
        other.execute("SELECT * FROM sqlite_master").fetchall()
        thread, found = opened_in_thread(path)
        thread.join(0.15)
        assert thread.is_alive(), "only the file's sole user can turn it into WAL mode"
        other.execute("COMMIT")
        thread.join(10)
        (opened,) = found
        opened.close()
        assert count(other, "permit") == 0


def test_opening_waits_for_another_process_creating_the_tables(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with raw(path) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("BEGIN IMMEDIATE")
        thread, found = opened_in_thread(path)
        thread.join(0.15)
        assert thread.is_alive()
        other.execute("ROLLBACK")
        thread.join(10)
        (opened,) = found
        opened.close()
        assert count(other, "permit") == 0


@pytest.mark.parametrize("statement", ["BEGIN", "BEGIN EXCLUSIVE"])
def test_new_file_kept_busy_by_another_process_raises_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statement: str
) -> None:
    monkeypatch.setattr(database, "LONG_LOCK_TIMEOUT_SECONDS", 0.2)
    path = tmp_path / "state.db"
    with raw(path) as other:
        other.execute(statement)
        other.execute("SELECT * FROM sqlite_master").fetchall()
        with pytest.raises(BackendUnavailable, match=r"state\.db cannot be used \(.*locked\)"):
            open_database(str(path))
        other.execute("COMMIT")
    open_database(str(path)).close()


def test_interrupted_table_creation_leaves_no_lock_and_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.db"

    def interrupt(connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE half_done (text)")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(database, "_make_tables", interrupt)
        with pytest.raises(KeyboardInterrupt) as kept:
            open_database(str(path))
    assert kept.tb, "the frames still have the connection"
    with raw(path) as other:
        other.execute("BEGIN IMMEDIATE")
        assert count(other, "sqlite_master") == 0
        other.execute("ROLLBACK")


@pytest.mark.skipif(sys.platform != "linux", reason="the table of mounts is Linux's")
def test_network_file_system_is_rejected_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts, folder = tmp_path / "mountinfo", tmp_path / "share"
    mounts.write_text(f"36 35 98:0 / {folder} rw shared:1 - nfs4 server:/export rw\n")
    monkeypatch.setattr(file_system, "MOUNTS", mounts)
    with pytest.raises(BackendUnavailable, match=r"network or shared file system \(nfs4\).*redis:"):
        open_database(str(folder / "state.db"))
    assert not folder.exists()
    open_database(str(tmp_path / "state.db")).close()


def test_uncreatable_folder_is_reported_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(BackendUnavailable, match=r"state\.db cannot be made \(.*or to memory"):
        open_database(str(tmp_path / "file" / "folder" / "state.db"))


async def test_in_memory_state_exists_while_any_backend_has_it_open() -> None:
    first, second, third = [await SqliteBackend.open(":memory:") for _ in range(3)]
    await first.declare_limit(OWN, 1, per_minute=600)
    await begin(third, "b", 1)
    for leaving in (first, second):
        await leaving.close()
        another = await SqliteBackend.open(":memory:")
        assert await another.get_batch("b") is not None
        assert await third.get_batch("b") is not None
        await another.close()
    await third.close()
    new = await SqliteBackend.open(":memory:")
    assert await new.get_batch("b") is None
    await new.close()


async def test_closing_a_backend_closes_its_file(tmp_path: Path) -> None:
    backend = await SqliteBackend.open(str(tmp_path / "state.db"))
    await backend.declare_limit(OWN, 1, per_minute=600)
    await begin(backend, "b", 1)
    await backend.close()
    assert [path.name for path in tmp_path.iterdir()] == ["state.db"]


# Transactions.


def test_transaction_returns_its_result_and_is_rolled_back_on_error(tmp_path: Path) -> None:
    opened = open_database(str(tmp_path / "state.db"))

    def fail(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO rate VALUES ('acme', '{}')")
        raise KeyError

    def interrupt(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO rate VALUES ('acme', '{}')")
        raise KeyboardInterrupt

    for step, error in ((fail, KeyError), (interrupt, KeyboardInterrupt)):
        with pytest.raises(error):
            opened.run(step, timeout=0.02)
    assert opened.run(lambda connection: count(connection, "rate"), timeout=0.02) == 0
    opened.close()


def test_transaction_succeeds_after_one_that_the_file_rejected(tmp_path: Path) -> None:
    opened = open_database(str(tmp_path / "state.db"))

    def twice(connection: sqlite3.Connection) -> None:
        for _ in range(2):
            connection.execute("INSERT INTO rate VALUES ('acme', '{}')")

    for statement, said in (
        ("SELECT * FROM unknown", "no such table: unknown"),
        ("INSERT INTO rate VALUES ('a', NULL)", "NOT NULL constraint failed"),
    ):
        with pytest.raises(BackendUnavailable, match=rf"{said}.*`replicate-mcp doctor`"):
            opened.run(operator.methodcaller("execute", statement), timeout=0)
    with pytest.raises(BackendUnavailable, match="UNIQUE constraint failed"):
        opened.run(twice, timeout=0)
    assert opened.run(lambda connection: count(connection, "rate"), timeout=0) == 0
    opened.close()


def test_full_disk_is_reported_and_its_transaction_rolled_back(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="POSIX alone bounds the size of files")
    opened = open_database(str(tmp_path / "state.db"))
    most = resource.getrlimit(resource.RLIMIT_FSIZE)

    def without_room(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO rate VALUES ('acme', '{}')")
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, most[1]))

    try:
        with pytest.raises(BackendUnavailable, match=r"\((disk I/O error|.* is full)\)"):
            opened.run(without_room, timeout=0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert opened.run(lambda connection: count(connection, "rate"), timeout=0) == 0
    opened.close()


def test_transaction_waits_for_another_up_to_its_timeout(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    opened = open_database(str(path))
    with raw(path) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Busy):
            opened.run(lambda connection: None, timeout=0.01)
        done: list[int] = []
        thread = threading.Thread(
            target=lambda: done.append(opened.run(lambda _: 7, timeout=10)), daemon=True
        )
        thread.start()
        thread.join(0.1)
        assert done == []
        other.execute("ROLLBACK")
        thread.join(10)
    assert done == [7]
    opened.close()


async def test_deleting_a_batch_deletes_its_tasks_and_results(
    tmp_path: Path,
) -> None:
    now, path = 1_000_000.0, tmp_path / "state.db"
    backend = await SqliteBackend.open(str(path), clock=lambda: now)
    await backend.declare_limit(OWN, 1, per_minute=600)
    await begin(backend, "old", 1)
    await backend.record_results("old", [failed(0)])
    now += 25 * 3600
    await begin(backend, "new", 1)
    with raw(path) as other:
        assert [count(other, table) for table in ("batch", "task_list", "result")] == [1, 1, 0]
    await backend.close()
