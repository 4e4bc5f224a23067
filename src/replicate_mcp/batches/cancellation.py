"""Cancellation: create nothing more of a batch, and cancel its running predictions."""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import chain, repeat

import anyio

from replicate_mcp.batches import messages
from replicate_mcp.batches.outcome import failure
from replicate_mcp.batches.running_batch import Reason, RunningBatch
from replicate_mcp.batches.services import BatchServices
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.replicate_api.exceptions import ApiStatusError, ReplicateApiError
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.semaphores.names import account_semaphore
from replicate_mcp.semaphores.permit_store import AdmissionResult

log = logging.getLogger(__name__)

CANCEL_SECONDS = 300.0
"""Longest time to retry a cancel request; after it, `Cancel-After` ends the prediction."""

RETRY_DELAYS_SECONDS = (0.5, 1.0, 2.0, 4.0)
"""Delays between cancel requests, the last one repeated; a 429 may ask for longer ones."""

ROWS_A_STEP = 100
"""Results recorded in one call: a thousand block the event loop for a tenth of a second."""

CANCELED: Reason = ("canceled", messages.CANCELED, True)

_OUT_OF_TIME = "The batch's time was up before this task was created{why}: send it again."


class Cancellation:
    """Fails pending tasks of a batch, and cancels its running predictions."""

    def __init__(self, services: BatchServices) -> None:
        self._services = services

    def cancel(self, batch: RunningBatch) -> None:
        """Cancel a batch on request, including its predictions on Replicate.

        The work is done in the background, since the request for it may itself be cancelled.
        """
        if not batch.canceled:
            batch.canceled = True
            batch.stop_creating(CANCELED)
            self._services.spawn(self.abandon_pending, batch, CANCELED)
            self._services.spawn(self._stop_predictions, batch)

    async def abandon_pending(self, batch: RunningBatch, reason: Reason) -> None:
        """Fail every task that is not created yet with `reason`, now and from now on."""
        batch.stop_creating(reason)
        await self._services.retry_and_dispatch(self._services.permits.dequeue, batch.id)
        await self.fail_pending(batch)

    async def drop_out_of_time(self, batch: RunningBatch) -> None:
        """Fail every task that is not created yet, because the batch's deadline has passed."""
        why = await self._throttling(batch)
        if not why and batch.server_error:
            why = f", because Replicate answered {batch.server_error} to its creations"
        sentence = _OUT_OF_TIME.format(why=why)
        await self.abandon_pending(batch, ("deadline_exceeded", sentence, True))

    async def _throttling(self, batch: RunningBatch) -> str:
        """Return a clause on the throttling during the batch's wait; "" if there was none."""
        try:
            states = await self._services.permits.semaphores()
        except BackendUnavailable:
            states = []
        own = next((s for s in states if s.name == account_semaphore(batch.account)), None)
        if not batch.throttled and (own is None or own.throttled_for is None):
            return ""
        rate = own.requests_per_minute if own is not None else None
        now = f", to about {max(1, round(rate))} creations a minute now" if rate else ""
        return f", because Replicate throttled the account{now}"

    async def fail_pending(self, batch: RunningBatch) -> None:
        """Fail the pending tasks of a batch that creates nothing more."""
        if batch.stop_reason is None or batch.is_let_go:
            return
        pending = list(batch.pending)
        batch.pending.clear()
        record = self._services.journal.record_results
        await self._fail(batch, pending, batch.stop_reason, record)
        # What waits for an image of another task is not in the queue.
        unqueued = partial(record, waited=False)
        await self._fail(batch, batch.dependencies.drop(), batch.stop_reason, unqueued)

    async def _fail(
        self,
        batch: RunningBatch,
        indexes: Sequence[int],
        reason: Reason,
        record: Callable[..., Awaitable[AdmissionResult]],
    ) -> None:
        for start in range(0, len(indexes), ROWS_A_STEP):
            part = indexes[start : start + ROWS_A_STEP]
            given_up = [failure(batch.tasks[index], *reason) for index in part]
            await self._services.retry_and_dispatch(record, batch.id, given_up)
            for result in given_up:
                batch.add_result(result)
                self._services.observer.task_ended(result, None)

    async def _stop_predictions(self, batch: RunningBatch) -> None:
        """Cancel the batch's running predictions, including those whose id is not known yet."""
        async with anyio.create_task_group() as group:
            for permit in batch.creating:
                group.start_soon(self._stop_creation, batch, permit)
            for permit, prediction_id in batch.following.items():
                group.start_soon(self._try_to_stop, batch, permit, prediction_id)

    async def stop(self, batch: RunningBatch, permit: int, prediction_id: str) -> None:
        """Cancel an attempt's prediction on Replicate, unless it belongs to an equal attempt.

        Raises:
            ApiStatusError: the token is no longer valid.
        """
        try:
            is_own = await self._services.attempts.claim_prediction(permit, batch.id, prediction_id)
        except BackendUnavailable:
            is_own = True
        if is_own:
            await stop_prediction(batch.gateway, prediction_id)

    async def _try_to_stop(self, batch: RunningBatch, permit: int, prediction_id: str) -> None:
        with contextlib.suppress(
            ApiStatusError
        ):  # The task that follows it gets the same error, and reports it.
            await self.stop(batch, permit, prediction_id)

    async def _stop_creation(self, batch: RunningBatch, permit: int) -> None:
        # The creation's response is held until the prediction ends; the list shows the id earlier.
        async with anyio.create_task_group() as group:

            async def find() -> None:
                found = await batch.reconciler.resolve(permit, batch.gateway, to_cancel=True)
                if isinstance(found, str):
                    await cancel_quietly(batch.gateway, found)

            group.start_soon(find)
            while permit in batch.creating:
                await batch.changed.wait()
            group.cancel_scope.cancel()


async def stop_prediction(gateway: Gateway, prediction_id: str) -> None:
    """Cancel a prediction on Replicate; `Cancel-After` ends it if no request succeeds.

    Raises:
        ApiStatusError: the token is no longer valid.
    """
    with anyio.move_on_after(CANCEL_SECONDS):
        for pause in chain(RETRY_DELAYS_SECONDS, repeat(RETRY_DELAYS_SECONDS[-1])):
            try:
                return await gateway.cancel(prediction_id)
            except ReplicateApiError as fault:
                asked = 0.0
                if isinstance(fault, ApiStatusError):
                    if fault.status in (401, 403):
                        raise
                    asked = fault.retry_after or 0.0
                log.warning("prediction %s is not cancelled yet: %s", prediction_id, fault)
                await anyio.sleep(max(pause, asked))
    return None


async def cancel_quietly(gateway: Gateway, prediction_id: str) -> None:
    """Cancel a prediction that another task follows, and ignore a rejected token."""
    with contextlib.suppress(ApiStatusError):  # The task that follows it reports the error.
        await stop_prediction(gateway, prediction_id)
