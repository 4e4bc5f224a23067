"""Request limits over real sockets: size, speed, concurrency and unknown hosts."""

import json
import select
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import pytest
from mcp.server.streamable_http_manager import (
    DEFAULT_MAX_REQUEST_BODY_SIZE,
    DEFAULT_MAX_SESSIONS,
    DEFAULT_SESSION_IDLE_TIMEOUT,
)

from fork_server import FORKABLE
from http_api.conftest import ADMIN_KEY, Serve, Server
from http_api.entry_points import mcp
from http_api.raw_client import Wire, request, wire_to, wires_with_response
from pairs import pairs
from replicate_mcp.batches.memory_limit import BATCH_BYTES, TASK_BYTES
from replicate_mcp.http_api.limits.config import DEFAULT_LIMITS, MARK_BYTES
from replicate_mcp.simulator import Simulator

LIMITED = """
import functools, json, sys
from replicate_mcp.http_api import server
from replicate_mcp.http_api.limits.config import Limits
limits = Limits(**json.loads(sys.argv.pop()))
server.serve_http = functools.partial(server.serve_http, limits=limits)
from replicate_mcp.cli.main import main
sys.exit(main())
"""
"""The server as it is, with other numbers."""

Limited = Callable[..., AbstractContextManager[Server]]

CLIENT = {"name": "t", "version": "1"}

MCP = {"accept": "application/json, text/event-stream", "content_type": "application/json"}
JSON = {"content_type": "application/json"}


@pytest.fixture
def limited(serve: Serve) -> Limited:
    """Return a function that starts servers with other limits."""

    def running(*words: str, **limits: float) -> AbstractContextManager[Server]:
        program = (sys.executable, "-c", FORKABLE + LIMITED)
        started: AbstractContextManager[Server] = serve(*words, json.dumps(limits), program=program)
        return started

    return running


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer r8_{name}"}


def body_of(answered: str) -> Any:
    return json.loads(answered.partition("\r\n\r\n")[2])


def length_in(headers: str) -> int:
    return int(headers.lower().partition("content-length: ")[2].partition("\r\n")[0])


def test_slow_headers_time_out_with_408_while_other_requests_are_served(
    limited: Limited,
) -> None:
    with limited(header_seconds=1) as server, wire_to(server.url) as slow:
        slow.send("GET /models HTTP/1.1\r\nhost: 127.0.0.1\r\nx-slow: ")
        assert server.get("/models").status_code == 200
        slow.drip("x")
        answered = slow.rest()
        assert answered.startswith("HTTP/1.1 408 ")
        assert "headers arrived too slowly" in body_of(answered)["error"]
        with wire_to(server.url) as again:  # The connection's next request has the same limits.
            again.send(request("GET", "/models"))
            assert again.headers().startswith("HTTP/1.1 200 ")
            again.send("GET /models HTTP/1.1\r\nx-slow: ")
            again.drip("x")
            assert "HTTP/1.1 408 " in again.rest()
        with wire_to(server.url) as silent:
            assert silent.rest() == ""


def test_slow_body_times_out_with_408(limited: Limited) -> None:
    with limited(body_seconds=1) as server:
        for path, asked in (("/generate", JSON), ("/mcp", MCP)):
            with wire_to(server.url) as slow:
                slow.send(request("POST", path, content_length="1000", **asked) + "{")
                slow.drip(" ")
                answered = slow.headers()
                assert answered.startswith("HTTP/1.1 408 "), answered
        assert server.get("/models").status_code == 200


def test_too_large_headers_get_431_in_any_form(server: Server) -> None:
    immediate = server.get("/models", headers={"x-long": "x" * 100_000})
    assert (immediate.status_code, immediate.json()["error_code"]) == (431, "invalid_input")
    with wire_to(server.url) as bit_by_bit:
        bit_by_bit.send("GET /models HTTP/1.1\r\n")
        bit_by_bit.drip("x-more: " + "x" * 1_000 + "\r\n", every=0.01)
        answered = bit_by_bit.rest()
    assert answered.startswith("HTTP/1.1 431 ")
    assert "too large" in body_of(answered)["error"]
    with wire_to(server.url) as nonsense:
        nonsense.send("What is this?\r\n\r\n")
        assert nonsense.rest().startswith("HTTP/1.1 400 ")


