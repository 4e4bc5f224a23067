"""Short intervals for tests that would otherwise wait for polls, retries and the grace period."""

import importlib
from collections.abc import Mapping

import pytest

PACKAGE = "replicate_mcp"

INTERVALS: Mapping[str, object] = {
    "batches.reconciliation.LIST_POLL_SECONDS": 0.05,
    "batches.cancellation.RETRY_DELAYS_SECONDS": (0.05, 0.1),
    "batches.task_execution.RETRY_DELAYS_SECONDS": (0.05,) * 5,
    "batches.recovery.POLL_SECONDS": 0.05,
    "batches.recovery.IDLE_POLL_SECONDS": 0.05,
    "batches.recovery.CANCEL_POLL_SECONDS": 0.05,
    "batches.runner.CANCEL_POLL_SECONDS": 0.1,
    "semaphores.backend_calls.RETRY_DELAY_SECONDS": 0.05,
    "semaphores.offer_dispatcher.ADMIT_POLL_SECONDS": 0.1,
    "backends.sqlite.backend.REAP_POLL_SECONDS": 0.05,
    "replicate_api.attempt_matching.GRACE_SECONDS": 0.6,
    "replicate_api.retry.RETRY_DELAYS_SECONDS": (0.02, 0.05),
    "replicate_api.gateway.MIN_POLL_SECONDS": 0.1,
    "replicate_api.gateway.FALLBACK_POLL_SECONDS": 0.8,
    "replicate_api.webhooks.MESSAGE_POLL_SECONDS": 0.05,
    "app.batches.JOURNAL_POLL_SECONDS": 0.05,
}
"""Values in seconds by the constant that each replaces."""


def shorten(patch: pytest.MonkeyPatch) -> None:
    """Shorten the package's intervals in this process until `patch` is undone."""
    for name, value in INTERVALS.items():
        module, _, constant = name.rpartition(".")
        patch.setattr(importlib.import_module(f"{PACKAGE}.{module}"), constant, value)
