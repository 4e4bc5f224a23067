"""Reconciliation: matches attempts without a response to the account's list of predictions."""

import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from itertools import chain

import anyio

from replicate_mcp.batches.attempt_store import AttemptRecord, AttemptStore
from replicate_mcp.platform.clock import steady_time
from replicate_mcp.replicate_api.attempt_matching import (
    ListedPrediction,
    OpenAttempt,
    PredictionList,
    is_certainly_not_created,
    is_undecidable,
    match_predictions,
    matches,
)
from replicate_mcp.replicate_api.exceptions import ApiStatusError, ReplicateApiError
from replicate_mcp.replicate_api.gateway import Gateway

log = logging.getLogger(__name__)

LIST_POLL_SECONDS = 1.0
"""Interval at which the list is read while an attempt is unresolved, by one reader per account."""


class Verdict(Enum):
    """The outcome of an attempt that has no prediction."""

    NOT_MADE = auto()
    UNKNOWN = auto()
    REFUSED = auto()
    """None of the tokens tried may read the list any longer."""


@dataclass(eq=False, slots=True)
class _Query:
    """A waiting call of `Reconciler.resolve`.

    Attributes:
        to_cancel: whether the prediction is to be cancelled.
        since: when the call was made, on Replicate's clock.
        answer: the prediction's id, or the verdict; None while unresolved.
        known: set together with `answer`.
    """

    gateway: Gateway
    to_cancel: bool
    since: float
    answer: "str | Verdict | None" = None
    known: anyio.Event = field(default_factory=anyio.Event)


class Reconciler:
    """Matches one account's attempts to its predictions, one to one, for all concurrent callers."""

    def __init__(self, account: str, attempts: AttemptStore, spawn: Callable[..., object]) -> None:
        self._account = account
        self._attempts = attempts
        self._spawn = spawn
        self._queries: defaultdict[int, list[_Query]] = defaultdict(list)
        self._reading = False

    async def resolve(
        self, permit: int, gateway: Gateway, *, to_cancel: bool = False
    ) -> str | Verdict:
        """Return the id of the attempt's prediction, or why it has none.

        Args:
            permit: permit of the attempt.
            gateway: gateway to Replicate with a token of the account.
            to_cancel: the prediction is to be cancelled while the response to its creation is still
                outstanding. A prediction that could also belong to an attempt that is not being
                cancelled is not returned, and `Verdict.NOT_MADE` is never returned.
        """
        query = _Query(gateway, to_cancel, gateway.now())
        self._queries[permit].append(query)
        if not self._reading:
            self._reading = True
            self._spawn(self._read)
        try:
            await query.known.wait()
        finally:
            self._queries[permit].remove(query)
            if not self._queries[permit]:
                del self._queries[permit]
        assert query.answer is not None
        return query.answer

    async def _read(self) -> None:
        try:
            while self._queries:
                try:
                    await self._poll_list()
                except Exception as error:
                    # Whatever the error, calls of `resolve` wait for the result: read the list
                    # again.
                    log.warning("the list of predictions could not be read: %s", error)
                await anyio.sleep(LIST_POLL_SECONDS)
        finally:
            self._reading = False

    async def _poll_list(self) -> None:
        permits = list(self._queries)  # Calls of `resolve` from now on wait for the next poll.
        recorded = await self._open_attempts()
        for permit in permits:
            if permit not in recorded:
                self._answer(permit, Verdict.UNKNOWN)
            elif known := recorded[permit].prediction_id:
                self._answer(permit, known)
        asked = [each for each in _open(recorded) if each.permit in self._queries]
        if not asked:
            return
        began = steady_time()
        listed = await self._list(min(each.sent_at for each in asked))
        # Read both after the list, in this order: then each listed prediction either is in `taken`,
        # or its attempt is still open.
        taken = await self._attempts.list_prediction_ids(self._account)
        recorded = await self._open_attempts()
        open_attempts = _open(recorded)
        assigned = match_predictions(open_attempts, listed.predictions if listed else (), taken)
        for attempt in open_attempts:
            waiters = self._queries.get(attempt.permit)
            if not waiters:
                continue
            # A prediction created while the list was read may be missing from it.
            now = waiters[0].gateway.now() - (steady_time() - began)
            since = max(each.since for each in waiters)
            prediction = assigned.get(attempt.permit)
            if prediction is not None:
                batch = recorded[attempt.permit].batch
                if self._can_assign(attempt, prediction, open_attempts) and (
                    await self._attempts.claim_prediction(attempt.permit, batch, prediction.id)
                ):
                    self._answer(attempt.permit, prediction.id)
            elif listed is not None and is_certainly_not_created(
                attempt, listed, taken | _others(attempt, assigned), since=since, now=now
            ):
                self._answer(attempt.permit, Verdict.NOT_MADE)
            elif is_undecidable(attempt, listed, since=since, now=now):
                self._answer(attempt.permit, Verdict.UNKNOWN)

    async def _open_attempts(self) -> dict[int, AttemptRecord]:
        return {each.permit: each for each in await self._attempts.open_attempts(self._account)}

    async def _list(self, since: float) -> PredictionList | None:
        """Return the account's list, read with any waiting token; None if no token works now."""
        refused: set[int] = set()
        for gateway in self._gateways():
            try:
                return await gateway.predictions_since(since)
            except ApiStatusError as refusal:
                if refusal.status in (401, 403):
                    refused.add(id(gateway))
            except ReplicateApiError:
                continue
        if refused.issuperset(map(id, self._gateways())):
            for permit in list(self._queries):
                self._answer(permit, Verdict.REFUSED)
        return None

    def _gateways(self) -> list[Gateway]:
        waiters = chain.from_iterable(self._queries.values())
        return list({id(each.gateway): each.gateway for each in waiters}.values())

    def _can_assign(
        self, attempt: OpenAttempt, prediction: ListedPrediction, others: list[OpenAttempt]
    ) -> bool:
        """Return whether a prediction to be cancelled matches no attempt that goes on."""
        if not self._is_cancelled(attempt.permit):
            return True
        return all(
            self._is_cancelled(each.permit) or not matches(each, prediction) for each in others
        )

    def _is_cancelled(self, permit: int) -> bool:
        """Return whether all waiting calls for an attempt, at least one, are to cancel it."""
        waiters = self._queries.get(permit, [])
        return bool(waiters) and all(each.to_cancel for each in waiters)

    def _answer(self, permit: int, answer: str | Verdict) -> None:
        for query in self._queries.get(permit, ()):
            if answer is not Verdict.NOT_MADE or not query.to_cancel:
                query.answer = answer
                query.known.set()


def _open(recorded: Mapping[int, AttemptRecord]) -> list[OpenAttempt]:
    """Return the attempts without a known prediction."""
    return [
        OpenAttempt(each.permit, each.model, each.inputs, each.cancel_after, each.sent_at)
        for each in recorded.values()
        if each.prediction_id is None
    ]


def _others(attempt: OpenAttempt, assigned: Mapping[int, ListedPrediction]) -> set[str]:
    """Return the ids assigned to other attempts that do not match `attempt`."""
    return {each.id for each in assigned.values() if not matches(attempt, each)}
