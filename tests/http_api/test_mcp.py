"""MCP over HTTP: both protocol eras at /mcp, and HTTP+SSE at /sse."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Literal, cast

import anyio
import httpx
import pytest
from mcp import Client, MCPError
from mcp.client.session import ElicitationFnT
from mcp.client.sse import sse_client
from mcp_types import ElicitResult, RequestParamsMeta, ResourceTemplateReference

from http_api.conftest import ADMIN_KEY, Serve, Server
from http_api.entry_points import mcp
from replicate_mcp.simulator import Simulator

Way = Literal["stateless", "sessions", "sse"]

CLIENT = {"name": "t", "version": "1"}

WAYS: list[Way] = ["stateless", "sessions", "sse"]


@asynccontextmanager
async def client_of(
    server: Server, way: Way, ask: ElicitationFnT | None = None
) -> AsyncIterator[Client]:
    to_server: Any = sse_client(f"{server.url}/sse") if way == "sse" else f"{server.url}/mcp"
    mode: Any = "auto" if way == "stateless" else "legacy"
    async with Client(to_server, mode=mode, elicitation_callback=ask) as client:
        yield client


def structured(result: Any) -> dict[str, Any]:
    assert not result.is_error, result.content
    return cast(dict[str, Any], result.structured_content)


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    params = {"name": tool, "arguments": arguments, "_meta": {}}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


@pytest.mark.parametrize("way", WAYS)
async def test_batch_reports_progress(server: Server, simulator: Simulator, way: Way) -> None:
    simulator.configure(predict_seconds="0.2,0.6")
    reported: list[float] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        reported.append(progress)

    async with client_of(server, way) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        assert "generate_images" in tools
        result = await client.call_tool(
            "generate_images",
            {"tasks": [{"prompt": f"car {n}"} for n in range(4)]},
            progress_callback=on_progress,
        )
    assert structured(result)["successful_count"] == 4
    assert reported == sorted(reported)
    assert reported[-1] == 4


@pytest.mark.parametrize("way", WAYS)
async def test_call_cancelled_by_its_user_cancels_its_batch(
    server: Server, simulator: Simulator, way: Way
) -> None:
    simulator.configure(predict_seconds=60)
    async with client_of(server, way) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "generate_images", {"tasks": [{"prompt": "x"}]})
            await simulator.reached(account="acme", in_flight=1)
            group.cancel_scope.cancel()
        await simulator.reached(account="acme", in_flight=0, within=20)
        ended = structured(await client.call_tool("get_batch", {"wait_seconds": 20}))
    assert ended["status"] == "canceled"


def test_lost_connection_cancels_nothing(server: Server, simulator: Simulator) -> None:
    simulator.configure(predict_seconds=4)
    usual = {"accept": "application/json, text/event-stream"}
    asked = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": CLIENT}
    hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": asked}
    session = server.client.post("/mcp", json=hello, headers=usual).headers["mcp-session-id"]
    usual |= {"mcp-session-id": session, "mcp-protocol-version": "2025-11-25"}
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    server.client.post("/mcp", json=ready, headers=usual)
    body = call("generate_images", tasks=[{"prompt": "x"}])
    with server.client.stream("POST", "/mcp", json=body, headers=usual):
        simulator.wait_for(account="acme", in_flight=1)
    batch = server.get("/batches").json()["batches"][0]
    ended = server.get(f"/batches/{batch['batch_id']}", params={"wait_seconds": 20}).json()
    assert (ended["status"], ended["successful_count"]) == ("completed", 1)


@pytest.mark.parametrize("way", WAYS)
async def test_signal_cancels_nothing_and_the_next_server_delivers(
    serve: Serve, simulator: Simulator, way: Way
) -> None:
    simulator.configure(predict_seconds=4)
    with serve() as first:
        with suppress(Exception):  # Each transport reports the server's exit in its own way.
            async with client_of(first, way) as client, anyio.create_task_group() as group:
                group.start_soon(client.call_tool, "generate_images", {"tasks": [{"prompt": "x"}]})
                await simulator.reached(account="acme", in_flight=1)
                await anyio.to_thread.run_sync(first.terminate)
                group.cancel_scope.cancel()
        assert first.process.returncode is not None
    assert simulator.account("acme")["canceled"] == 0
    with serve() as second:
        batch = second.get("/batches").json()["batches"][0]
        ended = second.get(f"/batches/{batch['batch_id']}", params={"wait_seconds": 20}).json()
    assert (ended["status"], ended["successful_count"]) == ("completed", 1)
    assert simulator.account("acme")["created"] == 1


@pytest.mark.parametrize("way", WAYS)
async def test_caller_may_pass_its_own_token_in_meta(
    server: Server, simulator: Simulator, way: Way
) -> None:
    token = {"replicate-mcp/credentials": {"replicate_api_token": "r8_other_1"}}
    async with client_of(server, way) as client:
        await client.call_tool(
            "generate_images",
            {"tasks": [{"prompt": "x"}]},
            meta=cast(RequestParamsMeta, token),
        )
    assert simulator.account("other")["created"] == 1
    assert simulator.account("acme")["created"] == 0


@pytest.mark.parametrize("way", WAYS)
async def test_resources_completion_and_prompts_are_available(
    server: Server, simulator: Simulator, way: Way
) -> None:
    token = cast(
        RequestParamsMeta, {"replicate-mcp/credentials": {"replicate_api_token": "r8_other_1"}}
    )
    batch = ResourceTemplateReference(uri="replicate://batches/{id}")
    async with client_of(server, way) as client:
        made = structured(await client.call_tool("generate_images", {"tasks": [{"prompt": "x"}]}))
        await client.call_tool("generate_images", {"tasks": [{"prompt": "y"}]}, meta=token)
        uri = f"replicate://batches/{made['batch_id']}"
        assert made["batch_id"] in str((await client.read_resource(uri)).contents)
        with pytest.raises(MCPError, match="There is no batch"):
            await client.read_resource(uri, meta=token)
        offered = await client.complete(batch, {"name": "id", "value": ""})
        assert offered.completion.values == [made["batch_id"]]
        prompt = await client.get_prompt("variations", {"idea": "a red car"})
        assert "8 variations of one idea: a red car" in str(prompt.messages)


def test_methods_that_need_a_caller_reject_unauthenticated_requests(serve: Serve) -> None:
    with serve("--host", "0.0.0.0") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1") + "/mcp"
        usual = {
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2026-07-28",
        }
        about = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": CLIENT,
            "io.modelcontextprotocol/clientCapabilities": {},
        }

        def answer(method: str, name: str = "", **params: Any) -> str:
            body = {
                "jsonrpc": "2.0",
                "id": 1,
                "method": method,
                "params": params | {"_meta": about},
            }
            named = {"mcp-method": method} | ({"mcp-name": name} if name else {})
            return httpx.post(url, json=body, headers=usual | named, timeout=30).text

        semaphores = "replicate://semaphores"
        assert "Authentication required" in answer("resources/read", semaphores, uri=semaphores)
        completed = answer(
            "completion/complete",
            ref={"type": "ref/resource", "uri": "replicate://batches/{id}"},
            argument={"name": "id", "value": ""},
        )
        assert '"values":[]' in completed.replace(" ", "")


async def accept(context: Any, params: Any) -> ElicitResult:
    return ElicitResult(action="accept")


@pytest.mark.parametrize("way", WAYS)
async def test_expensive_call_requires_elicitation(
    serve: Serve, simulator: Simulator, way: Way
) -> None:
    tasks = {"tasks": [{"prompt": "x"}] * 2}
    with serve(REPLICATE_MCP_CONFIRM_ABOVE="1") as server:
        async with client_of(server, way, accept) as client:
            made = structured(await client.call_tool("generate_images", tasks))
        async with client_of(server, way) as client:
            refused = await client.call_tool("generate_images", tasks)
    assert made["successful_count"] == 2
    assert "this client cannot ask" in str(refused.content)
    assert simulator.account("acme")["created"] == 2


async def test_any_replica_accepts_the_elicitation_answer_and_it_starts_one_batch(
    serve: Serve, simulator: Simulator
) -> None:
    tasks = {"tasks": [{"prompt": "x"}] * 2}
    token = cast(
        RequestParamsMeta, {"replicate-mcp/credentials": {"replicate_api_token": "r8_other_1"}}
    )
    settings = {"REPLICATE_MCP_CONFIRM_ABOVE": "1", "REPLICATE_API_TOKEN": ""}
    batches = []
    with serve(**settings) as first, serve(**settings) as second:
        async with (
            client_of(first, "stateless", accept) as one,
            client_of(second, "stateless", accept) as two,
        ):
            asked: Any = await one.session.call_tool(
                "generate_images", tasks, meta=token, allow_input_required=True
            )
            for client in (two, one, two):
                made = await client.session.call_tool(
                    "generate_images",
                    tasks,
                    meta=token,
                    input_responses={"confirm": ElicitResult(action="accept")},
                    request_state=asked.request_state,
                )
                batches.append(structured(made)["batch_id"])
    assert len(set(batches)) == 1
    assert simulator.account("other")["created"] == 2


@pytest.mark.parametrize("way", WAYS)
async def test_local_paths_are_never_read_over_http(
    serve: Serve, simulator: Simulator, tmp_path: Path, way: Way
) -> None:
    (tmp_path / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    model = "black-forest-labs/flux-kontext-max"
    with serve(REPLICATE_MCP_FILES=str(tmp_path)) as server:
        for path in ("cat.png", str(tmp_path / "cat.png"), (tmp_path / "cat.png").as_uri()):
            task = {"prompt": "x", "input_image": path}
            async with client_of(server, way) as client:
                refused = await client.call_tool(
                    "generate_images", {"tasks": [task], "model": model}
                )
            assert refused.is_error
            assert "Paths are read on stdio alone, never over HTTP." in str(refused.content)
            answer = server.post("/generate", task | {"model_name": model})
            assert answer.status_code == 400
            assert "never over HTTP" in answer.json()["error"]
    assert simulator.account("acme")["creations_seen"] == 0


def test_mcp_requests_are_authenticated_by_http_headers(serve: Serve, simulator: Simulator) -> None:
    with serve("--host", "0.0.0.0") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1") + "/mcp"
        usual = {
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": "2026-07-28",
            "mcp-method": "tools/call",
            "mcp-name": "generate_images",
        }
        body = call("generate_images", tasks=[{"prompt": "x"}])
        body["params"]["_meta"] = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": CLIENT,
            "io.modelcontextprotocol/clientCapabilities": {},
        }

        def answer(**headers: str) -> str:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return httpx.post(url, json=body, headers=usual | named, timeout=30).text

        assert "Authentication required" in answer()
        assert "Invalid X-Admin-API-Key" in answer(x_admin_api_key="wrong")
        assert "Authentication required" in answer(origin="https://evil.example.com")
        assert simulator.account("acme")["created"] == 0
        assert '"successful_count":1' in answer(authorization="Bearer r8_other_1").replace(" ", "")
        assert '"successful_count":1' in answer(x_admin_api_key=ADMIN_KEY).replace(" ", "")
    assert simulator.account("other")["created"] == 1
    assert simulator.account("acme")["created"] == 1


@pytest.mark.parametrize(
    "headers", [{"host": "evil.example.com"}, {"origin": "https://evil.example.com"}]
)
def test_foreign_host_or_origin_is_rejected(server: Server, headers: dict[str, str]) -> None:
    for path in ("/mcp", "/messages/"):
        answer = server.client.post(path, json=call("list_semaphores"), headers=headers)
        assert answer.status_code in (403, 421)


@pytest.mark.parametrize("host", ["host.docker.internal", "images.example.com:8000", "a b", ""])
def test_unknown_host_header_gets_421_naming_the_allowed_hosts_setting(
    server: Server, host: str
) -> None:
    headers = {"host": host}
    for path in ("/mcp", "/messages/", "/sse"):
        method = "GET" if path == "/sse" else "POST"
        refused = server.client.request(method, path, content=b"{}", headers=headers | JSON)
        assert refused.status_code == 421
        assert "REPLICATE_MCP_ALLOWED_HOSTS" in refused.json()["error"]["message"]
    elsewhere = server.client.get("/batches", headers=headers)
    assert elsewhere.status_code == 401
    assert "REPLICATE_MCP_ALLOWED_HOSTS" in elsewhere.json()["error"]


JSON = {"content-type": "application/json"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    },
}


@pytest.mark.parametrize("accept", ["", "*/*", "text/*, application/*", "*/*;q=0.1"])
def test_client_accepting_anything_is_served_in_both_protocol_eras(
    server: Server, accept: str
) -> None:
    _, body, headers = mcp(None)
    for content, others in ((body, headers), (INITIALIZE, {})):
        named = {**others, "accept": accept}
        sent = server.client.build_request("POST", "/mcp", json=content, headers=named)
        if not accept:
            del sent.headers["accept"]
        answer = server.client.send(sent)
        assert answer.status_code == 200, answer.text
        assert '"result":' in answer.text


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream", "text/html", "x"])
def test_incomplete_accept_header_gets_406_with_the_required_value(
    server: Server, accept: str
) -> None:
    _, body, headers = mcp(None)
    for content, others in ((body, headers), (INITIALIZE, {})):
        refused = server.client.post("/mcp", json=content, headers={**others, "accept": accept})
        assert refused.status_code == 406
        sentence = refused.json()["error"]["message"]
        assert "Send `Accept: application/json, text/event-stream`" in sentence
