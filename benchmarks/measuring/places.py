"""Locations of shared state: a new file, or a new prefix on a running server."""

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
"""Function that returns the backend setting of an empty location that admits tasks at once.

Its arguments are the accounts that will use it."""


@contextmanager
def places(kind: str) -> Iterator[NewPlace]:
    """Provide locations of one kind until the end of the block, starting a server if needed."""
    names = (f"benchmark-{number}" for number in count())
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield lambda *_: f"sqlite:///{Path(folder, next(names))}.db"
        return
    with running_server(kind) as server:

        def new_place(*accounts: str) -> str:
            prefix = next(names)
            # An empty server admits no task for one lease; wait for the end of a short one.
            anyio.run(open_for_admission, server, prefix, *(accounts or (ACCOUNT,)))
            return server.url(prefix)

        yield new_place
