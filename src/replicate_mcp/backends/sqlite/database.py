"""A SQLite database, in a file or in memory, for short atomic transactions."""

import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TypeVar

from replicate_mcp.backends.sqlite.private_file import make_private_file, restrict_to_owner
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.platform.file_system import network_file_system

T = TypeVar("T")

APPLICATION_ID = 0x52504C4D
"""Marks a file as ours ("RPLM"), so that another program's database is not modified."""

SCHEMA_VERSION = 4

MIN_SQLITE = (3, 35, 0)
"""The first version with `RETURNING`."""

MEMORY = ":memory:"

LOCK_TIMEOUT_SECONDS = 0.02
"""Seconds to wait on the event loop for another process's transaction; then wait in a worker
thread."""

LONG_LOCK_TIMEOUT_SECONDS = 10.0
"""Seconds to wait in a worker thread, for a process that was suspended inside its transaction."""


class Busy(Exception):
    """Another process is inside a transaction."""


class Database:
    """One connection, used by one transaction at a time.

    Threads of one process may share it: the memory of a process is one database for all its users,
    and a transaction that waits for another process runs in a worker thread.
    """

    def __init__(self, location: str) -> None:
        self.location = location
        self._lock = threading.Lock()
        self._users = 0
        try:
            self._connection = self._connect(location)
        except sqlite3.Error as error:
            raise _unavailable(location, error) from error

    def run(self, step: Callable[[sqlite3.Connection], T], *, timeout: float) -> T:
        """Run `step` in one atomic transaction.

        Raises:
            Busy: other processes held the lock for all of `timeout` seconds.
            BackendUnavailable: the file cannot be used.
        """
        with self._lock:
            connection = self._connection
            try:
                connection.execute(f"PRAGMA busy_timeout = {int(timeout * 1000)}")
                connection.execute("BEGIN IMMEDIATE")
                try:
                    outcome = step(connection)
                    connection.execute("COMMIT")
                except BaseException:
                    # Roll back after any exception: the next transaction must not start inside this
                    # one.
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
                return outcome
            except sqlite3.OperationalError as error:
                if _is_busy(error):
                    raise Busy from error
                raise _unavailable(self.location, error) from error
            except sqlite3.Error as error:
                raise _unavailable(self.location, error) from error

    def close(self) -> None:
        """Close the connection; a database in memory is discarded with its last user."""
        with _memory_lock:
            if self.location == MEMORY:
                self._users -= 1
                if self._users:
                    return
                _memory.clear()
        self._connection.close()

    def joined(self) -> "Database":
        """Count one more user."""
        self._users += 1
        return self

    @staticmethod
    def _connect(location: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            location,
            isolation_level=None,
            check_same_thread=False,
            timeout=LONG_LOCK_TIMEOUT_SECONDS,
        )
        try:
            _prepare_patiently(connection, location)
        except BaseException:  # On an interrupt too: an open file would keep its lock.
            connection.close()
            raise
        return connection


def _prepare_patiently(connection: sqlite3.Connection, location: str) -> None:
    # Switching a new file to WAL mode does not wait for another process that does the same.
    give_up_at = time.monotonic() + LONG_LOCK_TIMEOUT_SECONDS
    while True:
        try:
            return _prepare(connection, location)
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > give_up_at:
                raise
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            time.sleep(0.02)


def _is_busy(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _prepare(connection: sqlite3.Connection, location: str) -> None:
    """Check that the file is ours, and create or update its tables."""
    # In one query: another process may be creating the tables.
    tables, known = connection.execute(
        "SELECT (SELECT count(*) FROM sqlite_master), application_id FROM pragma_application_id"
    ).fetchone()
    if tables and known != APPLICATION_ID:
        raise BackendUnavailable(
            f"{location} is a database of another program: set REPLICATE_MCP_BACKEND to "
            "sqlite:///another/path, or move that file away."
        )
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if tables and version > SCHEMA_VERSION:
        raise BackendUnavailable(
            f"{location} was written by a newer replicate-mcp: upgrade this one, or set "
            "REPLICATE_MCP_BACKEND to sqlite:///another/path."
        )
    if location != MEMORY:
        restrict_to_owner(Path(location))
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    if version < SCHEMA_VERSION:
        connection.execute("BEGIN IMMEDIATE")
        _make_tables(connection)
        connection.execute("COMMIT")


def _make_tables(connection: sqlite3.Connection) -> None:
    """Create or migrate the tables, unless another process was first."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version >= SCHEMA_VERSION:
        return
    for older in range(version or SCHEMA_VERSION, SCHEMA_VERSION):
        _execute_script(connection, _script(f"migration_{older}_to_{older + 1}"))
    _execute_script(connection, _script("schema"))
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _execute_script(connection: sqlite3.Connection, script: str) -> None:
    """Execute a script inside the open transaction, which `executescript` would commit."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""


_memory: dict[str, Database] = {}
_memory_lock = threading.Lock()


def open_database(location: str) -> Database:
    """Open a file, created with its folder for this user only, or the process's memory.

    Raises:
        BackendUnavailable: it cannot be used; the message says why and what to do.
    """
    if sqlite3.sqlite_version_info < MIN_SQLITE:
        raise BackendUnavailable(
            f"This Python ({sys.executable}) uses SQLite {sqlite3.sqlite_version}, and "
            f"{'.'.join(map(str, MIN_SQLITE))} or newer is needed: use a Python that brings a "
            "newer one (`uv python install 3.13`), or set REPLICATE_MCP_BACKEND to redis://…."
        )
    if location == MEMORY:
        with _memory_lock:
            if MEMORY not in _memory:
                _memory[MEMORY] = Database(MEMORY)
            return _memory[MEMORY].joined()
    path = Path(location)
    if kind := network_file_system(path):
        raise BackendUnavailable(
            f"{path} is on a network or shared file system ({kind}), where processes cannot detect "
            "dead ones: set REPLICATE_MCP_BACKEND to sqlite:///a/path/on/a/local/disk, or to "
            "redis://… where several machines share an account."
        )
    try:
        make_private_file(path)
    except OSError as error:
        raise BackendUnavailable(
            f"The state file {path} cannot be made ({error.strerror}): set REPLICATE_MCP_BACKEND "
            "to sqlite:///a/path/you/can/write, or to memory."
        ) from error
    return Database(location)


def _script(name: str) -> str:
    folder = resources.files("replicate_mcp.backends.sqlite")
    return folder.joinpath(f"{name}.sql").read_text("utf-8")


def _unavailable(location: str, error: sqlite3.Error) -> BackendUnavailable:
    return BackendUnavailable(
        f"The state in {location} cannot be used ({error}): `replicate-mcp doctor` says what to do."
    )
