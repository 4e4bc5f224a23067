"""The state file: created once by the first process, and rejected where it is not ours."""

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from backends.steps import OWN, begin, failed
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.errors import BackendUnavailable

OPEN = """
import sys, anyio
from replicate_mcp.backends.sqlite.backend import SqliteBackend

async def main():
    for path in sys.argv[1:]:
        print("ready", flush=True)
        sys.stdin.readline()
        backend = await SqliteBackend.open(path)
        await backend.close()

anyio.run(main)
"""


def test_processes_starting_concurrently_create_one_file(tmp_path: Path) -> None:
    paths = [str(tmp_path / str(number) / "state.db") for number in range(3)]
    starting = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, *paths], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for _ in range(6)
    ]
    for _ in paths:
        for process in starting:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        for process in starting:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
    for process in starting:
        process.communicate(timeout=60)
    assert [process.returncode for process in starting] == [0] * 6


async def test_prompt_is_stored_once(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    backend = await SqliteBackend.open(str(path))
    await backend.declare_limit(OWN, 5, per_minute=600)
    await begin(backend, "b", 2)
    await backend.record_results("b", [failed(1), failed(0)])
    assert await backend.results("b") == [failed(1), failed(0)]
    assert await backend.results("b", after=1) == [failed(0)]
    await backend.close()
    with closing(sqlite3.connect(path)) as file:
        assert "\n".join(file.iterdump()).count("prompt 1") == 1


async def test_data_older_than_a_day_is_deleted_while_the_process_runs(
    tmp_path: Path,
) -> None:
    now = 1_000_000.0
    backend = await SqliteBackend.open(str(tmp_path / "state.db"), clock=lambda: now)
    await backend.declare_limit(OWN, 5, per_minute=600)
    await begin(backend, "old", 1)
    await backend.record_results("old", [failed(0)])
    await begin(backend, "runs", 1)
    now += 25 * 3600
    async with anyio.create_task_group() as group:
        group.start_soon(backend.run)
        while await backend.get_batch("old") is not None:
            await anyio.sleep(0.01)
        assert await backend.get_batch("runs") is not None
        group.cancel_scope.cancel()
    await backend.close()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


needs_modes = pytest.mark.skipif(os.name != "posix", reason="there are no modes")


@needs_modes
async def test_state_file_and_created_folders_are_private_to_the_user(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a" / "folder" / "state.db"
    before = os.umask(0)
    try:
        backend = await SqliteBackend.open(str(path))
    finally:
        os.umask(before)
    made = {file.name.removeprefix("state.db"): mode_of(file) for file in path.parent.iterdir()}
    (lock,) = made.keys() - {"", "-wal", "-shm"}
    assert lock.endswith(".lock")
    assert set(made.values()) == {0o600}
    assert [mode_of(folder) for folder in path.parents[:2]] == [0o700, 0o700]
    await backend.close()


@needs_modes
async def test_opening_a_readable_state_file_makes_it_private(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state.db"
    tmp_path.chmod(0o755)
    first = await SqliteBackend.open(str(path))
    files = [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm")]
    for file in files:
        file.chmod(0o666)
    second = await SqliteBackend.open(str(path))
    assert [mode_of(file) for file in files] == [0o600] * 3
    assert mode_of(tmp_path) == 0o755
    await second.close()
    await first.close()


@pytest.mark.skipif(getattr(os, "geteuid", int)() != 0, reason="only root may give files away")
@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
async def test_writable_state_file_of_another_user_is_rejected_with_advice(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / "state.db"
    await (await SqliteBackend.open(str(path))).close()
    theirs = path.with_name(path.name + suffix)
    theirs.touch()
    os.chown(theirs, 65534, 65534)
    theirs.chmod(0o666)
    with pytest.raises(BackendUnavailable, match=r"belongs to another user.*chmod 600"):
        await SqliteBackend.open(str(path))
    assert mode_of(theirs) == 0o666
    if suffix:
        theirs.unlink()
        return
    for mode in (0o600, 0o644, 0o755):
        theirs.chmod(mode)
        await (await SqliteBackend.open(str(path))).close()
        assert mode_of(theirs) == mode, "only its owner changes who may read it"


@needs_modes
async def test_restrictive_file_mode_is_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await (await SqliteBackend.open(str(path))).close()
    path.chmod(0o700)
    await (await SqliteBackend.open(str(path))).close()
    assert mode_of(path) == 0o700


async def test_database_of_another_program_is_rejected_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "theirs.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE notes (text)")
    other.commit()
    other.close()
    path.chmod(0o644)
    before, mode = path.read_bytes(), mode_of(path)
    with pytest.raises(BackendUnavailable, match="a database of another program"):
        await SqliteBackend.open(str(path))
    assert path.read_bytes() == before
    assert mode_of(path) == mode


async def test_non_database_file_is_rejected_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_text("not a database, but long enough to look like something " * 50)
    path.chmod(0o644)
    mode = mode_of(path)
    with pytest.raises(BackendUnavailable, match="replicate-mcp doctor"):
        await SqliteBackend.open(str(path))
    assert mode_of(path) == mode


async def test_folder_is_rejected_as_a_state_file(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="is a folder and not a file: set REPLICATE_MCP_"):
        await SqliteBackend.open(str(tmp_path))


@needs_modes
async def test_special_file_is_rejected_and_keeps_its_mode(tmp_path: Path) -> None:
    pipe = tmp_path / "state.db"
    os.mkfifo(pipe)
    pipe.chmod(0o644)
    with anyio.fail_after(5), pytest.raises(BackendUnavailable, match="is a device and not a file"):
        await SqliteBackend.open(str(pipe))
    assert mode_of(pipe) == 0o644


@pytest.mark.parametrize("location", ["state.db", ":memory:"])
async def test_too_old_sqlite_is_reported_with_advice(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As in RHEL 9's Python 3.11.
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.34.1")
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BackendUnavailable, match=r"SQLite 3\.34\.1, and 3\.35\.0 .* redis://"):
        await SqliteBackend.open(location)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(getattr(os, "geteuid", int)() == 0, reason="root may write anywhere")
async def test_unwritable_folder_is_rejected_with_advice(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(BackendUnavailable, match="set REPLICATE_MCP_BACKEND"):
        await SqliteBackend.open(str(tmp_path / "state.db"))


async def test_damaged_state_file_is_reported_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await (await SqliteBackend.open(str(path))).close()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\x00" * (path.stat().st_size - 4096))
    with pytest.raises(BackendUnavailable, match=r"state\.db cannot be used .* doctor"):
        await SqliteBackend.open(str(path))
