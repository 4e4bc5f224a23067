"""Retry of a batch's tasks: an ordinary request with the inputs that the journal has."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypedDict

import anyio

from replicate_mcp.app.preparation import Preparation
from replicate_mcp.auth import Caller
from replicate_mcp.batches.journal import IdempotencyKey, RetriedTasks
from replicate_mcp.batches.journal_inputs import RecordedBatch, decode_inputs
from replicate_mcp.concurrency import for_each
from replicate_mcp.cpu_bound import run_cpu_bound
from replicate_mcp.errors import InvalidInput, ModelNotFound, TaskProblem, refusal_of
from replicate_mcp.replicate_api.error_policy import to_public_error
from replicate_mcp.replicate_api.exceptions import ReplicateApiError
from replicate_mcp.replicate_api.retry import retry_read
from replicate_mcp.tasks.json_limits import nested_values
from replicate_mcp.tasks.references import Reference, references_of, with_references
from replicate_mcp.tasks.result import TaskFailure, TaskResult, TaskSuccess

if TYPE_CHECKING:
    from replicate_mcp.app.composition import Components
    from replicate_mcp.app.preparation import BatchRequest, Retry
    from replicate_mcp.batches.backend import Backend
    from replicate_mcp.batches.journal import BatchState, JournalTask
    from replicate_mcp.batches.planning import PlannedBatch
    from replicate_mcp.replicate_api.gateway import Gateway

MAX_CONCURRENT_CHECKS = 10
"""Maximum concurrent requests for the uploaded files of one retry."""

MAX_LISTED_TASKS = 10_000
"""Maximum tasks of all listed retries of a batch together."""


class BatchRetry(TypedDict):
    """A retry of a batch, or of one of its retries, as JSON.

    Attributes:
        batch_id: id of the retry.
        retry_of: the batch whose tasks it repeats.
        task_indexes: for each of its tasks, the index of the repeated one.
    """

    batch_id: str
    retry_of: str
    task_indexes: Sequence[int]


async def retry_request(
    request: "BatchRequest",
    retry: "Retry",
    state: "BatchState",
    newest: Sequence["BatchState"],
    backend: "Backend",
) -> "BatchRequest":
    """Return the request that repeats tasks of a batch.

    By default it has an idempotency key for the next retry of that batch: of several that are
    requested at the same moment, one is executed.

    Args:
        request: the caller's request, without tasks.
        retry: which tasks to repeat.
        state: the batch of these tasks.
        newest: the caller's newest batches, to find earlier retries.
        backend: the store of the journal.

    Raises:
        InvalidInput: there is nothing to retry, or a chosen task cannot be; says why.
    """
    key = request.key
    if retry.task_indexes is None:
        chosen = await tasks_to_retry(state, newest, backend)
        if not chosen:
            raise InvalidInput(await _nothing_to_retry(state, newest, backend))
        number = sum(1 for _ in _retries(state, newest))
        key = key or IdempotencyKey(f"retry {number} of {state.id}", "")
    else:
        chosen = _chosen(retry.task_indexes, state, await backend.results(state.id))
    text, tasks = await backend.inputs(state.id), await backend.tasks(state.id)
    if text is None:
        raise InvalidInput(
            f"Batch {state.id} cannot be retried: an earlier version of this program began it, "
            "which kept no inputs. Send its tasks as a new batch."
        )
    recorded = await run_cpu_bound(lambda: decode_inputs(text), size_bytes=len(text))
    if problems := list(_not_kept(chosen, recorded)):
        raise refusal_of(problems)
    sources = await _sources(chosen, recorded, state, newest, backend)
    return replace(
        request,
        tasks=[_task(tasks[index], recorded, index, retry.new_seed, sources) for index in chosen],
        semaphore=state.semaphore,
        concurrency_limit=recorded.max_running,
        key=key,
        retry=None,
        retried=RetriedTasks(state.id, tuple(chosen)),
    )


class RetryPreparation(Preparation):
    """The checks of the request that repeats tasks; problems have the repeated tasks' numbers."""

    async def plan(self, components: "Components", caller: Caller) -> "PlannedBatch":
        """Check the tasks as those of a new batch, and that their uploaded files still exist."""
        try:
            await self.check_small()
            batch = await super().plan(components, caller)
        except (InvalidInput, ModelNotFound) as error:
            assert self._request.retried is not None
            raise _with_retried_numbers(error, self._request.retried) from None
        await _check_uploads(batch)
        return batch


