"""MCP over stdin and stdout, with an answer to every line, including unreadable ones.

The SDK's own transport drops lines that it cannot parse without an answer, and ends if an answer
contains an unpaired surrogate. The SDK's dispatcher uses the streams created here instead.
"""

import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import BinaryIO

import anyio
import anyio.to_thread
from anyio.abc import ObjectReceiveStream, ObjectSendStream
from mcp.os.win32.utilities import rebind_std_handle_to_fd
from mcp.shared.message import SessionMessage
from mcp_types import (
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    JSONRPCResponse,
)

from replicate_mcp.cpu_bound import json_size, run_cpu_bound
from replicate_mcp.mcp_server.jsonrpc_lines import (
    MAX_LINE_BYTES,
    UnreadableLine,
    line_too_long,
    parse_line,
)

log = logging.getLogger(__name__)

Incoming = SessionMessage | Exception
"""What the SDK's dispatcher reads; this transport never sends it exceptions."""

_CHUNK_BYTES = 64 * 1024

_LONG_LINE_EXCERPT_BYTES = 1_024
"""Bytes at each end of a line that is too long, which are searched for its id."""


@asynccontextmanager
async def stdio_streams() -> AsyncIterator[
    tuple[ObjectReceiveStream[Incoming], ObjectSendStream[SessionMessage]]
]:
    """Yield a stream of the messages from stdin, and one whose messages go to stdout.

    From then on, file descriptor 0 reads nothing and 1 writes to stderr, so that nothing else in
    this process or its children reads from or writes to the client.
    """
    stdin, stdout = _claim_standard_streams()
    # Without buffers: a client that does not read its answers is not read from.
    to_server, incoming = anyio.create_memory_object_stream[Incoming]()
    outgoing, to_client = anyio.create_memory_object_stream[SessionMessage]()
    async with anyio.create_task_group() as group:
        group.start_soon(_read, stdin, to_server, outgoing.clone())
        group.start_soon(_write, stdout, to_client)
        yield incoming, outgoing


async def _read(
    stdin: BinaryIO,
    to_server: ObjectSendStream[Incoming],
    to_client: ObjectSendStream[SessionMessage],
) -> None:
    """Pass each line on as a message until stdin ends; answer unreadable lines with an error."""
    async with to_server, to_client:
        while True:
            try:
                line = await anyio.to_thread.run_sync(_read_line, stdin)
                if not line:
                    return
                if line.isspace():
                    continue
                message = await run_cpu_bound(partial(parse_line, line), size_bytes=len(line))
            except UnreadableLine as error:
                log.warning("A line on stdin cannot be read: %s", error)
                answer = ErrorData(code=error.code, message=f"{error}.")
                refusal = JSONRPCError(jsonrpc="2.0", id=error.request_id, error=answer)
                await to_client.send(SessionMessage(refusal))
                continue
            try:
                await to_server.send(SessionMessage(message))
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return
            del line, message  # They may be large, and the next line may be long in coming.


def _read_line(stdin: BinaryIO) -> bytes:
    """Return the next line; empty at the end of stdin.

    Raises:
        UnreadableLine: the line is too long; it has been skipped.
    """
    line = stdin.readline(MAX_LINE_BYTES + 1)
    if len(line) <= MAX_LINE_BYTES or line.endswith(b"\n"):
        return line
    start, end = line[:_LONG_LINE_EXCERPT_BYTES], line[-_LONG_LINE_EXCERPT_BYTES:]
    del line
    while more := stdin.readline(_CHUNK_BYTES):
        end = (end + more)[-_LONG_LINE_EXCERPT_BYTES:]
        if more.endswith(b"\n"):
            break
    raise line_too_long(start, end)


async def _write(stdout: int, messages: ObjectReceiveStream[SessionMessage]) -> None:
    """Write each message as a line; discard messages once the client has stopped reading."""
    is_read = True
    async with messages:
        async for message in messages:
            content = _content(message.message)
            line = await run_cpu_bound(
                partial(encode_line, message.message), size_bytes=json_size(content)
            )
            if is_read:
                try:
                    await anyio.to_thread.run_sync(_write_line, stdout, line)
                except OSError as error:
                    log.warning("The client does not read its answers any more: %s", error)
                    is_read = False


def encode_line(message: JSONRPCMessage) -> bytes:
    """Return a message as a line of JSON in UTF-8, with `?` for unpaired surrogates."""
    try:
        return message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"
    except ValueError:
        # pydantic's serialiser fails on unpaired surrogates.
        content = message.model_dump(mode="json", by_alias=True, exclude_unset=True)
        text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
        return text.encode(errors="replace") + b"\n"


def _content(message: JSONRPCMessage) -> object:
    match message:
        case JSONRPCResponse():
            return message.result
        case JSONRPCRequest() | JSONRPCNotification():
            return message.params
        case JSONRPCError():
            return [message.error.message, message.error.data]


def _write_line(stdout: int, line: bytes) -> None:
    left = memoryview(line)
    while left:
        left = left[os.write(stdout, left) :]


def _claim_standard_streams() -> tuple[BinaryIO, int]:
    """Return duplicates of stdin and of stdout's descriptor that no other code uses."""
    # Open any closed descriptor of 0, 1 and 2 first, so that no duplicate gets its number.
    while (nothing := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    stdin, stdout = os.dup(0), os.dup(1)
    for descriptor, replacement in ((0, nothing), (1, 2)):
        os.dup2(replacement, descriptor)
        rebind_std_handle_to_fd(descriptor)  # On Windows, what child processes inherit.
    os.close(nothing)
    # Never closed: a thread may still be reading when the transport ends.
    return os.fdopen(stdin, "rb", _CHUNK_BYTES, closefd=False), stdout
