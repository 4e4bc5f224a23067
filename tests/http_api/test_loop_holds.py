"""No request blocks the event loop: the largest input of each kind, for each entry point.

CPU time of the loop's thread is measured, so other load on the machine does not count.
"""

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from conftest import environment, simulator_without_a_rate
from http_api.conftest import ADMIN_KEY, Server, running_server
from http_api.entry_points import mcp
from http_api.loop_holds import MAX_HOLD_SECONDS, Holds, largest_values
from pairs import pairs
from replicate_mcp.http_api.limits.config import DEFAULT_LIMITS, MIB

TOKEN = {"authorization": "Bearer r8_acme_1"}
MADE_UP = {"authorization": "Bearer r8_nobody_1"}
JSON = {"content-type": "application/json"}
ADMIN = {"x-admin-api-key": ADMIN_KEY}

BODY = DEFAULT_LIMITS.body_bytes - 4_096
MARKS = DEFAULT_LIMITS.body_marks - 5_000
MCP_BODY = DEFAULT_LIMITS.mcp_body_bytes - 4_096
MCP_MARKS = DEFAULT_LIMITS.mcp_body_marks - 5_000


class Measured:
    """A server, and the longest hold of its event loop during one request."""

    def __init__(self, server: Server, holds: Holds) -> None:
        self.server = server
        self._holds = holds

    def send(self, path: str, content: bytes, *headers: dict[str, str]) -> Any:
        """Post a body and check how long it blocked the loop."""
        together = {name: value for each in (JSON, *headers) for name, value in each.items()}
        answer = self.server.client.post(path, content=content, headers=together)
        self.check()
        return answer

    def check(self) -> None:
        """Check the longest hold of the loop since the last check."""
        seconds, what = self._holds.longest(self.server.process)
        assert seconds <= MAX_HOLD_SECONDS, f"{seconds * 1000:.0f} ms: {what}"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Measured]:
    """Return a server for all tests, after first calls that trigger its late imports."""
    folder = tmp_path_factory.mktemp("holds")
    holds = Holds(folder)
    with (
        simulator_without_a_rate() as simulator,
        running_server(environment(simulator, folder), program=holds.program()) as server,
    ):
        server.client.event_hooks = {}
        for path, body, headers in (
            ("/generate", {"prompt": "x", "model_name": "flux-dev"}, {}),
            ("/generate-batch", {"prompts": ["x"]}, {"idempotency-key": "warm"}),
            ("/configure", {}, ADMIN),
            mcp(None),
        ):
            server.client.post(path, json=body, headers=TOKEN | headers)
        holds.longest(server.process)
        yield Measured(server, holds)


def in_the_body(value: bytes) -> bytes:
    return b'{"prompt": "x", "junk": %s}' % value


def as_the_body(value: bytes) -> bytes:
    return value


def in_a_task(value: bytes) -> bytes:
    return b'{"tasks": [{"prompt": "x", "junk": %s}]}' % value


def as_the_prompt(value: bytes) -> bytes:
    return b'{"prompts": [%s]}' % value


def among_a_thousand_tasks(value: bytes) -> bytes:
    tasks = b",".join([b'{"prompt":"x"}'] * 1_000)
    return b'{"tasks": [%s], "junk": %s}' % (tasks, value)


KINDS = list(largest_values(100, 100))

BODIES = {
    "/generate": (in_the_body, as_the_body),
    "/generate-batch": (in_a_task, as_the_prompt, among_a_thousand_tasks),
}


@pytest.mark.parametrize(
    ("place", "kind"), pairs((each for all_of in BODIES.values() for each in all_of), KINDS)
)
def test_no_rest_body_blocks_the_event_loop(measured: Measured, kind: str, place: Any) -> None:
    (path,) = (path for path, places in BODIES.items() if place in places)
    body = place(largest_values(BODY - 20_000, MARKS)[kind])
    for headers in (TOKEN, TOKEN | {"idempotency-key": "a key"}, MADE_UP):
        assert measured.send(path, body, headers).status_code in (400, 401, 413, 422)


@pytest.mark.parametrize(("path", "kind"), pairs(["/configure", "/global-semaphores"], KINDS))
def test_no_admin_body_blocks_the_event_loop(measured: Measured, path: str, kind: str) -> None:
    for headers in (ADMIN, MADE_UP):
        answer = measured.send(path, largest_values(BODY, MARKS)[kind], headers)
        assert answer.status_code in (400, 401, 413)


LEGACY = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "t", "version": "1"},
}
ACCEPT = {"accept": "application/json, text/event-stream"}


