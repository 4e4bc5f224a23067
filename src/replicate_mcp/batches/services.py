"""What work on batches needs: the backend, retried calls to it, and the observer."""

from anyio.abc import TaskGroup

from replicate_mcp.batches.backend import Backend
from replicate_mcp.batches.observer import Observer
from replicate_mcp.semaphores.backend_calls import BackendCalls
from replicate_mcp.semaphores.offer_dispatcher import OfferDispatcher


class BatchServices(BackendCalls):
    """Backend calls, background tasks and the observer of a process's batches."""

    def __init__(
        self, backend: Backend, dispatcher: OfferDispatcher, group: TaskGroup, observer: Observer
    ) -> None:
        super().__init__(dispatcher, group)
        self.backend = backend
        self.observer = observer
