"""uvicorn server of a simulation, imported late because only a running simulator needs it."""

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from replicate_mcp.simulator.api import Api
from replicate_mcp.simulator.engine.clock import LoopClock
from replicate_mcp.simulator.route_context import Simulation
from replicate_mcp.simulator.settings import SimulatorSettings

_BACKLOG = 4096
_KEEP_ALIVE_SECONDS = 75
_STOP_POLL_SECONDS = 0.005


class Service:
    """Server that can be stopped from any thread."""

    def __init__(
        self,
        settings: SimulatorSettings,
        listener: socket.socket,
        on_ready: Callable[[str], None],
    ) -> None:
        host, port = listener.getsockname()[:2]
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}  # noqa: S104 - compared
        self.url = f"http://{shown.get(host, host)}:{port}"
        self._settings = settings
        self._listener = listener
        self._on_ready = on_ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._stop_requested = False

    def stop(self) -> None:
        """Stop serving, without waiting for held requests."""
        self._stop_requested = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def serve(self) -> None:
        """Serve until stopped or interrupted."""
        self._loop = asyncio.get_running_loop()
        if self._stop_requested:
            self._stopping.set()
        simulation = Simulation(self._settings, LoopClock(self._loop), self.url)
        api = Api(simulation)
        server = _Uvicorn(_config(api), lambda: self._on_ready(self.url), self.stop)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.serve(sockets=[self._listener]))
            await self._stopping.wait()
            api.hang_up()
            await simulation.close()
            server.exit()


class _Uvicorn(uvicorn.Server):
    """uvicorn server with callbacks for its start and for a signal to stop.

    It stops at once, where uvicorn takes 0.2 s: tests stop a thousand of them.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        on_started: Callable[[], None],
        on_exit: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._on_exit = on_exit
        self._exiting = asyncio.Event()

    def exit(self) -> None:
        """Stop serving; called when no response is held any more."""
        self._exiting.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self._on_started()

    async def main_loop(self) -> None:
        await self._exiting.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        while self.server_state.connections or self.server_state.tasks:  # noqa: ASYNC110 - plain sets
            await asyncio.sleep(_STOP_POLL_SECONDS)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._on_exit()


def _config(api: Api) -> uvicorn.Config:
    return uvicorn.Config(
        api,
        lifespan="off",
        ws="none",
        loop="none",
        access_log=False,
        log_config=None,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        date_header=False,
        server_header=False,
    )
