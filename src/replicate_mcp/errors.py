"""Errors that callers can receive, each with a stable code, a message, and whether to retry.

Inner packages raise them; the interfaces (MCP tools, HTTP routes, the command line) translate them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from replicate_mcp.text import one_line, with_full_stop

ErrorCode = Literal[
    "invalid_input",
    "model_not_found",
    "content_flagged",
    "prediction_failed",
    "no_output",
    "canceled",
    "interrupted",
    "deadline_exceeded",
    "create_outcome_unknown",
    "unauthorized",
    "insufficient_credit",
    "daily_limit",
    "replicate_unavailable",
    "backend_unavailable",
    "dependency_failed",
]

RefusalCode = Literal[ErrorCode, "too_many_requests"]
"""`ErrorCode`, or `too_many_requests` for a request over a limit; no task fails with that."""

ERROR_CODES: tuple[ErrorCode, ...] = get_args(ErrorCode)

MAX_PROBLEMS = 1_000
"""Problems listed for one refused request."""

MAX_PROBLEM_CHARACTERS = 800
"""Characters of one problem's sentence."""

MAX_PROBLEMS_IN_SENTENCE = 10
"""Distinct problems in the message of a refused request."""

MAX_RANGES = 5
"""Ranges of task numbers before one problem in a message."""


@dataclass(frozen=True, slots=True)
class TaskProblem:
    """One fault of a request.

    Attributes:
        task_index: the task's position in the request, from 0; None for the request itself.
        field: the field or model input with the fault; None for the task as a whole.
        error: a sentence that names the field, without the task's number; a clause gets its full
            stop here.
        code: the `error_code` of a task that fails with it.
    """

    task_index: int | None
    field: str | None
    error: str
    code: ErrorCode = "invalid_input"

    def __post_init__(self) -> None:
        """End the sentence."""
        object.__setattr__(self, "error", with_full_stop(self.error))

    def as_json(self) -> dict[str, int | str]:
        """Return the wire form: `task_index`, `field` and `error`, without absent values."""
        found = {"task_index": self.task_index, "field": self.field, "error": self.error}
        return {name: value for name, value in found.items() if value is not None}


class ReplicateMcpError(Exception):
    """Base class of this package's errors; `str(error)` is a sentence that says what to do.

    Attributes:
        code: one of `ERROR_CODES`, or `too_many_requests`; stable, for programs to branch on.
        retryable: whether sending the same request again can help and cannot be billed twice.
        problems: every fault of a refused request that has tasks, ordered by task.
    """

    code: RefusalCode = "invalid_input"
    retryable: bool = False
    problems: tuple[TaskProblem, ...] = ()

    def __str__(self) -> str:
        """Return the message, with `?` for unpaired surrogates, which cannot be encoded."""
        return super().__str__().encode(errors="replace").decode()

    def as_json(self) -> dict[str, Any]:
        """Return the wire form: `error`, `error_code`, `retryable`, and `problems` if any."""
        fields: dict[str, Any] = {
            "error": str(self),
            "error_code": self.code,
            "retryable": self.retryable,
        }
        if self.problems:
            fields["problems"] = [problem.as_json() for problem in self.problems]
        return fields


