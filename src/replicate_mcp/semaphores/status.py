"""The state of a semaphore as MCP and HTTP callers receive it."""

from datetime import UTC, datetime, timedelta

from pydantic import BaseModel, ConfigDict

from replicate_mcp.semaphores.permit_store import Scope, SemaphoreState


class SemaphoreStatus(BaseModel):
    """The state of a semaphore; the last two fields are set only for an account's own.

    Attributes:
        name: the registered name; `replicate-global` for an account's own semaphore.
        limit: the maximum number of predictions in flight.
        in_use: the number of permits in use.
        waiting: the number of tasks that wait for a permit.
        available: the number of permits that are still available.
        scope: what shares it: one `process`, the processes of a `machine`, or a `fleet`.
        requests_per_minute: the learned creation rate of the account.
        throttled_until: when creations resume, if Replicate throttled the account.
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
