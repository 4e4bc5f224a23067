"""Webhooks: signed, and the terminal one retried."""

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from replicate.webhook import Webhooks, WebhookSigningSecret

from replicate_mcp.simulator import Simulator
from simulator.calls import SCHNELL

Received = tuple[dict[str, str], bytes]


@contextmanager
def receiver(statuses: list[int]) -> Iterator[tuple[str, "queue.Queue[Received]"]]:
    """Run a server that responds with these statuses in turn, then 200."""
    received: queue.Queue[Received] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            self.send_response(statuses.pop(0) if statuses else 200)
            self.end_headers()
            received.put(({k.lower(): v for k, v in self.headers.items()}, body))

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook", received
        finally:
            server.shutdown()
            thread.join()


async def created(client: httpx.AsyncClient, url: str, *events: str) -> httpx.Response:
    body = {"input": {"prompt": "a"}, "webhook": url, "webhook_events_filter": list(events)}
    return await client.post(SCHNELL, json=body, headers={"prefer": "wait"})


async def test_end_of_a_prediction_sends_a_signed_webhook(
    client: httpx.AsyncClient,
) -> None:
    with receiver([]) as (url, received):
        prediction = (await created(client, url, "completed")).json()
        headers, body = received.get(timeout=5)
    assert json.loads(body)["id"] == prediction["id"]
    assert json.loads(body)["status"] == "succeeded"
    secret = (await client.get("/v1/webhooks/default/secret")).json()
    Webhooks.validate(
        headers=headers, body=body.decode(), secret=WebhookSigningSecret(**secret), tolerance=60
    )


async def test_only_requested_events_are_sent(client: httpx.AsyncClient) -> None:
    with receiver([]) as (url, received):
        await created(client, url, "start", "completed")
        statuses = {json.loads(received.get(timeout=5)[1])["status"] for _ in range(2)}
        await created(client, url, "output")
        assert received.empty()
    assert statuses == {"processing", "succeeded"}


async def test_terminal_webhook_is_retried_until_accepted(
    client: httpx.AsyncClient,
) -> None:
    with receiver([500]) as (url, received):
        await created(client, url, "completed")
        first, _ = received.get(timeout=5)
        second, _ = received.get(timeout=5)
    assert first["webhook-id"] == second["webhook-id"]


async def test_webhook_can_be_duplicated_or_lost(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    with receiver([]) as (url, received):
        simulator.configure(webhook_lost=True)
        await created(client, url, "completed")
        simulator.configure(webhook_lost=False, webhook_duplicates=True)
        prediction = (await created(client, url, "completed")).json()
        bodies = [json.loads(received.get(timeout=5)[1]) for _ in range(2)]
    assert [body["id"] for body in bodies] == [prediction["id"]] * 2


@pytest.mark.parametrize("url", ["http://example.com/hook", "ftp://example.com"])
async def test_webhook_url_must_be_https_or_loopback(
    simulator: Simulator, client: httpx.AsyncClient, url: str
) -> None:
    assert (await created(client, url, "completed")).status_code == 422
