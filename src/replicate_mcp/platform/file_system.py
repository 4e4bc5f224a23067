"""Detection of network file systems, where file locks do not show which processes are alive."""

import re
from pathlib import Path, PureWindowsPath

from replicate_mcp.platform.system import IS_MACOS, IS_WINDOWS

_NETWORK = (
    "nfs", "nfs4", "cifs", "smb", "smb3", "smbfs", "9p", "virtiofs",
    "afpfs", "webdav", "davfs", "ceph", "glusterfs", "lustre", "beegfs", "afs",
    "ncpfs", "coda", "vboxsf", "prl_fs", "vmhgfs", "macfuse", "osxfuse",
)  # fmt: skip

MOUNTS = Path("/proc/self/mountinfo")
"""Linux's table of mounts."""

_WINDOWS_REMOTE_DRIVE = 4
"""GetDriveType's result for a drive on another machine."""


def network_file_system(path: Path) -> str | None:
    """Return the kind of network or shared file system that `path` is on; None for a local disk.

    Also None where the system does not say: file locks are tested in any case.
    """
    try:
        if IS_WINDOWS:
            return _on_windows(PureWindowsPath(path.resolve()).drive)
        if IS_MACOS:
            return _kind(_mounts_of_macos(), path)
        return _kind(mounts(MOUNTS.read_text("utf-8", "replace")), path)
    except OSError:
        return None


def mounts(mountinfo: str) -> dict[str, str]:
    """Return the kind of file system by mount point, from Linux's mount table."""
    found = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.partition(" ")[0]
        if len(fields) > 4 and kind:
            # Spaces in names are escaped as \040.
            found[fields[4].encode().decode("unicode_escape")] = kind
    return found


def _kind(mounted: dict[str, str], path: Path) -> str | None:
    """Return the kind of the mount that contains `path` if it is a network's, else None."""
    place = path.resolve()
    for folder in (place, *place.parents):
        kind = mounted.get(str(folder))
        if kind is not None:
            # fuseblk is a local disk; any other FUSE file system may be remote.
            anywhere = kind == "fuse" or kind.startswith("fuse.")
            return kind if anywhere or kind in _NETWORK else None
    return None


def _mounts_of_macos() -> dict[str, str]:
    import subprocess

    try:
        completed = subprocess.run(
            ["/sbin/mount"],
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=5,
            check=False,
        )
    except subprocess.TimeoutExpired as error:  # a mount whose server does not respond
        raise OSError(str(error)) from error
    lines = re.findall(r"^.* on (.*) \((\w+)", completed.stdout, re.MULTILINE)
    return dict(lines)


def _on_windows(drive: str) -> str | None:
    """Return the kind of network share or drive that a path begins with; None if it is local."""
    import ctypes

    # \\?\ and \\.\ are prefixes of local names, and \\?\UNC\ of remote ones.
    if re.match(r"\\\\(?![?.]\\)|\\\\[?.]\\UNC\\", drive, re.IGNORECASE):
        return "a network share"
    ask = ctypes.windll.kernel32.GetDriveTypeW  # type: ignore[attr-defined,unused-ignore]
    return "a network drive" if ask(f"{drive}\\") == _WINDOWS_REMOTE_DRIVE else None
