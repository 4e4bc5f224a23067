"""A server holds neither a line nor a request longer than it needs."""

import gc
import io
import threading

import anyio
import anyio.to_thread
from mcp import Client
from mcp.server.context import ServerRequestContext
from mcp.shared.message import SessionMessage

from conftest import AppFactory
from replicate_mcp.mcp_server import stdio
from replicate_mcp.mcp_server.server import ReplicateMcpServer
from replicate_mcp.mcp_server.stdio import Incoming


class Line(bytes):
    """A line that tells when it is freed."""

    def __new__(cls, content: bytes, freed: threading.Event) -> "Line":
        line = super().__new__(cls, content)
        line.freed = freed
        return line

    def __del__(self) -> None:
        self.freed.set()

    freed: threading.Event


class Stdin(io.BytesIO):
    """A stdin with one line, after which the client is silent until `ends` is set."""

    def __init__(self, line: bytes) -> None:
        super().__init__()
        self.freed, self.ends = threading.Event(), threading.Event()
        self._lines = [Line(line, self.freed)]

    def readline(self, size: int | None = -1, /) -> bytes:
        if self._lines:
            return self._lines.pop()
        self.ends.wait(10)
        return b""


async def test_line_is_freed_before_the_next_one_arrives() -> None:
    stdin = Stdin(b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
    to_server, incoming = anyio.create_memory_object_stream[Incoming](1)
    outgoing, answers = anyio.create_memory_object_stream[SessionMessage](1)
    async with anyio.create_task_group() as group, incoming, answers:
        group.start_soon(stdio._read, stdin, to_server, outgoing)
        await incoming.receive()
        try:
            assert await anyio.to_thread.run_sync(stdin.freed.wait, 10)
        finally:
            stdin.ends.set()


async def test_work_that_the_first_call_starts_does_not_hold_its_arguments(
    app_with: AppFactory,
) -> None:
    async with app_with() as app, Client(ReplicateMcpServer(app, is_local=True)) as client:
        made = await client.call_tool("generate_images", {"tasks": [{"prompt": "a red car"}]})
        assert not made.is_error
        await client.list_tools()
        gc.collect()
        held = [each for each in gc.get_objects() if isinstance(each, ServerRequestContext)]
        assert "tools/call" not in {each.method for each in held}
