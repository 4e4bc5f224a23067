"""What is done about each fault of a creation: one table.

Nothing here can bill twice: what may have been created is settled through the account's list of
predictions before anything is sent again.
"""

from dataclasses import dataclass, replace
from enum import Enum, auto

from replicate_mcp.errors import ErrorCode
from replicate_mcp.replicate_api.faults import Fault, LostAnswer, NeverEnded, NotSent, Refusal


class Action(Enum):
    """What becomes of the task."""

    WAIT_ANEW = auto()
    """Nothing was created, and the account is throttled: the task waits its turn anew."""

    SEND_AGAIN = auto()
    """Nothing was created, and Replicate could not be reached: after a pause, it is sent again."""

    SETTLE = auto()
    """It may have been created: the list of predictions says so, and what to do."""

    FAIL = auto()
    """Nothing was created, and the same would happen again: the task fails."""

    FAIL_BATCH = auto()
    """Nothing can be created with this token: the batch's creations end, with this one reason."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is done, and what its user is told where that ends the task."""

    action: Action
    code: ErrorCode
    sentence: str
    retryable: bool = False


_BY_STATUS: dict[int, Rule] = {
    401: Rule(
        Action.FAIL_BATCH,
        "unauthorized",
        "Replicate refused the token: check REPLICATE_API_TOKEN, or make a new one at "
        "https://replicate.com/account/api-tokens.",
    ),
    402: Rule(
        Action.FAIL_BATCH,
        "insufficient_credit",
        "The Replicate account has no credit left: add some at "
        "https://replicate.com/account/billing and send the failed tasks again.",
        retryable=True,
    ),
    404: Rule(Action.FAIL, "model_not_found", "Replicate knows no such model or version."),
    429: Rule(
        Action.WAIT_ANEW,
        "replicate_unavailable",
        "Replicate throttled the account.",
        retryable=True,
    ),
}


def rule_for(fault: Fault) -> Rule:
    """The rule for what came instead of a creation's answer."""
    match fault:
        case Refusal(status=status) if status in _BY_STATUS:
            return _BY_STATUS[status]
        case LostAnswer():
            return _SETTLE
        case Refusal(status=status) if status >= 500:
            return _SETTLE
        case Refusal(status=422, fields=fields) if fields:
            said = "; ".join(f"{name}: {what}" for name, what in fields.items())
            return Rule(Action.FAIL, "invalid_input", f"Replicate refused the inputs: {said}.")
        case Refusal(detail=detail):
            return Rule(Action.FAIL, "invalid_input", f"Replicate refused the task: {detail}")
        case NotSent():
            return Rule(
                Action.SEND_AGAIN,
                "replicate_unavailable",
                f"Replicate could not be reached: {fault}. Nothing was billed.",
                retryable=True,
            )
        case NeverEnded():
            return Rule(
                Action.FAIL, "deadline_exceeded", f"The {fault}, though it was cancelled in time."
            )
    return replace(_SETTLE, action=Action.FAIL)


UNKNOWN = (
    "The answer to this task's creation was lost, and Replicate's list of predictions does not say "
    "what became of it. It may have been billed: look at https://replicate.com/predictions before "
    "sending it again."
)

_SETTLE = Rule(Action.SETTLE, "create_outcome_unknown", UNKNOWN)
