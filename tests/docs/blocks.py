"""The fenced blocks of a page, in order."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

SYSTEMS = ("macOS", "Linux", "Windows")

_FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_TAB = re.compile(r'^=== "([^"]+)"\n', re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block and its position.

    Attributes:
        tab: the label of the enclosing content tab; "" outside tabs.
    """

    page: Path
    line: int
    language: str
    text: str
    tab: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}:\n{self.text}"


@dataclass(frozen=True)
class Tabs:
    """A set of content tabs, with the blocks of each tab by its label."""

    page: Path
    line: int
    blocks: dict[str, list[Block]]

    @property
    def systems(self) -> list[str]:
        """The systems named by the labels, in order."""
        return [system for label in self.blocks for system in label.split(", ")]


def blocks_of(page: Path) -> list[Block]:
    """Return all blocks of a page."""
    text = page.read_text("utf-8")
    blocks = []
    for found in _FENCE.finditer(text):
        tab = ""
        if found[1]:
            tab = _TAB.findall(text[: found.start()])[-1]
        line = text.count("\n", 0, found.start()) + 1
        blocks.append(Block(page, line, found[2], textwrap.dedent(found[3]), tab))
    return blocks


def tabs_of(page: Path) -> list[Tabs]:
    """Return all sets of tabs of a page: tabs with only indented text between them."""
    text = page.read_text("utf-8")
    lines = text.splitlines()
    sets: list[Tabs] = []
    in_tabs = False
    for number, line in enumerate(lines, 1):
        if label := _TAB.fullmatch(f"{line}\n"):
            if not in_tabs:
                sets.append(Tabs(page, number, {}))
            in_tabs = True
            sets[-1].blocks[label[1]] = []
        elif line and not line.startswith("    "):
            in_tabs = False
        elif in_tabs and line.startswith("    ```"):
            label_now = list(sets[-1].blocks)[-1]
            sets[-1].blocks[label_now] += [
                block for block in blocks_of(page) if block.line == number
            ]
    return sets
