"""Execution of a task's attempts: record the attempt, send it, follow it, record its result."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import islice

import anyio

from replicate_mcp.batches.attempt_store import Attempt, RecordedAttempts
from replicate_mcp.batches.cancellation import Cancellation
from replicate_mcp.batches.outcome import failure, outcome
from replicate_mcp.batches.planning import PlannedTask
from replicate_mcp.batches.reconciliation import Verdict
from replicate_mcp.batches.running_batch import Reason, RunningBatch
from replicate_mcp.batches.services import BatchServices
from replicate_mcp.batches.tracing import attempt_span, record_result
from replicate_mcp.platform.clock import steady_time
from replicate_mcp.replicate_api.attempt_matching import (
    CLOCK_SLACK,
    MIN_CANCEL_AFTER_SECONDS,
    hash_inputs,
)
from replicate_mcp.replicate_api.error_policy import UNKNOWN, Action, rule_for
from replicate_mcp.replicate_api.exceptions import (
    ApiStatusError,
    OutcomeUnknown,
    PredictionNotCreated,
    PredictionStuck,
    ReplicateApiError,
    UnreadableCreation,
)
from replicate_mcp.replicate_api.gateway import DEADLINE_GRACE_SECONDS, HOLD_SECONDS
from replicate_mcp.replicate_api.prediction import Prediction
from replicate_mcp.semaphores import daily_quota
from replicate_mcp.semaphores.adaptive_rate import Throttling
from replicate_mcp.semaphores.permit_store import AdmissionResult, Offer
from replicate_mcp.tasks.result import TaskResult

log = logging.getLogger(__name__)

RETRY_DELAYS_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Delays before a creation that could not be sent is sent again; after the last, it fails."""

_EXPIRED = (
    "The URL of the image of {source}, which it needs, has expired: make that image again, too."
)

LOST = (
    "This task's result could not be saved. It may have been billed: check "
    "https://replicate.com/predictions before sending it again."
)


