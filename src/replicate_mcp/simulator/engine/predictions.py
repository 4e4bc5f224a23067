"""A prediction, and how it is destined to go."""

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
    """Replicate's words for where a prediction is."""

    STARTING = "starting"
    PROCESSING = "processing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True)
class Creation:
    """What a request to create a prediction asked for."""

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
    """What is made of its image, by a model that takes no prompt."""
    error: str | None = None
    """Why the model must fail."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What will become of a prediction that nobody cancels."""

    queue_seconds: float
    predict_seconds: float
    error: str | None = None
    has_output: bool = True
    has_metrics: bool = True
    output_before_end: bool = False
    one_by_one: bool = False
    words: str | None = None
    """What it gives in place of files."""
    log: str = ""
    """What it prints at its end."""


@dataclass(slots=True, eq=False)
class Prediction:
    """Replicate's run of a model. Times are seconds since the epoch."""

    id: str
    order: int
    """Its place among all predictions of its account."""
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
    """Its output is there: it is out of flight, even where the status says `processing`."""
    timer: Timer | None = None
    waiters: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def is_finished(self) -> bool:
        """Whether it is out of flight."""
        return self.ended is not None or self.output_ready

    @property
    def first_file_after(self) -> float | None:
        """Seconds from its start to its first file, where its files show one by one."""
        seconds = self.destiny.predict_seconds
        if not self.destiny.one_by_one or not self.destiny.has_output or seconds in (0, NEVER):
            return None
        return seconds / (self.asked.model.file_count(self.asked.input) + 1)

    def files_shown(self, now: float) -> int:
        """How many of its files are there."""
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
        """What its model has printed."""
        if self.started is None:
            return ""
        return f"Using seed: {self.seed}\n{self.destiny.log if self.output_ready else ''}"

    def data_is_removed(self, now: float, retention: float) -> bool:
        """Whether Replicate has deleted its input, output and files."""
        return self.ended is not None and now >= self.ended + retention


class OutcomeSampler:
    """Decides what becomes of predictions, reproducibly for a seed."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self._rng = random.Random(f"fate {settings.seed}")  # noqa: S311 - wanted: the same again
        self.configure(settings)

    def configure(self, settings: SimulatorSettings) -> None:
        """Take over changed settings."""
        self._settings = settings
        self._queue: Sampler = sampler(settings.queue_seconds)
        self._predict: Sampler = sampler(settings.predict_seconds)

    def of(self, asked: Creation) -> Outcome:
        """The destiny of the next prediction."""
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
        """The seed asked for, else one of its own."""
        given = asked.input.get("seed")
        return given if isinstance(given, int) else secrets.randbelow(_SEEDS)

    def _happens(self, rate: float) -> bool:
        return rate > 0 and self._rng.random() < rate


def new_id() -> str:
    """26 letters and digits; never the same twice, whatever the seed."""
    number = secrets.randbits(130)
    return "".join(_BASE32[number >> shift & 31] for shift in range(0, 130, 5))


def _prompt(given: dict[str, Any]) -> str:
    prompt = given.get("prompt")
    return prompt if isinstance(prompt, str) and "[" in prompt else ""
