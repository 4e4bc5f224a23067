"""The data stored and shown by a working HTTP server contains no token and no key."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from backends.servers import running_server as running_redis
from conftest import environment, simulator_without_a_rate
from fork_server import real_starts
from http_api.conftest import ADMIN_KEY, Server, running_server
from replicate_mcp.auth import fingerprint
from replicate_mcp.simulator import Simulator

SERVERS = "r8_acme_ThisIsTheServers"
CALLERS = "r8_other_ThisIsTheCallers"
SECRETS = (SERVERS, CALLERS, ADMIN_KEY)

PROMPT = "a red car"


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """Return a simulator for all tests."""
    with simulator_without_a_rate() as running:
        yield running


@pytest.fixture(scope="module")
def store() -> Iterator[Redis]:
    """Return a binary client of the Redis that the server uses."""
    with (
        running_redis("valkey") as running,
        Redis(port=running.port, decode_responses=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def server(
    simulator: Simulator, tmp_path_factory: pytest.TempPathFactory, store: Redis
) -> Iterator[Server]:
    """Run a server at work for its own account and for a caller with a token."""
    tmp_path = tmp_path_factory.mktemp("state")
    port = store.connection_pool.connection_kwargs["port"]
    variables = environment(simulator, tmp_path, token=SERVERS) | {
        "REPLICATE_MCP_BACKEND": f"redis://127.0.0.1:{port}/0?prefix=secrets&lease=0.5",
    }
    with real_starts(), running_server(variables) as running:
        body = {"prompts": [PROMPT, "a [fail]", "a [hang]"]}
        for headers in ({}, {"x_replicate_api_key": CALLERS}):
            running.post("/generate-batch", body, prefer="respond-async", **headers)
        for account in ("acme", "other"):
            simulator.wait_for(account=account, in_flight=1)
        yield running


def test_redis_contains_no_token(server: Server, store: Redis) -> None:
    content = b"\n".join(everything_in(store))
    assert PROMPT.encode() in content
    assert fingerprint(CALLERS).encode() in content
    for secret in SECRETS:
        assert secret.encode() not in content


def test_no_process_has_a_token_in_its_arguments(server: Server) -> None:
    listed = Path("/proc")
    if not listed.exists():
        pytest.skip("The process list was NOT tried: this system has no /proc")
    arguments = [file.read_bytes() for file in readable(listed.glob("[0-9]*/cmdline"))]
    assert [each for each in arguments if b"serve\0--http" in each]
    for secret in SECRETS:
        assert not [each for each in arguments if secret.encode() in each]


def test_responses_and_logs_contain_no_token(server: Server) -> None:
    admin = {"x-admin-api-key": ADMIN_KEY}
    caller = {"x-replicate-api-key": CALLERS}
    paths = ("/", "/health", "/openapi.json", "/metrics", "/batches", "/global-semaphores")
    answers = [
        server.get(path, headers=headers | {"accept": accept})
        for path in paths
        for headers in ({}, admin, caller)
        for accept in ("*/*", "text/html")
    ]
    batches = server.get("/batches", headers=caller).json()["batches"]
    answers += [server.get(f"/batches/{each['batch_id']}", headers=caller) for each in batches]
    answers.append(server.post("/generate", {"prompt": PROMPT}, x_replicate_api_key=f"{CALLERS} x"))
    assert batches
    assert answers[-1].status_code == 401
    server.terminate()  # This test is the last: the log is complete then.
    shown = "\n".join(each.text + str(each.headers) for each in answers) + "".join(server.log)
    assert PROMPT in shown
    for secret in SECRETS:
        assert secret not in shown


def readable(files: Iterator[Path]) -> Iterator[Path]:
    """Skip files of processes that have exited meanwhile."""
    return (file for file in files if file.exists())


def everything_in(store: Redis) -> Iterator[bytes]:
    """Return the names and values of all keys."""
    client: Any = store
    readers = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1),
        b"stream": client.xrange,
    }
    for key in client.scan_iter():
        yield key
        yield repr(readers[client.type(key)](key)).encode()