async def tasks_to_retry(
    state: "BatchState", newest: Sequence["BatchState"], backend: "Backend"
) -> list[int]:
    """Return the tasks that a retry repeats by default, in order.

    These are the failed ones that are retryable, without those that an earlier retry makes or has
    made: a retry that is requested twice, as after a lost response, makes nothing twice. A task
    with an unknown outcome is not among them either: it may have been billed.

    Args:
        state: the batch.
        newest: its caller's newest batches, to find earlier retries.
        backend: the store of the journal.
    """
    failed = _retryable(await backend.results(state.id))
    repeated = await _repeated(state, newest, backend)
    return [index for index in failed if index not in repeated]


def retries_of(batch_id: str, newest: Sequence["BatchState"]) -> list[BatchRetry]:
    """Return the retries of a batch, and the retries of these, oldest first.

    Of very many tasks, the latest retries are left out.

    Args:
        batch_id: id of the batch.
        newest: its caller's newest batches.
    """
    found: dict[str, BatchRetry] = {}
    left = MAX_LISTED_TASKS
    for each in reversed(newest):
        retry = each.retry
        if retry is None or not (retry.batch_id == batch_id or retry.batch_id in found):
            continue
        left -= len(retry.task_indexes)
        if left < 0:
            break
        found[each.id] = BatchRetry(
            batch_id=each.id, retry_of=retry.batch_id, task_indexes=retry.task_indexes
        )
    return list(found.values())


def _retryable(rows: Sequence[TaskResult]) -> list[int]:
    return sorted(row.task_index for row in rows if isinstance(row, TaskFailure) and row.retryable)


def _with_retried_numbers(
    error: InvalidInput | ModelNotFound, retried: RetriedTasks
) -> InvalidInput | ModelNotFound:
    """Return the refusal of a retry with the numbers of the tasks in the batch that is retried."""
    if not error.problems:
        return error
    indexes = retried.task_indexes
    return refusal_of(
        [
            each if each.task_index is None else replace(each, task_index=indexes[each.task_index])
            for each in error.problems
        ]
    )


async def _check_uploads(batch: "PlannedBatch") -> None:
    """Check that Replicate still has the files that were uploaded for a retry's inputs.

    Raises:
        InvalidInput: files have expired; names the tasks of the batch that is retried.
        ReplicateMcpError: Replicate did not answer.
    """
    assert batch.retry is not None
    uses: dict[str, list[tuple[int, str]]] = {}
    for task, index in zip(batch.tasks, batch.retry.task_indexes, strict=True):
        for name, value in task.inputs.items():
            for each in nested_values(value):
                if isinstance(each, str) and batch.gateway.is_uploaded(each):
                    uses.setdefault(each, []).append((index, name))
    gone = await _missing(list(uses), batch.gateway)
    if problems := [
        TaskProblem(
            index,
            name,
            f"{name} is a file that was uploaded to Replicate, which keeps uploads for 24 hours "
            "and has deleted it: send this task with its file in a new batch",
        )
        for index, name in sorted({use for url in gone for use in uses[url]})
    ]:
        raise refusal_of(problems)


async def _repeated(
    state: "BatchState", newest: Sequence["BatchState"], backend: "Backend"
) -> dict[int, str]:
    """Return the tasks that need no other retry, with the id of the retry that repeats them.

    A task that failed in its retry needs another one, unless that retry was itself retried.
    """
    repeated: dict[int, str] = {}
    for each, indexes in _retries(state, newest):
        left = set(await tasks_to_retry(each, newest, backend))
        repeated |= {index: each.id for number, index in enumerate(indexes) if number not in left}
    return repeated


def _retries(
    state: "BatchState", newest: Sequence["BatchState"]
) -> Iterator[tuple["BatchState", Sequence[int]]]:
    """Yield the retries of a batch with the tasks that they repeat."""
    for each in newest:
        if each.retry is not None and each.retry.batch_id == state.id:
            yield each, each.retry.task_indexes


def _chosen(chosen: Sequence[int], state: "BatchState", rows: Sequence[TaskResult]) -> list[int]:
    ended = {row.task_index for row in rows}
    if not chosen or not all(type(index) is int for index in chosen):
        raise InvalidInput("task_indexes must be numbers of tasks, like [0, 3], or be left out.")
    problems = []
    for index in sorted(set(chosen)):
        if not 0 <= index < state.total:
            last = state.total - 1
            there = f"batch {state.id} has tasks 0 to {last}" if last else "its only task is 0"
            problems.append(TaskProblem(index, None, f"there is no such task: {there}"))
        elif index not in ended:
            problems.append(
                TaskProblem(index, None, "has not ended yet: retry it when it has its result")
            )
    if problems:
        raise refusal_of(problems)
    return sorted(set(chosen))


