"""What work on batches needs: the backend's stores, retried calls to them, and the observer."""

from anyio.abc import TaskGroup

from replicate_mcp.batches.attempt_store import AttemptStore
from replicate_mcp.batches.backend import Backend
from replicate_mcp.batches.journal import Journal
from replicate_mcp.batches.observer import Observer
from replicate_mcp.semaphores.backend_calls import BackendCalls
from replicate_mcp.semaphores.offer_dispatcher import OfferDispatcher
from replicate_mcp.semaphores.permit_store import PermitStore


class BatchServices(BackendCalls):
    """Backend calls, background tasks and the observer of a process's batches."""

    def __init__(
        self, backend: Backend, dispatcher: OfferDispatcher, group: TaskGroup, observer: Observer
    ) -> None:
        super().__init__(dispatcher, group)
        self.permits: PermitStore = backend
        self.attempts: AttemptStore = backend
        self.journal: Journal = backend
        self.observer = observer
