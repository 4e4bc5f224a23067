"""Recovery of work whose process has ended: follows its predictions, and records their results.

Stopping and crashing are the same path: a permit stands for a prediction that runs on Replicate, so
it stays held until the prediction has ended, and any living process records the result.
"""

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

import anyio

from replicate_mcp.batches.attempt_store import AttemptRecord
from replicate_mcp.batches.cancellation import cancel_quietly
from replicate_mcp.batches.outcome import failure, outcome
from replicate_mcp.batches.planning import PlannedTask
from replicate_mcp.batches.reconciliation import Reconciler, Verdict
from replicate_mcp.batches.resumption import RecordedTasks
from replicate_mcp.batches.services import BatchServices
from replicate_mcp.batches.state_rebuild import import_running_predictions, wait_until_ended
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.platform.clock import steady_sleep
from replicate_mcp.replicate_api.attempt_matching import CLOCK_SLACK, SETTLED_WITHIN_SECONDS
from replicate_mcp.replicate_api.exceptions import (
    ApiStatusError,
    OutcomeUnknown,
    PredictionStuck,
    ReplicateApiError,
)
from replicate_mcp.replicate_api.gateway import (
    DEADLINE_GRACE_SECONDS,
    HOLD_SECONDS,
    Gateway,
    Target,
)
from replicate_mcp.replicate_api.prediction import Prediction
from replicate_mcp.tasks.filenames import BatchFilenames
from replicate_mcp.tasks.model_name import ModelName
from replicate_mcp.tasks.result import TaskFailure, TaskResult

