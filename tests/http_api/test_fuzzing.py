"""Malformed requests, over 10,000 in `make soak`: none causes an internal error or a hang."""

import json
import random
from collections import Counter
from contextlib import suppress
from itertools import product
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from http_api.conftest import ADMIN_KEY, Server
from http_api.malformed_requests import CLIENT, ERAS, TORN, MalformedRequest, malformed_request

ANSWER_SECONDS = 30
"""Beyond which a request counts as hanging; the longest that a tool may wait is less, see VALID."""

INTERNAL_ERROR = -32603
"""What a 500 is in JSON-RPC."""


@pytest.mark.parametrize("examples", [5, pytest.param(250, marks=pytest.mark.soak)])
def test_fuzzed_requests_to_every_route_never_get_a_500(server: Server, examples: int) -> None:
    # Their import takes a second, in each worker.
    import schemathesis
    from schemathesis import checks
    from schemathesis.core.result import Ok
    from schemathesis.generation import GenerationMode

    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    tried: Counter[str] = Counter()
    for operation in schema.get_all_operations():
        assert isinstance(operation, Ok)
        for mode in GenerationMode:
            strategy = operation.ok().as_strategy(generation_mode=mode)

            @settings(
                max_examples=examples,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
                derandomize=True,
            )
            @given(strategy)
            def try_it(case: Any) -> None:
                tried[case.operation.label] += 1
                headers = {"x-admin-api-key": ADMIN_KEY}
                case.call_and_validate(
                    headers=headers, timeout=60, checks=[checks.not_a_server_error]
                )

            # Fields that accept nothing, or any text, have no invalid value.
            with suppress(*((Unsatisfiable,) if mode is GenerationMode.NEGATIVE else ())):
                try_it()
    assert tried.total() > examples * len(tried)
    assert not [line for line in server.log if "Traceback" in line]


POSTED_TO = (
    "/generate",
    "/generate-batch",
    "/global-semaphores",
    "/configure",
    "/messages/?session_id=0123456789abcdef0123456789abcdef",
    "/webhooks/replicate/acme",
)


def test_truncated_bodies_never_get_a_500(server: Server) -> None:
    for path, content, named in product(POSTED_TO, TORN, ("application/json", "text/plain", "")):
        headers = {"x-admin-api-key": ADMIN_KEY, "content-type": named}
        answer = server.client.post(path, content=content, headers=headers)
        assert 400 <= answer.status_code < 500, (path, content[:99], named, answer.text)
    assert not [line for line in server.log if "Traceback" in line]


def session_of(server: Server) -> str:
    """Open a session of the handshake era."""
    asked = {"protocolVersion": ERAS[0], "capabilities": {}, "clientInfo": CLIENT}
    hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": asked}
    accept = {"accept": "application/json, text/event-stream"}
    answer = server.client.post("/mcp", json=hello, headers=accept)
    session: str = answer.headers["mcp-session-id"]
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    server.client.post("/mcp", json=ready, headers=accept | {"mcp-session-id": session})
    return session


def codes(answer: str) -> set[Any]:
    """Return the error codes in a response, plain or streamed."""
    found = set()
    for line in answer.splitlines():
        text = line.removeprefix("data:").strip()
        if text.startswith("{"):
            error = json.loads(text).get("error")
            found.add(error["code"] if isinstance(error, dict) else None)
    return found


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_malformed_mcp_requests_never_fail_or_hang(server: Server, count: int) -> None:
    statuses: Counter[int] = Counter()

    async def send(client: httpx.AsyncClient, request: MalformedRequest) -> None:
        answer = None
        with anyio.move_on_after(ANSWER_SECONDS):
            answer = await client.request(
                request.method, "/mcp", headers=request.headers, content=request.content
            )
        assert answer is not None, ("hangs", request)
        statuses[answer.status_code] += 1
        assert answer.status_code < 500, (request, answer.text)
        assert INTERNAL_ERROR not in codes(answer.text), (request, answer.text)

    async def send_some(seed: int) -> None:
        dice = random.Random(seed)
        session = session_of(server)
        async with httpx.AsyncClient(base_url=server.url, timeout=ANSWER_SECONDS) as client:
            for _ in range(count // 8):
                await send(client, malformed_request(dice, session))

    async with anyio.create_task_group() as group:
        for seed in range(8):
            group.start_soon(send_some, seed)
    assert statuses.total() == count // 8 * 8
    assert statuses[200] > count // 10, "too few come through"
    assert server.get("/health").status_code == 200
    assert not [line for line in server.log if "Traceback" in line]
