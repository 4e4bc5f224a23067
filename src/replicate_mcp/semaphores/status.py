"""A semaphore as callers are shown it, over MCP and HTTP alike."""

from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from replicate_mcp.semaphores.permit_store import Scope, SemaphoreState


class SemaphoreStatus(BaseModel):
    """A semaphore as it stands; the last two only for an account's own.

    `scope` says who shares it: one `process`, a `machine`'s processes, or a `fleet` of machines.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    limit: int
    in_use: int
    waiting: int
    available: int
    scope: Scope
    requests_per_minute: float | None = None
    throttled_until: datetime | None = None

    @classmethod
    def of(cls, state: SemaphoreState, scope: Scope) -> "SemaphoreStatus":
        """From what a backend says of it."""
        rate, paused = state.requests_per_minute, state.throttled_for
        return cls(
            name=state.name,
            limit=state.limit,
            in_use=state.in_use,
            waiting=state.waiting,
            available=state.available,
            scope=scope,
            requests_per_minute=None if rate is None else round(rate, 1),
            throttled_until=None if paused is None else datetime.now(UTC) + timedelta(0, paused),
        )
