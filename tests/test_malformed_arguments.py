"""Malformed requests to all entry points, 10,000 in `make soak`: parsed as meant or rejected."""

import argparse
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from conftest import TOKEN, settings_for, simulator_without_a_rate
from malformed_arguments import PLAIN_TEXT, PROMPTS, arguments, files, objects, task_lists
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.batches.attachments import Attachments
from replicate_mcp.cli.commands import generate
from replicate_mcp.cli.task_input import read_tasks
from replicate_mcp.errors import ERROR_CODES, ReplicateMcpError
from replicate_mcp.http_api.server import build
from replicate_mcp.mcp_server.server import ReplicateMcpServer
from replicate_mcp.simulator import Simulator

CLI = argparse.Namespace(model=None, semaphore=None, input=[], skip_invalid=False)


class Edges:
    """One app and a simulator, behind every entry point.

    Attributes:
        outcomes: how many requests were started, and rejected.
    """

    def __init__(self, portal: BlockingPortal, app: App, client: httpx.AsyncClient) -> None:
        self._portal = portal
        self._app = app
        self._client = client
        self._mcp = ReplicateMcpServer(app, is_local=True)
        self.outcomes: Counter[str] = Counter()

    def mcp(self, call: Mapping[str, Any], *, wrong: bool) -> None:
        async def run() -> Mapping[str, Any] | None:
            answer: Any = await self._mcp.call_tool("generate_images", {**call, "wait_seconds": 0})
            return answer.meta["replicate-mcp/refusal"] if answer.is_error else None

        self._note(self._portal.call(run), wrong=wrong)

    def http(self, path: str, body: Mapping[str, Any], *, wrong: bool) -> None:
        async def run() -> Mapping[str, Any] | None:
            # As clients write values that JSON lacks: lone surrogates, and numbers like 1e999.
            content = json.dumps(body).encode()
            headers = {
                "content-type": "application/json",
                "prefer": "respond-async",
                "x-replicate-api-key": TOKEN,
            }
            answer = await self._client.post(path, content=content, headers=headers)
            assert answer.status_code < 500, (body, answer.text)
            refusal: Mapping[str, Any] = answer.json()
            return None if answer.status_code == 202 else refusal

        self._note(self._portal.call(run), wrong=wrong)

    def command_line(self, file: Path, *, wrong: bool) -> None:
        async def run() -> None:
            tasks = read_tasks([], [], str(file))
            caller = self._app.caller()
            request = await generate._request(self._app, caller, CLI, tasks)
            await self._app.batches.start(caller, request)

        self._note(self._portal.call(self._refusal_of, run), wrong=wrong)

    def python(self, tasks: Any, *, wrong: bool) -> None:
        async def run() -> None:
            attachments = Attachments()
            request = BatchRequest(
                attachments.replaced(tasks), image_paths="any", attached=attachments.images
            )
            await self._app.batches.start(self._app.caller(), request)

        self._note(self._portal.call(self._refusal_of, run), wrong=wrong)

    async def _refusal_of(self, run: Callable[[], Awaitable[None]]) -> Mapping[str, Any] | None:
        try:
            await run()
        except ReplicateMcpError as error:
            problems = [problem.as_json() for problem in error.problems]
            return {"error": str(error), "error_code": error.code, "problems": problems}
        return None

    def _note(self, refusal: Mapping[str, Any] | None, *, wrong: bool) -> None:
        self.outcomes["begun" if refusal is None else "refused"] += 1
        if refusal is None:
            return
        assert wrong, refusal
        assert refusal["error_code"] in ERROR_CODES, refusal
        for sentence in (
            refusal["error"],
            *(each["error"] for each in refusal.get("problems") or ()),
        ):
            assert sentence.isprintable(), refusal
            assert sentence.endswith((".", "?")), refusal
            assert len(sentence) > 20, refusal
            assert "Traceback" not in sentence


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with simulator_without_a_rate() as running:
        yield running


@pytest.fixture
def edges(simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Edges]:
    monkeypatch.chdir(tmp_path)

    @contextlib.asynccontextmanager
    async def running() -> AsyncIterator[tuple[App, httpx.AsyncClient]]:
        async with App.running(settings_for(simulator, tmp_path)) as app:
            api = build(app, ReplicateMcpServer(app), host="127.0.0.1")
            transport = httpx.ASGITransport(api, raise_app_exceptions=True)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1", timeout=60
            ) as client:
                yield app, client
                await _until_all_has_ended(app)

    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(running()) as (app, client),
    ):
        edges = Edges(portal, app, client)
        yield edges
    assert edges.outcomes["begun"], edges.outcomes
    drawn = Counter(each["input"].get("prompt") for each in simulator.predictions("acme"))
    assert drawn
    assert not drawn.keys() - {*PROMPTS, *PLAIN_TEXT}


async def _until_all_has_ended(app: App) -> None:
    caller = app.caller()
    with anyio.fail_after(120):
        while any(each.status == "running" for each in await app.batches.list(caller)):
            await anyio.sleep(0.1)


def each(examples: int, **strategies: st.SearchStrategy[Any]) -> Callable[..., Any]:
    def decorated(test: Callable[..., None]) -> Callable[[], None]:
        configured = settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        run: Callable[[], None] = configured(given(**strategies)(test))
        return run

    return decorated


OWN = {
    "model": ("flux-schnell", "flux-dev"),
    "semaphore": ("replicate-global",),
    "skip_invalid": (True, False, "true"),
}

CASES = [pytest.param(wrong, id="wrong" if wrong else "odd") for wrong in (False, True)]
"""Requests that can be meant in one way only, which are begun, and any."""

examples = pytest.mark.parametrize("count", [20, pytest.param(1_000, marks=pytest.mark.soak)])


@examples
@pytest.mark.parametrize("wrong", CASES)
def test_mcp(edges: Edges, count: int, wrong: bool) -> None:
    @each(count, call=arguments(wrong=wrong, preview=(False, "false"), **OWN))
    def run(call: dict[str, Any]) -> None:
        edges.mcp(call, wrong=wrong)

    run()


@examples
@pytest.mark.parametrize("wrong", CASES)
def test_http(edges: Edges, count: int, wrong: bool) -> None:
    own = OWN | {"model_name": ("",), "external_semaphore_id": ("",)}
    own_fields = {*own, "tasks"}

    @each(count, body=arguments(wrong=wrong, **own))
    def run(body: dict[str, Any]) -> None:
        # Other keys of a body are inputs of its model.
        if not wrong:
            body = {name: value for name, value in body.items() if name in own_fields}
        edges.http("/generate-batch", body, wrong=wrong)

    run()


@examples
@pytest.mark.parametrize("wrong", CASES)
def test_one_image_over_http(edges: Edges, count: int, wrong: bool) -> None:
    @each(count, body=objects(wrong=wrong))
    def run(body: dict[str, Any]) -> None:
        edges.http("/generate", body, wrong=wrong)

    run()


@examples
@pytest.mark.parametrize("wrong", CASES)
def test_files_on_the_command_line(edges: Edges, tmp_path: Path, count: int, wrong: bool) -> None:
    @each(count, file=files(wrong=wrong))
    def run(file: tuple[str, bytes]) -> None:
        name, content = file
        (tmp_path / name).write_bytes(content)
        edges.command_line(tmp_path / name, wrong=wrong)

    run()


@examples
@pytest.mark.parametrize("wrong", CASES)
def test_python(edges: Edges, count: int, wrong: bool) -> None:
    @each(count, tasks=task_lists(wrong=wrong))
    def run(tasks: Any) -> None:
        edges.python(tasks, wrong=wrong)

    run()
