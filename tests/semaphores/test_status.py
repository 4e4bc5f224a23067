"""The status of a semaphore as shown to callers."""

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from replicate_mcp.semaphores.permit_store import SemaphoreState
from replicate_mcp.semaphores.status import SemaphoreStatus


def test_account_semaphore_status_has_rate_and_pause() -> None:
    before = datetime.now(UTC)
    shown = SemaphoreStatus.of(SemaphoreState("mine", 60, 3, 2, 5.44, 90), "fleet")
    assert (shown.name, shown.limit, shown.in_use, shown.waiting) == ("mine", 60, 3, 2)
    assert (shown.available, shown.scope, shown.requests_per_minute) == (57, "fleet", 5.4)
    assert shown.throttled_until is not None
    pause = shown.throttled_until - before
    assert timedelta(seconds=90) <= pause < timedelta(seconds=95)


def test_named_semaphore_status_has_no_rate_or_pause() -> None:
    shown = SemaphoreStatus.of(SemaphoreState("team", 2, 3, 0), "process")
    assert (shown.available, shown.scope) == (0, "process")
    assert (shown.requests_per_minute, shown.throttled_until) == (None, None)


def test_status_is_immutable() -> None:
    shown = SemaphoreStatus.of(SemaphoreState("team", 2, 3, 0), "process")
    with pytest.raises(ValidationError, match="frozen"):
        shown.limit = 9  # type: ignore[misc]
