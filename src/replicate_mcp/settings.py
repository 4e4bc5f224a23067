"""User settings from the environment or a file, with the origin of each value."""

import contextlib
import ipaddress
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)

from replicate_mcp.addresses import NOT_HTTPS, address_problem, host_name, is_loopback_url
from replicate_mcp.env_file import read_env_file
from replicate_mcp.errors import InvalidInput
from replicate_mcp.platform import paths
from replicate_mcp.platform.shell import command_line
from replicate_mcp.text import one_line
from replicate_mcp.tls import CERTIFICATE_VARIABLES, KEY_LOG_VARIABLE

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

log = logging.getLogger(__name__)

Origin = Literal["environment", "file", "default"]

TOKEN, BACKEND = "REPLICATE_API_TOKEN", "REPLICATE_MCP_BACKEND"

_TOKEN_NAMES = ("REPLICATE_API_KEY", "REPLICATE_KEY", "REPLICATE_TOKEN", "REPLICATE_APIKEY")
"""Variables in which other programs expect a Replicate token."""

_ENVIRONMENT_ONLY = (
    "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", KEY_LOG_VARIABLE, *CERTIFICATE_VARIABLES
)  # fmt: skip

MIN_ADMIN_KEY_CHARACTERS = 16

_MAKE_KEY = "import secrets; print(secrets.token_urlsafe(32))"


def _https_or_loopback(url: str) -> str:
    if problem := address_problem(url):
        because = ": tokens are sent to it" if problem == NOT_HTTPS else ""
        raise ValueError(problem + because)
    return url.rstrip("/").removesuffix("/v1")


def _backend(value: str) -> str:
    if value == "memory" or state_file(value) is not None:
        return value
    if value.startswith(("redis://", "rediss://")):
        # The value is never in a message: it may hold a password.
        return value
    raise ValueError("must be memory, sqlite, sqlite:///a/path, redis://host or rediss://host")


def _public_url(value: object) -> object:
    if not isinstance(value, str) or not value.strip():
        return None
    if problem := address_problem(value.strip()):
        raise ValueError(f"{problem}: Replicate sends webhooks to it")
    return value.strip().rstrip("/")


def _folder(value: object) -> object:
    if not isinstance(value, str) or not value.strip():
        return None
    path = _absolute_path(value.strip())
    if path is None:
        raise ValueError(f"must be a folder's whole path, like {paths.EXAMPLE_FOLDER}")
    return path


def _absolute_path(text: str) -> Path | None:
    """Return the path with `~` expanded; None if it is relative or the user is unknown."""
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # The user is unknown.
        return None
    return path if path.is_absolute() else None


def _hosts(value: object) -> object:
    return tuple(map(_host, value.replace(",", " ").split())) if isinstance(value, str) else value


def _host(word: str) -> str:
    """Return a name as `Host` and `Origin` are compared: lower case, without scheme and port."""
    bare = (word.partition("://")[2] or word).rstrip("/").lower()
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(bare.strip("[]")))
    if name := host_name(bare):
        return name
    raise ValueError("must be names like mcp.example.com, with commas between them")


