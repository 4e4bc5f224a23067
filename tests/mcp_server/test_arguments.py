"""Tool arguments in the forms in which clients and frameworks send them."""

import logging
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from mcp_server.conftest import Connect
from mcp_server.tool_results import call, text
from replicate_mcp.errors import InvalidInput
from replicate_mcp.mcp_server.arguments import read_arguments
from replicate_mcp.mcp_server.tools import TOOLS
from replicate_mcp.simulator import Simulator

FROM_CLIENTS = (
    *("toolCallId", "tool_call_id", "sessionId", "_sessionID", "session_id", "action"),
    *("chatInput", "chat_input", "tool", "toolName", "threadId", "user_id", "requestId", "run_id"),
    *("messageId", "task_id", "chatId", "context", "metadata", "_meta", "config", "timestamp"),
    *("traceId", "callId", "method", "type", "parameters", "kwargs", "reasoning", "explanation"),
    *("thought", "toolUseId", "agent", "conversation_id", "id"),
)
"""Arguments that n8n, LangChain, Open WebUI and others add to a call."""

MINIMAL: dict[str, dict[str, Any]] = {
    "generate_images": {"tasks": [{"prompt": "a red car"}]},
    "cancel_batch": {"batch_id": "b_0123456789abcdef"},
}


def read(tool: str, /, **arguments: Any) -> dict[str, Any]:
    return read_arguments(tool, TOOLS[tool].tool.input_schema, arguments)


def schemas_of(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from schemas_of(each)
    elif isinstance(value, list):
        for each in value:
            yield from schemas_of(each)


@pytest.mark.parametrize(("tool", "name"), [*product(TOOLS, FROM_CLIENTS)])
def test_caller_metadata_argument_is_ignored(tool: str, name: str) -> None:
    for value in ("call_1", {"id": 1}, ["x"], 7):
        assert read(tool, **MINIMAL.get(tool, {}), **{name: value}) == MINIMAL.get(tool, {})


def test_ignored_argument_is_logged_once_by_name_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            read("list_semaphores", **{"callback\x1b[2J": "r8_secret"})
    (record,) = caplog.records
    line = record.getMessage()
    assert "list_semaphores: unknown arguments are ignored: 'callback" in line
    assert line.isprintable()
    assert "secret" not in line


@pytest.mark.parametrize("nothing", [None, "", "  "])
@pytest.mark.parametrize("tool", TOOLS)
def test_empty_values_count_as_omitted_arguments(tool: str, nothing: str | None) -> None:
    schema = TOOLS[tool].tool.input_schema
    needed = {*schema.get("required", ()), *MINIMAL.get(tool, {})}
    optional = dict.fromkeys(set(schema["properties"]) - needed, nothing)
    assert read(tool, **MINIMAL.get(tool, {}), **optional) == MINIMAL.get(tool, {})
    for name in schema.get("required", ()):
        with pytest.raises(InvalidInput, match=f"^{name} is missing: {tool} needs it.$"):
            read(tool, **{name: nothing})


@pytest.mark.parametrize(
    ("tool", "given", "meant"),
    [
        ("get_batch", {"limit": "10"}, {"limit": 10}),
        ("get_batch", {"limit": 10.0}, {"limit": 10}),
        ("get_batch", {"after": " 50.0 "}, {"after": 50}),
        ("get_batch", {"wait_seconds": "2.5"}, {"wait_seconds": 2.5}),
        ("get_batch", {"preview": "True"}, {"preview": True}),
        ("generate_images", {"tasks": ["x"], "skip_invalid": "false"}, {"skip_invalid": False}),
    ],
)
def test_numbers_and_booleans_are_parsed_from_text(
    tool: str, given: dict[str, Any], meant: dict[str, Any]
) -> None:
    found = read(tool, **given)
    found.pop("tasks", None)
    assert found == meant
    assert [type(value) for value in found.values()] == [type(value) for value in meant.values()]


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("get_batch", {"limit": "ten"}, "limit 'ten' is not a whole number"),
    ("get_batch", {"limit": "1" * 5_000}, "is not a whole number"),
    ("get_batch", {"limit": "10.5"}, "limit 10.5 is not a whole number"),
    ("get_batch", {"preview": "maybe"}, "preview 'maybe' is not true or false"),
    ("get_batch", {"batchId": "x"}, "did you mean 'batch_id'?"),
    ("get_batch", {"id": "b_0123456789abcdef"}, "did you mean 'batch_id'?"),
    ("get_batch", {"wait": 5}, "did you mean 'wait_seconds'?"),
    ("get_batch", {"cursor": 5}, "did you mean 'after'?"),
    ("generate_images", {"task": ["x"]}, "did you mean 'tasks'?"),
    ("generate_images", {"prompts": ["x"]}, "did you mean 'tasks'?"),
    ("generate_images", {"tasks": ["x"], "modelName": "x"}, "did you mean 'model'?"),
    ("generate_images", {"tasks": ["x"], "model_id": "x"}, "did you mean 'model'?"),
    ("generate_images", {"tasks": ["x"], "semaphore_id": "x"}, "did you mean 'semaphore'?"),
    ("generate_images", {"prompt": "a red car"}, 'like {"tasks": [{"prompt": "a red car"}]}'),
    ("find_models", {"search": "logo"}, "did you mean 'query'?"),
    ("find_models", {"name": "flux-dev"}, "did you mean 'model'?"),
    ("get_batch", {"id": "b_nope"}, "did you mean 'batch_id'?"),
]
WRONG += [
    ("generate_images", {"tasks": ["x"], name: 2}, f"'{name}' is not an argument of")
    for name in ("aspectRatio", "num_outputs", "numOutputs", "seed", "input", "image_input", "mask")
]


