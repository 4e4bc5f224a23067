"""The tools: each reads its arguments, calls the app, and formats the answer for a model."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import anyio
from mcp_types import CallToolResult, InputRequiredResult, TextContent, Tool, ToolAnnotations

from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest, Retry
from replicate_mcp.auth import Caller
from replicate_mcp.batches.progress import OnProgress
from replicate_mcp.cpu_bound import INLINE_BYTES, VALUE_BYTES, json_size, run_cpu_bound
from replicate_mcp.errors import InvalidInput, ReplicateMcpError, TaskProblem, refusal_of
from replicate_mcp.mcp_server import schemas
from replicate_mcp.mcp_server.arguments import RETRY_OF, TASKS, read_arguments
from replicate_mcp.mcp_server.elicitation import Confirmation, ElicitationRequired
from replicate_mcp.mcp_server.gallery import GALLERY_URI
from replicate_mcp.mcp_server.model_results import found_models, model_inputs
from replicate_mcp.mcp_server.pages import (
    NEXT_WAIT_SECONDS,
    PAGE_ROWS,
    PageSize,
    counts_line,
    page_as_json,
    page_as_text,
    page_size,
)
from replicate_mcp.mcp_server.previews import MAX_THUMBNAILS, Previews

if TYPE_CHECKING:
    from pydantic import BaseModel

    from replicate_mcp.tasks.result import BatchResult


REFUSAL_KEY = "replicate-mcp/refusal"
"""Key of `_meta` with a refusal's error, code and `retryable`, for programs."""

RECENT_BATCHES_KEY = "replicate-mcp/recent-batches"
"""Key of `_meta` that lists the caller's recently created batches.

It is part of answers of get_batch to calls that name no batch: the gallery uses it to find the
batch of its own call before that call is answered.
"""

RETRIES_KEY = "replicate-mcp/retries"
"""Key of `_meta` that lists the retries of a batch, and the retries of these, oldest first.

It is part of answers of get_batch that begin with a batch's first result, if there are retries: the
gallery shows them in place of the tasks that they repeat.
"""

RECENT_SECONDS = 60.0
"""Maximum age of a recent batch: a call that created an older one has been answered."""

MAX_RECENT_BATCHES = 20

UPLOAD_SECONDS = 40.0
"""Maximum seconds for uploading local images: hosts give up after a minute."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool.

    Attributes:
        app: the process's app.
        arguments: the call's arguments.
        previews: creates thumbnails if they are requested.
        authenticate: returns the caller, or raises; called once, since it may be expensive.
        to_public_error: returns the error that may be shown to the caller.
        is_local: whether the call came over stdio, from this machine's user.
        arrived: when the call arrived, on the event loop's clock.
        on_progress: receives the batch's progress; None if it is not reported.
        on_batch: receives the id of the batch that the call created.
        confirmation: a person's confirmation, if it is needed.
    """

    app: App
    arguments: Mapping[str, Any]
    previews: Previews
    authenticate: Callable[[], Caller] = field(repr=False)
    to_public_error: Callable[[ReplicateMcpError], ReplicateMcpError] = field(repr=False)
    is_local: bool = False
    arrived: float = 0.0
    on_progress: OnProgress | None = None
    on_batch: Callable[[str], None] = lambda _: None
    confirmation: Confirmation | None = None

    @property
    def caller(self) -> Caller:
        """The caller by the token in `_meta` or in HTTP headers, else by the server's token."""
        return self.authenticate()

    def seconds_left(self, wait_seconds: float) -> float:
        """Return the seconds that remain of `wait_seconds` since the call arrived."""
        return max(0.0, self.arrived + wait_seconds - anyio.current_time())

    @property
    def page(self) -> PageSize:
        """Maximum rows and characters of the answer."""
        default_rows = MAX_THUMBNAILS if self.arguments.get("preview") else PAGE_ROWS
        return page_size(self.arguments.get("limit"), default_rows=default_rows)

    async def answer_with(self, result: "BatchResult") -> CallToolResult:
        """Return a page of a batch, with thumbnails if they are requested."""
        answer = _answer(page_as_text(result), page_as_json(result))
        if self.arguments.get("preview"):
            return await self.previews.add_to(answer, result)
        return answer


async def generate_images(call: ToolCall) -> CallToolResult:
    """Make images from prompts and get their URLs.

    Give all prompts in one call: they run in parallel, as many as the account allows. The answer
    comes when all are done, or after wait_seconds with what is done so far; then call get_batch as
    next_step says. URLs work for one hour.
    """
    arguments = call.arguments
    return await _run(
        call,
        call.caller,
        BatchRequest(
            arguments.get(TASKS),
            retry=_retry(arguments),
            model=arguments.get("model"),
            semaphore=arguments.get("semaphore"),
            image_paths="folder" if call.is_local else "none",
            skip_invalid=arguments.get("skip_invalid", False),
        ),
    )


