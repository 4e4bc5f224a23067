"""Reads the settings from the environment and the settings file, with the origin of each value."""

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from replicate_mcp.env_file import read_env_file
from replicate_mcp.errors import InvalidInput
from replicate_mcp.settings import BACKEND, SETTING_ALIASES, SETTING_NAMES, TOKEN, Settings
from replicate_mcp.text import one_line
from replicate_mcp.tls import CERTIFICATE_VARIABLES, KEY_LOG_VARIABLE
from replicate_mcp.user_files import default_env_file

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

log = logging.getLogger(__name__)

Origin = Literal["environment", "file", "default"]

_TOKEN_NAMES = ("REPLICATE_API_KEY", "REPLICATE_KEY", "REPLICATE_TOKEN", "REPLICATE_APIKEY")
"""Variables in which other programs expect a Replicate token."""

_ENVIRONMENT_ONLY = (
    "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", KEY_LOG_VARIABLE, *CERTIFICATE_VARIABLES
)  # fmt: skip

_NOT_SHOWN = (
    TOKEN, BACKEND, *SETTING_ALIASES, "REPLICATE_BASE_URL", "REPLICATE_MCP_PUBLIC_URL"
)  # fmt: skip
"""Settings whose values may hold a secret."""

_WRONG = {
    "int_parsing": "must be a whole number",
    "float_parsing": "must be a number",
    "bool_parsing": "must be 1 or 0",
    "greater_than_equal": "must be at least {ge:.0f}",
    "less_than_equal": "must be at most {le:.0f}",
    "string_too_long": "must have at most {max_length} characters",
    "literal_error": "must be {expected}",
}
"""Error clauses by pydantic's error type, for readers who do not know pydantic."""


def load_settings(
    environ: Mapping[str, str] | None = None, env_file: str | Path | None = None
) -> Settings:
    """Read the settings: the environment first, then the file, then the defaults.

    Args:
        environ: environment variables; None for those of this process.
        env_file: a file of `NAME=value` lines; None for `config.env` in the user's configuration
            folder, if it exists. The current folder is never searched.

    Raises:
        InvalidInput: settings are invalid; the message names each and says what is allowed.
    """
    settings, problems = read_settings(environ, env_file)
    if problems:
        raise InvalidInput(" ".join(problems.values()))
    return settings


def read_settings(
    environ: Mapping[str, str] | None = None, env_file: str | Path | None = None
) -> tuple[Settings, dict[str, str]]:
    """Read the settings as `load_settings` does, and return every problem beside them.

    Returns:
        The settings, with the default in place of each invalid value and `memory` in place of an
        invalid backend; and a sentence on each problem, by the setting's name.
    """
    environ = os.environ if environ is None else environ
    problems: dict[str, str] = {}
    from_file: Mapping[str, str | None] = {}
    try:
        from_file = _read_file(env_file)
    except InvalidInput as error:
        problems["the file of settings"] = str(error)
    for name, sentence in {
        **unknown_setting_warnings(from_file),
        **_without_value(from_file),
    }.items():
        problems[name] = f"In the file of settings, {sentence}"
    for sentence in (
        *unknown_setting_warnings(environ).values(),
        *_of_the_environment_alone(environ, from_file),
    ):
        log.warning("%s", sentence)
    values, _ = _merged(environ, from_file)
    try:
        return Settings.model_validate(values), problems
    except ValidationError as error:
        for each in error.errors(include_url=False, include_input=False):
            name = str(each["loc"][0])  # The field's own name if its default is invalid.
            field = Settings.model_fields.get(name)
            name = (field and field.alias) or name
            value = values.pop(name, None)
            problems[name] = f"The setting {name} is wrong: {_reason(each)}{_instead(name, value)}."
            if name == BACKEND:
                values[name] = "memory"  # Never use another file than the intended one.
    return Settings.model_validate(values), problems


def _instead(name: str, value: object) -> str:
    """Return the invalid value as the end of a sentence; "" if it may hold a secret."""
    if name in _NOT_SHOWN or not isinstance(value, str) or "r8_" in value or len(value) > 40:
        return ""
    hint = ": leave out the quotation marks" if value[:1] in "\"'" and value[-1:] in "\"'" else ""
    return f", not {one_line(value)}{hint}"


def _read_file(env_file: str | Path | None) -> Mapping[str, str | None]:
    if env_file is not None:
        return read_env_file(env_file, must_exist=True)
    return read_env_file(default_env_file(), must_exist=False)


def _reason(error: "ErrorDetails") -> str:
    if said := _WRONG.get(error["type"]):
        return said.format(**error.get("ctx", {})).replace("'", "")
    return error["msg"].removeprefix("Value error, ")


def read_sources(
    environ: Mapping[str, str], env_file: str | Path | None
) -> tuple[dict[str, Any], dict[str, Origin]]:
    """Return the values that are set, and their origins; an unreadable file is skipped."""
    from_file: Mapping[str, str | None] = {}
    with contextlib.suppress(InvalidInput):
        from_file = _read_file(env_file)
    return _merged(environ, from_file)


def _merged(
    environ: Mapping[str, str], from_file: Mapping[str, str | None]
) -> tuple[dict[str, Any], dict[str, Origin]]:
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    for name in SETTING_NAMES:
        for source, origin in ((environ, "environment"), (from_file, "file")):
            value = source.get(name) or source.get(SETTING_ALIASES.get(name, ""))
            if value is not None and value.strip():
                values[name] = value.strip()
                origins[name] = "environment" if origin == "environment" else "file"
                break
        else:
            origins[name] = "default"
    return values, origins


def unknown_setting_warnings(names: Iterable[str]) -> dict[str, str]:
    """Return a warning for each name that resembles a setting but is not one."""
    names, said = list(names), {}
    for name in names:
        like = name.upper()
        if name in SETTING_NAMES or not like.startswith("REPLICATE_"):
            continue
        from difflib import get_close_matches

        is_ours = like.startswith("REPLICATE_MCP_")  # Other names may belong to another program.
        near = get_close_matches(like, SETTING_NAMES, 1, 0.85 if is_ours else 0.9)
        if like in _TOKEN_NAMES and TOKEN not in names:
            near = [TOKEN]
        if is_ours or near:
            right = f"did you mean {near[0]}?" if near else "`replicate-mcp doctor` lists them all."
            said[name] = f"{name} is an unknown setting and is ignored: {right}"
    return said


def _without_value(from_file: Mapping[str, str | None]) -> dict[str, str]:
    """Return an error message for each setting whose line has no `=`."""
    return {
        name: f"{name} has no value: a line is NAME=value."
        for name, value in from_file.items()
        if name in SETTING_NAMES and value is None
    }


def _of_the_environment_alone(
    environ: Mapping[str, str], from_file: Mapping[str, str | None]
) -> Iterator[str]:
    """Yield a warning for each name in the file that only the environment can set."""
    for name in from_file:
        if name.upper() in _ENVIRONMENT_ONLY and not environ.get(name):
            yield (
                f"{name} in the file of settings has no effect: the proxy and the certificates "
                "are read from the environment only."
            )
