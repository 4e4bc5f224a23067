"""Every row of the threat model names tests, and they exist."""

import ast
import re
from pathlib import Path

import pytest

from docs.blocks import ROOT

TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def threat_rows() -> list[list[str]]:
    """Return the cells of each row of the page's table."""
    lines = (ROOT / "docs" / "threat-model.md").read_text("utf-8").splitlines()
    header, _, *rows = [line for line in lines if line.startswith("|")]
    assert split_row(header) == ["source", "attack", "protection", "test"]
    return [split_row(row) for row in rows]


def split_row(line: str) -> list[str]:
    """Return the cells of one line of a table."""
    return [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]


def functions_of(file: Path) -> set[str]:
    """Return the names of the test functions of a file."""
    tree = ast.parse(file.read_text("utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in tree.body if isinstance(node, functions)}


@pytest.mark.parametrize("cells", threat_rows(), ids=lambda cells: cells[1][:40])
def test_a_row_has_a_protection_and_its_tests_exist(cells: list[str]) -> None:
    _, attack, protection, tests = cells
    assert attack
    assert protection
    named = TEST.findall(tests)
    assert named, f"no test: {attack}"
    assert TEST.sub("", tests).strip() == "", "the last column contains only tests"
    for file, function in named:
        assert (ROOT / file).is_file(), file
        assert function in functions_of(ROOT / file), f"{file}::{function}"


def test_every_source_of_attacks_has_rows() -> None:
    sources = [cells[0].strip("*") for cells in threat_rows() if cells[0]]
    assert sources == [
        "Callers over HTTP",
        "Replicate's responses and models",
        "Proxies in front",
        "Other users of the machine",
        "Files and paths",
        "Other users of the Redis",
        "Webhooks",
        "Hostile web pages",
        "The host's model",
        "Package registries",
    ]


def test_security_policy_links_to_the_threat_model() -> None:
    policy = (ROOT / "SECURITY.md").read_text("utf-8")
    assert "(docs/threat-model.md)" in policy
    for target in re.findall(r"\]\(([^)#]+)", policy):
        if not target.startswith("https://"):
            assert (ROOT / target).exists(), target
