"""Finding out what became of attempts whose answer is not there, from the list of predictions."""

import logging
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

import anyio

from replicate_mcp.batches.backend import Backend, NotedAttempt
from replicate_mcp.replicate_api.attempts import (
    ListedPrediction,
    OpenAttempt,
    PredictionList,
    assign,
    cannot_be_told,
    fits,
    was_not_made,
)
from replicate_mcp.replicate_api.faults import Fault, Refusal
from replicate_mcp.replicate_api.gateway import Gateway

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often the list is read while somebody waits for it: one reader for all of an account's."""


class Verdict(Enum):
    """What became of an attempt that has no prediction."""

    NOT_MADE = auto()
    UNKNOWN = auto()
    REFUSED = auto()
    """No token that was asked with may read the list any more."""


@dataclass(eq=False, slots=True)
class _Wanted:
    """What somebody asks about an attempt."""

    gateway: Gateway
    to_cancel: bool
    since: float
    answer: "str | Verdict | None" = None
    known: anyio.Event = field(default_factory=anyio.Event)


class Settlement:
    """One account's attempts, settled one to one against its list, for all who ask at once."""

    def __init__(self, account: str, backend: Backend, spawn: Callable[..., object]) -> None:
        self._account = account
        self._backend = backend
        self._spawn = spawn
        self._wanted: defaultdict[int, list[_Wanted]] = defaultdict(list)
        self._reading = False

    async def find(
        self, permit: int, gateway: Gateway, *, to_cancel: bool = False
    ) -> str | Verdict:
        """The id of the attempt's prediction, or why it has none.

        Args:
            to_cancel: the prediction is to be stopped while its answer is still held: one that
                could also be another attempt's, which is not, is not given, and that there is
                none is never the answer.
        """
        wanted = _Wanted(gateway, to_cancel, gateway.now())
        self._wanted[permit].append(wanted)
        if not self._reading:
            self._reading = True
            self._spawn(self._read)
        try:
            await wanted.known.wait()
        finally:
            self._wanted[permit].remove(wanted)
            if not self._wanted[permit]:
                del self._wanted[permit]
        assert wanted.answer is not None
        return wanted.answer

    async def _read(self) -> None:
        try:
            while self._wanted:
                try:
                    await self._look()
                except Exception as error:
                    # Whatever it was, somebody waits for the answer: look again.
                    log.warning("the list of predictions could not be read: %s", error)
                await anyio.sleep(LOOK_SECONDS)
        finally:
            self._reading = False

    async def _look(self) -> None:
        noted = {each.permit: each for each in await self._backend.open_attempts(self._account)}
        for permit in list(self._wanted):
            if permit not in noted:
                self._answer(permit, Verdict.UNKNOWN)
            elif known := noted[permit].prediction_id:
                self._answer(permit, known)
        open_attempts = [_open(each) for each in noted.values() if each.prediction_id is None]
        asked = [each for each in open_attempts if each.permit in self._wanted]
        if not asked:
            return
        listed = await self._list(min(each.sent_at for each in asked))
        taken = await self._backend.known_predictions(self._account)
        assigned = assign(open_attempts, listed.predictions if listed else (), taken)
        given = taken | {each.id for each in assigned.values()}
        for attempt in asked:
            wanted = self._wanted.get(attempt.permit)
            if not wanted:
                continue
            now, since = wanted[0].gateway.now(), max(each.since for each in wanted)
            prediction = assigned.get(attempt.permit)
            if prediction is not None:
                batch = noted[attempt.permit].batch
                if self._may_be_given(attempt, prediction, open_attempts) and (
                    await self._backend.claim_prediction(attempt.permit, batch, prediction.id)
                ):
                    self._answer(attempt.permit, prediction.id)
            elif listed is not None and was_not_made(attempt, listed, given, since=since, now=now):
                self._answer(attempt.permit, Verdict.NOT_MADE)
            elif cannot_be_told(attempt, listed, since=since, now=now):
                self._answer(attempt.permit, Verdict.UNKNOWN)

    async def _list(self, since: float) -> PredictionList | None:
        """The account's list, by any of the tokens that are asked with; None if not now."""
        refused = 0
        asking = {id(each.gateway): each.gateway for some in self._wanted.values() for each in some}
        for gateway in asking.values():
            try:
                return await gateway.predictions_since(since)
            except Refusal as refusal:
                refused += refusal.status in (401, 403)
            except Fault:
                continue
        if refused == len(asking):
            for permit in list(self._wanted):
                self._answer(permit, Verdict.REFUSED)
        return None

    def _may_be_given(
        self, attempt: OpenAttempt, prediction: ListedPrediction, others: list[OpenAttempt]
    ) -> bool:
        wanted = self._wanted.get(attempt.permit, [])
        if any(not each.to_cancel for each in wanted):
            return True
        return all(other.permit in self._wanted or not fits(other, prediction) for other in others)

    def _answer(self, permit: int, answer: str | Verdict) -> None:
        for wanted in self._wanted.get(permit, ()):
            if answer is not Verdict.NOT_MADE or not wanted.to_cancel:
                wanted.answer = answer
                wanted.known.set()


def _open(noted: NotedAttempt) -> OpenAttempt:
    return OpenAttempt(noted.permit, noted.model, noted.inputs, noted.cancel_after, noted.sent_at)
