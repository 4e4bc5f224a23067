"""Isolation of callers: no entry point gives access to another caller's batches."""

from typing import Any, cast

import pytest
from mcp import Client, MCPError
from mcp_types import RequestParamsMeta, ResourceTemplateReference

from http_api.conftest import ADMIN_KEY, Serve, Server
from http_api.test_mcp import WAYS, Way, client_of
from replicate_mcp.simulator import Simulator

ALICE, BOB = "r8_alice_1", "r8_bob_1"
OTHERS = [{"x-replicate-api-key": BOB}, {}, {"x-admin-api-key": ADMIN_KEY}]
OTHERS_IDS = ["another token", "the server's token", "the admin"]


def of(token: str) -> RequestParamsMeta:
    """Return the `_meta` of a caller's request."""
    credentials = {"replicate-mcp/credentials": {"replicate_api_token": token}}
    return cast(RequestParamsMeta, credentials)


def began(server: Server, token: str, **headers: str) -> str:
    body = {"prompts": ["a red car"]}
    answer = server.post("/generate-batch", body, x_replicate_api_key=token, **headers)
    batch: str = answer.json()["batch_id"]
    return batch


@pytest.mark.parametrize("headers", OTHERS, ids=OTHERS_IDS)
def test_rest_batch_is_readable_listed_and_cancellable_only_by_its_caller(
    server: Server, headers: dict[str, str]
) -> None:
    batch = began(server, ALICE)
    listed = server.get("/batches", headers=headers)
    assert batch not in listed.text
    assert listed.json()["count"] == 0
    for answer in (
        server.get(f"/batches/{batch}", headers=headers),
        server.client.delete(f"/batches/{batch}", headers=headers),
    ):
        assert answer.status_code == 404
        assert "a red car" not in answer.text
    own = server.get(f"/batches/{batch}", headers={"x-replicate-api-key": ALICE}).json()
    assert own["status"] == "completed"


def test_idempotency_keys_are_separate_per_caller(server: Server, simulator: Simulator) -> None:
    hers, again = (began(server, ALICE, idempotency_key="cars") for _ in range(2))
    his = began(server, BOB, idempotency_key="cars")
    assert hers == again != his
    assert simulator.account("alice")["created"] == 1
    assert simulator.account("bob")["created"] == 1


@pytest.mark.parametrize("way", WAYS)
async def test_mcp_batch_is_readable_completed_and_cancellable_only_by_its_caller(
    server: Server, way: Way
) -> None:
    batch = began(server, ALICE)
    async with client_of(server, way) as client:

        async def call(tool: str, token: str, **arguments: Any) -> str:
            result = await client.call_tool(tool, arguments, meta=of(token))
            return str(result.content)

        assert "1 of 1 made" in await call("get_batch", ALICE, batch_id=batch)
        assert "There is no batch yet" in await call("get_batch", BOB)
        for tool in ("get_batch", "cancel_batch"):
            assert f"There is no batch '{batch}'" in await call(tool, BOB, batch_id=batch)
            # Without a token, the same connection acts as the server's caller.
            assert (await client.call_tool(tool, {"batch_id": batch})).is_error
        with pytest.raises(MCPError):
            await client.read_resource(f"replicate://batches/{batch}")
        assert batch not in await completed(client)
    assert "alice" not in "".join(server.log)


async def completed(client: Client) -> list[str]:
    """Return the ids offered to a request without a token."""
    ref = ResourceTemplateReference(type="ref/resource", uri="replicate://batches/{id}")
    found = await client.complete(ref, {"name": "id", "value": "b_"})
    return found.completion.values


def test_session_is_unusable_without_the_credentials_of_its_owner(
    server: Server, simulator: Simulator
) -> None:
    asked = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    }
    hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": asked}
    usual = {"accept": "application/json, text/event-stream"}
    hers = usual | {"authorization": f"Bearer {ALICE}"}
    session = server.client.post("/mcp", json=hello, headers=hers).headers["mcp-session-id"]
    usual |= {"mcp-session-id": session, "mcp-protocol-version": "2025-11-25"}
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    server.client.post("/mcp", json=ready, headers=usual | hers)
    arguments = {"tasks": [{"prompt": "a red car"}]}
    params = {"name": "generate_images", "arguments": arguments}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    for headers in ({}, {"x-replicate-api-key": BOB}, {"x-admin-api-key": ADMIN_KEY}):
        refused = server.client.post("/mcp", json=call | {"id": 2}, headers=usual | headers)
        assert refused.status_code == 404
    server.client.post("/mcp", json=call, headers=usual | hers)
    assert {name: simulator.account(name)["created"] for name in ("alice", "bob", "acme")} == {
        "alice": 1,
        "bob": 0,
        "acme": 0,
    }


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSLKEYLOGFILE"])
def test_tls_misconfiguration_is_explained_only_to_the_operator(
    serve: Serve, variable: str
) -> None:
    wrong = {variable: "/nowhere/x.pem", "REPLICATE_BASE_URL": "https://replicate.invalid"}
    with serve(**wrong, REPLICATE_MCP_ADMIN_API_KEY=ADMIN_KEY) as server:
        body = {"prompt": "a red car"}
        response = server.post("/generate", body, x_admin_api_key=ADMIN_KEY)
        assert response.status_code == 502
        assert f"{variable} is /nowhere/x.pem, which " in response.json()["error"]
        response = server.post("/generate", body, x_replicate_api_key="r8_acme_2")
        assert response.status_code == 502
        assert "/nowhere" not in response.text
        assert "`replicate-mcp doctor`" in response.json()["error"]
