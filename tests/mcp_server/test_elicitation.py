"""Confirmation by the user before expensive batches, in both protocol eras."""

from typing import Any

import anyio
import pytest
from mcp import Client, MCPError
from mcp_types import (
    CallToolResult,
    ElicitRequestFormParams,
    ElicitResult,
    ErrorData,
    InputRequiredResult,
    RequestParamsMeta,
)

from mcp_server.conftest import Connect
from mcp_server.tool_results import structured, text
from replicate_mcp.simulator import Simulator

THREE = {"tasks": [{"prompt": "a", "num_outputs": 2}, {"prompt": "b"}]}
"""Three images of two tasks."""


class Person:
    """A user who gives the same response to each request, and records the requests."""

    def __init__(self, action: Any = "accept") -> None:
        self.action = action
        self.asked: list[str] = []

    async def __call__(self, context: Any, params: Any) -> ElicitResult | ErrorData:
        assert isinstance(params, ElicitRequestFormParams)
        self.asked.append(params.message)
        if self.action == "error":
            return ErrorData(code=-32603, message="no window is open")
        return ElicitResult(action=self.action)


async def test_elicitation_shows_count_models_and_prices_and_can_be_accepted(
    connect: Connect, simulator: Simulator
) -> None:
    person = Person()
    tasks = [
        {"prompt": "a", "num_outputs": 4},
        {"prompt": "b", "model": "google/nano-banana"},
        {"prompt": "c", "model": "community/sticker-maker", "number_of_images": 2},
        {"prompt": "d", "model": "deployments/acme/fast-flux"},
    ]
    async with connect(ask=person, REPLICATE_MCP_CONFIRM_ABOVE="7") as client:
        answer = structured(await client.call_tool("generate_images", {"tasks": tasks}))
        assert person.asked == [
            "Make 8 images on Replicate? 4 with black-forest-labs/flux-schnell ($, under 1 cent an "
            "image); 2 with community/sticker-maker (price not known); 1 with google/nano-banana "
            "($$$, 3 to 6 cents an image); 1 with deployments/acme/fast-flux (price not known)."
        ]
        await client.call_tool("generate_images", {"tasks": tasks[:3]})
        assert len(person.asked) == 1, "seven are not above seven"
    assert answer["successful_count"] == 4
    assert simulator.account("acme")["created"] == 7


@pytest.mark.parametrize("action", ["decline", "cancel", "error"])
async def test_declined_elicitation_creates_nothing_and_is_reported(
    connect: Connect,
    simulator: Simulator,
    capfd: pytest.CaptureFixture[str],
    era: str,
    action: str,
) -> None:
    person = Person(action)
    async with connect(ask=person, REPLICATE_MCP_CONFIRM_ABOVE="0") as client:
        if action == "error" and era == "auto":  # In this era, the client gives up by itself.
            with pytest.raises(MCPError, match="no window is open"):
                await client.call_tool("generate_images", THREE)
        else:
            result = await client.call_tool("generate_images", THREE)
            assert text(result).startswith("Nothing was created: ")
        assert len(person.asked) == 1
        assert "There is no batch yet" in text(await client.call_tool("get_batch", {}))
    assert simulator.account("acme")["creations_seen"] == 0
    assert "Traceback" not in capfd.readouterr().err


async def test_client_without_elicitation_gets_an_explanatory_error(
    connect: Connect, simulator: Simulator
) -> None:
    async with connect(REPLICATE_MCP_CONFIRM_ABOVE="2") as client:
        refused = await client.call_tool("generate_images", THREE)
        assert refused.is_error
        assert "asks for 3 images, more than the 2 above which" in text(refused)
        assert "have REPLICATE_MCP_CONFIRM_ABOVE raised" in text(refused)
        wrong = await client.call_tool("generate_images", {"tasks": [{"prompt": ""}] * 3})
        assert "prompt is empty" in text(wrong), "what is wrong is told before anybody is asked"
        fewer = await client.call_tool("generate_images", {"tasks": THREE["tasks"][1:]})
    assert structured(fewer)["successful_count"] == 1
    assert simulator.account("acme")["created"] == 1


@pytest.mark.parametrize("era", ["legacy"])
async def test_call_cancelled_during_elicitation_starts_nothing(
    connect: Connect, simulator: Simulator
) -> None:
    thinking = anyio.Event()

    async def think(context: Any, params: Any) -> ElicitResult:
        thinking.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with connect(ask=think, REPLICATE_MCP_CONFIRM_ABOVE="2") as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "generate_images", THREE)
            await thinking.wait()
            group.cancel_scope.cancel()
        assert "There is no batch yet" in text(await client.call_tool("get_batch", {}))
    assert simulator.account("acme")["creations_seen"] == 0


async def question(client: Client, **more: Any) -> InputRequiredResult:
    asked = await client.session.call_tool(
        "generate_images", THREE, allow_input_required=True, **more
    )
    assert isinstance(asked, InputRequiredResult)
    assert set(asked.input_requests or {}) == {"confirm"}
    return asked


async def answered(
    client: Client, asked: InputRequiredResult, action: Any = "accept", **more: Any
) -> CallToolResult:
    result: CallToolResult = await client.session.call_tool(
        "generate_images",
        more.pop("arguments", THREE),
        input_responses={"confirm": ElicitResult(action=action)},
        request_state=asked.request_state,
        **more,
    )
    return result


@pytest.mark.parametrize("era", ["auto"])
async def test_repeated_confirmation_starts_one_batch(
    connect: Connect, simulator: Simulator
) -> None:
    other: RequestParamsMeta = {
        "replicate-mcp/credentials": {"replicate_api_token": "r8_other_1"}  # type: ignore[typeddict-unknown-key]
    }
    person = Person()
    async with connect(ask=person, REPLICATE_MCP_CONFIRM_ABOVE="2") as client:
        asked = await question(client)
        batches: list[str] = []

        async def answer() -> None:
            batches.append(structured(await answered(client, asked))["batch_id"])

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(answer)
        await answer()
        assert len(set(batches)) == 1
        assert simulator.account("acme")["created"] == 2

        for changes in ({"arguments": {"tasks": [{"prompt": "c"}] * 9}}, {"meta": other}):
            with pytest.raises(MCPError, match="Invalid or expired requestState"):
                await answered(client, asked, **changes)

        second = await question(client)
        assert text(await answered(client, second, "decline")).startswith("Nothing was made")
        third = structured(await answered(client, await question(client)))
        assert third["batch_id"] not in batches
    assert simulator.account("acme")["created"] == 4
    assert simulator.account("other")["creations_seen"] == 0


@pytest.mark.parametrize("era", ["auto"])
async def test_another_process_with_the_same_settings_accepts_the_elicitation_answer(
    connect: Connect, simulator: Simulator
) -> None:
    person = Person()
    async with (
        connect(ask=person, REPLICATE_MCP_CONFIRM_ABOVE="2") as one,
        connect(ask=person, REPLICATE_MCP_CONFIRM_ABOVE="2") as two,
    ):
        asked = await question(one)
        made = structured(await answered(two, asked))
        again = structured(await answered(one, asked))
    assert made["batch_id"] == again["batch_id"]
    assert simulator.account("acme")["created"] == 2
