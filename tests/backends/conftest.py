"""What the tests of backends share: real servers."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from backends.servers import RunningServer, running_server


@pytest.fixture(scope="session")
def servers() -> Iterator[Callable[[str], RunningServer]]:
    """A server of each kind, started when the first test needs it."""
    running: dict[str, RunningServer] = {}
    with ExitStack() as stack:

        def server(kind: str) -> RunningServer:
            if kind not in running:
                running[kind] = stack.enter_context(running_server(kind))
            return running[kind]

        yield server
