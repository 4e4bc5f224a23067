"""Helpers for backend tests: the calls that a process makes to its backend."""

from datetime import UTC, datetime

from replicate_mcp.batches.attempt_store import Attempt
from replicate_mcp.batches.backend import Backend
from replicate_mcp.batches.journal import IdempotencyKey, JournalTask, NewBatch
from replicate_mcp.replicate_api.attempt_matching import hash_inputs
from replicate_mcp.semaphores.names import account_semaphore
from replicate_mcp.semaphores.permit_store import AdmissionResult, QueueEntry
from replicate_mcp.tasks.result import GeneratedFile, TaskFailure, TaskResult, TaskSuccess

OWN = account_semaphore("acme")


async def begin(
    backend: Backend,
    batch: str,
    tasks: int,
    *,
    also: tuple[str, ...] = (),
    caller: str = "server",
    max_running: int | None = None,
    key: IdempotencyKey | None = None,
    account: str = "acme",
    prompt: str | None = "prompt",
    failures: tuple[TaskFailure, ...] = (),
    resumable: bool = False,
    seconds: float = 3600,
) -> AdmissionResult:
    journal = tuple(
        JournalTask(None if prompt is None else f"{prompt} {n}", f"{n}.png", "o/m")
        for n in range(tasks)
    )
    waiting = tasks - len(failures)
    return await backend.open_batch(
        NewBatch(
            batch,
            caller,
            account,
            "replicate-global",
            journal,
            key,
            failures,
            seconds=seconds,
            resumable=resumable,
        ),
        QueueEntry(batch, (account_semaphore(account), *also), account, waiting, max_running),
    )


def attempt(
    batch: str, task: int, *, prompt: str = "p", cancel_after: int = 600, images: int = 1
) -> Attempt:
    inputs = hash_inputs({"prompt": prompt})
    return Attempt(batch, task, "o/m", inputs, cancel_after, 1_000.0, 700, images)


def failed(task: int, prediction: str | None = None) -> TaskFailure:
    return TaskFailure(
        task_index=task,
        prompt=f"prompt {task}",
        output_filename=f"{task}.png",
        error="It failed.",
        error_code="prediction_failed",
        prediction_id=prediction,
        retryable=True,
    )


def succeeded(task: int, prediction: str) -> TaskSuccess:
    return TaskSuccess(
        task_index=task,
        prompt=f"prompt {task}",
        output_filename=f"{task}.png",
        model="o/m",
        prediction_id=prediction,
        count=1,
        generated_files=(
            GeneratedFile(
                url=f"https://replicate.delivery/{task}.png",
                filename=f"{task}.png",
                expires_at=datetime(2030, 1, 1, tzinfo=UTC),
            ),
        ),
    )


async def finish(backend: Backend, permit: int, batch: str, result: TaskResult) -> AdmissionResult:
    admission = await backend.finish(permit, batch, result)
    assert admission is not None
    return admission


async def take_all(backend: Backend, admission: AdmissionResult, first_task: int = 0) -> list[int]:
    attempts = {
        offer.permit: attempt(offer.entry, first_task + place)
        for place, offer in enumerate(admission.offers)
    }
    return sorted((await backend.record_attempts(attempts)).cancel_after)


async def state(backend: Backend, name: str = OWN) -> tuple[int, int]:
    found = next(each for each in await backend.semaphores() if each.name == name)
    return found.in_use, found.waiting
