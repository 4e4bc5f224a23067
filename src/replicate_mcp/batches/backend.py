"""The interface of a backend: every store of a process, changed in common transactions."""

from typing import Protocol

from replicate_mcp.batches.attempt_store import AttemptStore
from replicate_mcp.batches.journal import Journal
from replicate_mcp.replicate_api.cache import Cache
from replicate_mcp.semaphores.permit_store import PermitStore


class Backend(PermitStore, AttemptStore, Journal, Cache, Protocol):
    """The stores of permits, attempts, batches and cached responses, in one place.

    A call may change several of them at once, so one class implements them all. Code that uses a
    backend names only the store that it needs.
    """

    async def config_warnings(self) -> list[str]:
        """Return advice on the backend's configuration, in sentences, for `doctor`."""

    async def close(self) -> None:
        """Release what this process holds, except permits of running predictions, and leave."""
