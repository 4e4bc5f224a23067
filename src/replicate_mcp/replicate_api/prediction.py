"""A prediction, parsed from Replicate's raw response."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from replicate_mcp.replicate_api.outputs import outputs_of
from replicate_mcp.text import one_line

ENDED_STATUSES = frozenset({"succeeded", "failed", "canceled", "aborted"})
"""The terminal statuses."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Pattern of an id, which becomes part of URLs."""

MAX_LOG_CHARACTERS = 4_000
"""Length of the end of the log to keep if there is no file: a model gives the reason in its last
lines."""

_MAX_SEED_BITS = 64


@dataclass(frozen=True, slots=True)
class Prediction:
    """The known state of a prediction; times are in seconds since the epoch on Replicate's clock.

    Attributes:
        id: Replicate's id.
        status: the status from Replicate; "" if it was not fetched yet.
        urls: the output files, in order, as `outputs_of` extracts them; a `data:` output is not
            included.
        inline: whether the output came as `data:` URIs, so that the URLs of the files are not known
            yet.
        error: the model's reason as one line; "" if it gave none.
        created_at: the time of the creation; None if unknown.
        completed_at: the time of the end; None if unknown.
        deadline: the time at which Replicate cancels the prediction; None if unknown.
        predict_seconds: the run time in seconds; None if unknown.
        seed: the seed among the inputs; None if there is none.
        listed: whether the output is a list, which may grow while the prediction runs.
        words: the text output of the model.
        logs: the end of the log, if the prediction has ended without a file.
    """

    id: str
    status: str
    urls: tuple[str, ...]
    inline: bool
    error: str
    created_at: float | None
    completed_at: float | None
    deadline: float | None
    predict_seconds: float | None
    seed: int | None = None
    listed: bool = False
    words: str = field(default="", repr=False)
    logs: str = field(default="", repr=False)

    @property
    def done(self) -> bool:
        """Whether waiting is over: the prediction has ended, or its only file is available."""
        if self.inline:
            return False
        return self.status in ENDED_STATUSES or (self._shows_files and not self.listed)

    def is_complete_with(self, files: int | None) -> bool:
        """Return whether it is done or has `files` files; None to rely on `done` alone."""
        if self.inline or files is None:
            return self.done
        return self.done or (self._shows_files and len(self.urls) >= files)

    @property
    def _shows_files(self) -> bool:
        return self.status == "processing" and bool(self.urls)

    @classmethod
    def from_id(cls, prediction_id: str) -> "Prediction":
        """Return a prediction of which only the id is known."""
        return cls(prediction_id, "", (), False, "", None, None, None, None)

    @classmethod
    def from_response(cls, answer: Mapping[str, Any]) -> "Prediction":
        """Parse the API's object, whatever its model put into it.

        Raises:
            ValueError: the object has no usable id or status.
        """
        prediction_id, status = answer.get("id"), answer.get("status")
        if not isinstance(prediction_id, str) or not _ID.fullmatch(prediction_id):
            raise ValueError("the answer is not a prediction: it has no usable id")
        if not isinstance(status, str):
            raise ValueError("the answer is not a prediction: it has no status")
        outputs = outputs_of(answer.get("output"))
        error = answer.get("error")
        metrics = answer.get("metrics")
        seconds = metrics.get("predict_time") if isinstance(metrics, Mapping) else None
        sent, logs = answer.get("input"), answer.get("logs")
        is_empty = status in ENDED_STATUSES and not outputs.urls
        return cls(
            id=prediction_id,
            status=status,
            urls=outputs.urls,
            inline=outputs.inline,
            error=one_line(error) if isinstance(error, str) else "",
            created_at=seconds_of(answer.get("created_at")),
            completed_at=seconds_of(answer.get("completed_at")),
            deadline=seconds_of(answer.get("deadline")),
            predict_seconds=_seconds(seconds),
            seed=_seed(sent.get("seed")) if isinstance(sent, Mapping) else None,
            listed=isinstance(answer.get("output"), list),
            words=outputs.words,
            logs=logs[-MAX_LOG_CHARACTERS:] if is_empty and isinstance(logs, str) else "",
        )


def seconds_of(text: object) -> float | None:
    """Parse a timestamp with 0 to 9 fractional digits to seconds since the epoch, else None."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def _seconds(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def _seed(value: object) -> int | None:
    """Return the seed as an integer; some programs write 42 as 42.0 in JSON."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if value.bit_length() <= _MAX_SEED_BITS else None
