"""The error policy: for each error, the action and the message for the user."""

import re

import pytest

from replicate_mcp.errors import (
    ErrorCode,
    InsufficientCredit,
    InvalidInput,
    ReplicateMcpError,
    ReplicateUnavailable,
    ReplicateUnreachable,
    Unauthorized,
)
from replicate_mcp.replicate_api.error_policy import Action, rule_for, to_public_error
from replicate_mcp.replicate_api.exceptions import (
    ApiStatusError,
    ConnectionMisconfigured,
    Intercepted,
    OutcomeUnknown,
    PredictionNotCreated,
    PredictionStuck,
    ReplicateApiError,
    RequestNotSent,
    ResponseLost,
    UnreadableCreation,
)

BILLED = (
    r"The answer to this task's creation was lost, .* It may have been billed: check "
    r"https://replicate\.com/predictions before sending it again\."
)
UNREACHED = r"Replicate could not be reached: {}\. Nothing was billed\."
REFUSED = r"Replicate refused the task: {}"


def refused(status: int, **fields: str) -> ApiStatusError:
    return ApiStatusError(status, "no such thing", fields=fields)


# An error, the action, whether a prediction may exist, the code, whether a retry is safe, and the
# message.
RULES: list[tuple[ReplicateApiError, Action, bool, ErrorCode, bool, str]] = [
    (
        ConnectionMisconfigured("TLS fails"),
        *(Action.FAIL_BATCH, False, "replicate_unavailable", False, UNREACHED.format("TLS fails")),
    ),
    (
        RequestNotSent("no route"),
        *(Action.RETRY, False, "replicate_unavailable", True, UNREACHED.format("no route")),
    ),
    (
        PredictionNotCreated("it did not arrive"),
        Action.RETRY,
        *(False, "replicate_unavailable", True, UNREACHED.format("it did not arrive")),
    ),
    (
        Intercepted("a proxy answered"),
        Action.FAIL,
        *(False, "replicate_unavailable", True, UNREACHED.format("a proxy answered")),
    ),
    (ResponseLost("reset"), Action.RECONCILE, True, "create_outcome_unknown", False, BILLED),
    (UnreadableCreation("no id"), Action.RECONCILE, True, "create_outcome_unknown", False, BILLED),
    *[
        (refused(status), Action.RECONCILE, True, "create_outcome_unknown", False, BILLED)
        for status in (500, 502, 503, 504, 520, 522, 524, 529, 599)
    ],
    (OutcomeUnknown(), Action.FAIL, True, "create_outcome_unknown", False, BILLED),
    (
        PredictionStuck("prediction p1 does not end"),
        *(Action.FAIL, True, "deadline_exceeded", False),
        r"The prediction p1 does not end, though it was cancelled in time\.",
    ),
    (
        refused(429),
        *(Action.REQUEUE, False, "replicate_unavailable", True),
        r"Replicate throttled the account\.",
    ),
    (
        refused(401),
        *(Action.FAIL_BATCH, False, "unauthorized", False),
        r"Replicate refused the token: check REPLICATE_API_TOKEN, .*/account/api-tokens\.",
    ),
    (
        refused(402),
        *(Action.FAIL_BATCH, False, "insufficient_credit", True),
        r"The Replicate account has no credit left: .*/account/billing and .* tasks again\.",
    ),
    (refused(403), Action.FAIL, False, "unauthorized", False, REFUSED.format("no such thing")),
    (
        refused(404),
        *(Action.FAIL, False, "model_not_found", False),
        r"Replicate knows no such model or version\.",
    ),
    (
        refused(422, seed="must be a number", size="is too large"),
        *(Action.FAIL, False, "invalid_input", False),
        r"Replicate refused the inputs: seed: must be a number; size: is too large\.",
    ),
    # Without named fields, or with another status, the inputs are not invalid.
    *[
        (fault, Action.FAIL, False, "invalid_input", False, REFUSED.format("no such thing"))
        for fault in (
            refused(422),
            refused(400, seed="must be a number"),
            *map(refused, (400, 405, 409, 413, 428, 430, 499)),
        )
    ],
    # After an unexpected error, the prediction may have been created.
    *[
        (fault, Action.FAIL, True, "create_outcome_unknown", False, BILLED)
        for fault in (ReplicateApiError("strange"), refused(399), refused(600))
    ],
]


@pytest.mark.parametrize(
    ("fault", "action", "may_be_made", "code", "retryable", "sentence"),
    RULES,
    ids=[f"{type(row[0]).__name__} {row[0]}" for row in RULES],
)
def test_each_api_error_has_its_rule(
    fault: ReplicateApiError,
    action: Action,
    may_be_made: bool,
    code: ErrorCode,
    retryable: bool,
    sentence: str,
) -> None:
    rule = rule_for(fault)
    assert (rule.action, rule.may_exist, rule.code, rule.retryable) == (
        *(action, may_be_made, code, retryable),
    )
    assert re.fullmatch(sentence, rule.sentence)


@pytest.mark.parametrize("fault", [row[0] for row in RULES], ids=str)
def test_error_with_possible_prediction_is_never_retried_blindly(fault: ReplicateApiError) -> None:
    rule = rule_for(fault)
    if rule.may_exist:
        assert rule.action not in (Action.RETRY, Action.REQUEUE)
        assert not rule.retryable


@pytest.mark.parametrize("fault", [row[0] for row in RULES], ids=str)
def test_only_404_depends_on_a_previous_model_lookup(fault: ReplicateApiError) -> None:
    rule = rule_for(fault, is_resolved=False)
    if isinstance(fault, ApiStatusError) and fault.status == 404:
        assert (rule.action, rule.may_exist) == (Action.FAIL, False)
        assert (rule.code, rule.retryable) == ("replicate_unavailable", True)
        assert rule.sentence.startswith("Replicate could not be asked for this model's version")
        assert rule.sentence.endswith("Nothing was billed: send it again.")
    else:
        assert rule == rule_for(fault)


# An error of a read request, the public error, and its message.
PUBLIC: list[tuple[ReplicateApiError, type[ReplicateMcpError], str]] = [
    (refused(401), Unauthorized, rule_for(refused(401)).sentence),
    (refused(402), InsufficientCredit, rule_for(refused(402)).sentence),
    *[
        (
            ApiStatusError(status, "no such thing.."),
            InvalidInput,
            "Replicate refused it: no such thing.",
        )
        for status in (400, 403, 404, 413, 422)
    ],
    *[
        (
            refused(status),
            ReplicateUnavailable,
            f"Replicate did not answer ({status}: no such thing). Try again.",
        )
        for status in (405, 409, 429, 500, 503)
    ],
    (
        ConnectionMisconfigured("TLS fails"),
        ReplicateUnreachable,
        "Replicate could not be reached: TLS fails. Nothing was created.",
    ),
    (
        RequestNotSent("no route"),
        ReplicateUnavailable,
        "Replicate could not be reached: no route. Nothing was created: try again.",
    ),
    *[
        (fault, ReplicateUnavailable, "Replicate did not answer (reset). Try again.")
        for fault in (ResponseLost("reset"), Intercepted("reset"), ReplicateApiError("reset"))
    ],
]


@pytest.mark.parametrize(
    ("fault", "kind", "sentence"),
    PUBLIC,
    ids=[f"{type(row[0]).__name__} {row[0]}" for row in PUBLIC],
)
def test_each_read_error_has_its_public_error(
    fault: ReplicateApiError, kind: type[ReplicateMcpError], sentence: str
) -> None:
    error = to_public_error(fault)
    assert type(error) is kind
    assert str(error) == sentence
