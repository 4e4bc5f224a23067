"""A state file on another machine's disk is known as such."""

from pathlib import Path

import pytest

from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.platform import file_system

MOUNTINFO = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / {folder} rw,relatime shared:2 master:1 - {kind} server:/home rw
"""


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "virtiofs", "fuse.sshfs", "fuse"])
async def test_a_file_on_a_network_is_refused_with_a_way_out(
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
def test_a_disk_of_ones_own_is_none(kind: str, tmp_path: Path) -> None:
    mounted = file_system.mounts(MOUNTINFO.format(folder=tmp_path, kind=kind))
    assert mounted[str(tmp_path)] == kind
    assert file_system.network_file_system(tmp_path) is None
