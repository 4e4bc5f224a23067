"""Build `dist/replicate-mcp-VERSION.mcpb`, which Claude Desktop installs with a double click.

The bundle has the type `uv`: the host provides uv, and uv installs a suitable Python and the
packages. Packages with compiled parts (pydantic's core, cryptography) differ by system and Python
version, so a bundle that contained them would work on one kind of machine only. This one contains
the project's own wheel, and pins the versions that its tests ran with.
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
"""Python versions for which all packages have wheels on every system; uv installs no later one."""

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
    """Pack the bundle into the folder `target` with the official tool; return the file's path."""
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
    """Return the `project` table of `pyproject.toml`."""
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
    """Return the versions that the tests run with."""
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    pins = re.findall(r"^([\w.-]+==\S+(?: ; [^\\\n]+)?)", lock, re.MULTILINE)
    return [pin.strip() for pin in pins]


def _tools() -> list[dict[str, str]]:
    """Return the tools that the host shows before the server has run for the first time."""
    from replicate_mcp.mcp_server.tools import TOOLS

    tools = [spec.tool for spec in TOOLS.values()]
    return [{"name": tool.name, "description": tool.title or ""} for tool in tools]


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist"
    target.mkdir(exist_ok=True)
    print(build(target))
