"""The documentation builds without warnings, and its pages load nothing from other hosts."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from docs.blocks import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site like `make docs`, in a temporary folder."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    (folder / "src").symlink_to(ROOT / "src")
    built = subprocess.run(
        [Path(sys.executable).with_name("zensical"), "build", "--strict"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return folder / "site"


def test_every_page_is_built_and_in_the_navigation(site: Path) -> None:
    navigation = (ROOT / "zensical.toml").read_text("utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs")
        assert f'"{name.as_posix()}"' in navigation, name
        built = name.with_suffix("") / "index.html" if name.stem != "index" else "index.html"
        assert (site / built).is_file(), name


def test_python_api_page_is_generated_from_docstrings(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "python-api" / "index.html").read_text("utf-8"))
    assert "objects like {&#34;prompt&#34;" in text or 'objects like {"prompt"' in text
    assert "register_global_semaphore" in text


def test_pages_load_nothing_from_other_hosts(site: Path) -> None:
    loaded = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//"
        r"|<link\b(?![^>]*rel=[\"']?canonical)[^>]*\bhref=[\"']?(?:https?:)?//"
    )
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        found = loaded.search(page.read_text("utf-8"))
        assert found is None, f"{page}: {found and found[0]}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text("utf-8"))