@pytest.fixture(scope="module")
def session(measured: Measured) -> dict[str, str]:
    """Return the headers of a session of the older protocol."""
    first = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": LEGACY}
    answer = measured.server.client.post("/mcp", json=first, headers=TOKEN | ACCEPT)
    name = {"mcp-session-id": answer.headers["mcp-session-id"]}
    headers = TOKEN | ACCEPT | name | {"mcp-protocol-version": "2025-11-25"}
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    measured.server.client.post("/mcp", json=ready, headers=headers)
    return headers


def call(arguments: bytes, *, modern: bool) -> tuple[bytes, dict[str, str]]:
    """Return a call of generate_images with these arguments, in either era."""
    _, body, headers = mcp(None)
    body["params"]["arguments"] = "ARGUMENTS"
    if not modern:
        del body["params"]["_meta"]
    return json.dumps(body).encode().replace(b'"ARGUMENTS"', arguments), headers


@pytest.mark.parametrize(
    ("target", "kind"),
    pairs(product(["task", "tasks", "argument", "arguments"], [True, False]), KINDS),
)
def test_no_mcp_call_blocks_the_event_loop(
    measured: Measured, session: dict[str, str], target: tuple[str, bool], kind: str
) -> None:
    place, modern = target
    value = largest_values(MCP_BODY, MCP_MARKS)[kind]
    arguments = {
        "task": b'{"tasks": [{"prompt": "x", "junk": %s}]}' % value,
        "tasks": b'{"tasks": %s}' % value,
        "argument": b'{"tasks": [{"prompt": "x"}], "model": %s}' % value,
        "arguments": value,
    }[place]
    body, headers = call(arguments, modern=modern)
    answer = measured.send("/mcp", body, TOKEN, headers if modern else session)
    assert answer.status_code in (200, 400, 413)
    assert '"isError":false' not in answer.text or kind == "numbers"


@pytest.mark.parametrize("name", ["method", "id", "params", "batch"])
def test_no_other_mcp_message_blocks_the_event_loop(
    measured: Measured, session: dict[str, str], name: str
) -> None:
    ping = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
    if name == "batch":
        body = b"[" + b",".join([ping] * min(MCP_MARKS // 4, MCP_BODY // len(ping) - 1)) + b"]"
    else:
        kind = "names" if name == "params" else "text"
        message = {"jsonrpc": "2.0", "id": 1, "method": "ping", name: "VALUE"}
        body = (
            json.dumps(message)
            .encode()
            .replace(b'"VALUE"', largest_values(MCP_BODY, MCP_MARKS)[kind])
        )
    assert measured.send("/mcp", body, session).status_code in (200, 400)


IMAGE = "data:image/png;base64," + "A" * MIB
LARGE_BATCHES = {
    "long prompts": {"prompts": ["é" * 2_000] * 1_000},
    "many outputs": {"prompts": ["x" * 4_000] * 1_000, "num_outputs": 4},
    "one image for all": {"prompts": ["x"] * 1_000, "model_name": "flux-dev", "image": IMAGE},
    "one large image": {
        "prompts": ["x"],
        "model_name": "flux-dev",
        "image": IMAGE + "A" * 13 * MIB,
    },
    "values": {"tasks": [{"prompt": "x", "seed": n, "num_outputs": 2} for n in range(1_000)]},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "many outputs" else pytest.mark.soak)
        for name in LARGE_BATCHES
    ],
)
def test_running_or_reading_a_large_batch_does_not_block_the_event_loop(
    measured: Measured, session: dict[str, str], name: str
) -> None:
    body = json.dumps(LARGE_BATCHES[name], ensure_ascii=False).encode()
    begun = measured.send("/generate-batch", body, TOKEN, {"prefer": "respond-async"})
    assert begun.status_code == 202, begun.text
    address = begun.headers["location"]
    client = measured.server.client
    while client.get(f"{address}?limit=0&wait_seconds=20", headers=TOKEN).json()["pending_count"]:
        pass
    measured.check()
    whole = client.get(address, headers=TOKEN).json()
    measured.check()
    assert whole["successful_count"] == whole["total_tasks"]
    _, call, headers = mcp(None)
    call["params"] |= {"name": "get_batch", "arguments": {"limit": 1_000}}
    client.post("/mcp", json=call, headers=TOKEN | headers | {"mcp-name": "get_batch"})
    measured.check()


@pytest.mark.soak
def test_cancelling_a_large_batch_does_not_block_the_event_loop(measured: Measured) -> None:
    body = json.dumps({"prompts": ["x" * 4_000] * 1_000}).encode()
    begun = measured.send("/generate-batch", body, TOKEN, {"prefer": "respond-async"})
    client, address = measured.server.client, begun.headers["location"]
    assert client.delete(address, headers=TOKEN).status_code == 200
    while client.get(f"{address}?limit=0&wait_seconds=20", headers=TOKEN).json()["pending_count"]:
        pass
    measured.check()