def _blank_to_none(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


def _long_enough(key: SecretStr | None) -> SecretStr | None:
    if key is not None and len(key.get_secret_value()) < MIN_ADMIN_KEY_CHARACTERS:
        raise ValueError(
            f"must have at least {MIN_ADMIN_KEY_CHARACTERS} characters, so that it cannot be "
            f"guessed: make one with `{command_line([sys.executable, '-c', _MAKE_KEY])}`"
        )
    return key


Secret = Annotated[SecretStr | None, BeforeValidator(_blank_to_none)]


class Settings(BaseModel):
    """All settings; each field's `alias` is its environment variable. Blank means not set."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    replicate_api_token: Secret = Field(None, alias=TOKEN)
    replicate_base_url: Annotated[str, BeforeValidator(_https_or_loopback)] = Field(
        "https://api.replicate.com", alias="REPLICATE_BASE_URL"
    )
    concurrent_limit: int = Field(60, ge=1, le=10_000, alias="REPLICATE_CONCURRENT_LIMIT")
    requests_per_minute: float = Field(
        600, ge=1, le=1_000_000, alias="REPLICATE_REQUESTS_PER_MINUTE"
    )
    default_semaphore: str = Field(
        "replicate-global", min_length=1, max_length=100, alias="DEFAULT_GLOBAL_SEMAPHORE_ID"
    )
    default_model: str = Field(
        "black-forest-labs/flux-schnell", alias="REPLICATE_MCP_DEFAULT_MODEL"
    )
    backend: Annotated[str, BeforeValidator(_backend)] = Field(
        "sqlite", alias=BACKEND, repr=False, validate_default=True
    )
    journal_mb: int = Field(64, ge=1, alias="REPLICATE_MCP_JOURNAL_MB")
    wait_seconds: float = Field(45, ge=0, le=50, alias="REPLICATE_MCP_WAIT_SECONDS")
    prediction_seconds: int = Field(600, ge=5, le=86_400, alias="REPLICATE_MCP_PREDICTION_SECONDS")
    batch_seconds: int = Field(3_600, ge=5, le=86_400, alias="REPLICATE_MCP_BATCH_SECONDS")
    images_per_day: Annotated[int | None, BeforeValidator(_blank_to_none), Field(ge=1)] = Field(
        None, alias="REPLICATE_MCP_MAX_IMAGES_PER_DAY"
    )
    confirm_above: Annotated[int | None, BeforeValidator(_blank_to_none), Field(ge=0)] = Field(
        None, alias="REPLICATE_MCP_CONFIRM_ABOVE"
    )
    files: Annotated[Path | None, BeforeValidator(_folder)] = Field(
        None, alias="REPLICATE_MCP_FILES"
    )
    admin_api_key: Annotated[Secret, AfterValidator(_long_enough)] = Field(
        None, alias="REPLICATE_MCP_ADMIN_API_KEY"
    )
    local: bool = Field(False, alias="REPLICATE_MCP_LOCAL")
    allow_anonymous: bool = Field(False, alias="REPLICATE_MCP_ALLOW_ANONYMOUS")
    public_url: Annotated[str | None, BeforeValidator(_public_url)] = Field(
        None, alias="REPLICATE_MCP_PUBLIC_URL"
    )
    allowed_hosts: Annotated[tuple[str, ...], BeforeValidator(_hosts)] = Field(
        (), alias="REPLICATE_MCP_ALLOWED_HOSTS"
    )

    @property
    def token(self) -> str | None:
        """The server's own token in plain text."""
        return self.replicate_api_token.get_secret_value() if self.replicate_api_token else None

    @property
    def is_local(self) -> bool:
        """Whether Replicate's API is on this machine, which means that it is a simulator."""
        return is_loopback_url(self.replicate_base_url)


SETTING_NAMES = {field.alias or name: name for name, field in Settings.model_fields.items()}
"""Field names by environment variable."""

SETTING_ALIASES = {"REPLICATE_MCP_ADMIN_API_KEY": "CONCURRENT_DOCKER_ADMIN_API_KEY"}
"""Alternative variable of a setting, read if the setting's own one is not set."""

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
        return said.format(**error.get("ctx", {}))
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
    from difflib import get_close_matches

    names, said = list(names), {}
    for name in names:
        like = name.upper()
        if name in SETTING_NAMES or not like.startswith("REPLICATE_"):
            continue
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


def default_env_file() -> Path | None:
    """Return the settings file used when none is named; None if the user has no home folder."""
    from platformdirs import user_config_path

    folder = _user_folder(partial(user_config_path, appauthor=False))
    return folder and folder / "config.env"


def state_file(backend: str) -> Path | None:
    """Return the file in which a backend stores its state; None for a backend without one.

    The result does not depend on the current folder: hosts start servers in different folders, and
    each would have a limit of its own otherwise.

    Raises:
        ValueError: the path is not absolute, or the user has no home folder.
    """
    if backend == "sqlite":
        return default_state_file()
    if not backend.startswith("sqlite://"):
        return None
    named = backend.removeprefix("sqlite://")
    bare = named.lstrip("/")
    starts_by_itself = bare.startswith("~") or paths.begins_with_a_drive(bare)
    path = _absolute_path(bare if starts_by_itself or bare == named else f"/{bare}")
    if path is None or not bare or bare.startswith(("./", "../")):
        raise ValueError(f"must name a file by its whole path, like sqlite:///{paths.EXAMPLE_FILE}")
    return path


def default_state_file() -> Path:
    """Return the state file of the `sqlite` backend for when no path is named.

    Raises:
        ValueError: the user has no home folder.
    """
    folder = _user_folder(paths.state_folder)
    if folder is None:
        raise ValueError(
            "sqlite keeps its state in the home folder, and this user has none: set HOME, or this "
            "setting to sqlite:///a/path/state.db or memory"
        )
    return folder / "state.db"


def _user_folder(find: Callable[..., Path]) -> Path | None:
    try:
        folder = find("replicate-mcp")
    except RuntimeError:  # Neither HOME nor the user database has a home folder.
        return None
    return folder if folder.is_absolute() else None
