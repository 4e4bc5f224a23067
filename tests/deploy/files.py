"""What the Dockerfile and the compose file say, for tests to hold against the rest."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in their order, each with what it is given."""
    text = (ROOT / "Dockerfile").read_text("utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "")
    found = [line.partition(" ") for line in lines.splitlines() if line.strip()]
    return [(name, " ".join(given.split())) for name, _, given in found]


def given(name: str) -> list[str]:
    """What each instruction of this name is given."""
    return [given for found, given in instructions() if found == name]


def health_check() -> list[str]:
    """The command that tells whether a container is healthy."""
    (check,) = given("HEALTHCHECK")
    command: list[str] = json.loads(check.partition("CMD ")[2])
    return command


def compose() -> dict[str, Any]:
    """The compose file."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return found
