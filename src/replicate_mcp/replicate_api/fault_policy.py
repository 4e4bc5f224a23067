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
    Unauthorized,
)
from replicate_mcp.replicate_api.faults import (
    Fault,
    Intercepted,
    LostAnswer,
    NeverEnded,
    NotSent,
    OutcomeUnknown,
    Refusal,
)


class Action(Enum):
    """What becomes of the task."""

    WAIT_ANEW = auto()
    """The account is throttled: the task waits its turn anew, for as long as its batch may."""

    SEND_AGAIN = auto()
    """After a pause, it is sent again, five times at most; then the task fails."""

    SETTLE = auto()
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
    may_be_made: bool
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
_NOT_LOOKED_UP = (
    "Replicate could not be asked for this model's version, and runs none by its name alone. "
    "Nothing was billed: send it again."
)
_THROTTLED = "Replicate throttled the account."
_UNREACHED = "Replicate could not be reached: {fault}. Nothing was billed."
_NO_END = "The {fault}, though it was cancelled in time."
_REFUSED = "Replicate refused the task: {detail}"
_INPUTS = "Replicate refused the inputs: {fields}."


def _kind(kind: type[Fault]) -> Callable[[Fault], bool]:
    return lambda fault: isinstance(fault, kind)


def _status(low: int, high: int | None = None) -> Callable[[Fault], bool]:
    statuses = range(low, (high or low) + 1)
    return lambda fault: isinstance(fault, Refusal) and fault.status in statuses


def _wrong_inputs(fault: Fault) -> bool:
    return isinstance(fault, Refusal) and fault.status == 422 and bool(fault.fields)


_A = Action

# What came instead of an answer, what is done, whether it may be made, and what its user gets.
TABLE: tuple[tuple[Callable[[Fault], bool], Rule], ...] = (
    # no connection, or the list shows that nothing was made
    (_kind(NotSent), Rule(_A.SEND_AGAIN, False, "replicate_unavailable", True, _UNREACHED)),
    # a page that is not Replicate's; sent again at once, it meets the same
    (_kind(Intercepted), Rule(_A.FAIL, False, "replicate_unavailable", True, _UNREACHED)),
    # reset, time-out, truncated or malformed
    (_kind(LostAnswer), Rule(_A.SETTLE, True, "create_outcome_unknown", False, UNKNOWN)),
    (_status(500, 599), Rule(_A.SETTLE, True, "create_outcome_unknown", False, UNKNOWN)),
    # the list does not say
    (_kind(OutcomeUnknown), Rule(_A.FAIL, True, "create_outcome_unknown", False, UNKNOWN)),
    # still running after its deadline and a cancel
    (_kind(NeverEnded), Rule(_A.FAIL, True, "deadline_exceeded", False, _NO_END)),
    (_status(429), Rule(_A.WAIT_ANEW, False, "replicate_unavailable", True, _THROTTLED)),
    (_status(401), Rule(_A.FAIL_BATCH, False, "unauthorized", False, _UNAUTHORIZED)),
    (_status(402), Rule(_A.FAIL_BATCH, False, "insufficient_credit", True, _CREDIT)),
    (_status(403), Rule(_A.FAIL, False, "unauthorized", False, _REFUSED)),
    (_status(404), Rule(_A.FAIL, False, "model_not_found", False, _NO_MODEL)),
    (_wrong_inputs, Rule(_A.FAIL, False, "invalid_input", False, _INPUTS)),
    (_status(400, 499), Rule(_A.FAIL, False, "invalid_input", False, _REFUSED)),
)


NOT_LOOKED_UP = Rule(_A.FAIL, False, "replicate_unavailable", True, _NOT_LOOKED_UP)
"""What stands in for the rule of 404 where a model was sent to as it was named."""


def rule_for(fault: Fault, *, looked_up: bool = True) -> Rule:
    """The first rule that fits, with its sentence filled in.

    Args:
        looked_up: whether Replicate was asked where the model's predictions are created.
    """
    if not looked_up and isinstance(fault, Refusal) and fault.status == 404:
        return NOT_LOOKED_UP
    for fits, rule in TABLE:
        if fits(fault):
            return replace(rule, sentence=rule.sentence.format(**_told(fault)))
    return Rule(Action.FAIL, True, "create_outcome_unknown", False, UNKNOWN)


def not_told(fault: Fault) -> ReplicateMcpError:
    """The error of a caller whose question, which creates nothing, Replicate did not answer."""
    status = fault.status if isinstance(fault, Refusal) else 0
    if status == 401:
        return Unauthorized(_UNAUTHORIZED)
    if status == 402:
        return InsufficientCredit(_CREDIT)
    if isinstance(fault, Refusal) and status in (400, 403, 404, 413, 422):
        return InvalidInput(f"Replicate refused it: {fault.detail.rstrip('.')}.")
    return ReplicateUnavailable(f"Replicate did not answer ({fault}). Try again.")


def _told(fault: Fault) -> dict[str, Any]:
    fields = fault.fields.items() if isinstance(fault, Refusal) else ()
    return {
        "fault": fault,
        "detail": fault.detail if isinstance(fault, Refusal) else "",
        "fields": "; ".join(f"{name}: {what}" for name, what in fields),
    }
