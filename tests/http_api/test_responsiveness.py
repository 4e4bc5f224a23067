"""Under attack, the server keeps responding and frees the memory afterwards."""

import io
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import pytest
from PIL import Image

from batches.playback import SCHEMA, Playback, running_playback
from http_api.attacks import Answer, get, health_in_time, memory_of, post, send_concurrently
from http_api.conftest import Server, running_server
from http_api.entry_points import mcp
from http_api.loop_holds import largest_values
from replicate_mcp.http_api.limits.config import DEFAULT_LIMITS, MIB

MAX_MEMORY_LEFT = 100 * MIB

OWN = {"authorization": "Bearer r8_acme_1"}
MADE_UP = {"authorization": "Bearer r8_nobody_1"}

BODY = DEFAULT_LIMITS.body_bytes - 20_000
MARKS = DEFAULT_LIMITS.body_marks - 5_000
MCP_BODY = DEFAULT_LIMITS.mcp_body_bytes - 4_096
MCP_MARKS = DEFAULT_LIMITS.mcp_body_marks - 5_000


@cache
def bomb() -> bytes:
    """Return a PNG of 190 kB that decodes to 147 MB."""
    file = io.BytesIO()
    Image.new("RGB", (7_000, 7_000)).save(file, "PNG")
    return file.getvalue()


class Hostile(Playback):
    """Replicate with models of hostile owners."""

    def __init__(self) -> None:
        super().__init__()
        self._large = self._model({**SCHEMA, "info": "x" * 10 * MIB})
        pattern = {"type": "string", "pattern": "^(a|aa)+$"}
        inputs = {"type": "object", "properties": {"prompt": pattern}}
        self._pattern = self._model({"components": {"schemas": {"Input": inputs}}})

    def _model(self, schema: dict[str, Any]) -> str:
        version = {"id": "f" * 64, "openapi_schema": schema}
        return json.dumps({"visibility": "public", "latest_version": version})

    def status(self, method: str, path: str, headers: dict[str, str]) -> str:
        if headers.get("authorization") == MADE_UP["authorization"]:
            return "401 Unauthorized"
        return super().status(method, path, headers)

    def answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> str | bytes | None:
        if path.endswith(".png"):
            return bomb()
        if method == "GET" and re.fullmatch(r"/v1/models/evil/large-\d+", path):
            return self._large
        if method == "GET" and path == "/v1/models/evil/pattern":
            return self._pattern
        return super().answer(method, path, headers, body)


class Attacked:
    """A server connected to a hostile Replicate."""

    def __init__(self, server: Server, replicate: Hostile) -> None:
        self.server = server
        self.replicate = replicate

    def send(self, requests: Sequence[tuple[bytes, bytes]]) -> list[Answer]:
        """Send all requests concurrently; meanwhile `/health` has to respond in time."""
        with health_in_time(self.server):
            return send_concurrently(self.server, requests, within=600)

    def large_batch(self) -> str:
        """Return the address of an ended batch whose response has over 3.4 MB."""
        body = json.dumps({"prompts": ["x" * 3_300] * 1_000})
        begun = self.server.client.post("/generate-batch", content=body, headers=JSON | OWN)
        assert begun.json().get("successful_count") == 1_000, begun.text[:500]
        return f"/batches/{begun.json()['batch_id']}"


JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder = tmp_path_factory.mktemp("attacked")
    with running_playback(Hostile()) as replicate:
        replicate.created = lambda prediction: json.dumps(
            prediction | {"output": f"{replicate.url}/{prediction['id']}.png"}
        )
        variables = {
            "REPLICATE_API_TOKEN": "r8_acme_1",
            "REPLICATE_BASE_URL": replicate.url,
            "REPLICATE_MCP_BACKEND": f"sqlite:///{folder / 'state.db'}",
            "REPLICATE_REQUESTS_PER_MINUTE": "600000",
        }
        with running_server(variables) as server:
            server.client.event_hooks = {}
            warm = server.post("/generate-batch", {"prompts": ["x"]}, **OWN)
            assert warm.json()["successful_count"] == 1, warm.text
            yield Attacked(server, replicate)


def batch(tasks: object, **more: object) -> bytes:
    return json.dumps({"tasks": tasks, **more}).encode()


