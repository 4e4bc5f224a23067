"""Taking over what a process left that is gone: its predictions are followed, and nothing is lost.

Stopping and crashing are the same path: a permit stands for a prediction that runs on Replicate,
so it stays out until that has ended, and whoever lives delivers its result.
"""

import logging
from collections.abc import Callable
from dataclasses import replace

import anyio

from replicate_mcp.batches.backend import Backend, NotedAttempt
from replicate_mcp.batches.outcome import failure, outcome
from replicate_mcp.batches.planning import PlannedTask
from replicate_mcp.batches.settlement import Settlement, Verdict
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.replicate_api.attempts import CLOCK_SLACK
from replicate_mcp.replicate_api.fault_policy import rule_for
from replicate_mcp.replicate_api.faults import Fault, OutcomeUnknown
from replicate_mcp.replicate_api.gateway import Gateway, Target
from replicate_mcp.replicate_api.prediction import Prediction
from replicate_mcp.semaphores.holder import Holder
from replicate_mcp.tasks.filenames import BatchFilenames
from replicate_mcp.tasks.models import ModelName
from replicate_mcp.tasks.result import TaskResult, TaskSuccess

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""How often a process looks for what others left; one small read."""

INTERRUPTED = (
    "The process that ran this batch ended before this task was created. Nothing was billed: send "
    "it again."
)


class Recovery:
    """One account's: what its dead processes left is adopted, followed and recorded."""

    def __init__(
        self,
        account: str,
        gateway: Gateway,
        settlement: Settlement,
        backend: Backend,
        holder: Holder,
        spawn: Callable[..., object],
    ) -> None:
        self._account = account
        self._gateway = gateway
        self._settlement = settlement
        self._backend = backend
        self._holder = holder
        self._spawn = spawn
        self._names: dict[str, BatchFilenames] = {}

    async def run(self) -> None:
        """Look for orphans until cancelled."""
        while True:
            try:
                for orphan in await self._backend.orphans(self._account):
                    if await self._backend.adopt(orphan.permit):
                        self._spawn(self._bring_home, orphan)
            except BackendUnavailable as error:
                log.warning("%s", error)
            await anyio.sleep(LOOK_SECONDS)

    async def _bring_home(self, orphan: NotedAttempt) -> None:
        while True:
            try:
                return await self._follow(orphan)
            except BackendUnavailable as error:
                log.warning("%s", error)
                await anyio.sleep(LOOK_SECONDS)

    async def _follow(self, orphan: NotedAttempt) -> None:
        """Find the attempt's prediction, follow it to its end, and record what came of it."""
        task = await self._task(orphan)
        log.info("taking over task %d of %s", orphan.task, orphan.batch)
        known = orphan.prediction_id
        try:
            if known is None:
                found = await self._settlement.find(orphan.permit, self._gateway)
                if found is Verdict.NOT_MADE:
                    return await self._record(
                        orphan, failure(task, "interrupted", INTERRUPTED, retryable=True)
                    )
                if isinstance(found, Verdict):
                    raise OutcomeUnknown
                known = found
            state = await self._backend.batch(orphan.batch)
            canceled = state is not None and state.canceled
            if canceled:
                await self._gateway.cancel(known)
            until = orphan.sent_at + CLOCK_SLACK + orphan.cancel_after
            prediction = await self._gateway.follow(Prediction.unseen(known), until=until)
            names = await self._filenames(orphan.batch)
            now = self._gateway.now()
            result: TaskResult = outcome(task, prediction, names, canceled=canceled, now=now)
        except Fault as fault:
            rule = rule_for(fault)
            sentence = f"Its process ended, and what became of it could not be learned: {fault}."
            code = rule.code if isinstance(fault, OutcomeUnknown) else "create_outcome_unknown"
            result = failure(task, code, sentence, prediction_id=known)
        return await self._record(orphan, result)

    async def _record(self, orphan: NotedAttempt, result: TaskResult) -> None:
        room = await self._backend.finish(orphan.permit, orphan.batch, result)
        if room is None:
            # Another attempt has taken that prediction: what became of this one is looked for.
            return await self._follow(replace(orphan, prediction_id=None))
        return self._holder.accept(room)

    async def _task(self, orphan: NotedAttempt) -> PlannedTask:
        tasks = await self._backend.tasks(orphan.batch)
        kept = tasks[orphan.task]
        name = ModelName.parse(kept.model)
        return PlannedTask(
            index=orphan.task,
            prompt=kept.prompt,
            output_filename=kept.output_filename,
            model=kept.model,
            target=Target(name, name.version),
            inputs={},
            seed=None,
            expected_format=None,
            expected_count=1,
        )

    async def _filenames(self, batch_id: str) -> BatchFilenames:
        """The batch's names as far as they are given out, whoever gave them."""
        if batch_id not in self._names:
            tasks = await self._backend.tasks(batch_id)
            names = BatchFilenames([task.output_filename for task in tasks], [None] * len(tasks))
            for row in await self._backend.results(batch_id):
                if isinstance(row, TaskSuccess):
                    names.claim(row.task_index, [file.filename for file in row.generated_files])
            self._names[batch_id] = names
        return self._names[batch_id]