async def retry_tasks(call: ToolCall) -> CallToolResult:
    """For the gallery: make tasks of a batch again, in a new batch, with the inputs they had."""
    arguments = call.arguments
    retry = Retry(
        arguments["batch_id"],
        arguments["task_indexes"],
        new_seed=arguments.get("new_seed", False),
    )
    return await _run(call, call.caller, BatchRequest(retry=retry))


async def _run(call: ToolCall, caller: Caller, request: BatchRequest) -> CallToolResult:
    """Start a batch, with a person's confirmation if it is needed, and return its first page."""
    confirmation = call.confirmation
    key = confirmation.key if confirmation else None
    batch_id = await call.app.batches.start(
        caller,
        replace(request, key=key, upload_seconds=UPLOAD_SECONDS),
        consent=confirmation.require if confirmation else None,
    )
    call.on_batch(batch_id)
    wait = call.arguments.get("wait_seconds", call.app.settings.wait_seconds)
    await call.app.batches.wait(
        caller, batch_id, seconds=call.seconds_left(wait), on_progress=call.on_progress
    )
    result = await call.app.batches.result(caller, batch_id, **call.page)
    if result.status == "running":
        await call.app.batches.mark_resumable(batch_id)
    return await call.answer_with(result)


def _retry(arguments: Mapping[str, Any]) -> Retry | None:
    """Return which batch to retry; None if the call has tasks.

    Raises:
        InvalidInput: the call has neither, or something beside retry_of that the batch has itself.
    """
    if RETRY_OF not in arguments:
        if TASKS not in arguments:
            raise refusal_of(
                [TaskProblem(None, TASKS, f"{TASKS} is missing: generate_images needs it")]
            )
        return None
    given = [name for name in (TASKS, "model", "semaphore") if arguments.get(name)]
    if given:
        raise refusal_of(
            [
                TaskProblem(
                    None,
                    name,
                    f"{name} does not go with {RETRY_OF}, which makes tasks again as they were: "
                    "leave one of the two out",
                )
                for name in given
            ]
        )
    return Retry(arguments[RETRY_OF])


async def get_batch(call: ToolCall) -> CallToolResult:
    """Get a batch's state and results, page by page.

    Pass the last cursor as after: every result comes once, while the batch runs and after it.
    """
    arguments = call.arguments
    batch_id = arguments.get("batch_id")
    if wait := call.seconds_left(arguments.get("wait_seconds", 0)):
        batch_id = (await call.app.batches.result(call.caller, batch_id, limit=0)).batch_id
        await call.app.batches.wait(
            call.caller, batch_id, seconds=wait, on_progress=call.on_progress
        )
    after = arguments.get("after", 0)
    result = await call.app.batches.result(call.caller, batch_id, after=after, **call.page)
    answer = await call.answer_with(result)
    meta: dict[str, Any] = {}
    if "batch_id" not in arguments:
        meta[RECENT_BATCHES_KEY] = await _recent_batches(call)
    elif not after and (retries := await call.app.batches.retries(call.caller, result.batch_id)):
        meta[RETRIES_KEY] = retries
    return answer.model_copy(update={"meta": meta}) if meta else answer


async def cancel_batch(call: ToolCall) -> CallToolResult:
    """Cancel a batch: create nothing more, and cancel running predictions on Replicate.

    Finished images stay available through get_batch.
    """
    counts = await call.app.batches.cancel(call.caller, call.arguments["batch_id"])
    if counts.status != "running":
        return _answer(f"Nothing runs any more. {counts_line(counts)}", _as_json(counts))
    # Not "to come": a model would promise these images.
    stopping = (
        f"Batch {counts.batch_id} is being stopped: {counts.successful_count} of "
        f"{counts.total_tasks} made, {counts.pending_count} being stopped. get_batch with "
        f"batch_id={counts.batch_id} and wait_seconds={NEXT_WAIT_SECONDS} returns how it ended."
    )
    return _answer(stopping, _as_json(counts))


async def list_semaphores(call: ToolCall) -> CallToolResult:
    """List the limits on predictions in flight, and how full they are."""
    rows, lines = [], []
    for status in await call.app.semaphores.list_for(call.caller):
        rows.append(_as_json(status))
        line = f"{status.name}: {status.in_use} of {status.limit} in use, {status.waiting} waiting"
        if status.requests_per_minute is not None:
            line += f", {status.requests_per_minute:g} creations a minute"
        if status.throttled_until is not None:
            line += f", throttled until {status.throttled_until:%H:%M:%S} UTC"
        lines.append(line)
    return _answer("\n".join(lines), {"semaphores": rows, "count": len(rows)})


