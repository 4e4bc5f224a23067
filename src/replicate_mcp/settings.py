"""User settings: their names, defaults and allowed values."""

import contextlib
import ipaddress
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from replicate_mcp.addresses import NOT_HTTPS, address_problem, host_name, is_loopback_url
from replicate_mcp.platform import paths
from replicate_mcp.platform.shell import command_line
from replicate_mcp.user_files import absolute_path, state_file

TOKEN, BACKEND = "REPLICATE_API_TOKEN", "REPLICATE_MCP_BACKEND"

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
    path = absolute_path(value.strip())
    if path is None:
        raise ValueError(f"must be a folder's whole path, like {paths.EXAMPLE_FOLDER}")
    return path


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
    resume: Literal["service", "always", "never"] = Field("service", alias="REPLICATE_MCP_RESUME")
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
