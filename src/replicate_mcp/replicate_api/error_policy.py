"""What is done about each fault of a creation: one table.

Nothing here can bill twice: what may have been made is settled through the account's list of
predictions before anything is sent again. What becomes of a prediction that was made and ends
without an image is told in `batches/outcome.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

from replicate_mcp.errors import (
    ErrorCode,
    InsufficientCredit,
    InvalidInput,
    ReplicateMcpError,
    ReplicateUnavailable,
    ReplicateUnreachable,
    Unauthorized,
)
from replicate_mcp.replicate_api.exceptions import (
    ApiStatusError,
    ConnectionMisconfigured,
    Intercepted,
    OutcomeUnknown,
    PredictionStuck,
    ReplicateApiError,
    RequestNotSent,
    ResponseLost,
)


class Action(Enum):
    """What becomes of the task."""

    REQUEUE = auto()
    """The account is throttled: the task waits its turn anew, for as long as its batch may."""

    RETRY = auto()
    """After a pause, it is sent again, five times at most; then the task fails."""

    RECONCILE = auto()
    """The list of predictions says whether it was made: then it is followed, else sent again."""

    FAIL = auto()
    """The same would happen again: the task fails."""

    FAIL_BATCH = auto()
    """The same would happen to all: the batch's creations end, with this one reason."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is done, and what its user is told where that ends the task.

    Attributes:
        may_be_made: whether a prediction may have been made, and billed.
        retryable: whether sending the task again can help, and cannot bill twice.
    """

    action: Action
    may_exist: bool
    code: ErrorCode
    retryable: bool
    sentence: str


UNKNOWN = (
    "The answer to this task's creation was lost, and Replicate's list of predictions does not say "
    "what became of it. It may have been billed: look at https://replicate.com/predictions before "
    "sending it again."
)
_UNAUTHORIZED = (
    "Replicate refused the token: check REPLICATE_API_TOKEN, or make a new one at "
    "https://replicate.com/account/api-tokens."
)
_CREDIT = (
    "The Replicate account has no credit left: add some at "
    "https://replicate.com/account/billing and send the failed tasks again."
)
_NO_MODEL = "Replicate knows no such model or version."
_VERSION_UNKNOWN_MESSAGE = (
    "Replicate could not be asked for this model's version, and runs none by its name alone. "
    "Nothing was billed: send it again."
)
_THROTTLED = "Replicate throttled the account."
_UNREACHED = "Replicate could not be reached: {fault}. Nothing was billed."
_NO_END = "The {fault}, though it was cancelled in time."
_REFUSED = "Replicate refused the task: {detail}"
_INPUTS = "Replicate refused the inputs: {fields}."


def _kind(kind: type[ReplicateApiError]) -> Callable[[ReplicateApiError], bool]:
    return lambda fault: isinstance(fault, kind)


def _status(low: int, high: int | None = None) -> Callable[[ReplicateApiError], bool]:
    statuses = range(low, (high or low) + 1)
    return lambda fault: isinstance(fault, ApiStatusError) and fault.status in statuses


def _wrong_inputs(fault: ReplicateApiError) -> bool:
    return isinstance(fault, ApiStatusError) and fault.status == 422 and bool(fault.fields)


_A = Action

# What came instead of an answer, what is done, whether it may be made, and what its user gets.
TABLE: tuple[tuple[Callable[[ReplicateApiError], bool], Rule], ...] = (
    # TLS or proxy settings of this machine, which every connection meets
    (
        _kind(ConnectionMisconfigured),
        Rule(_A.FAIL_BATCH, False, "replicate_unavailable", False, _UNREACHED),
    ),
    # no connection, or the list shows that nothing was made
    (_kind(RequestNotSent), Rule(_A.RETRY, False, "replicate_unavailable", True, _UNREACHED)),
    # a page that is not Replicate's; sent again at once, it meets the same
    (_kind(Intercepted), Rule(_A.FAIL, False, "replicate_unavailable", True, _UNREACHED)),
    # reset, time-out, truncated or malformed
    (_kind(ResponseLost), Rule(_A.RECONCILE, True, "create_outcome_unknown", False, UNKNOWN)),
    (_status(500, 599), Rule(_A.RECONCILE, True, "create_outcome_unknown", False, UNKNOWN)),
    # the list does not say
    (_kind(OutcomeUnknown), Rule(_A.FAIL, True, "create_outcome_unknown", False, UNKNOWN)),
    # still running after its deadline and a cancel
    (_kind(PredictionStuck), Rule(_A.FAIL, True, "deadline_exceeded", False, _NO_END)),
    (_status(429), Rule(_A.REQUEUE, False, "replicate_unavailable", True, _THROTTLED)),
    (_status(401), Rule(_A.FAIL_BATCH, False, "unauthorized", False, _UNAUTHORIZED)),
    (_status(402), Rule(_A.FAIL_BATCH, False, "insufficient_credit", True, _CREDIT)),
    (_status(403), Rule(_A.FAIL, False, "unauthorized", False, _REFUSED)),
    (_status(404), Rule(_A.FAIL, False, "model_not_found", False, _NO_MODEL)),
    (_wrong_inputs, Rule(_A.FAIL, False, "invalid_input", False, _INPUTS)),
    (_status(400, 499), Rule(_A.FAIL, False, "invalid_input", False, _REFUSED)),
)


VERSION_UNKNOWN = Rule(_A.FAIL, False, "replicate_unavailable", True, _VERSION_UNKNOWN_MESSAGE)
"""What stands in for the rule of 404 where a model was sent to as it was named."""


def rule_for(fault: ReplicateApiError, *, is_resolved: bool = True) -> Rule:
    """The first rule that fits, with its sentence filled in.

    Args:
        looked_up: whether Replicate was asked where the model's predictions are created.
    """
    if not is_resolved and isinstance(fault, ApiStatusError) and fault.status == 404:
        return VERSION_UNKNOWN
    for fits, rule in TABLE:
        if fits(fault):
            return replace(rule, sentence=rule.sentence.format(**_message_of(fault)))
    return Rule(Action.FAIL, True, "create_outcome_unknown", False, UNKNOWN)


def to_public_error(fault: ReplicateApiError) -> ReplicateMcpError:
    """The error of a caller whose question, which creates nothing, Replicate did not answer."""
    status = fault.status if isinstance(fault, ApiStatusError) else 0
    if status == 401:
        return Unauthorized(_UNAUTHORIZED)
    if status == 402:
        return InsufficientCredit(_CREDIT)
    if isinstance(fault, ApiStatusError) and status in (400, 403, 404, 413, 422):
        return InvalidInput(f"Replicate refused it: {fault.detail.rstrip('.')}.")
    if isinstance(fault, ConnectionMisconfigured):
        return ReplicateUnreachable(
            f"Replicate could not be reached: {fault}. Nothing was created."
        )
    if isinstance(fault, RequestNotSent):
        return ReplicateUnavailable(
            f"Replicate could not be reached: {fault}. Nothing was created: try again."
        )
    return ReplicateUnavailable(f"Replicate did not answer ({fault}). Try again.")


def _message_of(fault: ReplicateApiError) -> dict[str, Any]:
    fields = fault.fields.items() if isinstance(fault, ApiStatusError) else ()
    return {
        "fault": fault,
        "detail": fault.detail if isinstance(fault, ApiStatusError) else "",
        "fields": "; ".join(f"{name}: {what}" for name, what in fields),
    }
