"""Request bodies of the generate routes; unknown fields are inputs of the model."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr
from pydantic_core import PydanticCustomError

from replicate_mcp.errors import InvalidInput
from replicate_mcp.tasks.json_text import read_json_text
from replicate_mcp.tasks.model_name import ModelName
from replicate_mcp.tasks.task import MAX_TASKS
from replicate_mcp.tasks.validation_messages import quoted

IGNORED = ("output_dir",)
"""Fields of the compatible API without effect here: the server writes no images."""

_WAITING = (
    "is no field of this request: the answer comes when all is made, or at once with the header "
    "Prefer: respond-async"
)
_ELSEWHERE = {"wait_seconds": _WAITING, "wait": _WAITING}

OWN_NAMES = (
    *("external_semaphore_id", "semaphore", "concurrency_limit", "skip_invalid", "credentials"),
    "custom_filenames",
)
"""Field names that do not resemble any model's input."""

MAX_COMPARED = 50
"""Unknown fields of one body that are compared with these."""


class Credentials(BaseModel):
    """The caller's own Replicate token."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    replicate_api_token: SecretStr


def _without_empty(value: Any) -> Any:
    """Return None for empty text, which clients send for omitted fields."""
    return None if isinstance(value, str) and not value.strip() else value


def _number(value: Any) -> Any:
    """Return None for empty text, and other values unchanged for pydantic to parse.

    Raises:
        PydanticCustomError: `value` is a boolean, which pydantic would read as 1 or 0.
    """
    if isinstance(value, bool):
        raise PydanticCustomError("not_a_number", "must be a number, not true or false")
    return _without_empty(value)


def _object(value: Any) -> Any:
    if value is None or isinstance(value, (Mapping, BaseModel)):
        return value
    raise PydanticCustomError(
        "not_credentials", 'must be an object like {"replicate_api_token": "r8_…"}'
    )


Text = Annotated[str | None, BeforeValidator(_without_empty)]
Number = BeforeValidator(_number)

_TASK: dict[str, Any] = {
    "anyOf": [{"type": "object"}, {"type": "string"}],
    "description": "an object with prompt, output_filename, model and inputs, or a prompt",
}


class WithCredentials(BaseModel):
    """A body that may contain the caller's own token."""

    model_config = ConfigDict(hide_input_in_errors=True)

    credentials: Annotated[Credentials | None, BeforeValidator(_object)] = None

    @property
    def own_token(self) -> str | None:
        """The caller's token in the body; None if absent."""
        if self.credentials is None:
            return None
        return self.credentials.replicate_api_token.get_secret_value()


class RetryRequest(WithCredentials):
    """Request to make tasks of a batch again, in a new batch."""

    model_config = ConfigDict(extra="forbid")

    task_indexes: (
        Annotated[
            list[Annotated[int, Field(ge=0, lt=MAX_TASKS, strict=True)]],
            Field(min_length=1, max_length=MAX_TASKS),
        ]
        | None
    ) = Field(
        None,
        description="the tasks to make again, made ones too; else the failed ones whose "
        "`retryable` is true",
    )
    new_seed: Annotated[bool | None, BeforeValidator(_without_empty)] = Field(
        None, description="choose new seeds; else each task has the seed that it had"
    )


class GenerateBody(WithCredentials):
    """Fields common to both generate routes."""

    model_config = ConfigDict(extra="allow", protected_namespaces=(), populate_by_name=True)

    model_name: Text = Field(
        None, description="owner/name, owner/name:version, or a short name; else the default model"
    )
    model: Text = Field(None, description="the same as model_name")
    external_semaphore_id: Text = Field(
        None, description="a registered limit to stay under, besides the account's"
    )
    semaphore: Text = Field(None, description="the same as external_semaphore_id")
    concurrency_limit: Annotated[int | None, Number] = Field(
        None, description="with one's own token: how many of this batch may run at once"
    )
    skip_invalid: Annotated[bool | None, BeforeValidator(_without_empty)] = Field(
        None,
        description="run the valid tasks, and answer with the others among the failed results",
    )
    input: Any = Field(
        None,
        description="inputs of the model; they override same-named fields",
        json_schema_extra={"type": "object"},
    )

    @property
    def named_model(self) -> str | None:
        """The model, from either of its two fields.

        Raises:
            InvalidInput: both fields are given and differ.
        """
        if self.model_name and self.model and _full_name(self.model_name) != _full_name(self.model):
            raise InvalidInput("model and model_name name different models: give one of them.")
        return self.model_name or self.model

    @property
    def named_semaphore(self) -> str | None:
        """The semaphore, from either of its two fields.

        Raises:
            InvalidInput: both fields are given and differ.
        """
        names = {each for each in (self.external_semaphore_id, self.semaphore) if each}
        if len(names) > 1:
            raise InvalidInput(
                "semaphore and external_semaphore_id name different semaphores: give one of them."
            )
        return next(iter(names), None)

    @property
    def shared_inputs(self) -> dict[str, Any]:
        """Model inputs shared by all tasks.

        Raises:
            InvalidInput: `input` is not an object, or an unknown field is a misspelled or misplaced
                one.
        """
        others = {k: value for k, value in (self.model_extra or {}).items() if k not in IGNORED}
        self._check_names(others)
        own = _without_empty(self.input)
        if isinstance(own, str):
            own = read_json_text(own, "input")
        if own is not None and not isinstance(own, Mapping):
            raise InvalidInput("input must be an object of model inputs.")
        return {**others, **(own or {})}

    _elsewhere: ClassVar[Mapping[str, str]] = _ELSEWHERE
    """Misplaced fields, each with the end of a sentence that says what to use instead."""

    @classmethod
    def _check_names(cls, unknown: Iterable[str]) -> None:
        for name in islice(unknown, MAX_COMPARED):
            if name in cls._elsewhere:
                raise InvalidInput(f"{name} {cls._elsewhere[name]}.")
            own = [each for each in OWN_NAMES if each in cls.model_fields]
            if meant := get_close_matches(name[:60], own, 1, 0.85):
                raise InvalidInput(
                    f"{quoted(name)} is no field of this request: did you mean {quoted(meant[0])}?"
                )

    @property
    @abstractmethod
    def all_tasks(self) -> Any:
        """The tasks as they were sent; lists may be JSON text.

        Raises:
            InvalidInput: there are no tasks, or the fields that describe them contradict each
                other.
        """


