"""A prediction, read from Replicate's raw answer."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

ENDED = frozenset({"succeeded", "failed", "canceled", "aborted"})
"""The statuses after which nothing runs."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is known of a prediction; times are in seconds since the epoch on Replicate's clock.

    Attributes:
        urls: its output files, in order; a `data:` output is none.
        status: as Replicate gives it; "" where it was not looked at yet.
        inline: whether the output came as `data:` URIs, so that the files are known only later.
        listed: whether the files came in a list, which may grow while the prediction runs.
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

    @property
    def done(self) -> bool:
        """Whether nothing more is to be waited for: it ended, or its one file is there."""
        if self.inline:
            return False
        return self.status in ENDED or (self._shows_files and not self.listed)

    def done_with(self, files: int | None) -> bool:
        """The same, but a list that has so many files is whole; None where only its end tells."""
        if self.inline or files is None:
            return self.done
        return self.done or (self._shows_files and len(self.urls) >= files)

    @property
    def _shows_files(self) -> bool:
        return self.status == "processing" and bool(self.urls)

    @classmethod
    def unseen(cls, prediction_id: str) -> "Prediction":
        """One of which nothing but its id is known."""
        return cls(prediction_id, "", (), False, "", None, None, None, None)

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> "Prediction":
        """From the API's object; raises ValueError where it is none."""
        if not isinstance(answer.get("id"), str) or not isinstance(answer.get("status"), str):
            raise ValueError("the answer is not a prediction")
        found = list(_strings(answer.get("output")))
        metrics = answer.get("metrics")
        seconds = metrics.get("predict_time") if isinstance(metrics, Mapping) else None
        sent = answer.get("input")
        seed = sent.get("seed") if isinstance(sent, Mapping) else None
        return cls(
            id=answer["id"],
            status=answer["status"],
            urls=tuple(each for each in found if each.startswith(("https://", "http://"))),
            inline=any(each.startswith("data:") for each in found),
            error=str(answer.get("error") or ""),
            created_at=seconds_of(answer.get("created_at")),
            completed_at=seconds_of(answer.get("completed_at")),
            deadline=seconds_of(answer.get("deadline")),
            predict_seconds=float(seconds) if isinstance(seconds, (int, float)) else None,
            seed=seed if isinstance(seed, int) else None,
            listed=isinstance(answer.get("output"), list),
        )


def seconds_of(text: object) -> float | None:
    """A timestamp with 0 to 9 fractional digits, in seconds since the epoch; None if it is none."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _strings(output: object) -> Iterator[str]:
    """The strings of an output: it may be one, a list, or an object holding either."""
    if isinstance(output, str):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _strings(value)
    elif isinstance(output, list):
        for value in output:
            yield from _strings(value)
