"""Preparation of a batch: checks each task against its model's schema before anything runs."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import anyio.to_thread

from replicate_mcp.batches.journal import IdempotencyKey, RetriedTasks
from replicate_mcp.batches.local_images import LocalImages
from replicate_mcp.concurrency import for_each
from replicate_mcp.cpu_bound import json_size, run_cpu_bound
from replicate_mcp.errors import InvalidInput, TaskProblem, refusal_of
from replicate_mcp.replicate_api.error_policy import to_public_error
from replicate_mcp.replicate_api.exceptions import ReplicateApiError
from replicate_mcp.replicate_api.gateway import Gateway, Target
from replicate_mcp.replicate_api.model_resolver import Model, ModelResolver
from replicate_mcp.replicate_api.model_search import unknown
from replicate_mcp.tasks import filenames
from replicate_mcp.tasks.effort import Effort
from replicate_mcp.tasks.file_urls import is_large_data, is_local
from replicate_mcp.tasks.input_conversion import whole_number
from replicate_mcp.tasks.input_schema import InputSchema, count_unchecked
from replicate_mcp.tasks.json_text import READING_COST, begins_like_json
from replicate_mcp.tasks.model_name import ModelName
from replicate_mcp.tasks.references import (
    Reference,
    read_references,
    reference_problems,
    references_of,
    with_placeholders,
)
from replicate_mcp.tasks.result import GeneratedFile
from replicate_mcp.tasks.secret_inputs import is_secret
from replicate_mcp.tasks.task import MAX_TASK_PROBLEMS, Task


@dataclass(frozen=True, slots=True)
class PlannedTask:
    """A task as it will be created.

    Attributes:
        model: the model's name in the task's result.
        inputs: all inputs for the model, including the chosen seed and format.
        seed: the seed among the inputs; None if absent.
        expected_format: image format of the files to expect; None if it is unknown.
        expected_count: number of images that it requests.
        complete_at_count: number of files at which the output is complete although the prediction
            still runs; None if only the prediction's end shows that.
        problems: problems of the task; a task with problems is never created, and has no inputs.
        secrets: names of its inputs that the journal must not keep.
        referring: names of its inputs with references to other tasks' images, in the form of
            `Reference.as_json`.
    """

    index: int
    prompt: str | None
    output_filename: str
    model: str
    target: Target
    inputs: Mapping[str, Any] = field(repr=False)
    seed: int | None
    expected_format: str | None
    expected_count: int
    complete_at_count: int | None = None
    problems: tuple[TaskProblem, ...] = ()
    secrets: tuple[str, ...] = ()
    referring: tuple[str, ...] = ()

    @property
    def references(self) -> tuple[Reference, ...]:
        """The images of other tasks that it needs, each once."""
        return tuple(references_of(self.inputs, self.referring))

    @property
    def sources(self) -> set[int]:
        """The tasks of the same batch whose images it needs."""
        return {each.task for each in self.references if each.batch is None}


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """A batch that can be started.

    Attributes:
        tasks: its tasks, at least one without problems; those with problems fail at once.
        gateway: gateway to Replicate with a token of `account`.
        account: the account of its predictions.
        caller: name of the caller.
        shown_semaphore: the semaphore's name, as the caller knows it.
        semaphores: the semaphores of which each task needs one unit; the account's own is first.
        max_running: number of its tasks that may run at once; None for the semaphores' limits
            alone.
        key: idempotency key of the request; None if it has none.
        retry: the tasks of another batch that it repeats; None for a batch of new tasks.
        images: the images of earlier batches that its tasks refer to.
    """

    tasks: Sequence[PlannedTask]
    gateway: Gateway = field(repr=False)
    account: str
    caller: str
    shown_semaphore: str
    semaphores: tuple[str, ...]
    max_running: int | None = None
    key: IdempotencyKey | None = None
    retry: RetriedTasks | None = None
    images: Mapping[Reference, GeneratedFile] = field(default_factory=dict)


async def plan(
    tasks: Sequence[Task],
    found: Mapping[ModelName, Model | None],
    images: LocalImages,
    *,
    dice: random.Random | None = None,
) -> list[PlannedTask]:
    """Check every task, and fill in what the server chooses: seed, and format by the filename.

    A task with problems is planned without inputs.

    Args:
        tasks: the tasks.
        found: each task's model, as `find_models` returns them.
        images: finds images that inputs name by a path, and takes large data URIs; planned inputs
            have a URI in their place until these are uploaded.
        dice: source of seeds; None for the system's.
    """
    dice = dice or random.SystemRandom()
    effort = Effort()
    schemas = {name: model.schema if model else None for name, model in found.items()}

    def convert() -> list[Task]:
        return [_converted(task, schemas[task.model], effort) for task in tasks]

    settled = []
    size = json_size([each.inputs for each in tasks]) * READING_COST
    for task in await run_cpu_bound(convert, size_bytes=size):
        schema = schemas[task.model]
        if _has_uploads(task, schema):  # In a thread, since the images are read whole.
            task = await anyio.to_thread.run_sync(_with_images, task, schema, images)  # noqa: PLW2901
        settled.append(task)

    def check() -> list[PlannedTask]:
        planned = [_planned(task, found[task.model], dice, effort) for task in settled]
        return refuse(planned, _reference_problems(planned))

    return await run_cpu_bound(check, size_bytes=json_size([each.inputs for each in settled]))


def refuse(tasks: Sequence[PlannedTask], problems: Sequence[TaskProblem]) -> list[PlannedTask]:
    """Return the tasks, those with one of these problems as tasks that are never created."""
    added: dict[int | None, list[TaskProblem]] = {}
    for problem in problems:
        added.setdefault(problem.task_index, []).append(problem)

    def refused(task: PlannedTask) -> PlannedTask:
        found = (*task.problems, *added[task.index])[:MAX_TASK_PROBLEMS]
        return replace(task, inputs={}, seed=None, problems=found, secrets=(), referring=())

    return [refused(task) if task.index in added else task for task in tasks]


def check_problems(tasks: Sequence[PlannedTask], *, skip_invalid: bool) -> None:
    """Refuse tasks with problems, unless these are skipped and valid tasks are left.

    A task that needs the image of one with problems is not left.

    Raises:
        InvalidInput: tasks have problems; lists all of them.
        ModelNotFound: likewise, if none of the tasks' models is known.
    """
    problems = [problem for task in tasks for problem in task.problems]
    # Whatever can be made begins with a task that needs no other.
    is_any_left = any(not task.problems and not task.sources for task in tasks)
    if problems and not (skip_invalid and is_any_left):
        raise refusal_of(problems)


async def find_models(
    tasks: Sequence[Task], gateway: Gateway, models: ModelResolver, account: str
) -> dict[ModelName, Model | None]:
    """Return the model of each task; None for a name that Replicate does not know.

    Args:
        tasks: the tasks.
        gateway: gateway to Replicate with a token of `account`.
        models: resolver of model names.
        account: the account of the gateway's token.

    Raises:
        ReplicateMcpError: Replicate did not answer for at least one model.
    """
    found: dict[ModelName, Model | None] = {}

    async def find(name: ModelName) -> None:
        try:
            found[name] = await models.find(name, gateway, account)
        except ReplicateApiError as fault:
            raise to_public_error(fault) from None

    await for_each({task.model for task in tasks}, find)
    return found


def _converted(task: Task, schema: InputSchema | None, effort: Effort) -> Task:
    """Return the task with its inputs as the model accepts them, without a blank prompt."""
    inputs = task.inputs
    if schema is not None:
        inputs = schema.converted(inputs, effort)
    elif isinstance(prompt := inputs.get("prompt"), str) and not prompt.strip():
        inputs = {name: value for name, value in inputs.items() if name != "prompt"}
    read = read_references(inputs, None if schema is None else schema.fields)
    faults = (TaskProblem(task.index, name, error) for name, error in read.faults.items())
    return replace(
        task, inputs=read.inputs, referring=read.names, problems=(*task.problems, *faults)
    )


def _has_uploads(task: Task, schema: InputSchema | None) -> bool:
    return any(
        _is_uploaded(each)
        for name in _file_inputs(task, schema)
        for each in _as_list(task.inputs[name])
    )


def _with_images(task: Task, schema: InputSchema | None, images: LocalImages) -> Task:
    """Return the task with a URI for each image that its inputs name by a path or contain."""

    def found(where: str, value: Any) -> Any:
        if isinstance(value, list):
            return [found(f"{where}[{place}]", each) for place, each in enumerate(value)]
        return images.find(where, value).uri if _is_uploaded(value) else value

    inputs, problems, where = dict(task.inputs), list(task.problems), f"task {task.index}: "
    for name in _file_inputs(task, schema):
        try:
            inputs[name] = found(where + name, inputs[name])
        except InvalidInput as error:
            del inputs[name]
            problems.append(TaskProblem(task.index, name, str(error).removeprefix(where)))
    return replace(task, inputs=inputs, problems=tuple(problems))


def _file_inputs(task: Task, schema: InputSchema | None) -> list[str]:
    """Return the names of a task's inputs that are files by the schema, in the form it accepts.

    Without a schema, those that are large data URIs, alone or all of a list.
    """
    if schema is None:
        return [
            name
            for name, value in task.inputs.items()
            if name != "prompt" and value and all(map(is_large_data, _as_list(value)))
        ]
    fields = schema.fields
    return [
        name
        for name, value in task.inputs.items()
        if name in fields and fields[name].takes_files_in(value)
    ]


def _is_uploaded(value: Any) -> bool:
    # JSON text that could not be parsed is not a path: the check against the schema reports it.
    is_path = isinstance(value, str) and is_local(value) and not begins_like_json(value)
    return is_path or is_large_data(value)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _planned(task: Task, model: Model | None, dice: random.Random, effort: Effort) -> PlannedTask:
    problems = (*task.problems, *_problems(task, model, effort))
    if problems or model is None:
        return _never_created(task, problems)
    inputs = dict(task.inputs)
    expected = filenames.requested_format(task.output_filename)
    schema = model.schema
    if schema is not None:
        expected = _settle_format(task, schema, inputs)
        if "seed" not in inputs and schema.seed_range is not None:
            inputs["seed"] = dice.randint(*schema.seed_range)
    seed = whole_number(inputs.get("seed"))
    count = count_unchecked(inputs) if schema is None else schema.count(inputs)
    return PlannedTask(
        index=task.index,
        prompt=inputs.get("prompt"),
        output_filename=task.output_filename,
        model=str(task.model),
        target=model.target,
        inputs=inputs,
        seed=seed if isinstance(seed, int) else None,
        expected_format=expected,
        expected_count=count,
        complete_at_count=None if model.streams_output else count,
        secrets=tuple(_secrets(inputs, schema)),
        referring=task.referring,
    )


def _never_created(task: Task, problems: Sequence[TaskProblem]) -> PlannedTask:
    return PlannedTask(
        index=task.index,
        prompt=task.prompt or None,
        output_filename=task.output_filename,
        model=str(task.model),
        target=Target(task.model, task.model.version),
        inputs={},
        seed=None,
        expected_format=None,
        expected_count=0,
        problems=tuple(problems[:MAX_TASK_PROBLEMS]),
    )


def _reference_problems(tasks: Sequence[PlannedTask]) -> list[TaskProblem]:
    """Return the problems of references between the tasks of one batch."""
    references = [
        {name: list(references_of(task.inputs, [name])) for name in task.referring}
        for task in tasks
    ]
    counts = [task.complete_at_count for task in tasks]
    return [TaskProblem(*each) for each in reference_problems(references, counts)]


def _secrets(inputs: Mapping[str, Any], schema: InputSchema | None) -> Iterator[str]:
    """Yield the inputs that are secrets, by the model's schema or by themselves."""
    fields = schema.fields if schema is not None else {}
    for name, value in inputs.items():
        if name != "prompt" and (
            (name in fields and fields[name].secret) or is_secret(name, value)
        ):
            yield name


def _problems(task: Task, model: Model | None, effort: Effort) -> list[TaskProblem]:
    """Return problems of a task's model, or by its schema, besides its known problems."""
    known = {problem.field for problem in task.problems}
    if known & {None, "model"}:
        return []
    if model is None:
        return [TaskProblem(task.index, "model", unknown(task.model), "model_not_found")]
    if model.schema is None:
        return []
    return [
        TaskProblem(task.index, each.field or None, each.sentence)
        for each in model.schema.problems(with_placeholders(task.inputs, task.referring), effort)
        if each.field not in known
    ]


def _settle_format(task: Task, schema: InputSchema, inputs: dict[str, Any]) -> str | None:
    """Set the format input by the filename, unless the task sets it; return the expected format."""
    if schema.format_field not in inputs:
        wanted = filenames.requested_format(task.output_filename) if task.named else None
        value = schema.format_value(wanted) if wanted else None
        if value is None:
            return schema.default_format
        inputs[schema.format_field] = value
    return str(inputs[schema.format_field])