class TaskExecutor:
    """Turns offers into creations, and each creation into a result.

    Args:
        prediction_seconds: seconds after which Replicate cancels a prediction by itself.
        images_per_day: daily quota of images of an account; None for no quota.
    """

    def __init__(
        self,
        services: BatchServices,
        cancellation: Cancellation,
        *,
        prediction_seconds: int,
        images_per_day: int | None,
    ) -> None:
        self._services = services
        self._cancellation = cancellation
        self._prediction_seconds = prediction_seconds
        self._images_per_day = images_per_day

    async def start_tasks(self, batch: RunningBatch, offers: Sequence[Offer]) -> None:
        """Record an attempt for each offer, then send it."""
        seconds = min(self._prediction_seconds, int(batch.deadline - steady_time()))
        if seconds < MIN_CANCEL_AFTER_SECONDS:
            return await self._cancellation.drop_out_of_time(batch)
        await self._fail_expired(batch, len(offers))
        chosen = {offer.permit: batch.pending.popleft() for offer in offers if batch.pending}
        if not chosen:
            return None
        sent_at = batch.gateway.now() - CLOCK_SLACK
        attempts = {
            permit: Attempt(
                batch=batch.id,
                task=index,
                model=batch.tasks[index].model,
                inputs=hash_inputs(batch.dependencies.inputs(index)),
                cancel_after=seconds,
                sent_at=sent_at,
                max_seconds=seconds + HOLD_SECONDS + DEADLINE_GRACE_SECONDS,
                images=batch.tasks[index].expected_count,
            )
            for permit, index in chosen.items()
        }
        send_by = 0.0

        async def record() -> RecordedAttempts:
            nonlocal send_by
            store = self._services.attempts
            send_by = steady_time() + store.send_within_seconds
            return await store.record_attempts(attempts, images_per_day=self._images_per_day)

        try:
            recorded = await self._services.retry_until_available(record)
        except Exception:
            # Nothing was sent: the tasks wait for the next offers.
            batch.pending.extendleft(reversed(chosen.values()))
            await self._cancellation.fail_pending(batch)
            raise
        for permit, index in chosen.items():
            if permit in recorded.cancel_after:
                batch.began = batch.began or steady_time()
                batch.creating[permit] = index
                seconds = recorded.cancel_after[permit]
                self._services.spawn(self._run, batch, permit, index, seconds, send_by)
            else:
                batch.pending.append(index)
        self._services.dispatcher.dispatch(recorded.admission)
        if recorded.quota_resets_in is not None:
            # After the recorded attempts have started, which still fitted the quota.
            reason = self._cap_reached(recorded.quota_resets_in)
            return self._services.spawn(self._cancellation.abandon_pending, batch, reason)
        return await self._cancellation.fail_pending(batch)

    async def _fail_expired(self, batch: RunningBatch, count: int) -> None:
        """Fail those of the next `count` tasks that need an image whose URL has expired."""
        now = batch.gateway.now()
        failures = [
            failure(batch.tasks[index], "dependency_failed", _EXPIRED.format(source=expired))
            for index in islice(batch.pending, count)
            if (expired := batch.dependencies.expired(index, now)) is not None
        ]
        if not failures:
            return
        for each in failures:
            batch.pending.remove(each.task_index)
        await self._services.retry_and_dispatch(
            self._services.journal.record_results, batch.id, failures
        )
        for each in failures:
            batch.add_result(each)
            self._services.observer.task_ended(each, None)
            await self.settle(batch, each)

    def _cap_reached(self, resets_in: float) -> Reason:
        assert self._images_per_day is not None
        return "daily_limit", daily_quota.sentence(self._images_per_day, resets_in), True

    async def _run(
        self, batch: RunningBatch, permit: int, index: int, cancel_after: int, send_by: float
    ) -> None:
        """Run one attempt to its result, or queue its task again."""
        # Recording it may have taken long: the backend was unavailable, or the machine slept.
        if batch.deadline - steady_time() < MIN_CANCEL_AFTER_SECONDS:
            await self._cancellation.drop_out_of_time(batch)
        if batch.stop_reason is not None or batch.is_let_go:
            return await self._requeue(batch, permit, index)
        task, sent_at = batch.tasks[index], steady_time()
        self._services.observer.creation_sent(sent_at - batch.opened)
        with attempt_span(batch.trace, batch=batch.id, task=index, model=task.model) as span:
            result = await self._attempt(batch, permit, task, cancel_after, send_by)
            if result is not None:
                record_result(span, result)
                self._services.observer.task_ended(result, steady_time() - sent_at)
        return None

    async def _attempt(
        self,
        batch: RunningBatch,
        permit: int,
        task: PlannedTask,
        cancel_after: int,
        send_by: float,
    ) -> TaskResult | None:
        """Return the task's result, once recorded; None if the task is queued again."""
        until = batch.gateway.now() + cancel_after
        reopened = False
        while True:
            ended = True
            try:
                prediction = await (
                    self._reconcile(batch, permit)
                    if reopened
                    else self._created(batch, permit, task, cancel_after, send_by)
                )
                self._found(batch, permit, prediction.id)
                if not prediction.is_complete_with(task.complete_at_count):
                    if batch.canceled:
                        await self._cancellation.stop(batch, permit, prediction.id)
                    prediction = await batch.gateway.follow(prediction, until=until)
                result: TaskResult | None = outcome(
                    task, prediction, batch.names, canceled=batch.canceled, now=batch.gateway.now()
                )
            except ReplicateApiError as fault:
                result = await self._after_fault(batch, permit, task, fault)
                ended = permit not in batch.following and not rule_for(fault).may_exist
            except Exception:
                # An unexpected error: the task still ends, and its permit is still released.
                log.exception("task %d of %s failed unexpectedly", task.index, batch.id)
                known = batch.following.get(permit)
                result = failure(task, "create_outcome_unknown", UNKNOWN, prediction_id=known)
                ended = False
            if result is None:
                return None
            result, admission = await self._recorded(batch, permit, task, result, ended=ended)
            if admission is not None:
                break
            # Another, equal attempt has claimed that prediction: this one is open again.
            batch.following.pop(permit, None)
            reopened = True
        self._untrack(batch, permit)
        batch.add_result(result)
        self._services.dispatcher.dispatch(admission)
        await self.settle(batch, result)
        return result

    async def settle(self, batch: RunningBatch, result: TaskResult) -> None:
        """Queue the tasks that waited for a result alone, and fail those that cannot be made."""
        ready, failures = batch.dependencies.settle(result)
        if failures:
            record = partial(self._services.journal.record_results, waited=False)
            await self._services.retry_and_dispatch(record, batch.id, failures)
            for each in failures:
                batch.add_result(each)
                self._services.observer.task_ended(each, None)
        if not ready:
            return
        batch.pending.extend(ready)
        if batch.stop_reason is None:
            entry = replace(batch.entry, waiting=len(ready))
            await self._services.retry_and_dispatch(self._services.permits.enqueue, entry)
        if (
            batch.stop_reason is not None
        ):  # Its entry may have been removed before these were added.
            await self._cancellation.abandon_pending(batch, batch.stop_reason)

    async def _recorded(
        self,
        batch: RunningBatch,
        permit: int,
        task: PlannedTask,
        result: TaskResult,
        *,
        ended: bool,
    ) -> tuple[TaskResult, AdmissionResult | None]:
        """Return the task's result as recorded, and the offers that its permit's release allows."""
        finish = partial(self._services.attempts.finish, permit, batch.id, ended=ended)
        try:
            return result, await self._services.retry_until_available(finish, result)
        except Exception:
            # A result that cannot be recorded must not keep its batch or its permit from ending.
            log.exception("the result of task %d of %s cannot be recorded", task.index, batch.id)
        plain = failure(task, "create_outcome_unknown", LOST, prediction_id=result.prediction_id)
        return plain, await self._services.retry_until_available(finish, plain)

    async def _created(
        self,
        batch: RunningBatch,
        permit: int,
        task: PlannedTask,
        cancel_after: int,
        send_by: float,
    ) -> Prediction:
        """Return the attempt's prediction, from the response, or from the list if that was lost."""
        try:
            inputs = batch.dependencies.inputs(task.index)
            made = await batch.gateway.create(
                task.target, inputs, cancel_after=cancel_after, send_by=send_by
            )
            batch.server_error = 0
            return made
        except ReplicateApiError as fault:
            status = fault.status if isinstance(fault, ApiStatusError) else 0
            batch.server_error = status if status >= 500 else 0
            if rule_for(fault).action is not Action.RECONCILE:
                raise
            self._services.observer.response_lost()
            log.info("task %d of %s: %s; searching the list", task.index, batch.id, fault)
            was_made = isinstance(fault, UnreadableCreation)
        try:
            return await self._reconcile(batch, permit)
        except PredictionNotCreated:
            if was_made:  # Whatever the list shows: sending it again would bill it twice.
                raise OutcomeUnknown from None
            raise

    async def _reconcile(self, batch: RunningBatch, permit: int) -> Prediction:
        found = await batch.reconciler.resolve(permit, batch.gateway)
        if found is Verdict.NOT_MADE:
            raise PredictionNotCreated("the creation did not arrive")
        if isinstance(found, Verdict):
            raise OutcomeUnknown
        return Prediction.from_id(found)

    async def _after_fault(
        self, batch: RunningBatch, permit: int, task: PlannedTask, fault: ReplicateApiError
    ) -> TaskResult | None:
        """Return the task's result; None if the task is queued again."""
        rule = rule_for(fault, is_resolved=task.target.is_resolved)
        known = batch.following.get(permit)
        if known is not None:
            # The prediction exists, whatever the error suggests.
            is_definite = isinstance(fault, PredictionStuck) or rule.code == "unauthorized"
            code = rule.code if is_definite else "create_outcome_unknown"
            sentence = f"Its prediction could not be followed to its end: {fault}."
            return failure(task, code, sentence, prediction_id=known)
        if rule.action is Action.FAIL:
            return failure(task, rule.code, rule.sentence, rule.retryable)
        if rule.action is Action.FAIL_BATCH:
            await self._cancellation.abandon_pending(
                batch, (rule.code, rule.sentence, rule.retryable)
            )
            return failure(task, rule.code, rule.sentence, rule.retryable)
        throttling = None
        if isinstance(fault, ApiStatusError):
            per_minute, burst = fault.reduced_to or (None, None)
            throttling = Throttling(fault.retry_after, per_minute, burst)
            batch.throttled = True
            self._services.observer.creation_throttled()
        else:
            tries = batch.retries.get(task.index, 0)
            if tries >= len(RETRY_DELAYS_SECONDS):
                return failure(task, rule.code, rule.sentence, rule.retryable)
            batch.retries[task.index] = tries + 1
            self._services.observer.creation_retried()
            # The permit is held meanwhile: other tasks could not use it either.
            with anyio.move_on_after(RETRY_DELAYS_SECONDS[tries]):
                await batch.stopping.wait()
        await self._requeue(batch, permit, task.index, throttling)
        return None

    async def _requeue(
        self, batch: RunningBatch, permit: int, index: int, throttling: Throttling | None = None
    ) -> None:
        """Release the permit of an attempt that created nothing, and queue the task again."""
        batch.pending.append(index)
        admission = await self._services.retry_until_available(
            self._services.attempts.requeue, permit, throttling
        )
        self._untrack(batch, permit)
        self._services.dispatcher.dispatch(admission)
        await self._cancellation.fail_pending(batch)

    def _found(self, batch: RunningBatch, permit: int, prediction_id: str) -> None:
        batch.creating.pop(permit, None)
        batch.following[permit] = prediction_id
        batch.notify()

    def _untrack(self, batch: RunningBatch, permit: int) -> None:
        batch.creating.pop(permit, None)
        batch.following.pop(permit, None)
