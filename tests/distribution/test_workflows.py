"""`make check` lints the GitHub Actions workflows, and they cover the supported versions."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from distribution.conftest import PYTHONS, ROOT

WORKFLOW = Path("workflows", "ci.yml")


def lint(folder: Path) -> tuple[bool, str]:
    """Return whether `make workflows` passes for a folder, and its output."""
    done = subprocess.run(
        [
            "make",
            "workflows",
            "READY=",
            f"BIN={Path(sys.executable).parent}",
            f"WORKFLOWS={folder}",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def github(tmp_path: Path) -> Path:
    """Return a copy of the project's `.github` folder."""
    return shutil.copytree(ROOT / ".github", tmp_path / ".github")


def test_own_workflows_pass() -> None:
    passed, printed = lint(ROOT / ".github")
    assert passed, printed


@pytest.mark.parametrize(
    ("right", "wrong", "found"),
    [
        ("runs-on: ubuntu-24.04", "runs-on: ubuntu-24.4", 'label "ubuntu-24.4" is unknown'),
        ("matrix.python }}", "matrix.pyhton }}", 'property "pyhton" is not defined'),
        ("    steps:", "    stepps:", 'unexpected key "stepps"'),
        ("permissions: {}", "permissions: write-all", "excessive-permissions"),
        ("persist-credentials: false", "fetch-depth: 1", "artipacked"),
        (r"@[0-9a-f]{40} # v7.0.1", "@v7", "unpinned-uses"),
    ],
)
def test_invalid_workflow_is_detected(github: Path, right: str, wrong: str, found: str) -> None:
    workflow = github / WORKFLOW
    text, changed = re.subn(right, wrong, workflow.read_text("utf-8"))
    assert changed
    workflow.write_text(text, "utf-8")
    passed, printed = lint(github)
    assert not passed
    assert found in printed


def test_every_operating_system_is_tested_with_every_python() -> None:
    workflow: dict[str, Any] = yaml.safe_load((ROOT / ".github" / WORKFLOW).read_text("utf-8"))
    matrix = workflow["jobs"]["systems"]["strategy"]["matrix"]
    assert {"windows-2025", "windows-11-arm", "macos-15", "macos-15-intel"} <= {*matrix["os"]}
    assert matrix["python"] == [*PYTHONS]
