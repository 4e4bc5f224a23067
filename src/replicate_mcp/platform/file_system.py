"""Whether a file is on this machine's own disk: only there do locks tell who lives."""

import re
from pathlib import Path, PureWindowsPath

from replicate_mcp.platform.system import IS_MACOS, IS_WINDOWS

_NETWORK = (
    "nfs", "nfs4", "cifs", "smb", "smb3", "smbfs", "9p", "virtiofs",
    "afpfs", "webdav", "davfs", "ceph", "glusterfs", "lustre", "beegfs", "afs",
    "ncpfs", "coda", "vboxsf", "prl_fs", "vmhgfs", "macfuse", "osxfuse",
)  # fmt: skip

MOUNTS = Path("/proc/self/mountinfo")
"""Linux's table of what is mounted where."""

_WINDOWS_REMOTE_DRIVE = 4
"""What Windows' GetDriveType answers for a drive of another machine."""


def network_file_system(path: Path) -> str | None:
    """The kind of network or shared file system that `path` is on; None for a disk of one's own.

    Where the system does not tell, it is taken for a disk: locks are tried in any case.
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
    """Where what is mounted, by Linux's own table: mount point to kind of file system."""
    found = {}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.partition(" ")[0]
        if len(fields) > 4 and kind:
            # Blanks in names are written as \040.
            found[fields[4].encode().decode("unicode_escape")] = kind
    return found


def _kind(mounted: dict[str, str], path: Path) -> str | None:
    """The kind of the mount that `path` is in, if it is a network's."""
    place = path.resolve()
    for folder in (place, *place.parents):
        kind = mounted.get(str(folder))
        if kind is not None:
            # fuseblk is a local disk; what else is in user space may be anywhere.
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
    except subprocess.TimeoutExpired as error:  # A mount whose server does not answer.
        raise OSError(str(error)) from error
    lines = re.findall(r"^.* on (.*) \((\w+)", completed.stdout, re.MULTILINE)
    return dict(lines)


def _on_windows(drive: str) -> str | None:
    """The kind of the drive, share or volume that a path begins with."""
    import ctypes

    # \\?\ and \\.\ name what is on this machine, and \\?\UNC\ what is not.
    if re.match(r"\\\\(?![?.]\\)|\\\\[?.]\\UNC\\", drive, re.IGNORECASE):
        return "a network share"
    ask = ctypes.windll.kernel32.GetDriveTypeW  # type: ignore[attr-defined,unused-ignore]
    return "a network drive" if ask(f"{drive}\\") == _WINDOWS_REMOTE_DRIVE else None
