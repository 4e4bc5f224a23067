"""File modes and files held open, with the rules of Windows in place of this system's."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from replicate_mcp.backends.sqlite.liveness_lock import LifeLock
from replicate_mcp.backends.sqlite.private_file import make_private_file
from replicate_mcp.cli.downloader import make_folder
from replicate_mcp.cli.install.config_file import ConfigFile
from replicate_mcp.errors import InvalidInput
from replicate_mcp.platform import files


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "IS_WINDOWS", True)


@pytest.mark.usefixtures("windows")
def test_windows_files_get_no_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    mkdir = Path.mkdir

    def noted(self: Path, mode: int = 0o777, **options: bool) -> None:
        modes.append(mode)
        mkdir(self, mode, **options)

    monkeypatch.setattr(Path, "mkdir", noted)
    make_private_file(tmp_path / "a" / "b" / "state.db")
    assert modes == [0o777, 0o777]
    assert files.lock_file_mode() & 0o066 == 0o066
    (tmp_path / "shared").touch(mode=0o644)
    assert not files.is_readable_by_others(tmp_path / "shared")


def test_unopenable_lock_file_does_not_prove_a_dead_process(tmp_path: Path) -> None:
    lock = LifeLock(str(tmp_path / "state.db"), "own")
    (tmp_path / "state.db.other.lock").mkdir()  # Simulates a file to which access is denied.
    gone = LifeLock(str(tmp_path / "state.db"), "gone")
    gone._lock.release()
    assert lock.dead(["own", "other", "gone"]) == ["gone"]
    lock.release()


@pytest.mark.usefixtures("windows")
def test_briefly_locked_file_is_retried() -> None:
    free = threading.Event()
    threading.Timer(0.3, free.set).start()

    def step() -> str:
        if not free.is_set():
            raise PermissionError(13, "held by another program")
        return "done"

    assert files.retry_while_held(step) == "done"


@pytest.mark.usefixtures("windows")
def test_denied_file_is_given_up_after_about_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))

    def step() -> None:
        raise PermissionError(13, "denied")

    with pytest.raises(PermissionError):
        files.retry_while_held(step)
    assert 1.0 <= now[0] < 1.2


@pytest.mark.usefixtures("windows")
def test_read_only_or_briefly_locked_file_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.json"
    file.touch(mode=0o444)
    held_until = time.monotonic() + 0.2
    unlink = Path.unlink

    def unlink_on_windows(self: Path, missing_ok: bool = False) -> None:
        if time.monotonic() < held_until or not self.stat().st_mode & 0o200:
            raise PermissionError(13, "Access is denied")
        unlink(self, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink_on_windows)
    files.remove_file(file)
    assert not file.exists()


@pytest.mark.usefixtures("windows")
def test_failed_configuration_replacement_leaves_no_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "settings.json"
    path.write_text("old")
    path.chmod(0o444)
    unlink = Path.unlink

    def denied(self: Path, target: Path) -> None:
        raise PermissionError(13, "Access is denied")

    def unlink_on_windows(self: Path, missing_ok: bool = False) -> None:
        if not self.stat().st_mode & 0o200:
            raise PermissionError(13, "Access is denied")
        unlink(self, missing_ok)

    monkeypatch.setattr(files, "HELD_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(Path, "replace", denied)
    monkeypatch.setattr(Path, "unlink", unlink_on_windows)
    with pytest.raises(InvalidInput, match="cannot be written: Access is denied"):
        ConfigFile(path).replace("new, with a token", holds_secret=True)
    assert [each.name for each in tmp_path.iterdir()] == ["settings.json"]


def test_permission_error_is_not_retried_off_windows() -> None:
    calls = []

    def step() -> None:
        calls.append(1)
        raise PermissionError(13, "denied")

    with pytest.raises(PermissionError):
        files.retry_while_held(step)
    assert len(calls) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_unwritable_folder_is_rejected_before_any_creation(tmp_path: Path) -> None:
    tmp_path.chmod(0o333)
    make_folder(tmp_path)  # It cannot be listed, which is not required.
    tmp_path.chmod(0o555)
    with pytest.raises(InvalidInput, match="cannot be written to: Permission denied"):
        make_folder(tmp_path)


def test_folder_protected_by_macos_is_rejected_before_any_creation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def guarded(self: Path, *_: object) -> None:
        tried.append(self)
        raise PermissionError(1, "Operation not permitted")  # As macOS does for Documents.

    monkeypatch.setattr(Path, "open", guarded)
    with pytest.raises(InvalidInput, match="cannot be written to: Operation not permitted"):
        make_folder(tmp_path)
    assert len(tried) == 1


@pytest.mark.parametrize(
    ("longest", "units"), [("é" * 100, "utf-8"), ("a" * 199, "utf-16-le")], ids=["bytes", "UTF-16"]
)
def test_maximum_filename_length_is_checked_as_file_systems_count_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, longest: str, units: str
) -> None:
    length = len(longest.encode(units))
    really_open = Path.open

    def limited(self: Path, mode: str) -> object:  # As on a file system with shorter names.
        if len(self.name.encode(units)) >= length:
            raise OSError(errno.ENAMETOOLONG, "File name too long")
        return really_open(self, mode)

    monkeypatch.setattr(Path, "open", limited)
    names = ["é" * 100, "a" * 199]
    with pytest.raises(InvalidInput, match=f"The name {longest} is too long for --out"):
        make_folder(tmp_path, names)
    make_folder(tmp_path, ["short.png", "../" * 60, "x/" * 90])
    assert list(tmp_path.iterdir()) == []
