"""A cell of the failure matrix: apps with short delays, a fault at one step, and invariants."""

import os
import secrets
import signal
from collections import Counter
from collections.abc import Awaitable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from backends.link import Link
from backends.servers import RunningServer
from conftest import settings_for
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.backends.sqlite.wakeup import Doorbell
from replicate_mcp.errors import ReplicateMcpError
from replicate_mcp.replicate_api import transport
from replicate_mcp.simulator import Simulator, ThrottleWording
from replicate_mcp.tasks.result import BatchResult, TaskFailure
from scenarios.remedy_cells import BACKEND, IMAGE, KILLS
from scenarios.remedy_faults import (
    FINAL,
    KILLED_AT,
    LEASE,
    ROUTES,
    STEPS,
    TIMEOUT_SECONDS,
    Outage,
)
from short_intervals import shorten

LIMIT = 2

PATIENCE = 30.0
"""Timeout of everything that a cell waits for."""


class Stage:
    """One cell's simulator, state and fault.

    Attributes:
        account: the account at Replicate; each cell has its own.
        limit: the maximum number of running predictions.
        errors: error codes of rejected requests, in order.
    """

    def __init__(
        self,
        remedy: str,
        fault: str,
        *,
        simulator: Simulator,
        folder: Path,
        patch: pytest.MonkeyPatch,
        server: RunningServer | None = None,
        link: Link | None = None,
        account: str | None = None,
    ) -> None:
        self.remedy, self.fault = remedy, fault
        self.simulator, self.folder = simulator, folder
        self.account = account or f"a{secrets.token_hex(6)}"
        self.errors: list[str] = []
        self.limit = LIMIT
        self._patch, self._server, self._link = patch, server, link
        self._outage = Outage(remedy, fault, folder, patch, server, link)
        self._begun: set[str] = set()
        self._armed = False
        self._struck_at = 0.0
        self._route, self._calls = "", 0
        shorten(patch)
        simulator.configure(
            throttle_wording=ThrottleWording.BARE,
            throttle_field=False,
            throttle_header=fault == "429-after" or remedy == "put-back",
            throttle_seconds=1 if fault == "429-after" else 0,
        )
        if fault in KILLS:
            self._watch(*KILLED_AT[remedy])
        elif remedy in STEPS and not self.is_call:
            for backend in (SqliteBackend, RedisBackend):
                self._watch(backend, STEPS[remedy])

    @property
    def is_call(self) -> bool:
        """Whether the fault is in a call to Replicate, rather than in a backend call."""
        return self.fault not in (*BACKEND, *KILLS) and self.remedy in ROUTES

    @property
    def token(self) -> str:
        """The account's token."""
        return f"r8_{self.account}_1"

    # Apps and batches.

    def app(self, **changes: Any) -> AbstractAsyncContextManager[App]:
        """Run an app as a separate process would."""
        changes = {
            "REPLICATE_API_TOKEN": self.token,
            "REPLICATE_CONCURRENT_LIMIT": str(self.limit),
            "REPLICATE_MCP_FILES": str(self.folder),
            **changes,
        }
        if self._server is not None and self._link is not None:
            url = self._server.url("remedies", lease=LEASE, port=self._link.port)
            changes["REPLICATE_MCP_BACKEND"] = url
        return App.running(settings_for(self.simulator, self.folder, **changes))

    async def begin(self, app: App, count: int = LIMIT, **more: Any) -> str:
        """Start a batch and return its id."""
        tasks = [{"prompt": f"{secrets.token_hex(4)} {n}", **more} for n in range(count)]
        request = BatchRequest(tasks, image_paths="folder")
        batch_id = await app.batches.start(app.caller(), request)
        self._begun.add(batch_id)
        return batch_id

    async def request(self, work: Awaitable[Any]) -> Any:
        """Await a user's request; if it is rejected, record the error code and return None."""
        try:
            return await work
        except ReplicateMcpError as error:
            self.errors.append(error.code)
            return None

    async def running(self, count: int = LIMIT) -> None:
        """Wait until `count` predictions run at Replicate."""
        await self.simulator.reached(account=self.account, in_flight=count, within=PATIENCE)

    async def seen(self, route: str, count: int) -> None:
        """Wait until Replicate has received `count` requests for a route."""
        with anyio.fail_after(PATIENCE):
            while self._requests(route) < count:
                await anyio.sleep(0.02)

    def _requests(self, route: str) -> int:
        return int(self.simulator.stats()["requests"].get(route, 0))

    # Fault injection.

    def strike(self, count: int = 2) -> None:
        """Inject the fault into the remedy's next calls, or its next step."""
        self._struck_at = anyio.current_time()
        if not self.is_call:
            self._armed = True
            return
        call, self._route = ROUTES[self.remedy]
        self._calls = self._requests(self._route)
        if self.fault == "timeout":
            self._patch.setattr(transport, "READ_SECONDS", TIMEOUT_SECONDS)
        if self.remedy != "webhook":  # Otherwise each costs a delay.
            count = min(count, {"timeout": 1, "429-after": LIMIT}.get(self.fault, count))
        named = {"timeout": "silence", "429-after": "429"}.get(self.fault, self.fault)
        self.simulator.fault_next(named, count, on=call)

    def is_final(self) -> bool:
        """Whether the remedy is not retried after this fault."""
        return self.is_call and self.fault in FINAL.get(self.remedy, ())

    async def was_struck(self) -> None:
        """Wait until the fault has occurred and is over."""
        with anyio.fail_after(PATIENCE):
            if self.is_call:
                await self.seen(self._route, self._calls + 1)
            else:
                await self._outage.over.wait()

    def seconds_since(self) -> float:
        """Return the seconds since the fault was injected."""
        return anyio.current_time() - self._struck_at

    def _watch(self, owner: type, step: str) -> None:
        original = getattr(owner, step)

        async def watched(this: Any, *arguments: Any, **named: Any) -> Any:
            if not self._armed:
                return await original(this, *arguments, **named)
            self._armed = False
            if self.fault == "killed-after":
                await original(this, *arguments, **named)
            if self.fault in KILLS:
                os.kill(os.getpid(), signal.SIGKILL)
            await self._outage.begin()
            return await original(this, *arguments, **named)

        def rung(this: Any, ports: Iterable[int]) -> None:
            if others := list(ports):
                if self._armed:
                    os.kill(os.getpid(), signal.SIGKILL)
                original(this, others)

        self._patch.setattr(owner, step, rung if owner is Doorbell else watched)

    # Outcome.

    async def ended(self, app: App) -> str:
        """Wait until all batches have ended and all permits are free; return the user's outcome."""
        with anyio.fail_after(PATIENCE):
            batches = [
                await self._result(app, each.batch_id)
                for each in await app.batches.list(app.caller())
                if self._link is None or each.batch_id in self._begun  # Cells share a Redis.
            ]
            while (await app.semaphores.list_for(app.caller()))[0].in_use:
                await anyio.sleep(0.02)
        self._check(batches)
        rows = {
            row.error_code if isinstance(row, TaskFailure) else IMAGE
            for batch in batches
            for row in (*batch.successful_results, *batch.failed_results)
        }
        return ", then ".join([*self.errors, *([", ".join(sorted(rows))] if rows else [])])

    async def _result(self, app: App, batch_id: str) -> BatchResult:
        await app.batches.wait(app.caller(), batch_id, seconds=None)
        return await app.batches.result(app.caller(), batch_id)

    def _check(self, batches: Sequence[BatchResult]) -> None:
        """Check the invariants: one prediction and one row per task, never over the limit."""
        made = {each["id"]: each for each in self.simulator.predictions(self.account)}
        by_prompt = Counter(each["input"]["prompt"] for each in made.values())
        assert all(count == 1 for count in by_prompt.values()), "a task was made twice"
        account = self.simulator.account(self.account)
        assert account["max_in_flight"] <= self.limit
        assert account["in_flight"] == 0, "a permit came back while its prediction runs"
        delivered: Counter[str | None] = Counter()
        for batch in batches:
            indices = [each.task_index for each in batch.successful_results]
            indices += [each.task_index for each in batch.failed_results]
            assert sorted(indices) == list(range(batch.total_tasks)), "a row each, in one list"
            for row in batch.successful_results:
                assert made[row.prediction_id]["input"]["prompt"] == row.prompt
                delivered[row.prediction_id] += 1
            for failed in batch.failed_results:
                assert failed.error_code != "interrupted" or failed.prompt not in by_prompt
        assert all(count == 1 for count in delivered.values()), "an image was delivered twice"