log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""Interval between polls for orphans while this process has batches, which need the permits."""

IDLE_POLL_SECONDS = 3.0
"""Interval between polls for orphans while this process has no batches: two small reads."""

CANCEL_POLL_SECONDS = 1.0
"""Interval at which the journal is read for the cancellation of a batch in recovery."""

FAILED_PAUSE_SECONDS = 30.0
"""Seconds before another attempt at an imported prediction that could not be followed."""

UNRECOVERABLE = (
    "Its process ended, and recovering its result failed: see the server's log. It may have been "
    "billed: check https://replicate.com/predictions before sending it again."
)


class Recovery:
    """Recovery of one account: adopts orphans, follows predictions, and records results.

    Args:
        is_busy: returns whether this process runs batches.
        take_over: resumes a batch that waits for a process; None to leave these to others.
    """

    def __init__(
        self,
        account: str,
        reconciler: Reconciler,
        services: BatchServices,
        *,
        is_busy: Callable[[], bool],
        take_over: Callable[[str, Gateway], Awaitable[None]] | None = None,
    ) -> None:
        self._account = account
        self._is_busy = is_busy
        self._take_over = take_over
        self._reconciler = reconciler
        self._services = services
        self._permits = services.permits
        self._attempts = services.attempts
        self._journal = services.journal
        self._gateways: list[Gateway] = []
        self._in_recovery: Counter[str] = Counter()
        self._names: dict[str, BatchFilenames] = {}

    def use(self, gateway: Gateway) -> None:
        """Use this token of the account as well; any token suffices, and one may be revoked."""
        if gateway not in self._gateways:
            self._gateways.append(gateway)

    async def run(self) -> None:
        """Poll for orphans until cancelled, at once when another process wakes this one."""
        while True:
            woken = self._services.dispatcher.next_wakeup
            try:
                if self._gateways:
                    await self._poll()
            except (BackendUnavailable, ReplicateApiError) as error:
                log.warning("%s", error)
            except Exception:
                # Whatever the error, the account's other orphans still have to be recovered.
                log.exception("polling the orphans of %s failed", self._account)
            await anyio.sleep(POLL_SECONDS)
            if not self._is_busy():
                with anyio.move_on_after(IDLE_POLL_SECONDS - POLL_SECONDS):
                    await woken.wait()

    async def _poll(self) -> None:
        if await self._attempts.has_lost_state(self._account):
            await self._import_running()
        for orphan in await self._attempts.orphans(self._account):
            if await self._attempts.adopt(orphan.permit):
                self._services.spawn(self._recover, orphan)
        if self._take_over is not None:
            for batch_id in await self._journal.resumable_batches(self._account):
                await self._take_over(batch_id, self._gateways[0])

    async def _import_running(self) -> None:
        gateway = self._gateways[0]
        try:
            admission = await import_running_predictions(self._account, gateway, self._attempts)
        except ApiStatusError as refusal:
            self._discard_rejected_token(gateway, refusal)
            raise
        self._services.dispatcher.dispatch(admission)

    async def _recover(self, orphan: AttemptRecord) -> None:
        self._in_recovery[orphan.batch] += 1
        try:
            await self._services.retry_until_available(self._follow, orphan)
        except Exception:
            log.exception("task %d of %s cannot be recovered", orphan.task, orphan.batch)
            await self._services.retry_until_available(self._end, orphan)
        finally:
            self._in_recovery[orphan.batch] -= 1
            if not self._in_recovery[orphan.batch]:
                # A later recovery of the batch reads the names already used from the journal.
                del self._in_recovery[orphan.batch]
                self._names.pop(orphan.batch, None)

    async def _end(self, orphan: AttemptRecord) -> None:
        """End an attempt whose recovery failed unexpectedly: its task now, its permit later.

        The permit is held until the prediction must have ended, and is released then.
        """
        if not orphan.batch:
            # Without a holder, the backend releases the permit when the prediction must have ended.
            await anyio.sleep(FAILED_PAUSE_SECONDS)
            await self._attempts.abandon(orphan.permit)
            return
        result = TaskFailure(
            task_index=orphan.task,
            prompt="",
            output_filename="",
            error=UNRECOVERABLE,
            error_code="create_outcome_unknown",
            prediction_id=orphan.prediction_id,
            retryable=False,
        )
        try:
            self._services.dispatcher.dispatch(
                await self._journal.record_results(orphan.batch, [result], waited=False)
            )
        except BackendUnavailable:
            raise
        except Exception:
            log.exception("the row of task %d of %s cannot be recorded", orphan.task, orphan.batch)
        now = self._gateways[0].now() if self._gateways else time.time()
        await steady_sleep(_ends_by(orphan) - now)
        self._services.dispatcher.dispatch(await self._permits.release(orphan.permit))

    async def _follow(self, orphan: AttemptRecord) -> None:
        """Find the attempt's prediction, follow it to its end, and record the result."""
        if not orphan.batch:
            return await self._wait_until_ended(orphan)
        log.info("taking over task %d of %s", orphan.task, orphan.batch)
        task = await self._task(orphan)
        known, ended = orphan.prediction_id, True
        while self._gateways:
            gateway = self._gateways[0]
            try:
                known = known or await self._resolve(orphan, gateway)
                if known is None:
                    admission = await self._attempts.give_back(orphan.permit)
                    return self._services.dispatcher.dispatch(admission)
                result: TaskResult = await self._outcome(orphan, task, known, gateway)
            except ReplicateApiError as fault:
                if self._discard_rejected_token(gateway, fault):
                    continue
                if _is_transient(fault) and gateway.now() < _settled_by(orphan):
                    log.info(
                        "task %d of %s is searched for again: %s", task.index, orphan.batch, fault
                    )
                    await anyio.sleep(POLL_SECONDS)
                    continue
                result = _unknown(task, fault, known)
                if known is None:
                    await self._hold_until_deadline(orphan, result, gateway)
                ended = not isinstance(fault, PredictionStuck)
            return await self._record(orphan, result, ended=ended)
        return await self._attempts.abandon(orphan.permit)

    def _discard_rejected_token(self, gateway: Gateway, fault: ReplicateApiError) -> bool:
        """Discard the gateway if its token was rejected; return whether it was."""
        useless = isinstance(fault, ApiStatusError) and fault.status in (401, 403)
        if useless:
            self._gateways = [each for each in self._gateways if each is not gateway]
        return useless

    async def _wait_until_ended(self, entered: AttemptRecord) -> None:
        """Hold the permit of an untracked prediction until the prediction has ended."""
        while self._gateways:
            gateway = self._gateways[0]
            try:
                await wait_until_ended(entered, gateway)
            except ReplicateApiError as fault:
                if not self._discard_rejected_token(gateway, fault):
                    log.info("prediction %s is polled again: %s", entered.prediction_id, fault)
                    await anyio.sleep(POLL_SECONDS)
                continue
            return self._services.dispatcher.dispatch(await self._permits.release(entered.permit))
        return await self._attempts.abandon(entered.permit)

    async def _hold_until_deadline(
        self, orphan: AttemptRecord, result: TaskResult, gateway: Gateway
    ) -> None:
        """Record that the outcome is unknown, and hold the permit while a prediction may run."""
        # The batch may still run in another process: none of its queued tasks is removed.
        record = partial(self._journal.record_results, orphan.batch, [result], waited=False)
        await self._services.retry_and_dispatch(record)
        await steady_sleep(_ends_by(orphan) - gateway.now())

    async def _resolve(self, orphan: AttemptRecord, gateway: Gateway) -> str | None:
        """Return the id of the attempt's prediction; None if none was created."""
        await gateway.sync_clock()
        found = await self._reconciler.resolve(orphan.permit, gateway)
        if found is Verdict.REFUSED:
            raise ApiStatusError(401, "the token was refused")
        if found is Verdict.UNKNOWN:
            raise OutcomeUnknown("the list of predictions does not say")
        return found if isinstance(found, str) else None

    async def _outcome(
        self, orphan: AttemptRecord, task: PlannedTask, prediction_id: str, gateway: Gateway
    ) -> TaskResult:
        prediction = await self._ended(orphan, prediction_id, gateway)
        canceled = await self._is_canceled(orphan.batch)
        names = await self._filenames(orphan.batch)
        return outcome(task, prediction, names, canceled=canceled, now=gateway.now())

    async def _ended(
        self, orphan: AttemptRecord, prediction_id: str, gateway: Gateway
    ) -> Prediction:
        """Return the attempt's prediction once it is done; cancel it if its batch is cancelled."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._stop_with_batch, orphan.batch, prediction_id, gateway)
            try:
                followed: Prediction | ReplicateApiError = await gateway.follow(
                    Prediction.from_id(prediction_id), until=_due(orphan)
                )
            except ReplicateApiError as fault:  # Not raised here: the group would wrap it.
                followed = fault
            group.cancel_scope.cancel()
        if isinstance(followed, ReplicateApiError):
            raise followed
        return followed

    async def _stop_with_batch(self, batch_id: str, prediction_id: str, gateway: Gateway) -> None:
        while not await self._was_canceled(batch_id):  # noqa: ASYNC110
            # A cancellation wakes only the process that started the batch, which has ended.
            await anyio.sleep(CANCEL_POLL_SECONDS)
        await cancel_quietly(gateway, prediction_id)

    async def _is_canceled(self, batch_id: str) -> bool:
        state = await self._journal.get_batch(batch_id)
        return state is not None and state.canceled

    async def _was_canceled(self, batch_id: str) -> bool:
        """Return whether the batch is cancelled; False if the backend is unavailable.

        The poll for orphans reports that the backend is unavailable.
        """
        try:
            return await self._is_canceled(batch_id)
        except BackendUnavailable:
            return False

    async def _record(self, orphan: AttemptRecord, result: TaskResult, *, ended: bool) -> None:
        admission = await self._attempts.finish(orphan.permit, orphan.batch, result, ended=ended)
        if admission is None:
            # Another attempt has claimed that prediction: resolve this attempt again.
            return await self._follow(replace(orphan, prediction_id=None))
        return self._services.dispatcher.dispatch(admission)

    async def _task(self, orphan: AttemptRecord) -> PlannedTask:
        tasks = await self._journal.tasks(orphan.batch)
        recorded = tasks[orphan.task]
        name = ModelName.parse(recorded.model)
        return PlannedTask(
            index=orphan.task,
            prompt=recorded.prompt,
            output_filename=recorded.output_filename,
            model=recorded.model,
            target=Target(name, name.version),
            inputs={},
            seed=None,
            expected_format=None,
            expected_count=1,
        )

    async def _filenames(self, batch_id: str) -> BatchFilenames:
        """Return the batch's filenames, including those that other processes have used."""
        if batch_id not in self._names:
            recorded = await RecordedTasks.read(self._journal, batch_id)
            names = await recorded.filenames(await self._journal.results(batch_id))
            return self._names.setdefault(batch_id, names)  # A concurrent call may have set it.
        return self._names[batch_id]


def _is_transient(fault: ReplicateApiError) -> bool:
    """Return whether Replicate was only unreachable, so that a retry may determine the outcome."""
    return not isinstance(fault, ApiStatusError | OutcomeUnknown | PredictionStuck)


def _due(orphan: AttemptRecord) -> float:
    """Return when Replicate cancels the prediction by itself, on Replicate's clock."""
    return orphan.sent_at + CLOCK_SLACK + orphan.cancel_after


def _ends_by(orphan: AttemptRecord) -> float:
    """Return when the prediction has certainly ended, on Replicate's clock."""
    return _due(orphan) + HOLD_SECONDS + DEADLINE_GRACE_SECONDS


def _settled_by(orphan: AttemptRecord) -> float:
    return orphan.sent_at + CLOCK_SLACK + SETTLED_WITHIN_SECONDS


def _unknown(task: PlannedTask, fault: ReplicateApiError, prediction_id: str | None) -> TaskFailure:
    return failure(
        task,
        "create_outcome_unknown",
        f"Its process ended, and what became of it could not be learned: {fault}. It may have been "
        "billed: check https://replicate.com/predictions before sending it again.",
        prediction_id=prediction_id,
    )
