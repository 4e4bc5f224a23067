"""The official MCP conformance suites, with all scenarios, against the server at /mcp."""

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from http_api.conftest import Server
from npm import installed

pytestmark = pytest.mark.soak

FOLDER = Path(__file__).parent / "conformance"

RUNS = {
    "0.1": ("0.1", ()),
    "0.2, the handshake era": ("0.2", ("--spec-version", "2025-11-25")),
    "0.2, the stateless era": ("0.2", ("--spec-version", "2026-07-28")),
    "0.2, each in its newest era, and extensions": ("0.2", ()),
}


class Check(NamedTuple):
    """A check made by a suite."""

    scenario: str
    name: str
    succeeded: bool
    message: str


@cache
def suite(version: str) -> tuple[str, ...]:
    """Return the command that runs a suite."""
    program = installed(FOLDER) / f"conformance-{version}" / "dist" / "index.js"
    report = subprocess.run(
        ["node", "--version"], capture_output=True, text=True, check=True
    ).stdout
    older = ["--import", str(FOLDER / "older_node.mjs")] if report < "v22" else []
    return ("node", *older, str(program))


@cache
def expected_results() -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return the expected passing scenarios by suite, and the skipped checks by scenario."""
    known = tomllib.loads(Path(__file__).with_name("conformance.toml").read_text("utf-8"))
    not_tried: dict[str, set[str]] = {}
    for group in known["not_tried"]:
        assert group["reason"]
        for scenario, checks in group["checks"].items():
            assert scenario not in not_tried, scenario
            not_tried[scenario] = set(checks)
    return {name: set(scenarios) for name, scenarios in known["passed"].items()}, not_tried


def checks_in(folder: Path) -> Iterator[Check]:
    """Return the checks that a suite recorded."""
    for file in sorted(folder.glob("*/checks.json")):
        scenario = re.sub(r"^server-(.+?)-\d{4}-\d\d-\d\dT.*$", r"\1", file.parent.name)
        report: list[dict[str, Any]] = json.loads(file.read_text("utf-8"))
        for check in report:
            succeeded = check["status"] in ("SUCCESS", "INFO")
            yield Check(scenario, check["id"], succeeded, check.get("errorMessage") or "")


@pytest.mark.parametrize("run", RUNS)
def test_applicable_conformance_scenarios_pass(server: Server, tmp_path: Path, run: str) -> None:
    version, options = RUNS[run]
    command = [*suite(version), "server", "--url", f"{server.url}/mcp", "--suite", "all", *options]
    done = subprocess.run(
        [*command, "-o", str(tmp_path)], capture_output=True, text=True, timeout=180, check=False
    )
    checks = list(checks_in(tmp_path))
    assert len(checks) > 30, done.stdout + done.stderr
    passed, not_tried = expected_results()

    failed = [
        check
        for check in checks
        if not check.succeeded and check.name not in not_tried.get(check.scenario, ())
    ]
    assert not failed
    wrongly = [
        check
        for check in checks
        if check.succeeded and check.name in not_tried.get(check.scenario, ())
    ]
    assert not wrongly, "written down as not tried, and passes"
    scenarios = {check.scenario for check in checks}
    assert scenarios - set(not_tried) <= passed[version], "pass, and are not written down"


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_every_conformance_scenario_is_listed(version: str) -> None:
    report = subprocess.run(
        [*suite(version), "list", "--server"], capture_output=True, text=True, check=True
    ).stdout
    listed = set(re.findall(r"^ +- (\S+)", report, re.MULTILINE))
    passed, not_tried = expected_results()
    assert not passed[version] & set(not_tried)
    assert listed - set(not_tried) == passed[version]
    if version == "0.2":
        assert set(not_tried) <= listed
