"""Running batches: admit, create, follow, record; every task ends in exactly one result."""

import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from replicate_mcp.batches.backend import (
    Attempt,
    Backend,
    JournalTask,
    NewBatch,
)
from replicate_mcp.batches.outcome import failure, outcome
from replicate_mcp.batches.planning import PlannedTask
from replicate_mcp.batches.recovery import Recovery
from replicate_mcp.batches.running_batch import Reason, RunningBatch
from replicate_mcp.batches.settlement import Settlement, Verdict
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.replicate_api.attempts import CLOCK_SLACK, SHORTEST_CANCEL_AFTER, hash_inputs
from replicate_mcp.replicate_api.fault_policy import UNKNOWN, Action, rule_for
from replicate_mcp.replicate_api.faults import Fault, NeverEnded, NotMade, OutcomeUnknown, Refusal
from replicate_mcp.replicate_api.gateway import HOLD_SECONDS, PATIENCE_SECONDS, Gateway
from replicate_mcp.replicate_api.prediction import Prediction
from replicate_mcp.semaphores import daily_cap
from replicate_mcp.semaphores.holder import Holder
from replicate_mcp.semaphores.permits import Offer, QueueEntry
from replicate_mcp.semaphores.rate_learning import Throttling
from replicate_mcp.tasks.filenames import BatchFilenames
from replicate_mcp.tasks.result import TaskResult

T = TypeVar("T")

log = logging.getLogger(__name__)

