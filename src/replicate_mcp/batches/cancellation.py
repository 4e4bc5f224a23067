"""Stopping a batch: nothing more of it is created, and what runs at Replicate is cancelled."""

import contextlib
import logging
from itertools import chain, repeat

import anyio

from replicate_mcp.batches.outcome import failure
from replicate_mcp.batches.running_batch import Reason, RunningBatch
from replicate_mcp.batches.services import BatchServices
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.replicate_api.exceptions import ApiStatusError, ReplicateApiError
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.semaphores.names import account_semaphore

log = logging.getLogger(__name__)

CANCEL_SECONDS = 300.0
"""For how long a prediction is asked to stop; its `Cancel-After` ends it if none gets through."""

RETRY_DELAYS_SECONDS = (0.5, 1.0, 2.0, 4.0)
"""Seconds between such requests, the last one from then on; a 429 may ask for more."""

ROWS_A_STEP = 100
"""Results recorded in one step: a thousand hold the event loop for a tenth of a second."""

CANCELED: Reason = ("canceled", "The batch was cancelled before this task was created.", True)

_OUT_OF_TIME = "The batch's time was up before this task was created{why}: send it again."


class Cancellation:
    """Gives up on tasks that wait, and stops what runs."""

    def __init__(self, services: BatchServices) -> None:
        self._services = services

    def cancel(self, batch: RunningBatch) -> None:
        """Stop a batch because somebody asked for it, on Replicate too.

        It is seen to in the background: the request that asks for it may itself go away.
        """
        if not batch.canceled:
            batch.canceled = True
            batch.stop_creating(CANCELED)
            self._services.spawn(self.abandon_pending, batch, CANCELED)
            self._services.spawn(self._stop_predictions, batch)

    async def abandon_pending(self, batch: RunningBatch, reason: Reason) -> None:
        """Give up on every task that was not created, now and later, for this reason."""
        batch.stop_creating(reason)
        await self._services.retry_and_dispatch(self._services.backend.dequeue, batch.id)
        await self.fail_pending(batch)

    async def drop_out_of_time(self, batch: RunningBatch) -> None:
        """Give up on every task that was not created, since the batch's time is up."""
        why = await self._throttling(batch)
        if not why and batch.server_error:
            why = f", because Replicate answered {batch.server_error} to its creations"
        sentence = _OUT_OF_TIME.format(why=why)
        await self.abandon_pending(batch, ("deadline_exceeded", sentence, True))

    async def _throttling(self, batch: RunningBatch) -> str:
        """Say that Replicate throttled the account while the batch waited; "" where it did not."""
        try:
            states = await self._services.backend.semaphores()
        except BackendUnavailable:
            states = []
        own = next((s for s in states if s.name == account_semaphore(batch.account)), None)
        if not batch.throttled and (own is None or own.throttled_for is None):
            return ""
        rate = own.requests_per_minute if own is not None else None
        now = f", to about {max(1, round(rate))} creations a minute now" if rate else ""
        return f", because Replicate throttled the account{now}"

    async def fail_pending(self, batch: RunningBatch) -> None:
        """Where the batch was given up, end its tasks that wait."""
        if batch.stop_reason is None:
            return
        dropped = list(batch.pending)
        batch.pending.clear()
        for start in range(0, len(dropped), ROWS_A_STEP):
            part = dropped[start : start + ROWS_A_STEP]
            given_up = [failure(batch.tasks[index], *batch.stop_reason) for index in part]
            await self._services.retry_and_dispatch(
                self._services.backend.record_results, batch.id, given_up
            )
            for result in given_up:
                batch.add_result(result)
                self._services.observer.task_ended(result, None)

    async def _stop_predictions(self, batch: RunningBatch) -> None:
        """Cancel what runs at Replicate, whether its id is known yet or has to be found."""
        async with anyio.create_task_group() as group:
            for permit in batch.creating:
                group.start_soon(self._stop_creation, batch, permit)
            for permit, prediction_id in batch.following.items():
                group.start_soon(self._try_to_stop, batch, permit, prediction_id)

    async def stop(self, batch: RunningBatch, permit: int, prediction_id: str) -> None:
        """Cancel an attempt's prediction at Replicate, unless an equal attempt has taken it.

        Raises:
            Refusal: the token is good for nothing any more.
        """
        try:
            is_own = await self._services.backend.claim_prediction(permit, batch.id, prediction_id)
        except BackendUnavailable:
            is_own = True
        if is_own:
            await stop_prediction(batch.gateway, prediction_id)

    async def _try_to_stop(self, batch: RunningBatch, permit: int, prediction_id: str) -> None:
        with contextlib.suppress(
            ApiStatusError
        ):  # Whoever follows it meets the same, and reports it.
            await self.stop(batch, permit, prediction_id)

    async def _stop_creation(self, batch: RunningBatch, permit: int) -> None:
        # Its answer is held until it ends: the list of predictions tells its id before that.
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
    """Cancel a prediction at Replicate; it ends by its `Cancel-After` if that does not get through.

    Raises:
        Refusal: the token is good for nothing any more.
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
    """Cancel a prediction that somebody follows, as far as its token is good for that."""
    with contextlib.suppress(ApiStatusError):  # Whoever follows it meets the same, and reports it.
        await stop_prediction(gateway, prediction_id)
