"""Counts of refused tokens and admin keys, by the address that sent them.

Anyone can invent tokens and guess admin keys. An address may have `MAX_REFUSED` distinct
credentials refused within `WINDOW_SECONDS`; further unknown ones from it are rejected without being
tried, until its oldest refusal has left the window.
"""

import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio

from replicate_mcp.errors import TooManyAttempts

WINDOW_SECONDS = 60.0
"""Seconds for which a refusal counts."""

MAX_REFUSED = 20
"""Distinct refused credentials from one address within the window."""

MAX_SOURCES = 10_000
"""Addresses whose refusals are stored; the one without refusals for longest is dropped."""


@dataclass(slots=True)
class _Pending:
    """Unknown tokens of one address that are being checked with Replicate."""

    count: int = 0
    changed: anyio.Event = field(default_factory=anyio.Event)


class RefusedCredentials:
    """Refusals by address, and a bound on how many more an address may cause."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._refused: dict[str, dict[str, float]] = {}
        self._pending: dict[str, _Pending] = {}

    def add(self, source: str, mark: str) -> None:
        """Record that a credential of `source` with the fingerprint `mark` was refused."""
        if source not in self._refused and len(self._refused) >= MAX_SOURCES:
            del self._refused[next(iter(self._refused))]
        self._refused.setdefault(source, {})[mark] = self._now()

    def check(self, source: str, mark: str) -> None:
        """Raise unless a credential of `source` with the fingerprint `mark` may be compared.

        A credential already refused within the window may be: the result reveals nothing new.

        Raises:
            TooManyAttempts: too many other credentials of `source` were refused.
        """
        recent = self._recent(source)
        if mark not in recent and len(recent) >= MAX_REFUSED:
            raise self._too_many(recent)

    @asynccontextmanager
    async def trying(self, source: str) -> AsyncIterator[None]:
        """Allow the block to try an unknown token of `source`, and to `add` it if it is refused.

        If pending tokens of `source` could use up its remaining refusals, wait for their results
        first. An empty `source` is not limited.

        Raises:
            TooManyAttempts: too many other credentials of `source` were refused.
        """
        if not source:
            yield
            return
        while True:
            recent = self._recent(source)
            if len(recent) >= MAX_REFUSED:
                raise self._too_many(recent)
            pending = self._pending.get(source)
            if pending is None:
                pending = self._pending[source] = _Pending()
            if len(recent) + pending.count < MAX_REFUSED:
                break
            await pending.changed.wait()
        pending.count += 1
        try:
            yield
        finally:
            pending.count -= 1
            pending.changed.set()
            pending.changed = anyio.Event()
            if not pending.count:
                del self._pending[source]

    def _recent(self, source: str) -> dict[str, float]:
        """Return the refusals of `source` within the window; discard older ones."""
        since = self._now() - WINDOW_SECONDS
        recent = {mark: at for mark, at in self._refused.pop(source, {}).items() if at > since}
        if recent:
            self._refused[source] = recent
        return recent

    def _too_many(self, recent: dict[str, float]) -> TooManyAttempts:
        left = min(recent.values()) + WINDOW_SECONDS - self._now()
        return TooManyAttempts(max(1, math.ceil(left)))
