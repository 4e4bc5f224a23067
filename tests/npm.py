"""npm packages for tests: each folder's lock file, installed at the first use."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock

INSTALL_SECONDS = 280


def installed(folder: Path) -> Path:
    """Return the `node_modules` of a folder, installed once; without npm, skip or fail in CI."""
    npm = shutil.which("npm")
    if npm is None:
        assert not os.environ.get("CI"), f"npm is missing: {folder.name} was not tried"
        pytest.skip(f"npm is missing: {folder.name} is not tried")
    modules = folder / "node_modules"
    wanted, there = folder / "package-lock.json", modules / ".package-lock.json"
    name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    with FileLock(Path(tempfile.gettempdir()) / f"npm-{name}.lock"):
        if not there.exists() or there.stat().st_mtime < wanted.stat().st_mtime:
            subprocess.run(
                [npm, "ci", "--silent", "--no-audit", "--no-fund"],
                cwd=folder,
                check=True,
                timeout=INSTALL_SECONDS,
            )
    return modules
