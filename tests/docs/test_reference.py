"""The reference pages document every setting, error, option, tool, route and metric."""

import argparse
import importlib
import inspect
import re
from typing import Any, cast

import pytest
from pydantic import BaseModel

from docs.blocks import ROOT
from http_api.conftest import Serve, Server
from replicate_mcp import __all__ as public_names
from replicate_mcp.cli.main import COMMANDS, Command
from replicate_mcp.errors import ERROR_CODES, IdempotencyKeyConflict, UnknownBatch
from replicate_mcp.http_api.error_responses import STATUSES, ErrorBody, status_of
from replicate_mcp.mcp_server.prompts import PROMPTS
from replicate_mcp.mcp_server.resources import TEMPLATES
from replicate_mcp.mcp_server.tools import TOOLS
from replicate_mcp.semaphores.status import SemaphoreStatus
from replicate_mcp.settings import SETTING_NAMES, Settings
from replicate_mcp.tasks.result import BatchResult, GeneratedFile, TaskFailure, TaskSuccess

DOCUMENTED_BY_HELP = "simulate"
"""The command with too many options for a page; `--help` lists them."""


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


def rows(text: str) -> dict[str, list[str]]:
    """Return the cells of a page's tables by the code in the first cell of each row."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| `")]
    return {cells[0].strip(" `|"): [cell.strip() for cell in cells[1:]] for cells in lines}


def section(text: str, heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert found, f"there is no section {heading}"
    return found[1]


def test_every_setting_is_documented_with_its_default() -> None:
    table = rows(page("settings.md"))
    assert set(table) == set(SETTING_NAMES)
    for name, field in SETTING_NAMES.items():
        default = Settings.model_fields[field].default
        documented = table[name][0].strip("` ")
        if default is None or default == ():
            assert documented in ("", table[name][-1].strip("` ")), name
        else:
            assert documented == str(
                int(default) if isinstance(default, bool | float) else default
            ), name


def test_readme_settings_exist() -> None:
    readme = rows((ROOT / "README.md").read_text("utf-8"))
    documented = {name for name in readme if name.startswith(("REPLICATE", "DEFAULT_"))}
    assert {"REPLICATE_API_TOKEN", "REPLICATE_CONCURRENT_LIMIT"} <= documented <= set(SETTING_NAMES)


def test_every_error_has_its_solution_and_its_status() -> None:
    table = rows(page("errors.md"))
    assert list(table) == sorted(ERROR_CODES, key=list(table).index)
    assert set(table) == set(ERROR_CODES)
    for code, (status, cause, solution) in table.items():
        assert int(status) == STATUSES[cast(Any, code)]
        assert cause.endswith(".")
        assert solution.rstrip(" |").endswith(".")
    codes = ErrorBody.model_json_schema()["properties"]["error_code"]["enum"]
    for code in set(codes) - set(ERROR_CODES):
        assert f"`{code}`" in page("errors.md"), code
    named = section(page("errors.md").replace("# Error", "## Error", 1), "Error codes")
    specific = named.partition("`invalid_input` uses a more specific HTTP status")[2]
    for refused in (UnknownBatch(""), IdempotencyKeyConflict("")):
        assert f"| {status_of(refused)} |" in specific


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != DOCUMENTED_BY_HELP])
def test_every_option_of_a_command_is_documented(name: str) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    command = cast(Command, importlib.import_module(f"replicate_mcp.cli.commands.{name}"))
    command.add_arguments(parser)
    documented = section(page("command-line.md"), name)
    for action in parser._actions:
        for option in action.option_strings:
            assert option in documented, option
    for option in re.findall(
        r"(?<![\w-])--[a-z][a-z-]+", re.sub(r"```.*?```", "", documented, flags=re.S)
    ):
        assert option in {*parser._option_string_actions, "--help", "--env-file"}, option


def test_every_command_has_a_section() -> None:
    headings = re.findall(r"^## (.*)$", page("command-line.md"), re.MULTILINE)
    assert sorted(headings) == sorted(COMMANDS)


def test_every_tool_is_documented_with_its_arguments() -> None:
    text = page("tools.md")
    for name, spec in TOOLS.items():
        schema = spec.tool.input_schema
        if (spec.tool.meta or {}).get("ui", {}).get("visibility") == ["app"]:
            continue  # Called by the gallery only.
        assert set(rows(section(text, name))) == set(schema.get("properties", {})), name


def test_every_resource_and_prompt_is_documented() -> None:
    text = section(page("tools.md"), "Resources and prompts")
    for template in TEMPLATES:
        assert f"`{template.uri_template}`" in text
    for name in PROMPTS:
        assert f"`{name}`" in text


def test_every_public_name_of_the_package_is_documented() -> None:
    text = page("python-api.md")
    for name in public_names:
        assert re.search(rf"^::: replicate_mcp\.\S*\b{name}$", text, re.MULTILINE), name


@pytest.mark.parametrize(
    "kind", [SemaphoreStatus, BatchResult, TaskSuccess, TaskFailure, GeneratedFile]
)
def test_every_field_of_a_result_is_documented(kind: type[BaseModel]) -> None:
    described = inspect.getdoc(kind) or ""
    documented = re.findall(r"^    (\w+): ", described.partition("Attributes:\n")[2], re.MULTILINE)
    assert set(documented) == set(kind.model_fields)
    assert f".{kind.__name__}\n" in page("python-api.md")


def test_every_route_is_documented(server: Server) -> None:
    described = server.get("/openapi.json").json()["paths"]
    routes = {
        f"{method.upper()} {path}"
        for path, methods in described.items()
        for method in methods
        if not path.startswith("/dashboard")
    }
    documented = set(rows(section(page("http-api.md"), "Routes")))
    assert routes <= documented
    for extra in documented - routes:
        assert extra in ("GET /", "/mcp`, `/sse"), extra


def test_every_metric_is_documented(serve: Serve) -> None:
    with serve() as server:
        server.post("/generate", {"prompt": "a red car"})
        text = server.get("/metrics").text
    documented = set(
        re.findall(r"`(replicate_mcp_\w+)`", section(page("operating.md"), "Monitoring"))
    )
    measured = set(re.findall(r"^# TYPE (\w+) (?:gauge|counter|histogram)$", text, re.MULTILINE))
    assert documented == {name for name in measured if not name.endswith("_created")}
