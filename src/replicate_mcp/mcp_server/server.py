"""The MCP server: one object for all transports, over the process's app."""

import gc
import logging
import os
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from functools import cache, partial
from importlib import metadata
from typing import Any

import anyio
import anyio.lowlevel
from mcp.server.apps import Apps, client_supports_apps
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolResult,
    Completion,
    CompletionArgument,
    CompletionContext,
    GetPromptResult,
    InputRequiredResult,
    Prompt,
    PromptReference,
    Resource,
    ResourceTemplate,
    ResourceTemplateReference,
    Tool,
)
from pydantic import AnyUrl

from replicate_mcp.app.app import App
from replicate_mcp.auth import Caller
from replicate_mcp.batches.progress import Progress
from replicate_mcp.errors import InvalidInput, ReplicateMcpError
from replicate_mcp.mcp_server import prompts, resources
from replicate_mcp.mcp_server.auth import Request, authenticate, to_public_error
from replicate_mcp.mcp_server.completion import complete
from replicate_mcp.mcp_server.elicitation import Confirmation, request_state_security
from replicate_mcp.mcp_server.gallery import GALLERY_URI, gallery
from replicate_mcp.mcp_server.previews import Previews
from replicate_mcp.mcp_server.prompts import PROMPTS
from replicate_mcp.mcp_server.resources import RESOURCES, TEMPLATES
from replicate_mcp.mcp_server.stdio import stdio_streams
from replicate_mcp.mcp_server.tools import APP_TOOLS, TOOLS, ToolCall
from replicate_mcp.platform.memory import return_large_blocks
from replicate_mcp.platform.signals import wait_for_end_signal
from replicate_mcp.settings import Settings
from replicate_mcp.text import escaped

log = logging.getLogger(__name__)

STATELESS_SINCE = "2026-07-28"
"""First protocol revision without sessions, in which closing the stream cancels a call."""

RequestKey = tuple[str, object]
"""A connection, and the id of a request on it."""

_current_request: ContextVar[Request | None] = ContextVar("request", default=None)
"""The request being handled, where the SDK does not pass it: of completion and `tools/list`."""

LEAVE_SECONDS = 2.0
"""Maximum seconds, after a signal, for the app to close and inform other processes."""

PAUSE_SECONDS = 1.0
"""Seconds without an answer after which the client's first exchange is over."""

MAX_EXCHANGE_SECONDS = 10.0
"""Seconds after the first answer at which the first exchange counts as over, pause or not."""

INSTRUCTIONS = (
    "Makes images on Replicate: give generate_images all prompts in one call and it returns a URL "
    "and a filename for each. When it answers before a batch has ended, call get_batch as its "
    "next_step says. Show people the URLs; they work for one hour. find_models lists models and "
    "their inputs."
)