class InvalidInput(ReplicateMcpError):
    """The request is invalid; nothing was created."""

    code = "invalid_input"

    def __init__(self, message: str = "", problems: Sequence[TaskProblem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class UnknownBatch(InvalidInput):
    """No batch with this id is visible to the caller."""


class IdempotencyKeyConflict(InvalidInput):
    """The idempotency key belongs to another request."""


class UnknownSemaphore(InvalidInput):
    """No semaphore with this name is registered."""


class SemaphoreInUse(InvalidInput):
    """The semaphore cannot be removed while it is in use or registered."""


class ModelNotFound(ReplicateMcpError):
    """The model, version or deployment does not exist on Replicate."""

    code = "model_not_found"

    def __init__(self, message: str = "", problems: Sequence[TaskProblem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class Unauthorized(ReplicateMcpError):
    """There is no token, or Replicate refused it."""

    code = "unauthorized"


class InsufficientCredit(ReplicateMcpError):
    """The account has no credit left."""

    code = "insufficient_credit"


class ReplicateUnavailable(ReplicateMcpError):
    """Replicate could not be reached, or answered with an error of its own."""

    code = "replicate_unavailable"
    retryable = True


class ReplicateUnreachable(ReplicateUnavailable):
    """This machine's TLS or proxy settings prevent every connection to Replicate."""

    retryable = False


class BackendUnavailable(ReplicateMcpError):
    """The backend, which stores semaphores and the journal, could not be used."""

    code = "backend_unavailable"
    retryable = True


class TooManyBatches(ReplicateMcpError):
    """The running batches use all the memory that the server has for them; nothing was created.

    Attributes:
        is_global: whether the batches of all accounts together use it, not the caller's account
            alone.
    """

    code = "too_many_requests"
    retryable = True

    def __init__(self, *, is_global: bool, most: int) -> None:
        whose = "" if is_global else " of your account"
        super().__init__(
            f"Too many batches{whose} have not ended (their inputs take at most "
            f"{most // 1024**2:,} MiB): try again when some have."
        )
        self.is_global = is_global


class JournalFull(ReplicateMcpError):
    """The account's batches use all of its journal space; nothing was created."""

    code = "too_many_requests"
    retryable = True

    def __init__(self, *, running: str, keys: str, allowed: str) -> None:
        super().__init__(
            "The journal of your account has no room for this batch: its batches that have not "
            f"ended take {running} of {allowed} MiB, and Idempotency-Keys of the last 24 hours "
            f"{keys} MiB. Nothing was created: wait until some have ended."
        )


class TooManyAttempts(ReplicateMcpError):
    """One address sent too many invalid tokens or admin keys; nothing was created.

    Attributes:
        retry_after: seconds until the address may send another one.
    """

    code = "too_many_requests"
    retryable = True

    def __init__(self, retry_after: int) -> None:
        super().__init__(
            "Too many tokens or keys from your address were refused within a minute, so this one "
            f"was not tried and nothing was created: send it again in {retry_after} s."
        )
        self.retry_after = retry_after


def refusal_of(problems: Sequence[TaskProblem]) -> InvalidInput | ModelNotFound:
    """Return the error for a request with these faults, at least one.

    Its message contains the first `MAX_PROBLEMS_IN_SENTENCE` distinct faults, each once for all its
    tasks. Its `problems` contain the first `MAX_PROBLEMS`.
    """
    kept = [_shortened(each) for each in problems[:MAX_PROBLEMS]]
    codes = {each.code for each in problems}
    kind = ModelNotFound if codes == {"model_not_found"} else InvalidInput
    return kind(_sentence(kept, total=len(problems)), kept)


def _shortened(problem: TaskProblem) -> TaskProblem:
    error = one_line(problem.error, MAX_PROBLEM_CHARACTERS)
    field = None if problem.field is None else one_line(problem.field, 100)
    return TaskProblem(problem.task_index, field, error, problem.code)


def _sentence(problems: Sequence[TaskProblem], total: int) -> str:
    tasks: dict[str, list[int | None]] = {}
    for each in problems:
        tasks.setdefault(each.error, []).append(each.task_index)
    shown = list(tasks.items())[:MAX_PROBLEMS_IN_SENTENCE]
    text, previous = "", None
    for error, indexes in shown:
        where = _tasks(indexes)
        if text:
            text += " " if text.endswith("?") else "; "
        text += f"{where}: " * bool(where and where != previous) + error.removesuffix(".")
        previous = where
    rest = total - sum(len(indexes) for _, indexes in shown)
    return with_full_stop(f"{text} (and {rest:,} more)" if rest else text)


def _tasks(indexes: Sequence[int | None]) -> str:
    """Return tasks as `task 3` or `tasks 0-4, 7`."""
    ranges: list[list[int]] = []
    for index in sorted({each for each in indexes if each is not None}):
        if ranges and index == ranges[-1][-1] + 1:
            ranges[-1][1:] = [index]
        else:
            ranges.append([index])
    if not ranges:
        return ""
    listed = ", ".join("-".join(map(str, each)) for each in ranges[:MAX_RANGES])
    listed += ", …" * (len(ranges) > MAX_RANGES)
    return f"task {listed}" if listed.isdigit() else f"tasks {listed}"
