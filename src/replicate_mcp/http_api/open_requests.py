"""What is open at once: requests, and the bytes of their bodies."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from replicate_mcp.http_api.limits import Limits
from replicate_mcp.http_api.shares import Names, Shared


class OpenRequests:
    """The requests that are open in this process."""

    def __init__(self, limits: Limits) -> None:
        self._requests = Shared(limits.open_requests, "requests are open")
        self._bytes = Shared(limits.held_body_bytes, "bytes are sent at once")

    @contextmanager
    def one_more(self, names: Names) -> Iterator["OpenRequest"]:
        """A request, for as long as it is open.

        Raises:
            Busy: too many are.
        """
        self._requests.take(names)
        request = OpenRequest(self._bytes, names)
        try:
            yield request
        finally:
            self._requests.give_back(names)
            self._bytes.give_back(names, request.held)


@dataclass(slots=True)
class OpenRequest:
    """One of them, and how much of its body is held."""

    _bytes: Shared
    names: Names
    held: int = 0

    def hold(self, size: int) -> None:
        """Count more of its body.

        Raises:
            Busy: too much is held.
        """
        self._bytes.take(self.names, size)
        self.held += size
