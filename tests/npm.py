"""Packages of npm that tests use, each folder's from its lock file, installed the first time."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def installed(folder: Path) -> Path:
    """The folder's `node_modules`; skips where npm is missing, and fails in CI."""
    npm = shutil.which("npm")
    if npm is None:
        assert not os.environ.get("CI"), f"npm is missing: {folder.name} was not tried"
        pytest.skip(f"npm is missing: {folder.name} is not tried")
    modules = folder / "node_modules"
    if not (modules / ".package-lock.json").exists():
        subprocess.run(
            [npm, "ci", "--silent", "--no-audit", "--no-fund"], cwd=folder, check=True, timeout=280
        )
    return modules
