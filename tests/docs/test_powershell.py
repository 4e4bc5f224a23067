"""Commands for Windows are valid PowerShell and use only programs that Windows has."""

import pytest

from docs.blocks import PAGES, ROOT, Block, blocks_of
from docs.powershell import faults, in_bash

BLOCKS = [block for page in PAGES for block in blocks_of(page) if block.language == "powershell"]


@pytest.mark.parametrize(
    "block", BLOCKS, ids=lambda block: f"{block.page.relative_to(ROOT)}:{block.line}"
)
def test_a_block_is_valid_on_windows(block: Block) -> None:
    found = faults(block.text)
    assert found == [], f"{found} in {block}"
    in_bash(block.text)


def test_the_pages_have_powershell_blocks() -> None:
    assert len(BLOCKS) > 12


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('& "$HOME\\.replicate-mcp\\Scripts\\pip install .', "PowerShell cannot read this"),
        ("pip install (", "PowerShell cannot read this"),
        ("$env:NAME = ", "PowerShell cannot read this"),
        ('"$HOME\\.replicate-mcp\\Scripts\\pip" install .', "PowerShell cannot read this"),
        ("& $HOME\\.replicate-mcp\\Scripts\\pip install .", "quote"),
        ("py -m venv $HOME\\.replicate-mcp", "quote"),
        ("python3 -m venv x", "python3 is not on Windows"),
        ("export NAME=value", "export is not on Windows"),
        ("make demo", "make is not on Windows"),
        ("curl -s http://127.0.0.1", "curl is not on Windows"),
        ("NAME=value replicate-mcp demo", "$env:NAME"),
        ("py -m venv ~/.replicate-mcp", "~ is not expanded"),
        ('& "$HOME/.replicate-mcp/bin/pip" install .', "Scripts"),
        ("replicate-mcp demo && replicate-mcp doctor", "&&"),
        ("replicate-mcp generate \\\n  a", "backquote"),
        ("replicate-mcp doctor > /dev/null", "/dev/null"),
        ('$env:PATH = "$PATH;x"', "PowerShell one"),
    ],
)
def test_an_invalid_block_is_detected(text: str, what: str) -> None:
    assert any(what in fault for fault in faults(text)), faults(text)
