"""Simulated predictions and their outcomes."""

import asyncio
import random
import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from replicate_mcp.simulator.editing import Edit
from replicate_mcp.simulator.engine.accounts import Account
from replicate_mcp.simulator.engine.clock import Timer
from replicate_mcp.simulator.engine.durations import Sampler, sampler
from replicate_mcp.simulator.engine.fault_injection import Fault
from replicate_mcp.simulator.models import Deployment, Model
from replicate_mcp.simulator.settings import SimulatorSettings

NEVER = float("inf")
_BASE32 = "0123456789abcdefghjkmnpqrstvwxyz"
_SEEDS = 2**31
_WORDS = "I cannot draw that."
_NSFW_LOG = "NSFW content detected in image 0\n"


class Status(StrEnum):
    """Replicate's statuses of a prediction."""

    STARTING = "starting"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Creation:
    """Request to create a prediction."""

    account: Account
    model: Model
    input: dict[str, Any]
    version: str = "hidden"
    deployment: Deployment | None = None
    cancel_after: float | None = None
    webhook: str | None = None
    webhook_events: tuple[str, ...] = ("start", "output", "logs", "completed")
    fault: Fault | None = None
    edit: Edit | None = None
    """Edit that a model without a prompt makes of its image."""
    error: str | None = None
    """Error with which the model fails; None if it can run."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Outcome of a prediction that is not cancelled."""

    queue_seconds: float
    predict_seconds: float
    error: str | None = None
    has_output: bool = True
    has_metrics: bool = True
    output_before_end: bool = False
    one_by_one: bool = False
    words: str | None = None
    """Text output instead of files."""
    log: str = ""
    """Log line printed at the end."""


@dataclass(slots=True, eq=False)
class Prediction:
    """Run of a model on Replicate; times are in seconds since the epoch."""

    id: str
    order: int
    """Index among the predictions of its account."""
    asked: Creation
    destiny: Outcome
    seed: int
    created: float
    deadline: float | None
    status: Status = Status.STARTING
    started: float | None = None
    ended: float | None = None
    error: str | None = None
    output_ready: bool = False
    """Whether the output is complete, which ends its time in flight even while `processing`."""
    timer: Timer | None = None
    waiters: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        """Whether the prediction is no longer in flight."""
        return self.ended is not None or self.output_ready

    @property
    def first_file_after(self) -> float | None:
        """Seconds from start to the first file, if files appear one by one; else None."""
        seconds = self.destiny.predict_seconds
        if not self.destiny.one_by_one or not self.destiny.has_output or seconds in (0, NEVER):
            return None
        return seconds / (self.asked.model.file_count(self.asked.input) + 1)

    def files_shown(self, now: float) -> int:
        """Return the number of files that exist at `now`."""
        count = self.asked.model.file_count(self.asked.input)
        if self.output_ready:
            return count if self.destiny.has_output else 0
        first = self.first_file_after
        if first is None or self.started is None:
            return 0
        until = now if self.ended is None else self.ended
        return min(count, int((until - self.started) / first + 1e-9))

    @property
    def logs(self) -> str:
        """Log that the model has printed so far."""
        if self.started is None:
            return ""
        return f"Using seed: {self.seed}\n{self.destiny.log if self.output_ready else ''}"

    def data_is_removed(self, now: float, retention: float) -> bool:
        """Return whether Replicate has deleted the input, output and files."""
        return self.ended is not None and now >= self.ended + retention


class OutcomeSampler:
    """Random choice of predictions' outcomes, reproducible for a seed."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self._rng = random.Random(f"fate {settings.seed}")  # noqa: S311 - reproducible on purpose
        self.configure(settings)

    def configure(self, settings: SimulatorSettings) -> None:
        """Apply changed settings."""
        self._settings = settings
        self._queue: Sampler = sampler(settings.queue_seconds)
        self._predict: Sampler = sampler(settings.predict_seconds)

    def of(self, asked: Creation) -> Outcome:
        """Return the outcome of a new prediction."""
        settings = self._settings
        queue_seconds = self._queue(self._rng, 0.5)
        predict_seconds = self._predict(self._rng, asked.model.typical_seconds)
        words = _prompt(asked.input) if settings.prompt_words else ""
        error = asked.error
        if "[nsfw]" in words or self._happens(settings.nsfw):
            error = "NSFW content detected. Try running it again, or try a different prompt. (E005)"
        elif "[fail]" in words or self._happens(settings.failing):
            error = settings.failure_text
        if "[hang]" in words or self._happens(settings.hanging):
            predict_seconds = NEVER
        elif "[slow]" in words:
            predict_seconds = settings.slow_seconds
        makes_none = any(each in words for each in ("[no-output]", "[nsfw-log]", "[words]"))
        return Outcome(
            queue_seconds,
            predict_seconds,
            error,
            has_output=not makes_none and not self._happens(settings.no_output),
            words=_WORDS if "[words]" in words else None,
            log=_NSFW_LOG if "[nsfw-log]" in words else "",
            has_metrics=not self._happens(settings.missing_metrics),
            output_before_end=self._happens(settings.output_before_end),
            one_by_one=settings.files_one_by_one and asked.model.output == "list",
        )

    def seed_of(self, asked: Creation) -> int:
        """Return the requested seed, or a random one."""
        given = asked.input.get("seed")
        return given if isinstance(given, int) else secrets.randbelow(_SEEDS)

    def _happens(self, rate: float) -> bool:
        return rate > 0 and self._rng.random() < rate


def new_id() -> str:
    """Return a random id of 26 letters and digits, unique whatever the seed."""
    number = secrets.randbits(130)
    return "".join(_BASE32[number >> shift & 31] for shift in range(0, 130, 5))


def _prompt(given: dict[str, Any]) -> str:
    prompt = given.get("prompt")
    return prompt if isinstance(prompt, str) and "[" in prompt else ""
