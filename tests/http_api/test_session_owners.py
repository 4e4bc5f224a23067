"""Sessions of older MCP revisions are restricted to their owner, even if others know their ids."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Queue
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from http_api.conftest import ADMIN_KEY, Serve, Server
from replicate_mcp.simulator import Simulator

ACCEPT = {"accept": "application/json, text/event-stream"}
ALICE = {"authorization": "Bearer r8_alice_1"}
OTHER_CALLERS: dict[str, dict[str, str]] = {
    "nobody": {"via": "1.1 proxy"},
    "the server's own user": {},
    "another token": {"x-replicate-api-key": "r8_bob_1"},
    "a wrong token": {"authorization": "Bearer none"},
    "the admin": {"x-admin-api-key": ADMIN_KEY},
    "a wrong key": {"x-admin-api-key": "a guess"},
    "her token and a wrong key": ALICE | {"x-admin-api-key": "a guess"},
}
TWO_IMAGES = {"name": "generate_images", "arguments": {"tasks": [{"prompt": "x"}] * 2}}


@dataclass
class Session:
    """An open session and how it was opened.

    Attributes:
        url: the URL to which its messages are sent.
        headers: headers that name the session, beside its owner's credentials.
        events: events that the server sends on its streams.
    """

    url: str
    headers: dict[str, str]
    owner: dict[str, str]
    client: httpx.Client
    events: "Queue[dict[str, Any]]" = field(default_factory=Queue)

    def post(self, message: dict[str, Any], credentials: dict[str, str] | None = None) -> int:
        """Return the status of a response; streamed events are added to `events`."""
        who = self.owner if credentials is None else credentials
        with self.client.stream(
            "POST", self.url, json=message, headers=self.headers | who
        ) as response:
            self.read_events(response)
            return response.status_code

    def read_events(self, response: httpx.Response) -> None:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                self.events.put(json.loads(line.removeprefix("data: ")))

    def next(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while not wanted(event := self.events.get(timeout=30)):
            pass
        return event

    def initialize(self) -> dict[str, Any]:
        asked = {
            "protocolVersion": "2025-11-25",
            "capabilities": {"elicitation": {}},
            "clientInfo": {"name": "t", "version": "1"},
        }
        return {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": asked}

    def ready(self) -> None:
        self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})


def in_background(work: Callable[..., Any], *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


@contextmanager
def streamable(server: Server, owner: dict[str, str]) -> Iterator[Session]:
    url = f"{server.url}/mcp"
    with httpx.Client(timeout=60) as client:
        session = Session(url, dict(ACCEPT), owner, client)
        begun = client.post(url, json=session.initialize(), headers=ACCEPT | owner)
        session.headers |= {
            "mcp-session-id": begun.headers["mcp-session-id"],
            "mcp-protocol-version": "2025-11-25",
        }
        session.ready()
        yield session


@contextmanager
def sse(server: Server, owner: dict[str, str]) -> Iterator[Session]:
    with (
        httpx.Client(timeout=60) as client,
        client.stream("GET", f"{server.url}/sse", headers=owner) as stream,
    ):
        lines = stream.iter_lines()
        place = next(line for line in lines if line.startswith("data: /messages/"))
        session = Session(server.url + place.removeprefix("data: "), dict(ACCEPT), owner, client)

        def read_events() -> None:
            with suppress(Exception):  # Any error may end a stream that is closed while read.
                for line in lines:
                    if line.startswith("data: {"):
                        session.events.put(json.loads(line.removeprefix("data: ")))

        in_background(read_events)
        session.post(session.initialize())
        session.next(lambda event: event.get("id") == 0)
        session.ready()
        yield session


BEGIN = {"streamable": streamable, "sse": sse}


@pytest.mark.parametrize("way", BEGIN)
def test_session_is_usable_only_by_its_owner(server: Server, way: str) -> None:
    ping = {"jsonrpc": "2.0", "id": 5, "method": "ping"}
    with BEGIN[way](server, ALICE) as session:
        for who, credentials in OTHER_CALLERS.items():
            assert session.post(ping, credentials) == 404, who
            if way == "streamable":
                for method in ("GET", "DELETE"):
                    headers = session.headers | credentials
                    refused = session.client.request(method, session.url, headers=headers)
                    assert refused.status_code == 404, (who, method)
        assert session.post(ping, {"x-replicate-api-key": "r8_alice_1"}) in (200, 202)
        assert session.next(lambda event: event.get("id") == 5)["result"] == {}
    with BEGIN[way](server, {}) as local:
        assert local.post(ping, ALICE) == 404
        assert local.post(ping, {"via": "1.1 proxy"}) == 404
        assert local.post(ping) in (200, 202)


@pytest.mark.parametrize("way", BEGIN)
def test_elicitation_is_answerable_only_by_the_session_owner(
    serve: Serve, simulator: Simulator, way: str
) -> None:
    with serve(REPLICATE_MCP_CONFIRM_ABOVE="1") as server, BEGIN[way](server, ALICE) as session:
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": TWO_IMAGES}
        calling = in_background(session.post, call)
        asked = session.next(lambda event: event.get("method") == "elicitation/create")

        def answer(action: str) -> dict[str, Any]:
            return {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": action}}

        for who, credentials in OTHER_CALLERS.items():
            assert session.post(answer("accept"), credentials) == 404, who
        session.post(answer("decline"))
        ended = session.next(lambda event: event.get("id") == 1)
        assert "does not want these images" in ended["result"]["content"][0]["text"]
        calling.join(30)
    for account in ("alice", "acme", "bob"):
        assert simulator.account(account)["created"] == 0


def test_unknown_session_gets_404(server: Server) -> None:
    ping = {"jsonrpc": "2.0", "id": 5, "method": "ping"}
    for revision in ({}, {"mcp-protocol-version": "2025-11-25"}):
        headers = ACCEPT | revision | {"mcp-session-id": uuid4().hex}
        for method in ("POST", "GET", "DELETE"):
            body = ping if method == "POST" else None
            refused = server.client.request(method, "/mcp", headers=headers, json=body)
            assert refused.status_code == 404
    unknown = server.client.post(f"/messages/?session_id={uuid4().hex}", json=ping)
    assert unknown.status_code == 404


def test_sse_session_id_in_another_spelling_is_the_same_session(server: Server) -> None:
    ping = {"jsonrpc": "2.0", "id": 5, "method": "ping"}
    with sse(server, ALICE) as session:
        place, _, name = session.url.partition("=")
        for spelling in (str(UUID(name)), f"urn:uuid:{UUID(name)}", f"{{{UUID(name)}}}"):
            session.url = f"{place}={spelling}"
            assert session.post(ping, {}) == 404
            assert session.post(ping) == 202


@pytest.mark.parametrize("way", BEGIN)
def test_requests_outside_a_session_cannot_cancel_its_calls(
    server: Server, simulator: Simulator, way: str
) -> None:
    simulator.configure(predict_seconds=4)
    with BEGIN[way](server, ALICE) as session:
        name = session.headers.get("mcp-session-id") or session.url.partition("=")[2]
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": TWO_IMAGES}
        with (
            httpx.Client(timeout=60) as calling,
            calling.stream(
                "POST", session.url, json=call, headers=session.headers | ALICE
            ) as answer,
        ):
            simulator.wait_for(account="alice", in_flight=2)
            meta = {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": {},
            }
            cancel = {
                "jsonrpc": "2.0",
                "method": "notifications/cancelled",
                "params": {"requestId": 1, "_meta": meta},
            }
            stateless = ACCEPT | {
                "mcp-protocol-version": "2026-07-28",
                "mcp-method": "notifications/cancelled",
                "mcp-session-id": name,
            }
            for headers in OTHER_CALLERS.values():
                place = f"/mcp?session_id={name}"
                server.client.post(place, json=cancel, headers=stateless | headers)
            assert answer.status_code in (200, 202)
        # The call's connection is lost, which cancels nothing.
    batch = server.get("/batches", headers=ALICE).json()["batches"][0]["batch_id"]
    ended = server.get(f"/batches/{batch}?wait_seconds=20", headers=ALICE).json()
    assert (ended["status"], ended["successful_count"]) == ("completed", 2)
    assert simulator.account("alice")["canceled"] == 0
