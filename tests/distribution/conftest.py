"""The published artifacts, built once for all tests."""

import subprocess
import sys
from pathlib import Path

import pytest

from npm import installed

ROOT = Path(__file__).parents[2]

PYTHONS = ("3.11", "3.13", "3.14")
"""The oldest Python that the package supports, and the newest ones."""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the package as a wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def mcpb() -> Path:
    """Return the official command line for bundles."""
    return installed(ROOT / "bundle") / ".bin" / "mcpb"


@pytest.fixture(scope="session")
def unpacked(mcpb: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundle, built and validated by the program of `make bundle`, and unpacked."""
    folder = tmp_path_factory.mktemp("bundle")
    built = subprocess.run(
        [sys.executable, str(ROOT / "bundle" / "build.py"), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr + built.stdout
    target = folder / "unpacked"
    subprocess.run(
        [str(mcpb), "unpack", built.stdout.strip(), str(target)], check=True, capture_output=True
    )
    return target
