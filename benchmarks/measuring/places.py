"""Where processes keep what they share: a new file, or a new prefix at a server that runs."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import anyio

from backends.servers import open_for_admission, running_server
from benchmarks.measuring.sharing import ACCOUNT

KINDS = ("sqlite", "redis", "valkey")

NewPlace = Callable[..., str]
"""Gives the setting of a place where nothing is known yet, and which admits at once.

It may be told the accounts that this is for.
"""


@contextmanager
def places(kind: str) -> Iterator[NewPlace]:
    """Places of one kind, for as long as the block lasts; a server of its own is started."""
    names = (f"benchmark-{number}" for number in count())
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield lambda *_: f"sqlite:///{Path(folder, next(names))}.db"
        return
    with running_server(kind) as server:

        def new_place(*accounts: str) -> str:
            prefix = next(names)
            # An empty server admits nothing for one lease: a short one, which is over here.
            anyio.run(open_for_admission, server, prefix, *(accounts or (ACCOUNT,)))
            return server.url(prefix)

        yield new_place
