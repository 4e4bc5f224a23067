"""Something of which there is so much, shared by all: counted for each address and each caller."""

from collections import Counter
from dataclasses import dataclass, field

from replicate_mcp.http_api.error_responses import TooManyRequests

ALL = ""

SHARES = (1.0, 0.75, 0.5, 0.25)
"""Parts of the whole: for all together, for the other end of connections, for an address, and for a
caller. Tokens can be made up: an address that sends many of them leaves half to the others. So can
addresses in `X-Forwarded-For`: who connects and sends many leaves a quarter to the others."""

QuotaKeys = tuple[str, str, str, str]
"""All, the other end of a connection, an address behind it, and a caller there."""


def quota_keys(peer: str, address: str, caller: str) -> QuotaKeys:
    """Under which something is counted; a caller that is not known is its address."""
    return ALL, f"through {peer}", f"from {address}", caller


@dataclass(slots=True)
class Quota:
    """How much of it each has.

    Attributes:
        most: of all together.
        what: that of which there is too much, in words: "requests are open".
    """

    most: int
    what: str
    _taken: Counter[str] = field(default_factory=Counter)

    def check(self, names: QuotaKeys, size: int = 1) -> None:
        """See whether there is room for so much more.

        Raises:
            Busy: there is not.
        """
        for name, share in zip(names, SHARES, strict=True):
            most = int(self.most * share)
            if self._taken[name] + size > most:
                # What a proxy has too much of is not its caller's own.
                is_global = name in names[:2]
                raise TooManyRequests(is_global=is_global, what=self.what, most=most)

    def take(self, names: QuotaKeys, size: int = 1) -> None:
        """Take so much more.

        Raises:
            Busy: there is not so much left.
        """
        self.check(names, size)
        self.add(names, size)

    def add(self, names: QuotaKeys, size: int = 1) -> None:
        """Count so much more, whether there is room or not."""
        for name in names:
            self._taken[name] += size

    def give_back(self, names: QuotaKeys, size: int = 1) -> None:
        """Give back so much."""
        for name in names:
            self._taken[name] -= size
            if self._taken[name] <= 0:
                del self._taken[name]
