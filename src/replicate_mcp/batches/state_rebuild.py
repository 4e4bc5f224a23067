"""Rebuilds a backend's lost state from the account's list of predictions."""

import logging
import math

from replicate_mcp.batches.attempt_store import AttemptRecord, AttemptStore, RunningPrediction
from replicate_mcp.replicate_api.attempt_matching import (
    ListedPrediction,
    OpenAttempt,
    match_predictions,
)
from replicate_mcp.replicate_api.exceptions import ApiStatusError
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.replicate_api.prediction import Prediction
from replicate_mcp.semaphores.permit_store import AdmissionResult

log = logging.getLogger(__name__)

LISTED_SECONDS = 3600.0
"""Age up to which listed predictions are read: Replicate runs one for half an hour at most."""

MAX_LIFETIME_SECONDS = 24 * 3600.0
"""Assumed lifetime of a listed prediction without a deadline: the longest possible."""


CLOSING_SECONDS = 60.0
"""Time past its deadline within which a prediction has certainly ended."""


async def import_running_predictions(
    account: str, gateway: Gateway, store: AttemptStore
) -> AdmissionResult:
    """Import the running predictions of the account's list that belong to no known attempt.

    Raises:
        ReplicateApiError: the list could not be read.
    """
    await gateway.sync_clock()
    since = gateway.now() - LISTED_SECONDS
    listed = await gateway.predictions_since(since)
    if listed.complete_since > since:
        log.warning(
            "the list of predictions of %s is too long to read completely: untracked predictions "
            "that have run for over %.0f s are not counted",
            account,
            gateway.now() - listed.complete_since,
        )
    known = await store.list_prediction_ids(account)
    attempts = [
        OpenAttempt(each.permit, each.model, each.inputs, each.cancel_after, each.sent_at)
        for each in await store.open_attempts(account)
        if each.prediction_id is None
    ]
    known |= {each.id for each in match_predictions(attempts, listed.predictions, known).values()}
    running = [
        RunningPrediction(each.id, each.model, _ends_in(each, gateway.now()))
        for each in listed.predictions
        if not each.ended and each.id not in known
    ]
    log.info("importing %d untracked predictions of %s", len(running), account)
    return await store.import_running(account, running)


async def wait_until_ended(entered: AttemptRecord, gateway: Gateway) -> None:
    """Follow an imported prediction to its end; do not cancel it, since it may be in use elsewhere.

    Raises:
        ApiStatusError: the token is no longer valid.
        ReplicateApiError: the prediction cannot be followed for now.
    """
    assert entered.prediction_id is not None
    try:
        await gateway.follow(Prediction.from_id(entered.prediction_id), until=math.inf)
    except ApiStatusError as refusal:
        if refusal.status in (401, 403):
            raise
        log.info("prediction %s is not there any more: %s", entered.prediction_id, refusal)


def _ends_in(prediction: ListedPrediction, now: float) -> float:
    lives = MAX_LIFETIME_SECONDS if prediction.lifetime is None else prediction.lifetime
    return max(0.0, prediction.created_at + lives - now) + CLOSING_SECONDS
