"""Builds `dist/replicate-mcp-VERSION.mcpb`, which Claude Desktop installs with a double click.

The bundle is of the type `uv`: the host brings uv, and uv brings a fitting Python and the packages.
Packages with compiled parts (pydantic's core, cryptography) are different for each system and
Python, so that a bundle which carries them works on one kind of machine only; this one carries this
project's own wheel and the versions that its tests ran with.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent

PYTHON = ">=3.11,<3.15"
"""The versions that all packages have wheels for, on every system; uv chooses no later one."""

PYPROJECT = """\
[project]
name = "replicate-mcp-bundle"
version = "{version}"
requires-python = "{python}"
dependencies = ["replicate-mcp[preview]"]

[tool.uv]
package = false
constraint-dependencies = {constraints}

[tool.uv.sources]
replicate-mcp = {{ path = "{wheel}" }}
"""


def build(target: Path) -> Path:
    """Pack the bundle into a folder, with the official tool, and give the file's path."""
    mcpb = HERE / "node_modules" / ".bin" / "mcpb"
    version = project()["version"]
    packed = target.resolve() / f"replicate-mcp-{version}.mcpb"
    with tempfile.TemporaryDirectory(prefix="replicate-mcp-bundle-") as name:
        stage = Path(name)
        _lay_out(stage, version)
        for words in (["validate", str(stage / "manifest.json")], ["pack", name, str(packed)]):
            done = subprocess.run([str(mcpb), *words], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(done.stdout + done.stderr)
    return packed


def project() -> dict[str, Any]:
    """What `pyproject.toml` says of the project."""
    read: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return read


def _lay_out(stage: Path, version: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(stage)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = stage.glob("*.whl")
    manifest = json.loads((HERE / "manifest.json").read_text("utf-8"))
    manifest |= {"version": version, "tools": _tools()}
    (stage / "manifest.json").write_text(json.dumps(manifest, indent=2), "utf-8")
    text = PYPROJECT.format(
        version=version, python=PYTHON, wheel=wheel.name, constraints=json.dumps(_pins(), indent=2)
    )
    (stage / "pyproject.toml").write_text(text, "utf-8")
    for file in (HERE / "main.py", HERE / "icon.png", ROOT / "LICENSE"):
        shutil.copy(file, stage)


def _pins() -> list[str]:
    """The versions with which the tests run."""
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    pins = re.findall(r"^([\w.-]+==\S+(?: ; [^\\\n]+)?)", lock, re.MULTILINE)
    return [pin.strip() for pin in pins]


def _tools() -> list[dict[str, str]]:
    """What the host shows before the server has ever run."""
    from replicate_mcp.mcp_server.tools import TOOLS

    tools = [spec.tool for spec in TOOLS.values()]
    return [{"name": tool.name, "description": tool.title or ""} for tool in tools]


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist"
    target.mkdir(exist_ok=True)
    print(build(target))
