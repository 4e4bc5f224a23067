"""What all work on batches stands on: the backend, sure steps at it, and who is told of them."""

from anyio.abc import TaskGroup

from replicate_mcp.batches.backend import Backend
from replicate_mcp.batches.observer import Observer
from replicate_mcp.semaphores.backend_calls import BackendCalls
from replicate_mcp.semaphores.offer_dispatcher import OfferDispatcher


class BatchServices(BackendCalls):
    """A process's steps at its backend, and the background in which its batches run."""

    def __init__(
        self, backend: Backend, dispatcher: OfferDispatcher, group: TaskGroup, observer: Observer
    ) -> None:
        super().__init__(dispatcher, group)
        self.backend = backend
        self.observer = observer
