"""What is open at once: counted for all, for each address, and for each caller."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from replicate_mcp.http_api.limits import Limits
from replicate_mcp.http_api.refusals import Busy

ALL = ""

SHARES = (1, 2, 4)
"""Parts of the whole: for all together, for an address (a half), for a caller (a quarter).
Tokens can be made up: an address that sends many of them still leaves half to the others."""


@dataclass(slots=True)
class OpenRequests:
    """The requests that are open in this process, and the bytes of their bodies."""

    limits: Limits
    _requests: Counter[str] = field(default_factory=Counter)
    _bytes: Counter[str] = field(default_factory=Counter)

    @contextmanager
    def one_more(self, address: str, caller: str) -> Iterator["OpenRequest"]:
        """A request, for as long as it is open.

        Raises:
            Busy: too many are.
        """
        names = (ALL, f"from {address}", caller)
        _check(self._requests, names, self.limits.open_requests, "requests are open")
        self._requests.update(names)
        request = OpenRequest(self, names)
        try:
            yield request
        finally:
            _take_away(self._requests, names, 1)
            _take_away(self._bytes, names, request.held)

    def hold(self, names: tuple[str, ...], size: int) -> None:
        """Count the bytes of a body that has to be kept.

        Raises:
            Busy: too many are held.
        """
        _check(self._bytes, names, self.limits.held_body_bytes, "bytes are sent at once", size)
        for name in names:
            self._bytes[name] += size


@dataclass(slots=True)
class OpenRequest:
    """One of them."""

    _all: OpenRequests
    _names: tuple[str, ...]
    held: int = 0

    def hold(self, size: int) -> None:
        """Count more of its body.

        Raises:
            Busy: too much is held.
        """
        self._all.hold(self._names, size)
        self.held += size


def _check(
    counted: Counter[str], names: tuple[str, ...], most: int, what: str, more: int = 1
) -> None:
    for name, share in zip(names, SHARES, strict=True):
        if counted[name] + more > most // share:
            raise Busy(is_everybodys=name == ALL, what=what, most=most // share)


def _take_away(counted: Counter[str], names: tuple[str, ...], size: int) -> None:
    for name in names:
        counted[name] -= size
        if counted[name] <= 0:
            del counted[name]
