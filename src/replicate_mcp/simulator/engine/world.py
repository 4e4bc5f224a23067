"""State of the simulated Replicate: accounts, files and predictions."""

import asyncio
import bisect
from collections import Counter
from collections.abc import Callable
from typing import Any

from replicate_mcp.simulator.engine.accounts import Account
from replicate_mcp.simulator.engine.clock import Clock
from replicate_mcp.simulator.engine.fault_injection import ORDERS, FaultInjector
from replicate_mcp.simulator.engine.predictions import (
    NEVER,
    Creation,
    OutcomeSampler,
    Prediction,
    Status,
    new_id,
)
from replicate_mcp.simulator.problem_details import unauthenticated
from replicate_mcp.simulator.settings import SimulatorSettings

_RATES = {"requests_per_minute", "burst", "other_requests_per_minute", "other_burst"}
_CONTENT_BYTES = 256 * 1024 * 1024
"""Maximum total size of uploaded contents kept for models to read."""


class World:
    """Entire state of a simulation; not thread-safe, belongs to one event loop."""

    def __init__(self, settings: SimulatorSettings, clock: Clock) -> None:
        self.initial_settings = settings
        self.clock = clock
        self.announce: Callable[[Prediction, str], None] = lambda _prediction, _event: None
        """Called with `start` or `completed` for predictions that have a webhook."""
        self._watchers: list[asyncio.Future[None]] = []
        self._clear(settings)

    def _clear(self, settings: SimulatorSettings) -> None:
        self.settings = settings
        self.faults = FaultInjector(settings, settings.seed)
        self.fate = OutcomeSampler(settings)
        self.accounts: dict[str, Account] = {}
        self.predictions: dict[str, Prediction] = {}
        self.files: dict[str, tuple[Account, dict[str, Any]]] = {}
        self._contents: dict[str, bytes] = {}
        self.requests: Counter[str] = Counter()
        self.revoked_tokens: set[str] = set()
        self._by_account: dict[str, list[Prediction]] = {}
        self._by_token: dict[bytes, Account] = {}

    # Control

    def configure(self, changes: dict[str, object]) -> None:
        """Change settings.

        Raises:
            pydantic.ValidationError: a setting is unknown or invalid.
        """
        settings = self.settings.changed(changes)
        self.settings = settings.model_copy(update=dict.fromkeys(ORDERS, ()))
        if "seed" in changes:
            self.faults = FaultInjector(settings, settings.seed)
            self.fate = OutcomeSampler(settings)
        else:
            for name, call in ORDERS.items():
                if name in changes:
                    self.faults.order(call, getattr(settings, name))
        self.faults.configure(self.settings)
        self.fate.configure(self.settings)
        if changes.keys() & _RATES:
            for account in self.accounts.values():
                account.set_rates(self.settings, self.clock.now())
        self.wake_watchers()

    def reset(self) -> None:
        """Clear all state, end running predictions, and restore the initial settings."""
        running = [p for p in self.predictions.values() if p.ended is None]
        for prediction in running:
            self._end(prediction, Status.CANCELED)
        self._clear(self.initial_settings)
        self.wake_watchers()

    # Accounts

    def account_of(self, authorization: bytes) -> Account:
        """Return the account of the token in an `Authorization` header.

        Raises:
            Problem: 401, the token is missing, malformed or revoked.
        """
        account = self._by_token.get(authorization)
        if account is not None:
            return account
        scheme, _, token = authorization.decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not token.startswith("r8_"):
            raise unauthenticated()
        name = token.removeprefix("r8_").partition("_")[0]
        if not name or token in self.revoked_tokens:
            raise unauthenticated()
        account = self.account(name)
        self._by_token[authorization] = account
        return account

    def account(self, name: str) -> Account:
        """Return the account of this name, creating it if it is new."""
        if name not in self.accounts:
            self.accounts[name] = Account.opened(name, self.settings, self.clock.now())
        return self.accounts[name]

    def revoke(self, tokens: set[str]) -> None:
        """Replace the set of revoked tokens."""
        self.revoked_tokens = tokens
        self._by_token.clear()

    # Files

    def add_file(
        self, file_id: str, account: Account, document: dict[str, Any], content: bytes
    ) -> None:
        """Store an uploaded file; contents over the size limit are dropped, oldest first."""
        self.files[file_id] = (account, document)
        self._contents[file_id] = content
        size = sum(map(len, self._contents.values()))
        for oldest in list(self._contents)[:-1]:
            if size <= _CONTENT_BYTES:
                break
            size -= len(self._contents.pop(oldest))

    def remove_file(self, file_id: str) -> None:
        """Delete an uploaded file."""
        del self.files[file_id]
        self._contents.pop(file_id, None)

    def file_content(self, file_id: str, account: Account) -> bytes:
        """Return the content of an account's file; empty if there is none."""
        owner, _ = self.files.get(file_id, (None, None))
        return self._contents.get(file_id, b"") if owner is account else b""

    # Predictions

    def create(self, asked: Creation) -> Prediction:
        """Create a prediction and schedule its start."""
        now = self.clock.now()
        own = self._by_account.setdefault(asked.account.name, [])
        prediction = Prediction(
            id=new_id(),
            order=len(own),
            asked=asked,
            destiny=self.fate.of(asked),
            seed=self.fate.seed_of(asked),
            created=now,
            deadline=None if asked.cancel_after is None else now + asked.cancel_after,
        )
        own.append(prediction)
        self.predictions[prediction.id] = prediction
        asked.account.prediction_created(now)
        self.wake_watchers()
        self._next(prediction, now + prediction.destiny.queue_seconds, self._start)
        return prediction

    def cancel(self, prediction: Prediction) -> None:
        """Cancel a prediction; no effect on one that has ended."""
        if self.settings.cancel_seconds:
            self.clock.call_later(
                self.settings.cancel_seconds, lambda: self._on_deadline(prediction)
            )
        else:
            self._on_deadline(prediction)

    def newest_first(
        self, account: Account, *, start: int | None, after: float | None, before: float | None
    ) -> tuple[list[Prediction], int | None, int | None]:
        """Return a page of the account's predictions, and the starts of the next and previous page.

        Args:
            account: account whose predictions are listed.
            start: order of the page's first prediction; None for the newest visible one.
            after: earliest creation time, inclusive; None for no bound.
            before: latest creation time, exclusive; None for no bound.
        """
        own = self._by_account.get(account.name, [])
        latest = self.clock.now() - self.settings.list_lag_seconds
        high = bisect.bisect_right(own, latest, key=_created)
        if before is not None:
            high = min(high, bisect.bisect_left(own, before, key=_created))
        low = 0 if after is None else bisect.bisect_left(own, after, key=_created)
        first = high - 1 if start is None else min(start, high - 1)
        size = self.settings.page_size
        page = own[max(low, first - size + 1) : first + 1][::-1]
        older = first - size if first - size >= low else None
        newer = min(first + size, high - 1) if page and first < high - 1 else None
        return page, older, newer

    def of_account(self, name: str | None) -> list[Prediction]:
        """Return the predictions of an account, or of all accounts, in the order of creation."""
        if name is not None:
            return list(self._by_account.get(name, []))
        return list(self.predictions.values())

    def _next(self, prediction: Prediction, at: float, what: Callable[[Prediction], None]) -> None:
        """Schedule the prediction's single timer, for `what` or for an earlier deadline."""
        if prediction.deadline is not None and prediction.deadline <= at:
            at, what = prediction.deadline, self._on_deadline
        if at != NEVER:
            prediction.timer = self.clock.call_later(
                at - self.clock.now(), lambda: what(prediction)
            )

    def _start(self, prediction: Prediction) -> None:
        if prediction.ended is not None:
            return
        now = prediction.started = self.clock.now()
        prediction.status = Status.PROCESSING
        prediction.asked.account.counts["started"] += 1
        self._event(prediction, "start")
        self.wake_watchers()
        limit = self.settings.run_limit_seconds
        if prediction.destiny.predict_seconds > limit:
            self._next(prediction, now + limit, self._on_run_limit)
        else:
            self._next(prediction, now + prediction.destiny.predict_seconds, self._finish)
        first = prediction.first_file_after
        if first is not None:
            self.clock.call_later(first, lambda: self._shown(prediction))

    def _finish(self, prediction: Prediction) -> None:
        if prediction.ended is not None:
            return
        destiny = prediction.destiny
        if destiny.error is not None:
            prediction.error = destiny.error
            self._end(prediction, Status.FAILED)
        elif destiny.output_before_end and not prediction.output_ready:
            prediction.output_ready = True
            self._on_finished(prediction)
            prediction.timer = self.clock.call_later(
                self.settings.settle_seconds, lambda: self._finish(prediction)
            )
        else:
            self._end(prediction, Status.SUCCEEDED)

    def _shown(self, prediction: Prediction) -> None:
        """Release held creations: Replicate responds with the first file, even if more follow."""
        for waiter in prediction.waiters:
            _wake(waiter)
        prediction.waiters.clear()

    def _on_run_limit(self, prediction: Prediction) -> None:
        prediction.error = "The prediction ran for longer than it may (E6716)"
        self._end(prediction, Status.FAILED)

    def _on_deadline(self, prediction: Prediction) -> None:
        if not prediction.is_finished:
            started = prediction.started is not None
            self._end(prediction, Status.CANCELED if started else Status.ABORTED)

    def _end(self, prediction: Prediction, status: Status) -> None:
        if prediction.ended is not None:
            return
        had_left = prediction.is_finished
        prediction.status = status
        prediction.ended = self.clock.now()
        prediction.output_ready = status is Status.SUCCEEDED
        if prediction.timer is not None:
            prediction.timer.cancel()
            prediction.timer = None
        prediction.asked.account.counts[status.value] += 1
        if not had_left:
            self._on_finished(prediction)
        self._event(prediction, "completed")
        self.wake_watchers()

    def _on_finished(self, prediction: Prediction) -> None:
        prediction.asked.account.prediction_left(self.clock.now())
        self._shown(prediction)
        self.wake_watchers()

    def _event(self, prediction: Prediction, name: str) -> None:
        if prediction.asked.webhook and name in prediction.asked.webhook_events:
            self.announce(prediction, name)

    # Waiting

    async def left(self, prediction: Prediction, seconds: float) -> None:
        """Wait until the prediction is no longer in flight, at most `seconds`."""
        if prediction.is_finished:
            return
        waiter = asyncio.get_running_loop().create_future()
        prediction.waiters.append(waiter)
        await self._wait(waiter, seconds)

    async def change(self, seconds: float) -> None:
        """Wait until anything changes, at most `seconds`."""
        watcher = asyncio.get_running_loop().create_future()
        self._watchers.append(watcher)
        await self._wait(watcher, seconds)

    async def _wait(self, future: asyncio.Future[None], seconds: float) -> None:
        timer = self.clock.call_later(seconds, lambda: _wake(future))
        try:
            await future
        finally:
            timer.cancel()

    def wake_watchers(self) -> None:
        """End every `change`: a count or a prediction has changed."""
        for watcher in self._watchers:
            _wake(watcher)
        self._watchers.clear()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _created(prediction: Prediction) -> float:
    return prediction.created