def test_server_stays_responsive_to_large_inputs_with_many_tasks_of_an_unknown_caller(
    attacked: Attacked,
) -> None:
    body = batch([{"prompt": "x"}] * 1_000, junk=[1] * 480_000)
    answers = attacked.send([post("/generate-batch", body, MADE_UP)] * 12)
    assert {answer.status for answer in answers} <= {400, 401, 413, 429}


def test_server_stays_responsive_to_a_backtracking_pattern(attacked: Attacked) -> None:
    body = batch([{"prompt": "a" * 60 + "!", "model": "evil/pattern"}])
    answers = attacked.send([post("/generate-batch", body, OWN)] * 20)
    assert {answer.status for answer in answers} == {200}


def test_server_stays_responsive_to_schemas_of_ten_megabytes(attacked: Attacked) -> None:
    tasks = [{"prompt": "x", "model": f"evil/large-{number}"} for number in range(8)]
    (answer,) = attacked.send([post("/generate-batch", batch(tasks), OWN)])
    assert answer.status == 200


def test_server_stays_responsive_to_a_thousand_models_in_one_batch(attacked: Attacked) -> None:
    attacked.replicate.max_concurrent_requests = 0
    tasks = [{"prompt": "x", "model": f"evil/ordinary-{number}"} for number in range(1_000)]
    headers = OWN | {"prefer": "respond-async"}
    (answer,) = attacked.send([post("/generate-batch", batch(tasks), headers)])
    assert answer.status == 202
    assert attacked.replicate.max_concurrent_requests < 200


@pytest.mark.soak
def test_server_stays_responsive_to_images_with_very_many_pixels(attacked: Attacked) -> None:
    path, body, headers = mcp(None, [{"prompt": "x"}] * 8)
    body["params"]["arguments"]["preview"] = True
    content = json.dumps(body).encode()
    answers = attacked.send([post(path, content, headers | OWN)] * 4)
    assert {answer.status for answer in answers} == {200}


@pytest.mark.soak
@pytest.mark.alone
def test_server_stays_responsive_to_many_reads_of_a_large_batch(
    attacked: Attacked,
) -> None:
    place = attacked.large_batch()
    answers = attacked.send([get(place, OWN)] * 400)
    read = [answer for answer in answers if answer.status == 200]
    assert read
    assert all(answer.length > 3_400_000 for answer in read)
    assert {answer.status for answer in answers} <= {200, 429, 503}


def _as_rest(value: bytes) -> tuple[bytes, bytes]:
    return post("/generate-batch", b'{"tasks": [{"prompt": "x", "junk": %s}]}' % value, OWN)


def _as_mcp(value: bytes) -> tuple[bytes, bytes]:
    path, body, headers = mcp(None)
    body["params"]["arguments"] = "ARGUMENTS"
    arguments = b'{"tasks": [{"prompt": "x", "junk": %s}]}' % value
    content = json.dumps(body).encode().replace(b'"ARGUMENTS"', arguments)
    return post(path, content, headers | OWN)


KINDS: dict[str, Callable[[], tuple[bytes, bytes]]] = {}
for _kind in largest_values(100, 100):
    KINDS[f"rest {_kind}"] = lambda kind=_kind: _as_rest(largest_values(BODY, MARKS)[kind])  # type: ignore[misc]
    KINDS[f"mcp {_kind}"] = lambda kind=_kind: _as_mcp(largest_values(MCP_BODY, MCP_MARKS)[kind])  # type: ignore[misc]


@pytest.mark.soak
@pytest.mark.alone
def test_server_stays_responsive_to_two_hundred_clients_with_maximum_requests(
    attacked: Attacked,
) -> None:
    pid = attacked.server.process.pid
    send_concurrently(
        attacked.server, [KINDS["rest text"]()]
    )  # Late imports and caches are complete by now.
    rest = memory_of(pid)
    slow = {}
    for kind, made in KINDS.items():
        request = made()
        try:
            answers = attacked.send([request] * 200)
        except AssertionError as error:
            slow[kind] = str(error)
        else:
            assert {answer.status for answer in answers} <= {200, 400, 413, 429, 503}, kind
    place = attacked.large_batch()
    attacked.send([get(place, OWN)] * 200)
    assert not slow
    if rest is None:
        pytest.skip("memory can only be read on Linux")
    for _ in range(60):
        if (memory_of(pid) or 0) - rest <= MAX_MEMORY_LEFT:
            break
        time.sleep(1)
    left = (memory_of(pid) or 0) - rest
    assert left <= MAX_MEMORY_LEFT, f"{left // MIB} MiB more than before"
