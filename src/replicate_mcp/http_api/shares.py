"""Something of which there is so much, shared by all: counted for each address and each caller."""

from collections import Counter
from dataclasses import dataclass, field

from replicate_mcp.http_api.refusals import Busy

ALL = ""

SHARES = (1, 2, 4)
"""Parts of the whole: for all together, for an address (a half), for a caller (a quarter).
Tokens can be made up: an address that sends many of them still leaves half to the others."""

Names = tuple[str, str, str]
"""All, an address, and a caller at it."""


def names_of(address: str, caller: str) -> Names:
    """Under which something is counted; a caller that is not known is its address."""
    return ALL, f"from {address}", caller


@dataclass(slots=True)
class Shared:
    """How much of it each has.

    Attributes:
        most: of all together.
        what: that of which there is too much, in words: "requests are open".
    """

    most: int
    what: str
    _taken: Counter[str] = field(default_factory=Counter)

    def check(self, names: Names, size: int = 1) -> None:
        """See whether there is room for so much more.

        Raises:
            Busy: there is not.
        """
        for name, share in zip(names, SHARES, strict=True):
            most = self.most // share
            if self._taken[name] + size > most:
                raise Busy(is_everybodys=name == ALL, what=self.what, most=most)

    def take(self, names: Names, size: int = 1) -> None:
        """Take so much more.

        Raises:
            Busy: there is not so much left.
        """
        self.check(names, size)
        self.add(names, size)

    def add(self, names: Names, size: int = 1) -> None:
        """Count so much more, whether there is room or not."""
        for name in names:
            self._taken[name] += size

    def give_back(self, names: Names, size: int = 1) -> None:
        """Give back so much."""
        for name in names:
            self._taken[name] -= size
            if self._taken[name] <= 0:
                del self._taken[name]