class ReplicateMcpServer(MCPServer[dict[str, Any]]):
    """MCP server that lists the tools, and answers calls with `app`.

    Args:
        is_local: whether every caller is this machine's user.
    """

    def __init__(self, app: App, *, is_local: bool = False) -> None:
        self._app = app
        self._is_local = is_local
        self._previews = Previews(app.settings.replicate_base_url)
        self._canceled: deque[RequestKey] = deque(maxlen=256)
        self._open_requests = 0
        self._all_answered = anyio.Event()
        self._answered = anyio.Event()
        self.has_answered_a_call = anyio.Event()
        super().__init__(
            "replicate-mcp",
            title="Replicate images",
            version=metadata.version("replicate-mcp"),
            instructions=_instructions(app.settings if is_local else None),
            log_level="WARNING",
            middleware=[self._track_cancellations],
            request_state_security=request_state_security(
                app.settings, app.access, is_local=is_local
            ),
            extensions=[Apps()],
        )
        self.completion()(self._complete)  # type: ignore[no-untyped-call]

    async def list_tools(self) -> list[Tool]:
        """Return all tools: with those for the gallery alone if the client supports MCP Apps."""
        request = _current_request.get()
        shows_gallery = request is not None and client_supports_apps(request)
        return [spec.tool for spec in (TOOLS | APP_TOOLS if shows_gallery else TOOLS).values()]

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Answer one call.

        Raises:
            MCPError: no tool has this name.
        """
        spec = TOOLS.get(name) or APP_TOOLS.get(name)
        if spec is None:
            known = ", ".join(TOOLS)
            raise MCPError(
                INVALID_PARAMS, f"There is no tool '{escaped(name[:60])}': there are {known}."
            )
        request = context.request_context if context is not None else None
        batches: list[str] = []
        call = ToolCall(
            app=self._app,
            arguments=arguments,
            previews=self._previews,
            authenticate=cache(self._caller_resolver(request)),
            to_public_error=self._to_public_error(request),
            is_local=self._is_local,
            arrived=anyio.current_time(),
            on_progress=_reporter(context),
            on_batch=batches.append,
            confirmation=Confirmation(
                context, above=self._app.settings.confirm_above, arguments=arguments
            ),
        )
        try:
            return await spec(call)
        except anyio.get_cancelled_exc_class():
            if context is not None and batches:
                # The request has ended; a background task decides whether its batch is cancelled.
                key = _key(context.request_context)
                closing_cancels = _closing_cancels(context)
                self._app.start_background(
                    self._cancel_if_requested, key, call, batches[0], closing_cancels
                )
            raise

    async def list_resources(self) -> list[Resource]:
        """Return the resources with fixed URIs."""
        return RESOURCES

    async def list_resource_templates(self) -> list[ResourceTemplate]:
        """Return the templates of resources that are read by an id or a name."""
        return TEMPLATES

    async def read_resource(
        self, uri: AnyUrl | str, context: Context[Any, Any] | None = None
    ) -> list[ReadResourceContents]:
        """Return the content of a resource, as the caller may see it."""
        if str(uri) == GALLERY_URI:
            return [gallery(self._app.settings.replicate_base_url)]
        request = context.request_context if context is not None else None
        content = await resources.read(
            self._app, self._caller_resolver(request), str(uri), self._to_public_error(request)
        )
        return [ReadResourceContents(content=content, mime_type=resources.JSON_TYPE)]

    async def list_prompts(self) -> list[Prompt]:
        """Return the prompts that people can start from."""
        return [spec.prompt for spec in PROMPTS.values()]

    async def get_prompt(
        self,
        name: str,
        arguments: dict[str, Any] | None = None,
        context: Context[Any, Any] | None = None,
    ) -> GetPromptResult:
        """Return a prompt with its arguments filled in."""
        return prompts.write(name, arguments)

    async def run_stdio_async(self) -> None:
        """Serve one client over stdin and stdout, until stdin ends."""
        async with stdio_streams() as (incoming, outgoing):
            server = self._lowlevel_server
            await server.run(incoming, outgoing, server.create_initialization_options())

    async def wait_for_a_pause(self) -> None:
        """Wait until the client's first exchange is over: it pauses, or has gone on for long."""
        await self._answered.wait()
        with anyio.move_on_after(MAX_EXCHANGE_SECONDS):
            while self._answered.is_set():
                self._answered = anyio.Event()
                with anyio.move_on_after(PAUSE_SECONDS):
                    await self._answered.wait()

    async def wait_until_answered(self) -> None:
        """Wait until no request waits for its response."""
        if self._open_requests:
            self._all_answered = anyio.Event()
            await self._all_answered.wait()

    async def _complete(
        self,
        ref: PromptReference | ResourceTemplateReference,
        argument: CompletionArgument,
        context: CompletionContext | None,
    ) -> Completion:
        return await complete(
            self._app, self._caller_resolver(_current_request.get()), ref, argument, context
        )

    def _caller_resolver(self, request: Request | None) -> Callable[[], Caller]:
        return partial(authenticate, self._app.access, request, is_local=self._is_local)

    def _to_public_error(
        self, request: Request | None
    ) -> Callable[[ReplicateMcpError], ReplicateMcpError]:
        return lambda error: to_public_error(
            self._app.access, request, error, is_local=self._is_local
        )

    async def _cancel_if_requested(
        self, key: RequestKey, call: ToolCall, batch_id: str, closing_cancels: bool
    ) -> None:
        """Cancel the batch of a request that a person cancelled.

        A batch whose connection was merely lost goes on.
        """
        await anyio.lowlevel.checkpoint()
        if key in self._canceled or (closing_cancels and not self._app.is_shutting_down):
            try:
                await self._app.batches.cancel(call.caller, batch_id)
            except ReplicateMcpError as error:
                log.warning("batch %s is not cancelled: %s", batch_id, error)

    async def _track_cancellations(
        self, ctx: ServerRequestContext[Any, Any], call_next: CallNext
    ) -> HandlerResult:
        if ctx.method == "notifications/cancelled" and ctx.params:
            self._canceled.append((_connection(ctx), ctx.params.get("requestId")))
        if ctx.method in ("completion/complete", "tools/list"):
            # Background work that a request starts would keep the request and all its arguments.
            _current_request.set(ctx)
        self._open_requests += 1
        try:
            answer = await call_next(ctx)
        finally:
            self._open_requests -= 1
            if not self._open_requests:
                self._all_answered.set()
        self._answered.set()
        if ctx.method == "tools/call":
            self.has_answered_a_call.set()
        return answer


