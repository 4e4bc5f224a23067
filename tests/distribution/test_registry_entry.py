"""`server.json` follows the published rules of the MCP Registry, and its content is correct."""

import json
import re
import tomllib
from typing import Any

from jsonschema import Draft202012Validator

from distribution.conftest import ROOT
from replicate_mcp.settings import SETTING_NAMES, Settings

ENTRY: dict[str, Any] = json.loads((ROOT / "server.json").read_text("utf-8"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

EXACT = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[0-9]+(\.[0-9a-z+-]+)*$"}

RULES = {
    "type": "object",
    "required": ["$schema", "name", "description", "version", "packages"],
    "additionalProperties": False,
    "properties": {
        "$schema": {"pattern": r"^https://static\.modelcontextprotocol\.io/schemas/2025-12-11/"},
        "name": {
            "type": "string",
            "minLength": 3,
            "maxLength": 200,
            "pattern": "^[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+$",
        },
        "title": {"type": "string", "minLength": 1, "maxLength": 100},
        "description": {"type": "string", "minLength": 1, "maxLength": 100},
        "version": EXACT,
        "packages": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["registryType", "identifier", "version", "transport"],
                "additionalProperties": False,
                "properties": {
                    "registryType": {"const": "pypi"},
                    "identifier": {"type": "string"},
                    "version": EXACT,
                    "runtimeHint": {"const": "uvx"},
                    "transport": {"const": {"type": "stdio"}},
                    "environmentVariables": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["name"],
                            "additionalProperties": False,
                            "properties": {
                                "name": {"type": "string"},
                                "description": {"type": "string"},
                                "format": {"enum": ["string", "number", "boolean", "filepath"]},
                                "isRequired": {"type": "boolean"},
                                "isSecret": {"type": "boolean"},
                                "default": {"type": "string"},
                                "placeholder": {"type": "string"},
                            },
                        },
                    },
                },
            },
        },
    },
}
"""Of the fields used here, what the registry's schema of 2025-12-11 and its documents ask."""


def test_entry_follows_the_registry_rules() -> None:
    assert [error.message for error in Draft202012Validator(RULES).iter_errors(ENTRY)] == []


def test_entry_versions_match_the_package() -> None:
    (package,) = ENTRY["packages"]
    assert package["identifier"] == PROJECT["name"]
    assert ENTRY["version"] == package["version"] == PROJECT["version"]


def test_readme_contains_the_registry_ownership_marker() -> None:
    readme = (ROOT / PROJECT["readme"]).read_text("utf-8")
    assert re.findall(r"mcp-name: (\S+)", readme) == [ENTRY["name"]]


def test_entry_variables_are_settings_with_their_defaults() -> None:
    for variable in ENTRY["packages"][0]["environmentVariables"]:
        field = Settings.model_fields[SETTING_NAMES[variable["name"]]]
        expected = None if field.default is None else str(field.default)
        assert variable.get("default") == expected
        secret = variable["name"] == "REPLICATE_API_TOKEN"
        assert variable.get("isSecret", False) is variable.get("isRequired", False) is secret
