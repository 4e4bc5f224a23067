"""What people download, made once for all tests."""

import subprocess
import sys
from pathlib import Path

import pytest

from npm import installed

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is published."""
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
    """The official command line for bundles."""
    return installed(ROOT / "bundle") / ".bin" / "mcpb"
