"""Finding out what became of attempts whose answer is not there, from the list of predictions."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

import anyio

from replicate_mcp.batches.backend import Backend, NotedAttempt
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.replicate_api.attempts import (
    CLOCK_SLACK,
    SETTLED_WITHIN_SECONDS,
    ListedPrediction,
    OpenAttempt,
    assign,
    fits,
    was_not_made,
)
from replicate_mcp.replicate_api.faults import Fault
from replicate_mcp.replicate_api.gateway import Gateway

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often the list is read while somebody waits for it: one reader for all of an account's."""


class Verdict(Enum):
    """What became of an attempt that has no prediction."""

    NOT_MADE = auto()
    UNKNOWN = auto()


@dataclass(slots=True)
class _Wanted:
    """An attempt somebody asks about; `alone` where no other attempt's prediction may be taken."""

    alone: bool
    answer: "str | Verdict | None" = None
    known: anyio.Event = field(default_factory=anyio.Event)


class Settlement:
    """One account's attempts, settled one to one against its list, for all who ask at once."""

    def __init__(
        self, account: str, gateway: Gateway, backend: Backend, spawn: Callable[..., object]
    ) -> None:
        self._account = account
        self._gateway = gateway
        self._backend = backend
        self._spawn = spawn
        self._wanted: dict[int, _Wanted] = {}
        self._reading = False

    async def find(self, permit: int, *, to_cancel: bool = False) -> str | Verdict:
        """The id of the attempt's prediction, or why it has none.

        Args:
            to_cancel: the prediction is to be stopped: one that could also be another attempt's,
                which is not, is not given.
        """
        wanted = self._wanted.setdefault(permit, _Wanted(alone=to_cancel))
        if not self._reading:
            self._reading = True
            self._spawn(self._read)
        try:
            await wanted.known.wait()
        finally:
            self._wanted.pop(permit, None)
        assert wanted.answer is not None
        return wanted.answer

    async def _read(self) -> None:
        try:
            while self._wanted:
                try:
                    await self._look()
                except BackendUnavailable as error:
                    log.warning("%s", error)
                if self._wanted:
                    await anyio.sleep(LOOK_SECONDS)
        finally:
            self._reading = False

    async def _look(self) -> None:
        noted = await self._backend.open_attempts(self._account)
        asked_at = self._gateway.now()
        open_attempts = [_open(each) for each in noted if each.prediction_id is None]
        asked = [each for each in open_attempts if each.permit in self._wanted]
        for permit in self._wanted.keys() - {each.permit for each in noted}:
            self._answer(permit, Verdict.UNKNOWN)
        if not asked:
            return
        try:
            listed = await self._gateway.predictions_since(min(each.sent_at for each in asked))
        except Fault:
            listed = None
        taken = await self._backend.known_predictions(self._account)
        assigned = assign(open_attempts, listed, taken) if listed is not None else {}
        batches = {each.permit: each.batch for each in noted}
        given = taken | {each.id for each in assigned.values()}
        for attempt in asked:
            prediction = assigned.get(attempt.permit)
            if prediction is not None:
                if self._may_be_given(attempt, prediction, open_attempts) and (
                    await self._backend.claim_prediction(
                        attempt.permit, batches[attempt.permit], prediction.id
                    )
                ):
                    self._answer(attempt.permit, prediction.id)
            elif listed is not None and was_not_made(attempt, listed, given, now=asked_at):
                self._answer(attempt.permit, Verdict.NOT_MADE)
            elif asked_at > attempt.sent_at + CLOCK_SLACK + SETTLED_WITHIN_SECONDS:
                self._answer(attempt.permit, Verdict.UNKNOWN)

    def _may_be_given(
        self, attempt: OpenAttempt, prediction: ListedPrediction, others: list[OpenAttempt]
    ) -> bool:
        if attempt.permit not in self._wanted or not self._wanted[attempt.permit].alone:
            return True
        return all(other.permit in self._wanted or not fits(other, prediction) for other in others)

    def _answer(self, permit: int, answer: str | Verdict) -> None:
        if wanted := self._wanted.get(permit):
            wanted.answer = answer
            wanted.known.set()


def _open(noted: NotedAttempt) -> OpenAttempt:
    return OpenAttempt(noted.permit, noted.model, noted.inputs, noted.cancel_after, noted.sent_at)