SEND_AGAIN_SECONDS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Pauses before a creation that could not be sent is sent again; then it fails."""

CANCEL_TRIES = 5
"""How often a prediction is asked to stop; its `Cancel-After` ends it if none gets through."""

LOOK_SECONDS = 1.0
"""How often the journal is asked whether another process cancelled a batch of this one."""

CANCELED: Reason = ("canceled", "The batch was cancelled before this task was created.", True)
OUT_OF_TIME: Reason = (
    "deadline_exceeded",
    "The batch's time was up before this task was created: send it again.",
    True,
)


class BatchRunner:
    """The engine: it belongs to the process, and outlives every request that starts a batch."""

    def __init__(
        self,
        backend: Backend,
        holder: Holder,
        group: TaskGroup,
        *,
        prediction_seconds: int,
        batch_seconds: int,
        images_per_day: int | None = None,
    ) -> None:
        self._backend = backend
        self._holder = holder
        self._group = group
        self._prediction_seconds = prediction_seconds
        self._batch_seconds = batch_seconds
        self._images_per_day = images_per_day
        self._batches: dict[str, RunningBatch] = {}
        self._settlements: dict[str, Settlement] = {}

    async def start(
        self,
        tasks: Sequence[PlannedTask],
        *,
        gateway: Gateway,
        account: str,
        caller: str,
        shown_semaphore: str,
        semaphores: tuple[str, ...],
        at_most: int | None = None,
    ) -> RunningBatch:
        """Begin a batch; it runs to its end whoever waits for it.

        Args:
            shown_semaphore: the name its caller knows it by.
            semaphores: one unit of each is needed for every task; the account's own is first.
            at_most: how many of its tasks may run at once; None for the semaphores' limits alone.
        """
        batch = RunningBatch(
            id=f"b_{secrets.token_hex(8)}",
            account=account,
            tasks=tasks,
            gateway=gateway,
            settlement=self._settlement(account),
            names=BatchFilenames(
                [task.output_filename for task in tasks],
                [task.expected_format for task in tasks],
                [task.expected_count for task in tasks],
            ),
            deadline=anyio.current_time() + self._batch_seconds,
            pending=deque(range(len(tasks))),
        )
        journal_tasks = tuple(
            JournalTask(task.prompt, task.output_filename, task.model) for task in tasks
        )
        self._batches[batch.id] = batch
        self._holder.attend(batch.id, lambda offers: self._spawn(self._take, batch, offers))
        try:
            room = await self._backend.open_batch(
                NewBatch(batch.id, caller, account, shown_semaphore, journal_tasks),
                QueueEntry(batch.id, semaphores, account, len(tasks), at_most),
            )
        except BaseException:  # Cancelled or refused: nothing was begun.
            self._forget(batch)
            raise
        self._spawn(self._watch, batch)
        self._holder.accept(room)
        return batch

    def running(self, batch_id: str) -> RunningBatch | None:
        """The batch, if this process runs it."""
        return self._batches.get(batch_id)

    def cancel(self, batch: RunningBatch) -> None:
        """Stop a batch for good: create nothing more, and stop on Replicate what runs.

        It is seen to in the background: the request that asks for it may itself go away.
        """
        if not batch.canceled:
            batch.canceled = True
            self._give_up(batch, CANCELED)
            self._spawn(self._drop, batch, CANCELED)
            self._spawn(self._stop_predictions, batch)

    def recover(self, account: str, gateway: Gateway) -> None:
        """Take over, from now on, what the account's dead processes left."""
        settlement = self._settlement(account)
        recovery = Recovery(account, gateway, settlement, self._backend, self._holder, self._spawn)
        self._spawn(recovery.run)

    async def hear_cancels(self) -> None:
        """Stop the batches that another process was asked to cancel."""
        while True:
            # Being woken is only a hint: while batches run, the journal is looked at anyway.
            with anyio.move_on_after(LOOK_SECONDS if self._batches else None):
                await self._holder.heard()
            for batch_id in await self._keep_trying(self._backend.canceled_batches):
                if batch := self._batches.get(batch_id):
                    self.cancel(batch)

    # A batch's life

    async def _watch(self, batch: RunningBatch) -> None:
        """See to the batch's deadline, and to its end."""
        with anyio.move_on_at(batch.deadline - SHORTEST_CANCEL_AFTER):
            await batch.ended.wait()
        if not batch.ended.is_set():
            await self._drop(batch, OUT_OF_TIME)
            await batch.ended.wait()
        self._forget(batch)

    def _forget(self, batch: RunningBatch) -> None:
        self._batches.pop(batch.id, None)
        self._holder.forget(batch.id)

    async def _drop(self, batch: RunningBatch, reason: Reason) -> None:
        """Give up on every task that was not created, now and later, for this reason."""
        self._give_up(batch, reason)
        self._holder.accept(await self._keep_trying(self._backend.leave, batch.id))
        await self._fail_pending(batch)

    @staticmethod
    def _give_up(batch: RunningBatch, reason: Reason) -> None:
        batch.dropped = batch.dropped or reason
        batch.stopping.set()

    async def _fail_pending(self, batch: RunningBatch) -> None:
        if batch.dropped is None or not batch.pending:
            return
        given_up = [failure(batch.tasks[index], *batch.dropped) for index in batch.pending]
        batch.pending.clear()
        self._holder.accept(await self._keep_trying(self._backend.record, batch.id, given_up))
        for result in given_up:
            batch.note(result)

    async def _stop_predictions(self, batch: RunningBatch) -> None:
        """Cancel what runs at Replicate, whether its id is known yet or has to be found."""
        async with anyio.create_task_group() as group:
            for permit in batch.creating:
                group.start_soon(self._stop_creation, batch, permit)
            for prediction_id in batch.following.values():
                group.start_soon(self._stop_prediction, batch, prediction_id)

    async def _stop_creation(self, batch: RunningBatch, permit: int) -> None:
        # Its answer is held until it ends: the list of predictions tells its id before that.
        async with anyio.create_task_group() as group:

            async def find() -> None:
                found = await batch.settlement.find(permit, batch.gateway, to_cancel=True)
                if isinstance(found, str):
                    await self._stop_prediction(batch, found)
                group.cancel_scope.cancel()

            group.start_soon(find)
            while permit in batch.creating:
                await batch.changed.wait()
            group.cancel_scope.cancel()

    async def _stop_prediction(self, batch: RunningBatch, prediction_id: str) -> None:
        for _ in range(CANCEL_TRIES):
            try:
                await batch.gateway.cancel(prediction_id)
                break
            except Fault as fault:
                log.warning("prediction %s is not cancelled yet: %s", prediction_id, fault)
                await anyio.sleep(1)

    # A task's life

    async def _take(self, batch: RunningBatch, offers: Sequence[Offer]) -> None:
        """Turn offers into creations: note each attempt, then send it."""
        seconds = self._cancel_after(batch)
        if seconds < SHORTEST_CANCEL_AFTER:
            return await self._drop(batch, OUT_OF_TIME)
        chosen = {offer.permit: batch.pending.popleft() for offer in offers if batch.pending}
        if not chosen:
            return None
        sent_at = batch.gateway.now() - CLOCK_SLACK
        attempts = {
            permit: Attempt(
                batch=batch.id,
                task=index,
                model=batch.tasks[index].model,
                inputs=hash_inputs(batch.tasks[index].inputs),
                cancel_after=seconds,
                sent_at=sent_at,
                seconds_at_most=seconds + HOLD_SECONDS + PATIENCE_SECONDS,
                images=batch.tasks[index].expected_count,
            )
            for permit, index in chosen.items()
        }
        noted = await self._keep_trying(
            partial(self._backend.note_attempts, attempts, images_per_day=self._images_per_day)
        )
        for permit, index in chosen.items():
            if permit in noted.cancel_after:
                batch.began = batch.began or anyio.current_time()
                batch.creating[permit] = index
                self._spawn(self._run, batch, permit, index, noted.cancel_after[permit])
            else:
                batch.pending.append(index)
        self._holder.accept(noted.room)
        if noted.cap_opens_in is not None:
            # After what was noted just now has begun: that still fitted.
            return self._spawn(self._drop, batch, self._cap_reached(noted.cap_opens_in))
        await self._fail_pending(batch)
        return None

    def _cap_reached(self, opens_in: float) -> Reason:
        assert self._images_per_day is not None
        return "daily_limit", daily_cap.sentence(self._images_per_day, opens_in), True

    def _cancel_after(self, batch: RunningBatch) -> int:
        return min(self._prediction_seconds, int(batch.deadline - anyio.current_time()))

    async def _run(self, batch: RunningBatch, permit: int, index: int, cancel_after: int) -> None:
        """One attempt, from its creation to its result, or back to where its task waits."""
        task = batch.tasks[index]
        until = batch.gateway.now() + cancel_after
        if batch.dropped is not None:
            return await self._wait_anew(batch, permit, index)
        reopened = False
        while True:
            try:
                prediction = await (
                    self._found_in_list(batch, permit)
                    if reopened
                    else self._created(batch, permit, task, cancel_after)
                )
                self._found(batch, permit, prediction.id)
                if batch.canceled and not prediction.done:
                    await self._stop_prediction(batch, prediction.id)
                prediction = await batch.gateway.follow(prediction, until=until)
                result: TaskResult | None = outcome(
                    task, prediction, batch.names, canceled=batch.canceled, now=batch.gateway.now()
                )
            except Fault as fault:
                result = await self._after_fault(batch, permit, task, fault)
            except Exception:
                # A fault of our own: the task still ends, and its permit still comes back.
                log.exception("task %d of %s failed in a way nobody thought of", index, batch.id)
                known = batch.following.get(permit)
                result = failure(task, "create_outcome_unknown", UNKNOWN, prediction_id=known)
            if result is None:
                return None
            room = await self._keep_trying(self._backend.finish, permit, batch.id, result)
            if room is not None:
                break
            # Another attempt, equal to this one, has taken that prediction: this one is open again.
            batch.following.pop(permit, None)
            reopened = True
        self._gone(batch, permit)
        batch.note(result)
        self._holder.accept(room)
        return None

    async def _created(
        self, batch: RunningBatch, permit: int, task: PlannedTask, cancel_after: int
    ) -> Prediction:
        """The attempt's prediction: from its answer, or where that was lost, from the list."""
        try:
            return await batch.gateway.create(task.target, task.inputs, cancel_after=cancel_after)
        except Fault as fault:
            if rule_for(fault).action is not Action.SETTLE:
                raise
            log.info("task %d of %s: %s; looking in the list", task.index, batch.id, fault)
        return await self._found_in_list(batch, permit)

    async def _found_in_list(self, batch: RunningBatch, permit: int) -> Prediction:
        found = await batch.settlement.find(permit, batch.gateway)
        if found is Verdict.NOT_MADE:
            raise NotMade("the creation did not arrive")
        if isinstance(found, Verdict):
            raise OutcomeUnknown
        self._found(batch, permit, found)
        return Prediction.unseen(found)

    async def _after_fault(
        self, batch: RunningBatch, permit: int, task: PlannedTask, fault: Fault
    ) -> TaskResult | None:
        """The task's result, or None where it waits its turn anew."""
        rule = rule_for(fault)
        known = batch.following.get(permit)
        if known is not None:
            # It was made: nothing that says otherwise holds.
            told = isinstance(fault, NeverEnded) or rule.code == "unauthorized"
            code = rule.code if told else "create_outcome_unknown"
            sentence = f"Its prediction could not be followed to its end: {fault}."
            return failure(task, code, sentence, prediction_id=known)
        if rule.action is Action.FAIL:
            return failure(task, rule.code, rule.sentence, rule.retryable)
        if rule.action is Action.FAIL_BATCH:
            await self._drop(batch, (rule.code, rule.sentence, rule.retryable))
            return failure(task, rule.code, rule.sentence, rule.retryable)
        throttling = None
        if isinstance(fault, Refusal):
            per_minute, burst = fault.reduced_to or (None, None)
            throttling = Throttling(fault.retry_after, per_minute, burst)
        else:
            tries = batch.sent_again.get(task.index, 0)
            if tries >= len(SEND_AGAIN_SECONDS):
                return failure(task, rule.code, rule.sentence, rule.retryable)
            batch.sent_again[task.index] = tries + 1
            # The permit is kept meanwhile: to others it is of no use either.
            with anyio.move_on_after(SEND_AGAIN_SECONDS[tries]):
                await batch.stopping.wait()
        await self._wait_anew(batch, permit, task.index, throttling)
        return None

    async def _wait_anew(
        self, batch: RunningBatch, permit: int, index: int, throttling: Throttling | None = None
    ) -> None:
        """Nothing was created: give the permit back, and let the task wait its turn."""
        batch.pending.append(index)
        room = await self._keep_trying(self._backend.put_back, permit, throttling)
        self._gone(batch, permit)
        self._holder.accept(room)
        await self._fail_pending(batch)

    def _found(self, batch: RunningBatch, permit: int, prediction_id: str) -> None:
        batch.creating.pop(permit, None)
        batch.following[permit] = prediction_id
        batch.tell()

    def _gone(self, batch: RunningBatch, permit: int) -> None:
        batch.creating.pop(permit, None)
        batch.following.pop(permit, None)

    # What all of it stands on

    def _settlement(self, account: str) -> Settlement:
        if account not in self._settlements:
            self._settlements[account] = Settlement(account, self._backend, self._spawn)
        return self._settlements[account]

    async def _keep_trying(self, step: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """A step that may not be lost: what runs is followed to its end, and its result kept."""
        while True:
            try:
                return await step(*arguments)
            except BackendUnavailable as error:
                log.error("%s Trying again.", error)
                await anyio.sleep(1)

    def _spawn(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        self._group.start_soon(self._guarded, work, *arguments)

    async def _guarded(self, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """No fault of one batch's may end the others': it is logged, and its batch goes on."""
        try:
            await work(*arguments)
        except Exception:
            log.exception("a batch's work failed")