@pytest.mark.parametrize(("path", "mebibytes"), [("/generate", 16), ("/mcp", 4)])
def test_too_large_body_gets_413_with_or_without_content_length(
    limited: Limited, path: str, mebibytes: int
) -> None:
    with limited(linger_seconds=1, linger_total_seconds=3) as server:
        with wire_to(server.url) as reply:
            length = str(mebibytes * 1024 * 1024 + 1)
            reply.send(request("POST", path, content_length=length, **MCP))
            assert reply.headers().startswith("HTTP/1.1 413 ")
            reply.drip("x")  # The server does not read it forever.
        with wire_to(server.url) as chunked:
            chunked.send(request("POST", path, transfer_encoding="chunked", **MCP))
            chunked.drip("10000\r\n" + "x" * 0x10000 + "\r\n", every=0.001)
            answered = chunked.headers()
            assert answered.startswith("HTTP/1.1 413 ")
            error_body = json.loads(chunked.exactly(length_in(answered)))
        refused = error_body["error"]
        sentence = refused["message"] if path == "/mcp" else refused
        assert sentence == f"The request's body is over {mebibytes} MiB."


@pytest.mark.parametrize(("path", "mebibytes"), [("/generate", 16), ("/mcp", 4)])
@pytest.mark.parametrize("head", [{"transfer_encoding": "chunked"}, {"content_length": "99999999"}])
def test_client_sending_a_too_large_body_to_the_end_receives_the_413(
    limited: Limited, path: str, mebibytes: int, head: dict[str, str]
) -> None:
    piece = b"x" * 1024 * 1024
    if "transfer_encoding" in head:
        piece = b"%x\r\n%s\r\n" % (len(piece), piece)
    with limited(linger_seconds=1) as server, wire_to(server.url) as slow:
        slow.send(request("POST", path, **head, **MCP))
        for _ in range(mebibytes + 1):
            slow.send(piece)
        # The client sends for longer than the server waits for one that has stopped.
        select.select([slow.socket], [], [], 30)
        for _ in range(25):
            slow.send(piece[: len(piece) // 64] if "content_length" in head else piece)
            time.sleep(0.1)
        assert slow.headers().startswith("HTTP/1.1 413 ")


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_client_with_connection_close_receives_the_413_after_its_body(
    limited: Limited, version: str
) -> None:
    length = 40 * 1024 * 1024
    head = request("POST", "/generate", content_length=str(length), connection="close", **JSON)
    with limited(linger_seconds=2) as server, wire_to(server.url) as wire:
        wire.send(head.replace("HTTP/1.1", f"HTTP/{version}"))
        for _ in range(40):
            wire.send(b"x" * (length // 40))
        answered = wire.rest()
        assert answered.startswith("HTTP/1.1 413 ")
        assert body_of(answered)["error"] == "The request's body is over 16 MiB."


def test_client_with_connection_close_cannot_send_forever(limited: Limited) -> None:
    head = request("POST", "/generate", content_length="99999999", connection="close", **JSON)
    with limited(linger_total_seconds=1) as server, wire_to(server.url) as wire:
        wire.send(head)
        assert wire.rest().startswith("HTTP/1.1 413 ")
        with pytest.raises(ConnectionError):
            _send_slowly(wire, pieces=200)


def _send_slowly(wire: Wire, pieces: int) -> None:
    for _ in range(pieces):
        wire.send("x")
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("path", "value"),
    pairs(
        ["/generate", "/generate-batch", "/mcp", "/messages/"],
        ["[]", "{}", "0.5", '"ab"'],
    ),
)
def test_body_with_too_many_values_is_rejected_before_parsing(
    shared_server: Server, path: str, value: str
) -> None:
    server = shared_server
    body = '{"prompt":[' + ",".join([value] * 500_010) + "]}"
    refused = server.client.post(path, content=body, headers={"content-type": "application/json"})
    assert refused.status_code == 413
    most = "500,000" if path.startswith("/generate") else "60,000"
    assert f"over {most} commas and brackets" in refused.text
    long = {"tasks": [{"prompt": "a car, red, " * 200, "seed": "none"}] * 1_000}
    assert "seed" in server.post("/generate-batch", long).json()["error"]


def test_caller_with_too_many_open_requests_is_rejected_while_others_are_served(
    limited: Limited,
) -> None:
    with limited(open_requests=16) as server, ExitStack() as stack:

        def open_stream(source: str = "127.0.0.1", **headers: str) -> Wire:
            wire = stack.enter_context(wire_to(server.url, source=source))
            wire.send(request("GET", "/sse", **headers))
            assert wire.headers().startswith("HTTP/1.1 200 ")
            return wire

        first, *_ = [open_stream(**bearer("a")) for _ in range(4)]
        refused = server.get("/models", headers=bearer("a"))
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        reply = refused.json()
        assert (reply["error_code"], reply["retryable"]) == ("too_many_requests", True)
        assert "(at most 4)" in reply["error"]
        over_mcp = server.client.post("/mcp", json={}, headers=bearer("a"))
        assert (over_mcp.status_code, over_mcp.headers["retry-after"]) == (429, "5")
        assert over_mcp.json()["error"]["message"] == reply["error"]
        assert over_mcp.json()["error"]["data"]["retryable"] is True
        # Other callers are served: another token, the admin, no token, and a token in the body.
        for headers in (bearer("b"), {"x-admin-api-key": ADMIN_KEY}, {}):
            assert server.get("/models", headers=headers).status_code == 200
        first.socket.close()
        wait_until_served(server, bearer("a"))

        # Invented tokens still share one address.
        first = open_stream(**bearer("a"))
        for name in "bcde":
            open_stream(**bearer(name))
        assert server.get("/models", headers=bearer("f")).status_code == 429
        elsewhere = {"x-forwarded-for": "10.0.0.9, 198.51.100.7"}
        assert server.get("/models", headers=bearer("f") | elsewhere).status_code == 200
        # Spoofed addresses share the connection's: a quarter of the capacity stays for the others.
        for number in range(4):
            address = {"x_forwarded_for": f"198.51.100.{number}"}
            open_stream(**address, **bearer(f"g{number}"))
        forged = bearer("h") | {"x-forwarded-for": "192.0.2.1"}
        full = server.get("/models", headers=forged)
        assert (full.status_code, full.headers["retry-after"]) == (503, "5")
        assert "(at most 12)" in full.json()["error"]
        for number in range(4):
            open_stream("127.0.0.2", **bearer(f"i{number}"))
        with wire_to(server.url, source="127.0.0.3") as another:
            another.send(request("GET", "/models", **bearer("j")))
            assert another.headers().startswith("HTTP/1.1 503 ")
        assert server.get("/health").status_code == 200


def test_requests_of_disconnected_clients_are_no_longer_counted(
    limited: Limited, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=8)
    own = bearer("acme_1")
    with limited(open_requests=16) as server:
        first = server.post("/generate", {"prompt": "a"}, prefer="respond-async", **own)
        place = f"{first.headers['location']}?wait_seconds=50"
        image, batch = (json.dumps(body) for body in ({"prompt": "b"}, {"prompts": ["c"]}))
        with ExitStack() as stack:
            for method, path, body in (
                ("GET", place, ""),
                ("POST", "/generate", image),
                ("POST", "/generate", image),
                ("POST", "/generate-batch", batch),
            ):
                wire = stack.enter_context(wire_to(server.url))
                length = {"content_length": str(len(body))}
                wire.send(request(method, path, **length, **JSON, **own) + body)
            simulator.wait_for(account="acme", in_flight=4)
            assert server.get("/models", headers=own).status_code == 429
        wait_until_served(server, own)
        assert simulator.account("acme")["in_flight"] == 4
        for begun in server.get("/batches", headers=own).json()["batches"]:
            place = f"/batches/{begun['batch_id']}?wait_seconds=50"
            assert server.get(place, headers=own).json()["successful_count"] == 1
        assert simulator.account("acme")["created"] == 4


def wait_until_served(server: Server, headers: dict[str, str], path: str = "/models") -> None:
    """Repeat the request until it is served: the server notices a disconnect with a delay."""
    for _ in range(500):
        if server.get(path, headers=headers).status_code == 200:
            return
    raise AssertionError("nothing has ended")


def test_held_request_bodies_count_towards_the_caller_quota(limited: Limited) -> None:
    with (
        limited(held_body_bytes=4 * 1024 * 1024) as server,
        wire_to(server.url) as one,
        wire_to(server.url) as other,
    ):
        for wire in (one, other):
            length = {"content_length": "900000"}
            wire.send(request("POST", "/generate", **length, **JSON, **bearer("a")))
            wire.send("x" * 899_999)
        answered = wires_with_response(one, other)
        assert len(answered) == 1
        assert answered[0].headers().startswith("HTTP/1.1 429 ")
        small = {"prompt": "x" * 1_000, "aspect_ratio": "none"}
        assert server.post("/generate", small, **bearer("a")).status_code == 400
        large = {"prompt": "x" * 500_000, "aspect_ratio": "none"}
        assert server.post("/generate", large, **bearer("b")).status_code == 400


def test_body_values_are_counted_by_their_parsed_size(
    limited: Limited,
) -> None:
    with limited(held_body_bytes=4 * 1024 * 1024) as server:
        for values, status in ((1_000, 400), (10_000, 429)):
            body = {"prompt": "x", "aspect_ratio": [{}] * (values // 2)}
            assert server.post("/generate", body, **bearer("a")).status_code == status


def test_inputs_of_unfinished_batches_count_towards_the_account_quota(
    limited: Limited, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=60)
    image = f"data:image/png;base64,{'A' * 14_000}"  # A larger one is uploaded.
    tasks = [
        {"prompt": f"x {number}", "model": "flux-dev", "image": f"{image}{number:08}"}
        for number in range(7)
    ]
    later = {"prefer": "respond-async"}

    with limited(batch_bytes=1024 * 1024) as server:

        def start(token: str, **headers: str) -> Any:
            return server.post("/generate-batch", {"tasks": tasks}, **bearer(token), **headers)

        begun = start("acme_1", idempotency_key="a", **later)
        assert begun.status_code == 202
        for another_token in ("acme_1", "acme_2"):
            refused = start(another_token, **later)
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
            reply = refused.json()
            assert (reply["error_code"], reply["retryable"]) == ("too_many_requests", True)
            assert "batches of your account have not ended" in reply["error"]
        again = start("acme_1", idempotency_key="a", **later)
        assert again.json()["batch_id"] == begun.json()["batch_id"]
        path, body, headers = mcp("r8_acme_1", tasks)
        over_mcp = server.client.post(path, json=body, headers=headers).text
        assert f'"replicate-mcp/refusal":{json.dumps(reply, separators=(",", ":"))}' in over_mcp

        shared = {"prompts": ["y"] * 10, "model_name": "flux-dev", "image": image}  # Stored once.
        assert server.post("/generate-batch", shared, **later, **bearer("b_1")).status_code == 202
        for account in "cdef":
            assert start(f"{account}_1", **later).status_code == 202
        full = start("g_1", **later)
        assert (full.status_code, full.headers["retry-after"]) == (503, "5")
        assert full.json()["error_code"] == "too_many_requests"

        place = f"/batches/{begun.json()['batch_id']}"
        server.client.delete(place, headers=bearer("acme_1"))
        ended = server.get(f"{place}?wait_seconds=20", headers=bearer("acme_1"))
        assert ended.json()["status"] == "canceled"
        for _ in range(500):
            if start("acme_1", **later).status_code == 202:
                break
        else:
            raise AssertionError("it counts on")


def test_client_that_does_not_read_is_disconnected(limited: Limited) -> None:
    with limited(unread_seconds=1) as server:
        with wire_to(server.url, receive_buffer=4_096) as deaf:
            deaf.send(request("GET", "/openapi.json") * 1_000)
            assert deaf.was_cut()
        assert server.get("/models").status_code == 200


def test_client_that_reads_too_slowly_is_disconnected(limited: Limited) -> None:
    with (
        limited(unread_seconds=4) as server,
        wire_to(server.url, receive_buffer=4_096) as slow,
    ):
        place = large_batch(server)
        slow.send(request("GET", place))
        assert slow.was_cut(while_reading=1_400)
        assert server.get(place).status_code == 200


def large_batch(server: Server, **headers: str) -> str:
    """Return the path of a batch whose response has over two megabytes."""
    prompts = [f"{number} " + "x" * 19_000 for number in range(110)]
    made = server.post("/generate-batch", {"prompts": prompts}, **headers)
    assert made.json()["successful_count"] == 110
    return f"/batches/{made.json()['batch_id']}"


def test_unread_response_keeps_its_request_counted(limited: Limited) -> None:
    own = bearer("acme_1")
    with limited(open_requests=16) as server, ExitStack() as stack:
        place = large_batch(server, **own)
        deaf = [stack.enter_context(wire_to(server.url, receive_buffer=4_096)) for _ in range(4)]
        for wire in deaf:
            wire.send(request("GET", place, **own))
        lengths = [length_in(wire.headers()) for wire in deaf]
        assert server.get("/models", headers=own).status_code == 429
        assert server.get("/models", headers=bearer("other_1")).status_code == 200
        reply = json.loads(deaf[0].exactly(lengths[0]))
        wait_until_served(server, own)
        assert reply == server.get(place, headers=own).json()


def test_held_responses_count_towards_the_caller_quota(limited: Limited) -> None:
    own = bearer("acme_1")
    with (
        limited(held_body_bytes=12 * 1024 * 1024) as server,
        wire_to(server.url, receive_buffer=4_096) as deaf,
    ):
        place = large_batch(server, **own)
        deaf.send(request("GET", place, **own))
        assert deaf.headers().startswith("HTTP/1.1 200 ")
        refused = server.get(place, headers=own)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        assert refused.json()["retryable"] is True
        assert server.get("/models", headers=own).status_code == 200
        assert server.get(place, headers=bearer("other_1")).status_code == 404
        deaf.socket.close()
        wait_until_served(server, own, place)


def test_new_connection_closes_the_longest_idle_one(limited: Limited) -> None:
    with (
        limited(connections=8, open_requests=4) as server,
        ExitStack() as stack,
        wire_to(server.url) as stream,
    ):
        stream.send(request("GET", "/sse", **bearer("a")))
        assert stream.headers().startswith("HTTP/1.1 200 ")
        idle = [stack.enter_context(wire_to(server.url)) for _ in range(7)]
        assert server.get("/health").status_code == 200
        assert idle[0].rest() == ""
        # Each new connection has the oldest idle one closed.
        more = [stack.enter_context(wire_to(server.url)) for _ in range(20)]
        for wire in [*idle[1:], *more[:-7]]:
            assert wire.rest() == ""
        for wire in more[-7:]:
            wire.send(request("GET", "/models"))
            assert wire.headers().startswith("HTTP/1.1 200 ")
        assert "event: endpoint" in stream.socket.recv(1_000).decode()


def test_open_sessions_count_towards_the_caller_quota(limited: Limited) -> None:
    asked = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": CLIENT}
    hello = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": asked}
    usual = {"accept": "application/json, text/event-stream"}
    with limited(sessions=8) as server:

        def begin(name: str) -> Any:
            headers = usual | bearer(name)
            return server.client.post("/mcp", json=hello, headers=headers)

        sessions = [begin("a").headers["mcp-session-id"] for _ in range(2)]
        refused = begin("a")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        assert "sessions are open" in refused.json()["error"]["message"]
        assert begin("b").status_code == 200
        one = usual | {"mcp-session-id": sessions[0]}
        assert server.client.delete("/mcp", headers=one).status_code == 404  # Another's.
        assert begin("a").status_code == 429
        assert server.client.delete("/mcp", headers=one | bearer("a")).status_code == 200
        assert begin("a").status_code == 200
        assert begin("a").status_code == 429


def test_session_limits_equal_the_sdk_defaults() -> None:
    sdk = (DEFAULT_MAX_SESSIONS, DEFAULT_SESSION_IDLE_TIMEOUT, DEFAULT_MAX_REQUEST_BODY_SIZE)
    ours = DEFAULT_LIMITS
    assert (ours.sessions, ours.session_idle_seconds, ours.mcp_body_bytes) == sdk


def test_documented_limits_match_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text("utf-8")
    reply = page.partition("## Request limits")[2].partition("\n## ")[0]
    ours, shares = DEFAULT_LIMITS, (4, 2, 1)
    kib, mib = 1024, 1024 * 1024
    assert "three quarters of each" in reply
    requests, held, batches, sessions = (
        [whole // share for share in shares]
        for whole in (
            ours.open_requests,
            ours.held_body_bytes // mib,
            ours.batch_bytes // mib,
            ours.sessions,
        )
    )
    for sentence in (
        f"{ours.header_bytes // kib} KiB, within {ours.header_seconds} s",
        f"{ours.body_bytes // mib} MiB ({ours.mcp_body_bytes // mib} MiB over MCP), "
        f"within {ours.body_seconds} s",
        f"| commas, `[` and `{{` in a body | {ours.body_marks:,} |",
        "{:,} per caller, {:,} per address, {:,} in total".format(*requests),
        f"the first {ours.small_body_bytes // kib} KiB of each are free",
        f"each comma or bracket in a body counts {MARK_BYTES} more",
        "{} MiB per caller, {} MiB per address, {} MiB in total".format(*held),
        "{} MiB per account, {} MiB in total".format(*batches[::2]),
        f"{BATCH_BYTES // kib} KiB per batch and {TASK_BYTES // kib} KiB per task",
        f"end after {ours.session_idle_seconds // 60} min",
        "{:,} per caller, {:,} per address, {:,} in total".format(*sessions),
        f"| connections | {ours.connections:,},",
        f"{ours.small_body_bytes // kib} KiB within {ours.unread_seconds} s",
    ):
        assert sentence in reply


PREFLIGHT = {"access-control-request-method": "POST"}


def test_cors_allows_pages_of_allowed_hosts_only(serve: Serve) -> None:
    with serve(REPLICATE_MCP_ALLOWED_HOSTS="app.example.com, localhost") as server:

        def preflight(path: str, origin: str) -> Any:
            asked = {"access-control-request-headers": "mcp-session-id, x-replicate-api-key"}
            headers = PREFLIGHT | asked | {"origin": origin}
            return server.client.options(path, headers=headers)

        for path in ("/mcp", "/generate"):
            for origin in ("https://app.example.com", "http://localhost:6274"):
                allowed = preflight(path, origin)
                assert allowed.status_code == 200
                assert allowed.headers["access-control-allow-origin"] == origin
                assert "mcp-session-id" in allowed.headers["access-control-allow-headers"]
            for origin in (
                "https://evil.example.com",
                "http://app.example.com",
                "https://app.example.com.evil.example.com",
                "null",
            ):
                refused = preflight(path, origin)
                assert refused.status_code == 400
                assert "access-control-allow-origin" not in refused.headers
        read = server.get("/models", headers={"origin": "https://app.example.com"})
        assert read.headers["access-control-allow-origin"] == "https://app.example.com"
        assert "mcp-session-id" in read.headers["access-control-expose-headers"]
        assert "retry-after" in read.headers["access-control-expose-headers"]


def test_cors_allows_no_page_without_allowed_hosts(server: Server) -> None:
    headers = PREFLIGHT | {"origin": "https://app.example.com"}
    refused = server.client.options("/mcp", headers=headers)
    assert refused.status_code >= 400
    assert "access-control-allow-origin" not in refused.headers


def test_http_1_0_request_of_unconfigured_proxy_is_not_treated_as_local(server: Server) -> None:
    for version, status in (("1.1", 200), ("1.0", 401)):
        with wire_to(server.url) as wire:
            wire.send(
                f"GET /batches HTTP/{version}\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
            )
            assert wire.rest().startswith(f"HTTP/1.1 {status} ")
