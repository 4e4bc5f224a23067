"""The start pages have each instruction for macOS, Linux and Windows."""

import re
import tomllib
from pathlib import Path

import pytest

from docs.blocks import PAGES, ROOT, SYSTEMS, Block, blocks_of, tabs_of
from docs.powershell import faults, in_bash

START_PAGES = [*sorted((ROOT / "docs" / "start").glob("*.md")), ROOT / "docs" / "network.md"]

README = ROOT / "README.md"

SHELLS = {"sh": {"macOS", "Linux"}, "powershell": {"Windows"}}
"""The systems that each shell language is for."""


def commands(block: Block) -> list[str]:
    """Return the arguments of each `replicate-mcp` call of a block."""
    text = in_bash(block.text) if block.language == "powershell" else block.text
    return re.findall(r"replicate-mcp\"? +((?!/).+)$", text.replace("\\\n", " "), re.MULTILINE)


@pytest.mark.parametrize("page", START_PAGES, ids=lambda page: page.stem)
def test_start_page_tabs_cover_all_systems_with_equivalent_commands(page: Path) -> None:
    for tabs in tabs_of(page):
        where = f"{page.name}:{tabs.line}"
        assert sorted(tabs.systems) == sorted(SYSTEMS), f"{where} is not for each system once"
        languages = {
            label: [block.language for block in tabs.blocks[label]] for label in tabs.blocks
        }
        for label, blocks in tabs.blocks.items():
            assert blocks, f"{where}: no commands for {label}"
            for block in blocks:
                systems = SHELLS.get(block.language, set(SYSTEMS))
                assert set(label.split(", ")) <= systems, f"{block.language} for {label} in {block}"
        assert len({len(each) for each in languages.values()}) == 1, f"{where}: {languages}"
        first, *others = tabs.blocks.values()
        for other in others:
            for one, another in zip(first, other, strict=True):
                if one.language in SHELLS:
                    assert commands(one) == commands(another), f"{where}: {one}{another}"


@pytest.mark.parametrize("page", START_PAGES, ids=lambda page: page.stem)
def test_commands_outside_tabs_work_in_every_shell(page: Path) -> None:
    for block in blocks_of(page):
        if block.language in SHELLS and not block.tab:
            assert block.language == "sh", f"{block} is for Windows alone"
            assert faults(block.text) == [], f"not for PowerShell: {block}"


def test_the_start_pages_have_commands_for_every_system() -> None:
    for page in START_PAGES:
        blocks = [block for block in blocks_of(page) if block.language in SHELLS]
        everywhere = any(not block.tab for block in blocks)
        systems = {system for block in blocks for system in block.tab.split(", ")}
        assert everywhere or systems == set(SYSTEMS), page.name
        assert any(tabs.systems for tabs in tabs_of(page)), page.name


def test_wheel_names_on_pages_have_the_current_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    text = "".join(page.read_text("utf-8") for page in PAGES)
    assert set(re.findall(r"replicate_mcp-([\d.]+\w*)-py3", text)) == {version}


def test_the_readme_has_the_same_install_command_on_every_system() -> None:
    text = README.read_text("utf-8")
    begin = text.count("\n", 0, text.index("## Install in"))
    end = text.count("\n", 0, text.index("\n## ", text.index("## Install in") + 1))
    section = [block for block in blocks_of(README) if begin < block.line <= end]
    shells = {block.language: block for block in section if block.language in SHELLS}
    assert set(shells) == set(SHELLS)
    (posix,), (windows,) = commands(shells["sh"]), commands(shells["powershell"])
    assert posix.partition("#")[0].split() == windows.split()