async def find_models(call: ToolCall) -> CallToolResult:
    """Find image models with their strengths and prices; or list one model's inputs and ranges."""
    query, model = call.arguments.get("query"), call.arguments.get("model")
    if model is None:
        return _answer(*await found_models(call.app, query, lambda: call.caller))
    if query is not None:
        raise InvalidInput("Pass either query or model, not both.")
    return _answer(*await model_inputs(call.app, call.caller, model))


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as it is listed, and the function that answers its calls."""

    tool: Tool
    run: Callable[[ToolCall], Awaitable[CallToolResult]]

    async def __call__(self, call: ToolCall) -> CallToolResult | InputRequiredResult:
        """Answer a call; a refused call is answered with the reason.

        A refusal has no structured content: clients validate that against the tool's schema, even
        in errors.
        """
        try:
            arguments = await run_cpu_bound(
                lambda: read_arguments(self.tool.name, self.tool.input_schema, call.arguments),
                size_bytes=_size_without_tasks(call.arguments),
            )
            return await self.run(replace(call, arguments=arguments))
        except ElicitationRequired as question:
            return question.result
        except ReplicateMcpError as error:
            shown = call.to_public_error(error)
            return CallToolResult(
                content=[TextContent(type="text", text=str(shown))],
                is_error=True,
                _meta={REFUSAL_KEY: shown.as_json()},
            )


def _size_without_tasks(arguments: Mapping[str, Any]) -> int:
    """Estimate the bytes of a call's arguments without its tasks, which are read elsewhere."""
    if len(arguments) * VALUE_BYTES > INLINE_BYTES:  # Copying very many is slow itself.
        return INLINE_BYTES + 1
    return json_size({name: value for name, value in arguments.items() if name != TASKS})


def _spec(
    run: Callable[[ToolCall], Awaitable[CallToolResult]],
    title: str,
    arguments: schemas.Schema,
    output: schemas.Schema | None,
    annotations: ToolAnnotations,
    meta: dict[str, Any] | None = None,
) -> ToolSpec:
    description = "\n".join(line.strip() for line in (run.__doc__ or "").strip().splitlines())
    tool = Tool(
        name=run.__name__,
        title=title,
        description=description,
        input_schema=arguments,
        output_schema=output,
        annotations=annotations,
        _meta=meta,
    )
    return ToolSpec(tool, run)


_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_READ_ONLY = ToolAnnotations(read_only_hint=True, open_world_hint=True)
_CREATES = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=True
)
_STOPS = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=True
)

_SHOWN_IN_GALLERY = {"ui": {"resourceUri": GALLERY_URI}}

TOOLS = {
    spec.tool.name: spec
    for spec in (
        _spec(
            generate_images,
            "Generate images",
            schemas.GENERATE_IMAGES,
            schemas.BATCH_RESULT,
            _CREATES,
            _SHOWN_IN_GALLERY,
        ),
        _spec(
            get_batch,
            "Get a batch",
            schemas.GET_BATCH,
            schemas.BATCH_RESULT,
            _READS,
            _SHOWN_IN_GALLERY,
        ),
        _spec(cancel_batch, "Cancel a batch", schemas.CANCEL_BATCH, schemas.BATCH_COUNTS, _STOPS),
        _spec(
            list_semaphores,
            "List semaphores",
            schemas.LIST_SEMAPHORES,
            schemas.SEMAPHORES,
            _READS,
        ),
        _spec(find_models, "Find models", schemas.FIND_MODELS, schemas.MODELS, _READ_ONLY),
    )
}

APP_TOOLS = {
    spec.tool.name: spec
    for spec in (
        _spec(
            retry_tasks,
            "Retry tasks",
            schemas.RETRY_TASKS,
            None,
            _CREATES,
            {"ui": {"visibility": ["app"]}},
        ),
    )
}
"""Tools for the gallery alone: only hosts with MCP Apps list them, which hide them from models."""


async def _recent_batches(call: ToolCall) -> list[dict[str, Any]]:
    now = datetime.now(UTC)
    found = []
    for batch in await call.app.batches.list(call.caller, limit=MAX_RECENT_BATCHES):
        age = (now - batch.created_at).total_seconds()
        if age < RECENT_SECONDS:
            entry = {"batch_id": batch.batch_id, "total_tasks": batch.total_tasks, "seconds": age}
            found.append(entry)
    return found


def _answer(text: str, structured: dict[str, Any]) -> CallToolResult:
    return CallToolResult(
        content=[TextContent(type="text", text=text)], structured_content=structured
    )


def _as_json(model: "BaseModel") -> dict[str, Any]:
    from replicate_mcp.tasks.result import as_json

    return as_json(model)
