"""Parsed content of the Dockerfile and the compose file."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile's instructions in order, each with its arguments."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
    found = [line.partition(" ") for line in lines.splitlines() if line.strip()]
    return [(name, " ".join(given.split())) for name, _, given in found]


def given(name: str) -> list[str]:
    """Return the arguments of each instruction of this name."""
    return [given for found, given in instructions() if found == name]


def health_check() -> list[str]:
    """Return the command of the container's health check."""
    (check,) = given("HEALTHCHECK")
    command: list[str] = json.loads(check.partition("CMD ")[2])
    return command


def compose() -> dict[str, Any]:
    """Return the parsed compose file."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return found
