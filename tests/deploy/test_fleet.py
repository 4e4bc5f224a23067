"""Two replicas behind the deployed proxy act as one server."""

import signal
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Literal, cast

import anyio
import httpx
import pytest
from mcp import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from mcp_types import ElicitResult

from deploy.conftest import CONFIRM_ABOVE, LIMIT, Fleet
from replicate_mcp.simulator import Simulator

Way = Literal["stateless", "sessions", "sse"]

WAYS: list[Way] = ["stateless", "sessions", "sse"]

HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "t", "version": "1"},
}

LATER = {"prefer": "respond-async"}


@asynccontextmanager
async def client_of(fleet: Fleet, way: Way, ask: Any = None) -> AsyncIterator[Client]:
    if way == "sse":
        over_sse = sse_client(f"{fleet.url}/sse", headers=fleet.credentials)
        async with Client(over_sse, mode="legacy", elicitation_callback=ask) as client:
            yield client
    else:
        mode: Any = "auto" if way == "stateless" else "legacy"
        async with create_mcp_http_client(headers=fleet.credentials) as http:
            over_http = streamable_http_client(f"{fleet.url}/mcp", http_client=http)
            async with Client(over_http, mode=mode, elicitation_callback=ask) as client:
                yield client


def structured(result: Any) -> dict[str, Any]:
    assert not result.is_error, result.content
    return cast(dict[str, Any], result.structured_content)


def test_batch_of_one_replica_is_readable_cancellable_and_completed_through_the_proxy(
    fleet: Fleet, simulator: Simulator
) -> None:
    first, second = fleet.replicas
    body = {"prompts": ["a [hang]"] * 3}
    hanging = first.post("/generate-batch", json=body, headers=LATER).json()
    simulator.wait_for(account=fleet.account, in_flight=3)
    place = f"/batches/{hanging['batch_id']}"
    for _ in range(4):
        assert fleet.client.get(place).json()["status"] == "running"
    assert second.delete(place).status_code == 200
    simulator.wait_for(account=fleet.account, in_flight=0)
    ended = fleet.ended(hanging["batch_id"])
    assert (ended["status"], ended["failed_count"]) == ("canceled", 3)

    simulator.configure(predict_seconds=0.5)
    begun = first.post("/generate-batch", json={"prompts": ["a"] * 6}, headers=LATER).json()
    assert fleet.ended(begun["batch_id"])["successful_count"] == 6
    assert simulator.account(fleet.account)["max_in_flight"] == LIMIT


def test_repeated_request_gets_the_same_batch_from_any_replica(
    fleet: Fleet, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=0.5)
    places = [*fleet.replicas, *[fleet.client] * 4]

    def send(client: httpx.Client) -> Any:
        body = {"prompts": ["a", "b"]}
        return client.post("/generate-batch", json=body, headers={"idempotency-key": "k"}).json()

    with ThreadPoolExecutor(len(places)) as threads:
        answers = list(threads.map(send, places))
    assert len({answer["batch_id"] for answer in answers}) == 1
    assert all(answer["successful_count"] == 2 for answer in answers)
    assert simulator.account(fleet.account)["created"] == 2


def test_requests_through_the_proxy_are_not_treated_as_local(
    fleet: Fleet, simulator: Simulator
) -> None:
    for path in ("/generate", "/replica/1/generate", "/replica/2/generate"):
        assert httpx.post(f"{fleet.url}{path}", json={"prompt": "x"}).status_code == 401
        assert fleet.client.post(path, json={"prompt": "x"}).status_code == 200
    assert simulator.account(fleet.account)["created"] == 3


@pytest.mark.parametrize("way", WAYS)
async def test_many_mcp_clients_receive_results_and_progress(
    fleet: Fleet, simulator: Simulator, way: Way
) -> None:
    simulator.configure(predict_seconds=0.3)
    reporting: set[int] = set()

    async def use(number: int, client: Client) -> None:
        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            reporting.add(number)

        tasks = [{"prompt": f"{number} {n}"} for n in range(2)]
        for _ in range(2):
            result = await client.call_tool(
                "generate_images", {"tasks": tasks}, progress_callback=on_progress
            )
            made = structured(result)
            assert made["successful_count"] == 2
            asked = {"batch_id": made["batch_id"]}
            again = structured(await client.call_tool("get_batch", asked))
            assert again["successful_count"] == 2

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client_of(fleet, way)) for _ in range(4)]
        async with anyio.create_task_group() as group:
            for number, client in enumerate(clients):
                group.start_soon(use, number, client)
    assert reporting == {0, 1, 2, 3}
    assert simulator.account(fleet.account)["created"] == 16
    assert simulator.account(fleet.account)["max_in_flight"] <= LIMIT


