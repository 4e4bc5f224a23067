"""A TCP link between a process and its server, with injected faults."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from backends.servers import RunningServer


class Link:
    """Proxy that forwards bytes between clients and a server until a fault is injected."""

    def __init__(self, server: RunningServer, tls: ssl.SSLContext | None) -> None:
        self._server = server
        self._tls = tls
        self._listening: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._to_lose = 0
        self._spoils = False
        self.port = 0

    async def restore(self) -> None:
        """Accept connections (again)."""
        self._listening = await asyncio.start_server(
            self._connected, "127.0.0.1", self.port, ssl=self._tls
        )
        self.port = self._listening.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        """Close every connection and accept no others."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None
        for writer in list(self._open):
            writer.close()
        while self._open:
            await asyncio.sleep(0)

    def lose_answers(self, count: int) -> None:
        """Have the next `count` calls carried out, but drop the connection before each response."""
        self._to_lose, self._spoils = count, False

    def spoil_answers(self, count: int) -> None:
        """Have the next `count` calls carried out, but replace each response by garbage."""
        self._to_lose, self._spoils = count, True

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            await self._forward(reader, writer)
        finally:
            writer.close()
            self._open.discard(writer)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        except OSError:
            return  # The server is gone: close the client's connection immediately.
        self._open.add(up_writer)
        asks_for_a_step = asyncio.Event()

        async def requests() -> None:
            while data := await reader.read(1 << 16):
                if b"EVAL" in data:
                    asks_for_a_step.set()
                up_writer.write(data)
            up_writer.close()

        async def answers() -> None:
            try:
                while data := await up_reader.read(1 << 16):
                    if self._to_lose and asks_for_a_step.is_set():
                        self._to_lose -= 1
                        if self._spoils:
                            writer.write(b"<html>no protocol of Redis</html>\r\n")
                        break
                    writer.write(data)
            finally:
                writer.close()
                up_writer.close()

        await asyncio.gather(requests(), answers(), return_exceptions=True)
        self._open.discard(up_writer)


@asynccontextmanager
async def link_to(server: RunningServer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Link]:
    """Run a link while the block runs."""
    link = Link(server, tls)
    await link.restore()
    try:
        yield link
    finally:
        await link.cut()
