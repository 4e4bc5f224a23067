"""The error policy of creations: one table from errors to actions.

No rule can bill twice: what may have been created is reconciled with the account's list of
predictions before anything is sent again. `batches/outcome.py` covers predictions that were created
and ended without an image.
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
    """The next step for the task."""

    REQUEUE = auto()
    """The account is throttled: requeue the task, for as long as its batch may run."""

    RETRY = auto()
    """Retry after a pause, at most five times; then fail the task."""

    RECONCILE = auto()
    """Search the list of predictions: follow the prediction if it was created, else send it again.
    """

    FAIL = auto()
    """The error is permanent: fail the task."""

    FAIL_BATCH = auto()
    """The error affects every task: stop the batch's creations, with this one reason."""


@dataclass(frozen=True, slots=True)
class Rule:
    """An action, and the public error if it ends the task.

    Attributes:
        action: the next step for the task.
        may_exist: whether a prediction may have been created, and billed.
        code: the task's error code.
        retryable: whether sending the task again can help, and cannot bill twice.
        sentence: the task's error message, as a format string.
    """

    action: Action
    may_exist: bool
    code: ErrorCode
    retryable: bool
    sentence: str


UNKNOWN = (
    "The answer to this task's creation was lost, and Replicate's list of predictions does not say "
    "what became of it. It may have been billed: check https://replicate.com/predictions before "
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

# The error, the action, whether a prediction may exist, and the public error.
TABLE: tuple[tuple[Callable[[ReplicateApiError], bool], Rule], ...] = (
    # TLS or proxy settings of this machine, which affect every connection
    (
        _kind(ConnectionMisconfigured),
        Rule(_A.FAIL_BATCH, False, "replicate_unavailable", False, _UNREACHED),
    ),
    # no connection, or the list shows that nothing was created
    (_kind(RequestNotSent), Rule(_A.RETRY, False, "replicate_unavailable", True, _UNREACHED)),
    # a page that is not Replicate's; an immediate retry would meet it again
    (_kind(Intercepted), Rule(_A.FAIL, False, "replicate_unavailable", True, _UNREACHED)),
    # reset, timeout, truncated or malformed
    (_kind(ResponseLost), Rule(_A.RECONCILE, True, "create_outcome_unknown", False, UNKNOWN)),
    (_status(500, 599), Rule(_A.RECONCILE, True, "create_outcome_unknown", False, UNKNOWN)),
    # the list does not show the outcome
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
"""The rule that replaces that of 404 for a model that was not resolved."""


def rule_for(fault: ReplicateApiError, *, is_resolved: bool = True) -> Rule:
    """Return the first matching rule, with its sentence filled in.

    Args:
        fault: the error of the creation.
        is_resolved: whether Replicate was asked where the model's predictions are created.
    """
    if not is_resolved and isinstance(fault, ApiStatusError) and fault.status == 404:
        return VERSION_UNKNOWN
    for fits, rule in TABLE:
        if fits(fault):
            return replace(rule, sentence=rule.sentence.format(**_message_of(fault)))
    return Rule(Action.FAIL, True, "create_outcome_unknown", False, UNKNOWN)


def to_public_error(fault: ReplicateApiError) -> ReplicateMcpError:
    """Return the caller's error for a failed call that creates nothing."""
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
