"""The steps of the image's build, run on this machine without Docker."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from packaging.utils import canonicalize_name

from conftest import environment
from deploy.files import ROOT, given, health_check, instructions
from http_api.conftest import running_server
from replicate_mcp.simulator import Simulator

PLACE = "/opt/replicate-mcp"

MAX_BYTES = 100 * 1024 * 1024
"""What is installed, beside Python itself."""


@pytest.mark.soak
def test_image_build_steps_produce_a_working_server(simulator: Simulator, tmp_path: Path) -> None:
    context, place = tmp_path / "build", tmp_path / "image"
    context.mkdir()
    build = instructions()[: instructions().index(("FROM", "python:${PYTHON}-slim"))]
    steps = [(name, argument) for name, argument in build if name in ("COPY", "RUN")]
    assert len(steps) == 5
    # The image's interpreter, with its own pip, stands beside that of the tests.
    tools = tmp_path / "tools"
    subprocess.run([sys.executable, "-m", "venv", str(tools)], check=True)
    around = {**os.environ, "PATH": f"{tools / 'bin'}:{os.environ['PATH']}"}
    for name, argument in steps:
        if name == "COPY":
            *sources, target = argument.split()
            for source in sources:
                copy(ROOT / source, context / target)
        else:
            command = argument.replace(PLACE, str(place))
            subprocess.run(["bash", "-euc", command], cwd=context, env=around, check=True)
    assert size(place) < MAX_BYTES
    program = [str(place / "bin" / "replicate-mcp")]
    installed = subprocess.run(
        [str(place / "bin" / "python"), "-c", "import redis, fastapi"], capture_output=True
    )
    assert installed.returncode == 0, installed.stderr
    assert bill_of_materials(tmp_path / "sbom.json") == distributions(place)
    with running_server(environment(simulator, tmp_path), program=program) as server:
        assert httpx.get(f"{server.url}/health").json()["status"] == "healthy"
        check = health_check()[-1].replace("8000", server.url.rpartition(":")[2])
        healthy = subprocess.run([str(place / "bin" / "python"), "-c", check])
        assert healthy.returncode == 0
        made = server.post("/generate", {"prompt": "a red car"}).json()
        assert made["success"] is True
    assert given("ENTRYPOINT") == ['["replicate-mcp"]']


def copy(source: Path, target: Path) -> None:
    """Copy like COPY does: a folder's content, or a file into a folder."""
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def bill_of_materials(target: Path) -> set[tuple[str, str]]:
    """Return the names and versions listed by `make sbom`, including this package."""
    subprocess.run([sys.executable, ROOT / "tools" / "sbom.py", target], check=True)
    bill = json.loads(target.read_text("utf-8"))
    listed = [bill["metadata"]["component"], *bill["components"]]
    return {(each["name"], each["version"]) for each in listed}


def distributions(place: Path) -> set[tuple[str, str]]:
    """Return the names and versions of the distributions in an environment."""
    (packages,) = place.glob("lib/python*/site-packages")
    return {
        (canonicalize_name(each.name), each.version)
        for each in importlib.metadata.distributions(path=[str(packages)])
    }


def size(folder: Path) -> int:
    """Return the total size of all files in bytes."""
    return sum(each.lstat().st_size for each in folder.rglob("*") if not each.is_dir())
