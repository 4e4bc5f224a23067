"""The state of a semaphore as MCP and HTTP callers receive it."""

from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from replicate_mcp.semaphores.permit_store import Scope, SemaphoreState


class SemaphoreStatus(BaseModel):
    """The state of a semaphore; rate and throttling only of an account's own.

    `scope` says what shares the semaphore: one `process`, the processes of a `machine`, or a
    `fleet` of machines.
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
        """Return the status of a semaphore from the backend's state."""
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
