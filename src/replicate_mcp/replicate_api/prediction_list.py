"""Parsing of the rows of an account's list of predictions."""

import logging
import math
from collections.abc import Mapping
from typing import Any

from replicate_mcp.replicate_api.attempt_matching import ListedPrediction, hash_inputs
from replicate_mcp.replicate_api.prediction import ENDED_STATUSES, Prediction, seconds_of

log = logging.getLogger(__name__)


def listed_page(rows: object) -> list[ListedPrediction]:
    """Return the readable rows of one page; the others are logged and skipped."""
    page = []
    for row in rows if isinstance(rows, list) else []:
        try:
            page.append(_listed(row))
        except Exception as error:
            # An invalid row, whatever its defect, must not prevent the reconciliation of the
            # others.
            log.warning("a row of the list of predictions is skipped: %s", type(error).__name__)
    return page


def _listed(answer: Mapping[str, Any]) -> ListedPrediction:
    prediction = Prediction.from_response(answer)
    created = prediction.created_at if prediction.created_at is not None else -math.inf
    deadline = seconds_of(answer.get("deadline"))
    sent = answer.get("input")
    return ListedPrediction(
        id=prediction.id,
        model=str(answer.get("model") or ""),
        version=str(answer.get("version") or ""),
        inputs=hash_inputs(sent) if isinstance(sent, Mapping) else {},
        created_at=created,
        lifetime=None if deadline is None else deadline - created,
        ended=prediction.status in ENDED_STATUSES,
    )