WRONG += [
    ("generate_images", {"tasks": ["x"], name: value}, sentence)
    for name, value, sentence in [
        ("dry_run", True, "there is no dry run"),
        ("dryRun", "true", "there is no dry run"),
        ("count", 4, "give num_outputs in each task"),
        ("n_images", "2", "give num_outputs in each task"),
        ("n_images", 10**5_000, "give num_outputs in each task"),
        ("batch_size", 4, "give num_outputs in each task"),
        ("save_to", "cars", "no image is saved by this server"),
        ("output_dir", "/tmp", "no image is saved by this server"),
        ("retry_batch", "x", "did you mean 'retry_of'?"),
        ("concurrency_limit", 3, "give semaphore, the name of a limit"),
        ("webhook", "https://x.y/z", "get_batch has the results"),
    ]
]


@pytest.mark.parametrize(("tool", "given", "sentence"), WRONG)
def test_near_miss_argument_is_rejected_with_the_correct_name(
    tool: str, given: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(tool, **given)
    assert sentence in str(refused.value)
    assert refused.value.problems[0].field in given


def test_unknown_argument_with_a_no_op_value_is_ignored() -> None:
    assert read("generate_images", tasks=["x"], dry_run=False, dryRun="") == {"tasks": ["x"]}


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("credentials", {"replicate_api_token": "r8_carol_1"}),
        ("replicate_api_token", "r8_carol_1"),
        ("REPLICATE_API_TOKEN", "r8_carol_1"),
        ("apiToken", "r8_carol_1"),
        ("token", "r8_carol_1"),
        ("api-key", "r8_carol_1"),
        ("Authorization", "Bearer r8_carol_1"),
        ("anything", "r8_carol_1234567890"),
        ("anything", " Bearer r8_carol_1234567890"),
    ],
)
def test_token_argument_is_rejected_with_the_proper_place_and_not_repeated(
    tool: str, name: str, value: Any
) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(tool, **MINIMAL.get(tool, {}), **{name: value})
    (problem,) = refused.value.problems
    assert problem.field == name
    assert problem.error.startswith(f"'{name}' is not an argument of {tool}: a Replicate token")
    assert '_meta, as {"replicate-mcp/credentials": {"replicate_api_token"' in problem.error
    assert "carol" not in str(refused.value)


async def test_call_with_a_token_argument_creates_nothing(
    connect: Connect, simulator: Simulator
) -> None:
    credentials = {"replicate_api_token": "r8_carol_1"}
    async with connect() as client:
        refused = await client.call_tool(
            "generate_images", {"tasks": ["x"], "credentials": credentials}
        )
    assert refused.is_error
    assert "replicate-mcp/credentials" in text(refused)
    assert "carol" not in text(refused)
    assert simulator.account("acme")["created"] == 0


def test_all_argument_errors_are_reported_together() -> None:
    with pytest.raises(InvalidInput) as refused:
        read("get_batch", limit=0, after=-1, batchId="x")
    errors_by_field = {problem.field: problem.error for problem in refused.value.problems}
    assert set(errors_by_field) == {"limit", "after", "batchId"}
    assert all(why.rstrip("?.") in str(refused.value) for why in errors_by_field.values())


def test_hundred_thousand_unknown_arguments_are_rejected_quickly() -> None:
    many = {f"seeds{number}": "x" * 1_000 for number in range(100_000)}
    with pytest.raises(InvalidInput, match=r"^'seed' is not an argument of generate_images"):
        read("generate_images", tasks=["x"], **many, seed=1)


@pytest.mark.parametrize("era", ["auto"])
async def test_published_schemas_allow_extra_properties_and_name_common_inputs(
    connect: Connect,
) -> None:
    async with connect() as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    for tool in tools.values():
        for schema in schemas_of([tool.input_schema, tool.output_schema]):
            assert "additionalProperties" not in schema
    task = tools["generate_images"].input_schema["properties"]["tasks"]["items"]
    common = {"aspect_ratio", "num_outputs", "seed", "output_format", "input_image"}
    assert common < set(task["properties"])
    assert "required" not in task


async def test_call_with_client_specific_arguments_succeeds(
    connect: Connect, simulator: Simulator
) -> None:
    own = {"toolCallId": "call_1", "sessionId": "s", "action": "sendMessage", "chatInput": "hi"}
    async with connect() as client:
        made = await call(client, "generate_images", tasks=[{"prompt": "a red car"}], **own)
        assert await call(client, "get_batch", batch_id="", limit="10", **own) == made
        models = await call(client, "find_models", query="logo", model="", **own)
        assert models == await call(client, "find_models", query="logo")
        assert (await call(client, "list_semaphores", **own))["count"] == 1
        refused = await client.call_tool("generate_images", {"prompts": ["x"], **own})
    (problem,) = (refused.meta or {})["replicate-mcp/refusal"]["problems"]
    assert problem["field"] == "prompts"
    assert problem["error"].rstrip("?.") in text(refused)
    assert simulator.account("acme")["created"] == 1
