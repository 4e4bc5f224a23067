"""Detection of state files on network file systems."""

import ctypes
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.platform import file_system

MOUNTINFO = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / {folder} rw,relatime shared:2 master:1 - {kind} server:/home rw
"""


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "virtiofs", "fuse.sshfs", "fuse"])
async def test_state_file_on_a_network_file_system_is_rejected_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    table = tmp_path / "mountinfo"
    shared = tmp_path / "a share"
    table.write_text(MOUNTINFO.format(folder=str(shared).replace(" ", "\\040"), kind=kind))
    monkeypatch.setattr(file_system, "MOUNTS", table)
    with pytest.raises(BackendUnavailable, match=rf"\({kind}\).*redis://"):
        await SqliteBackend.open(str(shared / "state.db"))
    assert not shared.exists()
    await (await SqliteBackend.open(str(tmp_path / "own" / "state.db"))).close()


@pytest.mark.parametrize("kind", ["ext4", "fuseblk", "overlay", "tmpfs", "btrfs"])
def test_local_disk_is_not_a_network_file_system(kind: str, tmp_path: Path) -> None:
    mounted = file_system.mounts(MOUNTINFO.format(folder=tmp_path, kind=kind))
    assert mounted[str(tmp_path)] == kind
    assert file_system.network_file_system(tmp_path) is None


MACOS = """\
/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)
/dev/disk3s5 on /System/Volumes/Data (apfs, local, journaled, nobrowse, protect)
you@server:/home on /Volumes/{kind} of mine ({kind}, nodev, nosuid, synchronous, mounted by you)
"""


def macos(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    monkeypatch.setattr(file_system, "IS_MACOS", True)
    monkeypatch.setattr(subprocess, "run", run)


@pytest.mark.parametrize("kind", ["smbfs", "nfs", "macfuse", "webdav"])
def test_macos_detects_network_and_macfuse_mounts(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    macos(monkeypatch, lambda *_, **__: SimpleNamespace(stdout=MACOS.format(kind=kind)))
    shared = Path(f"/Volumes/{kind} of mine/state.db")
    assert file_system.network_file_system(shared) == kind
    assert file_system.network_file_system(Path("/Users/you/state.db")) is None


def test_macos_mount_timeout_is_treated_as_local_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def hang(command: list[str], *, timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    macos(monkeypatch, hang)
    assert file_system.network_file_system(Path("/Users/you/state.db")) is None


@pytest.mark.parametrize(
    ("drive", "kind"),
    [
        ("C:", None),
        ("Z:", "a network drive"),
        (r"\\server\share", "a network share"),
        (r"\\?\UNC\server\share", "a network share"),
        (r"\\?\C:", None),
        (r"\\?\Volume{0a1b}", None),
        (r"\\wsl.localhost\Ubuntu", "a network share"),
    ],
)
def test_windows_detects_network_drives(
    monkeypatch: pytest.MonkeyPatch, drive: str, kind: str | None
) -> None:
    asked = []

    def drive_type(root: str) -> int:
        asked.append(root)
        return 4 if root == "Z:\\" else 3

    kernel32 = SimpleNamespace(GetDriveTypeW=drive_type)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel32), raising=False)
    assert file_system._on_windows(drive) == kind
    assert asked in ([], [f"{drive}\\"])