@pytest.mark.parametrize("way", WAYS)
async def test_elicitation_answer_is_accepted_by_any_replica(
    fleet: Fleet, simulator: Simulator, way: Way
) -> None:
    asked: list[str] = []

    async def accept(context: Any, params: Any) -> ElicitResult:
        asked.append(params.message)
        return ElicitResult(action="accept")

    tasks = [{"prompt": str(n)} for n in range(CONFIRM_ABOVE + 1)]
    async with client_of(fleet, way, accept) as client:
        for _ in range(4):
            made = structured(await client.call_tool("generate_images", {"tasks": tasks}))
            assert made["successful_count"] == len(tasks)
    assert len(asked) == 4
    assert simulator.account(fleet.account)["created"] == 4 * len(tasks)


@pytest.mark.parametrize("way", WAYS)
async def test_cancellation_by_the_client_works_behind_the_proxy(
    fleet: Fleet, simulator: Simulator, way: Way
) -> None:
    simulator.configure(predict_seconds=60)
    async with client_of(fleet, way) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "generate_images", {"tasks": [{"prompt": "x"}]})
            await simulator.reached(account=fleet.account, in_flight=1)
            group.cancel_scope.cancel()
        await simulator.reached(account=fleet.account, in_flight=0, within=20)
        ended = structured(await client.call_tool("get_batch", {"wait_seconds": 20}))
    assert ended["status"] == "canceled"


async def test_sessions_of_stopped_replica_return_404_and_clients_reinitialize(
    breakable_fleet: Fleet,
) -> None:
    fleet = breakable_fleet
    usual = {"accept": "application/json, text/event-stream"}
    hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": HELLO}
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}

    def answered(session: str) -> int:
        headers = usual | {"mcp-session-id": session}
        status: int = fleet.client.post("/mcp", json=ping, headers=headers).status_code
        return status

    sessions: dict[str, str] = {}
    while len(sessions) < 2:
        session = fleet.client.post("/mcp", json=hello, headers=usual).headers["mcp-session-id"]
        sessions[session.rpartition(".")[2]] = session
    assert [answered(session) for session in sessions.values()] == [200, 200]
    fleet.servers[0].terminate()
    assert (answered(sessions["1"]), answered(sessions["2"])) == (404, 200)
    for way in WAYS:
        async with client_of(fleet, way) as client:
            structured(await client.call_tool("list_semaphores", {}))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=lambda each: each.name)
def test_repeated_request_after_losing_a_replica_gets_each_image_once(
    breakable_fleet: Fleet, simulator: Simulator, how: signal.Signals
) -> None:
    fleet = breakable_fleet
    simulator.configure(predict_seconds=2)
    body = {"prompts": [f"car {n}" for n in range(10)]}
    key = {"idempotency-key": "k"}
    begun = fleet.replicas[0].post("/generate-batch", json=body, headers=key | LATER).json()
    simulator.wait_for(account=fleet.account, in_flight=LIMIT)
    fleet.servers[0].process.send_signal(how)
    fleet.servers[0].process.wait(15)
    answer = fleet.client.post("/generate-batch", json=body, headers=key)
    if answer.status_code == 502:  # It was sent on a connection that its replica had closed.
        answer = fleet.client.post("/generate-batch", json=body, headers=key)
    assert answer.status_code == 200
    ended = answer.json()
    created = [prediction["id"] for prediction in simulator.predictions(fleet.account)]
    assert ended["batch_id"] == begun["batch_id"]
    assert sorted(row["prediction_id"] for row in ended["successful_results"]) == sorted(created)
    assert (ended["successful_count"], ended["failed_count"]) == (10, 0)
    account = simulator.account(fleet.account)
    assert (account["canceled"], account["created"], account["max_in_flight"]) == (0, 10, LIMIT)


def test_proxy_log_contains_no_secret(breakable_fleet: Fleet) -> None:
    for server in breakable_fleet.servers:
        server.process.kill()
        server.process.wait()
    secrets = {
        "x-admin-api-key": "admin-hush",
        "x-replicate-api-key": "r8_own_hush",
        "authorization": "Bearer r8_bearer_hush",
        "mcp-session-id": "session-hush.1",
    }
    for path in ("/generate", "/mcp", "/messages/?session_id=query-hush"):
        answer = breakable_fleet.client.post(path, json={"prompt": "x"}, headers=secrets)
        assert answer.status_code in (502, 503)
    logged = breakable_fleet.log.read_text()
    assert "/generate" in logged
    assert "hush" not in logged
