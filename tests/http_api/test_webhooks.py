"""Webhooks delivered to a fleet: to any server, once, twice, late, forged or never."""

import re
import time
from collections import Counter
from typing import Any

import httpx

from http_api.conftest import Serve, Server
from replicate_mcp.replicate_api.accounts import MAX_UNVERIFIED_BYTES_PER_MINUTE
from replicate_mcp.replicate_api.webhooks import FALLBACK_POLL_SECONDS
from replicate_mcp.simulator import Simulator

PREDICT_SECONDS = 4

SOONER = FALLBACK_POLL_SECONDS - 2
"""Seconds shortly before a prediction without a webhook is polled."""

OWN = {"x_replicate_api_key": "r8_other_1"}


def lose_answers(simulator: Simulator, **more: Any) -> None:
    """Lose the response of every creation, so that each prediction has to be followed."""
    simulator.configure(creation_reset_after=1, predict_seconds=PREDICT_SECONDS, **more)


def make(server: Server, simulator: Simulator, **headers: str) -> tuple[Any, int]:
    """Return a batch's response, and how often its predictions were polled."""
    before = count_polls(simulator)
    body = {"model_name": "flux-dev", "tasks": [{"prompt": f"car {n}"} for n in range(5)]}
    answer = server.post("/generate-batch", body, **headers)
    assert answer.status_code == 200, answer.text
    return answer.json(), count_polls(simulator) - before


def count_polls(simulator: Simulator) -> int:
    found: int = simulator.stats()["requests"].get("GET /v1/predictions/{id}", 0)
    return found


def test_webhook_received_by_another_server_ends_the_wait_without_polling(
    serve: Serve, simulator: Simulator
) -> None:
    lose_answers(simulator)
    with (
        serve(REPLICATE_MCP_PUBLIC_URL="https://images.example.com") as receiver,
        serve(REPLICATE_MCP_PUBLIC_URL=receiver.url, REPLICATE_API_TOKEN="r8_other_1") as makes,
    ):
        assert makes.get("/status").status_code == 200
        # The receiving server has no token of this account: the follower verifies the webhook.
        for headers in ({}, OWN):
            began = time.monotonic()
            made, polls = make(makes, simulator, **headers)
            assert made["successful_count"] == 5
            assert time.monotonic() - began < SOONER
            assert polls == 10, "one poll when it was found in the list, one after its webhook"
        assert [each["webhook"] for each in simulator.predictions()] == (
            [f"{receiver.url}/webhooks/replicate/other"] * 10
        )


def test_duplicate_webhook_delivers_once(serve: Serve, simulator: Simulator) -> None:
    lose_answers(simulator, webhook_duplicates=1)
    with (
        serve(REPLICATE_MCP_PUBLIC_URL="https://images.example.com") as receiver,
        serve(REPLICATE_MCP_PUBLIC_URL=receiver.url) as makes,
    ):
        began = time.monotonic()
        made, polls = make(makes, simulator)
    assert made["successful_count"] == 5
    assert time.monotonic() - began < SOONER
    assert polls == 10


def test_predictions_are_polled_when_webhooks_are_lost(serve: Serve, simulator: Simulator) -> None:
    lose_answers(simulator, webhook_lost=1)
    with serve(REPLICATE_MCP_PUBLIC_URL="http://127.0.0.1:9") as server:
        made, polls = make(server, simulator)
        assert made["successful_count"] == 5
        assert polls == 10


def test_forged_webhook_is_rejected_and_ends_nothing(serve: Serve, simulator: Simulator) -> None:
    with serve(REPLICATE_MCP_PUBLIC_URL="http://127.0.0.1:9") as server:
        make(server, simulator)
        forged = {
            "webhook-id": "msg_1",
            "webhook-timestamp": str(int(time.time())),
            "webhook-signature": "v1,AAAA",
        }
        prediction = simulator.predictions()[0]["id"]
        body = {"id": prediction, "status": "succeeded"}
        answer = httpx.post(f"{server.url}/webhooks/replicate/acme", json=body, headers=forged)
        assert answer.status_code == 401
        assert re.search("signature", answer.json()["error"])
        assert httpx.post(f"{server.url}/webhooks/replicate/acme", json=body).status_code == 400
        deep = httpx.post(f"{server.url}/webhooks/replicate/acme", content=b"[" * 30_000)
        assert deep.status_code == 400
        nowhere = httpx.get(f"{server.url}/webhooks/replicate/acme")
        assert nowhere.status_code in (404, 405)


def test_unverifiable_webhooks_are_limited_in_number(serve: Serve) -> None:
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(time.time())),
        "webhook-signature": "v1,AAAA",
    }
    webhook_settings = {"REPLICATE_MCP_PUBLIC_URL": "https://images.example.com"}
    with (
        serve(**webhook_settings) as server,
        httpx.Client(base_url=server.url, headers=headers) as client,
    ):

        def post_statuses(account: str, times: int) -> Counter[int]:
            path = f"/webhooks/replicate/{account}"
            answers = [client.post(path, json={"id": f"p{n}"}) for n in range(times)]
            return Counter(answer.status_code for answer in answers)

        assert post_statuses("one", 110) == {204: 100, 503: 10}
        assert post_statuses("two", 5) == {204: 5}, "another account has room of its own"
        assert post_statuses("three", 110) == {204: 100, 503: 10}
        assert post_statuses("four", 110) == {204: 95, 503: 15}


def test_unverifiable_webhooks_are_limited_in_bytes(serve: Serve) -> None:
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(time.time())),
        "webhook-signature": "v1,AAAA",
    }
    webhook_settings = {"REPLICATE_MCP_PUBLIC_URL": "https://images.example.com"}
    with (
        serve(**webhook_settings) as server,
        httpx.Client(base_url=server.url, headers=headers) as client,
    ):

        def kept(account: str, size: int, times: int) -> int:
            """Return the stored bytes of bodies; each contains its prediction's own."""
            path, body = f"/webhooks/replicate/{account}", {"id": "p0", "output": "x" * size}
            answers = [client.post(path, json=body | {"id": f"p{n}"}) for n in range(times)]
            assert {each.status_code for each in answers} <= {204, 503}
            return sum(len(each.request.content) for each in answers if each.status_code == 204)

        of_one = kept("one", 60_000, 20)
        assert 600_000 < of_one < MAX_UNVERIFIED_BYTES_PER_MINUTE / 3
        others = [kept(account, 60_000, 20) for account in ("two", "three", "four")]
        assert 1_900_000 < of_one + sum(others) < MAX_UNVERIFIED_BYTES_PER_MINUTE


def test_no_webhook_is_requested_without_a_public_url(server: Server, simulator: Simulator) -> None:
    make(server, simulator)
    assert {each["webhook"] for each in simulator.predictions()} == {None}
    assert server.post("/webhooks/replicate/acme", {}).status_code == 404