def _instructions(local: Settings | None) -> str:
    if local is None or local.files is None:
        return INSTRUCTIONS
    return f"{INSTRUCTIONS} An input that takes an image takes a path in {local.files} as well."


def _key(ctx: ServerRequestContext[Any, Any]) -> RequestKey:
    return _connection(ctx), ctx.request_id


def _connection(ctx: ServerRequestContext[Any, Any]) -> str:
    """Return an identifier of a client's connection; stdio has one connection only."""
    if ctx.request is None:
        return ""
    session = ctx.request.headers.get("mcp-session-id")
    return str(session or ctx.request.query_params.get("session_id", ""))


def _closing_cancels(context: Context[Any, Any]) -> bool:
    """Return whether a client cancels this request by closing the answer's stream."""
    streamed = context.headers is not None and not _connection(context.request_context)
    return streamed and str(context.protocol_version) >= STATELESS_SINCE


def _reporter(context: Context[Any, Any] | None) -> Any:
    if context is None:
        return None

    async def report(progress: Progress) -> None:
        await context.report_progress(progress.finished, progress.total, progress.message)

    return report


async def serve_stdio(settings: Settings, settings_error: InvalidInput | None = None) -> None:
    """Serve one client over stdin and stdout, until the client closes them or a signal arrives.

    With invalid settings the server still runs: a host shows the error of a call, but of a server
    that has exited only that it is gone.

    Predictions are not cancelled when the server ends, since no person requested it. Those running
    on Replicate keep their permits, in the state that all processes share.
    """
    running = App.running(settings, settings_error=settings_error)
    async with running as app, anyio.create_task_group() as group:
        group.start_soon(_leave_at_signal, app)
        server = ReplicateMcpServer(app, is_local=True)
        group.start_soon(_recover_after_the_first_exchange, server, app)
        group.start_soon(_settle_after_the_first_call, server)
        await server.run_stdio_async()
        group.cancel_scope.cancel()


async def _recover_after_the_first_exchange(server: ReplicateMcpServer, app: App) -> None:
    # A host waits for its answers at every start, and there is rarely anything to recover.
    await server.wait_for_a_pause()
    await app.recover_when_needed()


async def _settle_after_the_first_call(server: ReplicateMcpServer) -> None:
    """Exempt the modules that calls import from garbage collection, and return freed memory.

    A full collection visits every object and blocks the event loop for 100 ms, mostly for modules,
    which are never freed.
    """
    await server.has_answered_a_call.wait()
    gc.freeze()
    return_large_blocks()


async def _leave_at_signal(app: App) -> None:
    await wait_for_end_signal()
    with anyio.move_on_after(LEAVE_SECONDS):
        await app.close()
    # The transport reads stdin in a thread that ends only with stdin, so only this exits.
    os._exit(0)
