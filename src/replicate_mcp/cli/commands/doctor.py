"""`replicate-mcp doctor`: print every setting with its origin, then the results of the checks."""

import argparse
import re
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from replicate_mcp.cli.main import OK, SOME_FAILED
from replicate_mcp.platform.terminal import terminal_columns

if TYPE_CHECKING:
    from replicate_mcp.cli.diagnostics import Check
    from replicate_mcp.settings_loader import Origin


HIDDEN = "set, not shown"

_USER_INFO = re.compile(r"(?<!\bsqlite)://[^\s/]*@")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no options: `doctor` has none of its own."""


def run(arguments: argparse.Namespace) -> int:
    """Print the settings and the checks; return 0 if no check failed."""
    import logging
    import os

    from replicate_mcp.cli import diagnostics
    from replicate_mcp.settings_loader import read_settings, read_sources

    logging.disable(logging.WARNING)  # The checks report the same problems.
    settings, problems = read_settings(env_file=arguments.env_file)
    values, origins = read_sources(os.environ, arguments.env_file)
    _print_settings(values, origins)
    found = [
        diagnostics.python(),
        *(diagnostics.Check("settings", False, sentence) for sentence in problems.values()),
        *diagnostics.names(os.environ),
    ]
    for check in found:
        _print_check(check)
    # These may take several seconds.
    for check in diagnostics.surroundings(settings, problems):
        _print_check(check)
        found.append(check)
    return OK if all(check.fine for check in found) else SOME_FAILED


def _print_settings(values: Mapping[str, Any], origins: "Mapping[str, Origin]") -> None:
    rows = [(name, _shown(name, values), origins[name]) for name in origins]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    columns = terminal_columns(sys.stdout)
    print("Settings")
    for name, value, origin in rows:
        line = f"  {name:<{widths[0]}}  {value:<{widths[1]}}  {origin}"
        if columns is None or 2 + sum(widths) + 4 + len("environment") <= columns:
            print(line)
        else:
            print(f"  {name:<{widths[0]}}  {origin}\n    {value}")
    print("\nChecks")


def _shown(name: str, values: Mapping[str, Any]) -> str:
    """Return a setting's value for display, with secrets masked."""
    from typing import get_args

    from pydantic import SecretStr

    from replicate_mcp.auth import fingerprint
    from replicate_mcp.backends.redis.connection import masked
    from replicate_mcp.cli.printing import MAX_SENTENCE_CHARACTERS
    from replicate_mcp.settings import SETTING_NAMES, Settings
    from replicate_mcp.text import one_line

    field = Settings.model_fields[SETTING_NAMES[name]]
    if name not in values:
        return str(field.default) if field.default else "not set"
    value = str(values[name])
    if SecretStr in get_args(field.annotation):
        return f"set, {len(value)} characters, fingerprint {fingerprint(value)[:4]}…"
    if value.startswith(("redis://", "rediss://")):
        return masked(value)  # The URL may contain a password.
    return one_line(_without_user_info(name, value), MAX_SENTENCE_CHARACTERS)


def _without_user_info(name: str, value: str) -> str:
    """Return `value` without the user info of a URL, even if its password is not escaped."""
    scheme, separator, _ = value.partition("://")
    if scheme == "sqlite" or not (separator or name.endswith("_URL")) or "@" not in value:
        return value
    return f"{scheme}{separator}…@{value.rpartition('@')[2]}" if separator else HIDDEN


def _print_check(check: "Check") -> None:
    from replicate_mcp.cli.printing import MAX_SENTENCE_CHARACTERS, wrapped
    from replicate_mcp.text import one_line

    sentence = _USER_INFO.sub("://…@", check.sentence)
    sentence = one_line(sentence, MAX_SENTENCE_CHARACTERS)
    mark = "!" if check.is_warning else "✓" if check.fine else "✗"
    line = f"  {mark} {check.what}: {sentence}"
    columns = terminal_columns(sys.stdout)
    print(line if columns is None else wrapped(line, columns, hanging=4), flush=True)
