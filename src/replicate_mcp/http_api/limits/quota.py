"""Quotas of a shared resource, counted for each address and each caller."""

from collections import Counter
from dataclasses import dataclass, field

from replicate_mcp.http_api.limits.exceptions import TooManyRequests

ALL = ""

SHARES = (1.0, 0.75, 0.5, 0.25)
"""Maximum shares of all clients together, of a peer, of an address, and of a caller.

Tokens can be invented: an address that sends many of them leaves half to the others. So can
addresses in `X-Forwarded-For`: a peer that sends many of them leaves a quarter to the others.
"""

QuotaKeys = tuple[str, str, str, str]
"""Keys for all clients, the other end of a connection, an address behind it, and its caller."""


def quota_keys(peer: str, address: str, caller: str) -> QuotaKeys:
    """Return the keys that something is counted under; an unknown caller is its address."""
    return ALL, f"through {peer}", f"from {address}", caller


@dataclass(slots=True)
class Quota:
    """A limited resource, and how much of it each client uses.

    Attributes:
        most: maximum of all clients together.
        what: the resource with a verb, for messages: "requests are open".
    """

    most: int
    what: str
    _taken: Counter[str] = field(default_factory=Counter)

    def check(self, names: QuotaKeys, size: int = 1) -> None:
        """Check that `size` more would be within the quota.

        Raises:
            TooManyRequests: the quota would be exceeded.
        """
        for name, share in zip(names, SHARES, strict=True):
            most = int(self.most * share)
            if self._taken[name] + size > most:
                # A proxy's excess is not its caller's own.
                is_global = name in names[:2]
                raise TooManyRequests(is_global=is_global, what=self.what, most=most)

    def take(self, names: QuotaKeys, size: int = 1) -> None:
        """Count `size` more if that is within the quota.

        Raises:
            TooManyRequests: the quota would be exceeded.
        """
        self.check(names, size)
        self.add(names, size)

    def add(self, names: QuotaKeys, size: int = 1) -> None:
        """Count `size` more, even beyond the quota."""
        for name in names:
            self._taken[name] += size

    def give_back(self, names: QuotaKeys, size: int = 1) -> None:
        """Count `size` less."""
        for name in names:
            self._taken[name] -= size
            if self._taken[name] <= 0:
                del self._taken[name]
