"""What is open at once: requests, and the bytes of their bodies and answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from replicate_mcp.http_api.limits.config import Limits
from replicate_mcp.http_api.limits.free_memory import FreeMemory
from replicate_mcp.http_api.limits.quota import Quota, QuotaKeys


class OpenRequests:
    """The requests that are open in this process."""

    def __init__(self, limits: Limits) -> None:
        self._requests = Quota(limits.open_requests, "requests are open")
        self._bytes = Quota(limits.held_body_bytes, "bytes are held for requests")
        self._memory = FreeMemory()

    @contextmanager
    def track(self, names: QuotaKeys) -> Iterator["OpenRequest"]:
        """A request, for as long as it is open.

        Raises:
            Busy: too many are, or too much is held for them.
        """
        self._bytes.check(names, 0)
        self._requests.take(names)
        request = OpenRequest(self._bytes, names)
        try:
            yield request
        finally:
            self._requests.give_back(names)
            self._bytes.give_back(names, request.held)
            if request.is_large:
                self._memory.return_soon()


@dataclass(slots=True)
class OpenRequest:
    """One of them, and how much is held of its body and its answer."""

    _bytes: Quota
    names: QuotaKeys
    held: int = 0
    is_large: bool = False

    def reserve(self, size: int, *, is_refusable: bool = True) -> None:
        """Count so much more.

        Args:
            is_refusable: whether there has to be room for it.

        Raises:
            Busy: too much is held.
        """
        if is_refusable:
            self._bytes.check(self.names, size)
        self._bytes.add(self.names, size)
        self.held += size
        self.is_large = self.is_large or size > 0

    def release(self, size: int) -> None:
        """Count so much less."""
        self._bytes.give_back(self.names, size)
        self.held -= size