class GenerateRequest(GenerateBody):
    """Request for one image, or for as many outputs as the model's own inputs ask for."""

    _elsewhere: ClassVar[Mapping[str, str]] = _ELSEWHERE | dict.fromkeys(
        ("tasks", "prompts", "custom_filenames"),
        "goes to POST /generate-batch: POST /generate takes one prompt",
    )

    prompt: Any = Field(
        None,
        description="what to draw; left out only for a model that takes none",
        json_schema_extra={"type": "string"},
    )
    output_filename: Any = Field(
        None, description="a label like red_car.jpg", json_schema_extra={"type": "string"}
    )

    @property
    def all_tasks(self) -> Any:
        """The one task."""
        task = {"prompt": self.prompt, "output_filename": self.output_filename}
        return [{key: value for key, value in task.items() if value is not None}]


class GenerateBatchRequest(GenerateBody):
    """Request for many images: `tasks`, or `prompts` with optional `custom_filenames`."""

    tasks: Any = Field(
        None,
        description='like [{"prompt": "a red car", "output_filename": "red_car.jpg"}]',
        json_schema_extra={"type": "array", "items": _TASK},
    )
    prompts: Any = Field(None, json_schema_extra={"type": "array", "items": {"type": "string"}})
    custom_filenames: Any = Field(
        None, json_schema_extra={"type": "array", "items": {"type": "string"}}
    )

    @property
    def all_tasks(self) -> Any:
        """The tasks, from either form."""
        if self.tasks and (others := self._lists_beside_tasks()):
            raise InvalidInput(
                f"tasks and {others[0]} cannot both be given: each task has its own prompt and "
                "output_filename."
            )
        if isinstance(self.tasks, list) and self.tasks:
            return [_without_ignored(task) for task in self.tasks]
        if self.tasks:
            return self.tasks
        prompts = _list_of_text("prompts", self.prompts)
        if not prompts:
            raise InvalidInput(
                'Either tasks or prompts is required, like {"tasks": [{"prompt": "a red car"}]}.'
            )
        names = _list_of_text("custom_filenames", self.custom_filenames) or [None] * len(prompts)
        if len(names) != len(prompts):
            raise InvalidInput(
                f"custom_filenames has {len(names)} and prompts {len(prompts)}: give one for each, "
                "or none."
            )
        return [
            {"prompt": prompt, **({"output_filename": name} if name else {})}
            for prompt, name in zip(prompts, names, strict=True)
        ]

    def _lists_beside_tasks(self) -> list[str]:
        given = {"prompts": self.prompts, "custom_filenames": self.custom_filenames}
        return [name for name, value in given.items() if _without_empty(value)]


def _full_name(name: str) -> str:
    try:
        return str(ModelName.parse(name))
    except ValueError:
        return name.strip()


def _list_of_text(name: str, value: Any) -> list[Any]:
    """Return a list of strings; `value` may be a list, JSON text, or a single string."""
    if isinstance(value, str) and value.strip():
        value = read_json_text(value, name)
    if isinstance(value, str):
        return [value] if value.strip() else []
    if value is not None and not isinstance(value, list):
        raise InvalidInput(f"{name} must be a list of text.")
    return value or []


class SemaphoreRequest(BaseModel):
    """A semaphore to register or resize."""

    semaphore_id: str
    limit: Annotated[int, Number]


class ConfigureRequest(BaseModel):
    """New limits of the server's own account."""

    concurrent_limit: Annotated[int | None, Number] = None
    requests_per_minute: Annotated[float | None, Number] = Field(None, ge=1, le=1_000_000)


def _without_ignored(task: Any) -> Any:
    if not isinstance(task, Mapping):
        return task
    return {key: value for key, value in task.items() if key not in IGNORED}
