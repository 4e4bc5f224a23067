"""Concurrent requests, and the bytes held for their bodies and answers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from replicate_mcp.http_api.limits.config import Limits
from replicate_mcp.http_api.limits.quota import Quota, QuotaKeys
from replicate_mcp.platform.memory import FreeMemory

FREE_MEMORY_SECONDS = 5.0
"""Seconds after the end of a large request at which freed memory is returned to the system.

glibc keeps freed memory: 500 MB were measured after 200 clients had sent the largest bodies.
"""


class OpenRequests:
    """The concurrent requests of this process."""

    def __init__(self, limits: Limits) -> None:
        self._requests = Quota(limits.open_requests, "requests are open")
        self._bytes = Quota(limits.held_body_bytes, "bytes are held for requests")
        self._memory = FreeMemory(FREE_MEMORY_SECONDS)

    @contextmanager
    def track(self, names: QuotaKeys) -> Iterator["OpenRequest"]:
        """Count a request for as long as the block runs.

        Raises:
            TooManyRequests: too many requests are open, or too many bytes are held for them.
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
    """One concurrent request.

    Attributes:
        names: the keys that the request is counted under.
        held: bytes held for its body and its answer.
        is_large: whether any bytes have been reserved for it.
    """

    _bytes: Quota
    names: QuotaKeys
    held: int = 0
    is_large: bool = False

    def reserve(self, size: int, *, is_refusable: bool = True) -> None:
        """Count `size` more bytes.

        Args:
            size: bytes to add.
            is_refusable: whether the bytes must fit the quota.

        Raises:
            TooManyRequests: too many bytes are held.
        """
        if is_refusable:
            self._bytes.check(self.names, size)
        self._bytes.add(self.names, size)
        self.held += size
        self.is_large = self.is_large or size > 0

    def release(self, size: int) -> None:
        """Count `size` bytes less."""
        self._bytes.give_back(self.names, size)
        self.held -= size
