"""JSON Schemas of the tools, written by hand to be short: agents pay for every byte."""

from typing import Any

from replicate_mcp.mcp_server.pages import MAX_PAGE_ROWS, PAGE_ROWS

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer"}
_NUMBER: Schema = {"type": "number"}


def _object(required: str, /, **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": required.split()}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _arguments(required: str = "", /, **properties: Schema) -> Schema:
    # Without additionalProperties: some clients reject it, and some add arguments of their own.
    schema = _object(required, **properties)
    if not required:
        del schema["required"]
    return schema


_WAIT: Schema = {
    "type": "number",
    "minimum": 0,
    "maximum": 50,
    "description": "Maximum seconds to wait (default 45); the batch keeps running.",
}

_PREVIEW: Schema = {
    "type": "boolean",
    "description": "Add thumbnails, to see the images (24 rows a page).",
}

_BATCH_ID: Schema = {"type": "string", "description": "As generate_images gave it."}

GENERATE_IMAGES: Schema = _arguments(
    tasks={
        "type": "array",
        "description": "1 to 1000 image requests. Any other model input is a key of a task too. "
        'For an image URL: {"task": 0}, that of task 0, or {"batch": "b_…", "task": 0}.',
        "items": {
            "type": "object",
            # Strict clients drop keys that are not listed here.
            "properties": {
                "prompt": {
                    "type": "string",
                    "description": "Leave out only for a model that takes none.",
                },
                "output_filename": {
                    "type": "string",
                    "description": "A label like red_car.jpg; its extension asks for that format.",
                },
                "model": {"type": "string", "description": "For this task."},
                "aspect_ratio": {"type": "string", "description": "Like 16:9."},
                "num_outputs": _COUNT,
                "seed": _COUNT,
                "output_format": _TEXT,
                "input_image": {"type": "string", "description": 'URL to edit, or {"task": 0}.'},
                "input": {
                    "type": "object",
                    "description": "More model inputs; override same-named keys.",
                },
            },
        },
    },
    retry_of={
        "type": "string",
        "description": "Instead of tasks: a batch_id, to make its retryable failed tasks again.",
    },
    model={
        "type": "string",
        "description": "owner/name, owner/name:version, deployments/owner/name, or a short name: "
        "flux-dev, flux-kontext-max, qwen-image. Default: black-forest-labs/flux-schnell.",
    },
    semaphore={
        "type": "string",
        "description": "A named limit, from list_semaphores, to stay under besides the account's.",
    },
    wait_seconds=_WAIT,
    preview=_PREVIEW,
    skip_invalid={
        "type": "boolean",
        "description": "Run the valid tasks; those with faults become failed_results.",
    },
)

GET_BATCH: Schema = _arguments(
    batch_id={"type": "string", "description": "Default: your newest batch."},
    after={
        "type": "integer",
        "minimum": 0,
        "description": "The last answer's cursor: only what finished since.",
    },
    limit={
        "type": "integer",
        "minimum": 1,
        "maximum": MAX_PAGE_ROWS,
        "description": f"Rows (default {PAGE_ROWS}).",
    },
    wait_seconds={
        **_WAIT,
        "description": "Maximum seconds to wait for the batch to end (default 0).",
    },
    preview=_PREVIEW,
)

RETRY_TASKS: Schema = _arguments(
    "batch_id task_indexes",
    batch_id=_TEXT,
    task_indexes={"type": "array", "minItems": 1, "items": _COUNT},
    new_seed={"type": "boolean"},
    wait_seconds={"type": "number", "minimum": 0, "maximum": 50},
)

CANCEL_BATCH: Schema = _arguments("batch_id", batch_id=_BATCH_ID)

LIST_SEMAPHORES: Schema = _arguments()

FIND_MODELS: Schema = _arguments(
    query={"type": "string", "description": "Search terms; omit to list recommended models."},
    model={"type": "string", "description": "List this model's inputs."},
)

_COUNTS: dict[str, Schema] = {
    "batch_id": _TEXT,
    "status": {"enum": ["running", "completed", "canceled"]},
    "total_tasks": _COUNT,
    "successful_count": _COUNT,
    "failed_count": _COUNT,
    "pending_count": _COUNT,
    "semaphore": _TEXT,
}

BATCH_COUNTS: Schema = _object(" ".join(_COUNTS), **_COUNTS)

BATCH_RESULT: Schema = _object(
    " ".join([*_COUNTS, "successful_results", "failed_results", "cursor"]),
    **_COUNTS,
    retry_of=_TEXT,
    successful_results=_list(
        _object(
            "task_index output_filename model prediction_id count generated_files",
            task_index=_COUNT,
            retried_task_index=_COUNT,
            prompt=_TEXT,
            output_filename=_TEXT,
            model=_TEXT,
            seed=_COUNT,
            prediction_id=_TEXT,
            predict_seconds=_NUMBER,
            count=_COUNT,
            generated_files=_list(
                _object(
                    "url filename expires_at",
                    url=_TEXT,
                    filename=_TEXT,
                    expires_at=_TEXT,
                    expired={"type": "boolean"},
                )
            ),
        )
    ),
    failed_results=_list(
        _object(
            "task_index output_filename error error_code retryable",
            task_index=_COUNT,
            retried_task_index=_COUNT,
            prompt=_TEXT,
            output_filename=_TEXT,
            error=_TEXT,
            error_code=_TEXT,
            prediction_id=_TEXT,
            retryable={"type": "boolean"},
        )
    ),
    cursor={"type": "integer", "description": "For get_batch's after."},
    next_step={"type": "string", "description": "The next call, if any."},
)

SEMAPHORES: Schema = _object(
    "semaphores count",
    semaphores=_list(
        _object(
            "name limit in_use waiting available scope",
            name=_TEXT,
            limit=_COUNT,
            in_use=_COUNT,
            waiting=_COUNT,
            available=_COUNT,
            scope={"enum": ["process", "machine", "fleet"]},
            requests_per_minute=_NUMBER,
            throttled_until=_TEXT,
        )
    ),
    count=_COUNT,
)

MODELS: Schema = {
    "type": "object",
    "properties": {
        "models": _list(
            _object(
                "name description",
                name=_TEXT,
                alias=_TEXT,
                description=_TEXT,
                price=_TEXT,
                inputs=_list(_TEXT),
                runs=_COUNT,
            )
        ),
        "count": _COUNT,
        "model": _TEXT,
        "inputs": _list(
            _object(
                "name type",
                name=_TEXT,
                type=_TEXT,
                required={"type": "boolean"},
                default={},
                choices=_list({}),
                minimum=_NUMBER,
                maximum=_NUMBER,
                description=_TEXT,
            )
        ),
        "note": _TEXT,
    },
}
