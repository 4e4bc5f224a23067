"""The HTTP server: all routes over one app, including MCP at /mcp and /sse."""

import asyncio
import errno
import gc
import logging
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING, Any, cast

import anyio
import uvicorn
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from replicate_mcp.addresses import is_loopback
from replicate_mcp.app.app import App
from replicate_mcp.cpu_bound import SWITCH_INTERVAL_SECONDS
from replicate_mcp.errors import InvalidInput
from replicate_mcp.http_api import dashboard
from replicate_mcp.http_api.cors import cross_origin
from replicate_mcp.http_api.error_responses import add_exception_handlers
from replicate_mcp.http_api.limits.config import DEFAULT_LIMITS, Limits
from replicate_mcp.http_api.limits.http_protocol import CHECKED_EVERY_SECONDS, Connection
from replicate_mcp.http_api.limits.middleware import RequestLimitsMiddleware
from replicate_mcp.http_api.openapi import COMMON_ERRORS, DescribedAPI
from replicate_mcp.http_api.routes import (
    batches,
    generate,
    metrics,
    semaphores,
    service,
    webhooks,
)
from replicate_mcp.http_api.routes.metrics import Metrics
from replicate_mcp.platform.memory import share_one_arena
from replicate_mcp.platform.processes import raise_descriptor_limit
from replicate_mcp.platform.sockets import listening_socket
from replicate_mcp.settings import Settings

if TYPE_CHECKING:
    from replicate_mcp.mcp_server.server import ReplicateMcpServer

log = logging.getLogger(__name__)

GRACE_SECONDS = 3
"""Seconds for open requests after SIGTERM; the next process recovers the batches."""

ANSWER_SECONDS = 2.0
"""Maximum seconds that the streams of MCP clients stay open for responses to their calls."""

ON_ITS_WAY_SECONDS = 0.1
"""Seconds for a received call to reach its handler, and for its response to reach its stream."""

BACKLOG = 2048

_TICKS_A_CHECK = round(CHECKED_EVERY_SECONDS * 10)  # uvicorn ticks ten times a second


def build(
    app: App, server: "ReplicateMcpServer", *, host: str, limits: Limits = DEFAULT_LIMITS
) -> FastAPI:
    """Return the application with all routes, over one app and one MCP server."""
    from replicate_mcp.mcp_server.http_transports import http_routes

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with server.session_manager.run():
            yield

    api = DescribedAPI(
        title="replicate-mcp",
        version=metadata.version("replicate-mcp"),
        description="Prompts in, image URLs out, through Replicate.",
        lifespan=lifespan,
        redirect_slashes=False,
        responses=COMMON_ERRORS,
        docs_url=None,
        redoc_url=None,
    )
    names = _names(app, host)
    api.state.replicate_mcp = app
    api.state.metrics = app.observer = Metrics()
    api.include_router(generate.router)
    api.include_router(batches.router)
    api.include_router(semaphores.router)
    api.include_router(service.router)
    api.include_router(metrics.router)
    if app.settings.public_url is not None:
        api.include_router(webhooks.router)
    api.include_router(dashboard.router)
    api.router.routes.extend(http_routes(server, names))
    add_exception_handlers(api)
    hosts = None if names is None else [name.strip("[]") for name in names]
    api.add_middleware(RequestLimitsMiddleware, access=app.access, limits=limits, mcp_hosts=hosts)
    if app.access.allowed_hosts:
        api.add_middleware(CORSMiddleware, **cross_origin(app.access.allowed_hosts))
    return api


async def serve_http(
    settings: Settings,
    *,
    host: str,
    port: int,
    on_listening: Callable[[str], None],
    limits: Limits = DEFAULT_LIMITS,
) -> None:
    """Serve until a signal arrives; the next process recovers what then runs on Replicate.

    Args:
        settings: the server's settings.
        host: address to listen on.
        port: port to listen on; 0 for any free one.
        on_listening: receives the server's URL once it accepts connections.
        limits: maximum limits; reduced if the system allows the process too few file descriptors.

    Raises:
        InvalidInput: the server cannot listen on this address.
    """
    from replicate_mcp.mcp_server.http_transports import keep_streams_after_a_signal
    from replicate_mcp.mcp_server.server import ReplicateMcpServer

    share_one_arena()
    keep_streams_after_a_signal()
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    limits = limits.fitting(raise_descriptor_limit())
    async with App.running(
        settings,
        listens_on_loopback=is_loopback(host),
        is_service=True,
        batch_bytes=limits.batch_bytes,
    ) as app:
        server = ReplicateMcpServer(app)
        api = build(app, server, host=host, limits=limits)
        app.start_background(app.recover)
        _load_and_freeze()
        with _listener(host, port) as listener:
            shown = f"[{host}]" if ":" in host else host
            on_listening(f"http://{shown}:{listener.getsockname()[1]}")
            await _Server(_config(api, limits), app, server).serve([listener])


class _Server(uvicorn.Server):
    """uvicorn server that answers waiting requests before it exits, and checks timeouts.

    It checks the timeouts of its connections every second.
    """

    def __init__(self, config: uvicorn.Config, app: App, mcp: "ReplicateMcpServer") -> None:
        super().__init__(config)
        self._app = app
        self._mcp = mcp

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.begin_shutdown()
        async with anyio.create_task_group() as group:
            group.start_soon(self._end_streams)
            await super().shutdown(sockets)
            group.cancel_scope.cancel()
        # Else uvicorn re-raises them, which ends the process before the app has closed.
        self._captured_signals.clear()

    async def _end_streams(self) -> None:
        """End the streams that MCP clients keep open, once no call waits for its response."""
        from replicate_mcp.mcp_server.http_transports import end_streams

        with anyio.move_on_after(ANSWER_SECONDS):
            await asyncio.sleep(ON_ITS_WAY_SECONDS)
            await self._mcp.wait_until_answered()
            await asyncio.sleep(ON_ITS_WAY_SECONDS)
        end_streams()

    async def on_tick(self, counter: int) -> bool:
        if counter % _TICKS_A_CHECK == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.check(now)
        return await super().on_tick(counter)


def _load_and_freeze() -> None:
    """Import the modules that calls need, and exempt them from garbage collection.

    A full collection blocks the event loop while it visits every object: 100 ms were measured, most
    of it for modules, which are never freed.
    """
    import replicate_mcp.app.composition  # noqa: F401
    from replicate_mcp.replicate_api.gateway import import_client
    from replicate_mcp.tasks.input_schema import import_validator

    import_client()
    import_validator()
    gc.collect()
    gc.freeze()


def _listener(host: str, port: int) -> socket.socket:
    try:
        return listening_socket(host, port, BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        is_host = isinstance(error, socket.gaierror | UnicodeError) or (
            isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL
        )
        instead = (
            "give an address of this machine as --host, like 127.0.0.1 or 0.0.0.0"
            if is_host
            else "choose another --port"
        )
        raise InvalidInput(f"{host}:{port} cannot be listened on ({error}): {instead}.") from None


def _config(api: FastAPI, limits: Limits) -> uvicorn.Config:
    return uvicorn.Config(
        api,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=limits.header_bytes,
        http=cast(Any, partial(Connection, limits=limits, draining=set())),
        ws="none",
        timeout_keep_alive=65,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def _names(app: App, host: str) -> list[str] | None:
    """Return the host names of this server; None if they are unknown."""
    names = [f"[{name}]" if ":" in name else name for name in app.access.allowed_hosts]
    if is_loopback(host):
        names += ["127.0.0.1", "localhost", "[::1]"]
    return names or None