async def _nothing_to_retry(
    state: "BatchState", newest: Sequence["BatchState"], backend: "Backend"
) -> str:
    """Return why no task is retried by default, with the counts and the reasons."""
    rows = await backend.results(state.id)
    repeated = await _repeated(state, newest, backend)
    made = sum(isinstance(row, TaskSuccess) for row in rows)
    again = Counter(repeated[index] for index in _retryable(rows))
    final = Counter(
        row.error_code for row in rows if isinstance(row, TaskFailure) and not row.retryable
    )
    parts = [f"{made} made"] if made else []
    if unfinished := state.total - len(rows):
        parts.append(f"{unfinished} not ended yet")
    if final:
        reasons = ", ".join(f"{count} {code}" for code, count in final.most_common())
        parts.append(f"{final.total()} failed for good ({reasons})")
    parts += [f"{count} retried already in batch {batch}" for batch, count in again.items()]
    text = f"There is nothing to retry in batch {state.id}: of its {state.total} tasks, "
    text = text.replace("of its 1 tasks", "of its only task") + _listed(parts) + "."
    if final["create_outcome_unknown"]:
        text += (
            " What has an unknown outcome may have been billed: check "
            "https://replicate.com/predictions before making it again."
        )
    return text


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _not_kept(chosen: Sequence[int], recorded: RecordedBatch) -> Iterator[TaskProblem]:
    for index in chosen:
        task = recorded.tasks[index]
        if task.inputs is not None:
            continue
        if task.secrets:
            name = task.secrets[0]
            why = f"its input {name} is a secret, which is not kept: send it in a new batch"
            yield TaskProblem(index, name, why)
        else:
            yield TaskProblem(
                index, None, "was refused because of its inputs: correct it, in a new batch"
            )


async def _sources(
    chosen: Sequence[int],
    recorded: RecordedBatch,
    state: "BatchState",
    newest: Sequence["BatchState"],
    backend: "Backend",
) -> dict[int, Reference]:
    """Return where the images are that the chosen tasks need, by the task of the retried batch.

    A source that is chosen, too, is made again, and its new image is used.
    """
    places = {index: place for place, index in enumerate(chosen)}
    found: dict[int, Reference] = {}
    for index in chosen:
        task = recorded.tasks[index]
        for each in references_of(task.inputs or {}, task.referring):
            if each.batch is not None or each.task in found:
                continue
            if each.task in places:
                found[each.task] = Reference(places[each.task])
            else:
                made = await _made(each.task, state, newest, backend)
                found[each.task] = made or Reference(each.task, state.id)
    return found


async def _made(
    index: int, state: "BatchState", newest: Sequence["BatchState"], backend: "Backend"
) -> Reference | None:
    """Return the task whose image a batch's task or a retry of it made; None if none has one."""
    rows = await backend.results(state.id)
    row = next((row for row in rows if row.task_index == index), None)
    if isinstance(row, TaskSuccess) and not _is_expired(row):
        return Reference(index, state.id)
    for retry, indexes in _retries(state, newest):
        if index in indexes:
            made = await _made(indexes.index(index), retry, newest, backend)
            if made is not None:
                return made
    return None


def _is_expired(row: TaskSuccess) -> bool:
    return any(file.expires_at <= datetime.now(UTC) for file in row.generated_files)


def _task(
    task: "JournalTask",
    recorded: RecordedBatch,
    index: int,
    new_seed: bool,
    sources: Mapping[int, Reference],
) -> Mapping[str, Any]:
    own = recorded.tasks[index]

    def moved(reference: Reference) -> Reference:
        if reference.batch is not None:
            return reference
        return replace(sources[reference.task], output=reference.output)

    inputs = dict(with_references(own.inputs or {}, own.referring, moved))
    if task.prompt is not None:
        inputs["prompt"] = task.prompt
    if new_seed:
        inputs.pop("seed", None)
    return {"model": task.model, "output_filename": task.output_filename, "input": inputs}


async def _missing(urls: Sequence[str], gateway: "Gateway") -> list[str]:
    """Return the uploaded files that Replicate has deleted."""
    gone: list[str] = []
    limiter = anyio.CapacityLimiter(MAX_CONCURRENT_CHECKS)

    async def check(url: str) -> None:
        async with limiter:
            try:
                exists = await retry_read(lambda: gateway.has_upload(url))
            except ReplicateApiError as fault:
                raise to_public_error(fault) from None
        if not exists:
            gone.append(url)

    await for_each(urls, check)
    return gone
