"""What the two generating routes take; every field that is not ours is an input of the model."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr

from replicate_mcp.errors import InvalidInput

IGNORED = ("output_dir",)
"""Fields of the service that this one re-imagines: no image is written on the server."""


class Credentials(BaseModel):
    """The caller's own."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    replicate_api_token: SecretStr


class _Generate(BaseModel):
    model_config = ConfigDict(
        extra="allow", protected_namespaces=(), hide_input_in_errors=True, populate_by_name=True
    )

    model_name: str | None = Field(
        None, description="owner/name, owner/name:version, or a short name; else the default model"
    )
    credentials: Credentials | None = None
    external_semaphore_id: str | None = Field(
        None, description="a registered limit to stay under, besides the account's"
    )
    concurrency_limit: int | None = Field(
        None, description="with one's own token: how many of this batch may run at once"
    )

    @property
    def own_token(self) -> str | None:
        """The token that came in the body."""
        if self.credentials is None:
            return None
        return self.credentials.replicate_api_token.get_secret_value()

    @property
    def shared_inputs(self) -> dict[str, Any]:
        """The model's inputs that every task has."""
        return {key: value for key, value in (self.model_extra or {}).items() if key not in IGNORED}


class GenerateRequest(_Generate):
    """One image, or as many as the model's own input asks for."""

    prompt: Any = Field(None, description="what to draw", json_schema_extra={"type": "string"})
    output_filename: Any = Field(
        None, description="a label like red_car.jpg", json_schema_extra={"type": "string"}
    )

    @property
    def task(self) -> dict[str, Any]:
        """The one task."""
        task = {"prompt": self.prompt, "output_filename": self.output_filename}
        return {key: value for key, value in task.items() if value is not None}


class GenerateBatchRequest(_Generate):
    """Many: `tasks`, or `prompts` with `custom_filenames`."""

    tasks: list[Any] | None = Field(
        None, description='like [{"prompt": "a red car", "output_filename": "red_car.jpg"}]'
    )
    prompts: list[Any] | None = None
    custom_filenames: list[Any] | None = None

    @property
    def all_tasks(self) -> list[Any]:
        """The tasks, in either form.

        Raises:
            InvalidInput: there are none, or the two lists do not fit.
        """
        if self.tasks:
            return [_without_ignored(task) for task in self.tasks]
        if not self.prompts:
            raise InvalidInput(
                'Either tasks or prompts is required, like {"tasks": [{"prompt": "a red car"}]}.'
            )
        names = self.custom_filenames or [None] * len(self.prompts)
        if len(names) != len(self.prompts):
            raise InvalidInput(
                f"custom_filenames has {len(names)} and prompts {len(self.prompts)}: give one for "
                "each, or none."
            )
        return [
            {"prompt": prompt, **({"output_filename": name} if name else {})}
            for prompt, name in zip(self.prompts, names, strict=True)
        ]


class SemaphoreRequest(BaseModel):
    """A limit to register, or to change."""

    semaphore_id: str
    limit: int


class ConfigureRequest(BaseModel):
    """The limits of the server's own account."""

    concurrent_limit: int | None = None
    requests_per_minute: float | None = Field(None, ge=1, le=1_000_000)


def _without_ignored(task: Any) -> Any:
    if not isinstance(task, Mapping):
        return task
    return {key: value for key, value in task.items() if key not in IGNORED}
