"""Retry of a batch's tasks: an ordinary request with the inputs that the journal has."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio

from replicate_mcp.batches.journal import RetriedTasks
from replicate_mcp.batches.journal_inputs import RecordedBatch, decode_inputs
from replicate_mcp.concurrency import for_each
from replicate_mcp.cpu_bound import run_cpu_bound
from replicate_mcp.errors import InvalidInput, ModelNotFound, TaskProblem, refusal_of
from replicate_mcp.replicate_api.error_policy import to_public_error
from replicate_mcp.replicate_api.exceptions import ReplicateApiError
from replicate_mcp.replicate_api.retry import retry_read
from replicate_mcp.tasks.result import TaskFailure, TaskResult, TaskSuccess

if TYPE_CHECKING:
    from replicate_mcp.app.preparation import BatchRequest, Retry
    from replicate_mcp.batches.backend import Backend
    from replicate_mcp.batches.journal import BatchState, JournalTask
    from replicate_mcp.batches.planning import PlannedBatch
    from replicate_mcp.replicate_api.gateway import Gateway

MAX_CONCURRENT_CHECKS = 10
"""Maximum concurrent requests for the uploaded files of one retry."""


async def retry_request(
    request: "BatchRequest",
    retry: "Retry",
    state: "BatchState",
    earlier: Sequence["BatchState"],
    backend: "Backend",
) -> "BatchRequest":
    """Return the request that repeats tasks of a batch.

    Args:
        request: the caller's request, without tasks.
        retry: which tasks to repeat.
        state: the batch of these tasks.
        earlier: the batches that repeat tasks of the same batch.
        backend: the store of the journal.

    Raises:
        InvalidInput: there is nothing to retry, or a chosen task cannot be; says why.
    """
    rows = {row.task_index: row for row in await backend.results(state.id)}
    if retry.task_indexes is None:
        repeated = await _repeated(earlier, backend)
        chosen = [index for index in retryable(list(rows.values())) if index not in repeated]
        if not chosen:
            raise InvalidInput(_nothing_to_retry(state, rows, repeated))
    else:
        chosen = _chosen(retry.task_indexes, state, rows)
    text, tasks = await backend.inputs(state.id), await backend.tasks(state.id)
    if text is None:
        raise InvalidInput(
            f"Batch {state.id} cannot be retried: an earlier version of this program began it, "
            "which kept no inputs. Send its tasks as a new batch."
        )
    recorded = await run_cpu_bound(lambda: decode_inputs(text), size_bytes=len(text))
    if problems := list(_not_kept(chosen, recorded)):
        raise refusal_of(problems)
    return replace(
        request,
        tasks=[_task(tasks[index], recorded, index, retry.new_seed) for index in chosen],
        semaphore=state.semaphore,
        concurrency_limit=recorded.max_running,
        retried=RetriedTasks(state.id, tuple(chosen)),
    )


def retryable(rows: Sequence[TaskResult]) -> list[int]:
    """Return the failed tasks that a retry repeats by default, in order.

    A task with an unknown outcome is not among them: it may have been billed.
    """
    return sorted(row.task_index for row in rows if isinstance(row, TaskFailure) and row.retryable)


def with_retried_numbers(
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


async def check_uploads(batch: "PlannedBatch") -> None:
    """Check that Replicate still has the files that were uploaded for a retry's inputs.

    Raises:
        InvalidInput: files have expired; names the tasks of the batch that is retried.
        ReplicateMcpError: Replicate did not answer.
    """
    assert batch.retry is not None
    uses: dict[str, list[tuple[int, str]]] = {}
    for task, index in zip(batch.tasks, batch.retry.task_indexes, strict=True):
        for name, value in task.inputs.items():
            for text in _texts(value):
                if batch.gateway.is_uploaded(text):
                    uses.setdefault(text, []).append((index, name))
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


async def _repeated(earlier: Sequence["BatchState"], backend: "Backend") -> dict[int, str]:
    """Return the tasks that an earlier retry repeats or has repeated, with that retry's id.

    Without those that failed there in a way that trying again can help: a retry that is asked for
    twice, as after a lost response, makes nothing twice.
    """
    repeated: dict[int, str] = {}
    for state in earlier:
        assert state.retry is not None
        failed = set(retryable(await backend.results(state.id)))
        for number, index in enumerate(state.retry.task_indexes):
            if number not in failed:
                repeated[index] = state.id
    return repeated


def _chosen(
    chosen: Sequence[int], state: "BatchState", rows: Mapping[int, TaskResult]
) -> list[int]:
    if not chosen or not all(type(index) is int for index in chosen):
        raise InvalidInput("task_indexes must be numbers of tasks, like [0, 3], or be left out.")
    problems = []
    for index in sorted(set(chosen)):
        if not 0 <= index < state.total:
            last = state.total - 1
            there = f"batch {state.id} has tasks 0 to {last}" if last else "its only task is 0"
            problems.append(TaskProblem(index, None, f"there is no such task: {there}"))
        elif index not in rows:
            problems.append(
                TaskProblem(index, None, "has not ended yet: retry it when it has its result")
            )
    if problems:
        raise refusal_of(problems)
    return sorted(set(chosen))


def _nothing_to_retry(
    state: "BatchState", rows: Mapping[int, TaskResult], repeated: Mapping[int, str]
) -> str:
    """Return why no task is retried by default, with the counts and the reasons."""
    made = sum(isinstance(row, TaskSuccess) for row in rows.values())
    again = Counter(repeated[index] for index in retryable(list(rows.values())))
    final = Counter(
        row.error_code
        for row in rows.values()
        if isinstance(row, TaskFailure) and not row.retryable
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


def _task(
    task: "JournalTask", recorded: RecordedBatch, index: int, new_seed: bool
) -> Mapping[str, Any]:
    inputs = dict(recorded.tasks[index].inputs or {})
    if task.prompt is not None:
        inputs["prompt"] = task.prompt
    if new_seed:
        inputs.pop("seed", None)
    return {"model": task.model, "output_filename": task.output_filename, "input": inputs}


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
    elif isinstance(value, Mapping):
        yield from _texts(list(value.values()))


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
