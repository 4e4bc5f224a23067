"""Fixtures for tests over HTTP: the real server in its own process, and a simulator."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path
from threading import Thread
from time import sleep
from typing import IO, Any, NamedTuple, cast

import httpx
import jsonschema
import pytest

from conftest import environment, simulator_without_a_rate
from fork_server import FORKABLE
from replicate_mcp.app.app import App
from replicate_mcp.http_api.server import build
from replicate_mcp.mcp_server.server import ReplicateMcpServer
from replicate_mcp.settings import Settings
from replicate_mcp.simulator import Simulator

ADMIN_KEY = "the-admins-long-key"

PROGRAM = (sys.executable, "-m", "replicate_mcp")

Serve = Callable[..., Any]

TRACED = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
provider = TracerProvider()
spans = ConsoleSpanExporter(out=open(sys.argv.pop(1), "a"))
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
from replicate_mcp.cli.main import main
sys.exit(main())
"""


class Traced(NamedTuple):
    """A server program that writes its spans to a file."""

    program: list[str]
    spans: Path


class Server:
    """A running server, and a client of it that sends no credentials by default.

    Attributes:
        log: lines written to stderr so far; complete once the server has exited.
    """

    def __init__(self, url: str, process: subprocess.Popen[str], log: list[str]) -> None:
        self.url = url
        self.log = log
        self.process = process
        self.client = _Client(self)

    def get(self, path: str, **more: Any) -> Any:
        return self.client.get(path, **more)

    def post(self, path: str, body: object, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(path, json=body, headers=named)

    def delete(self, path: str, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.delete(path, headers=named)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(15)


class _Client(httpx.Client):
    """A client whose transport errors tell how the server ended, and its last lines."""

    def __init__(self, server: Server) -> None:
        super().__init__(base_url=server.url, timeout=60, event_hooks={"response": [described]})
        self._server = server

    def send(self, request: httpx.Request, **more: Any) -> httpx.Response:
        try:
            return super().send(request, **more)
        except httpx.TransportError as error:
            sleep(0.5)  # A dying process is still alive when its connections close.
            ended, lines = self._server.process.poll(), self._server.log[-30:]
            error.add_note(f"The server's exit code: {ended}; its last lines:\n{''.join(lines)}")
            raise


def described(answer: httpx.Response) -> None:
    """Check that a route's error response matches `/openapi.json`."""
    path, method = answer.request.url.path, answer.request.method.lower()
    if answer.status_code < 400:
        return
    for template, methods in description()["paths"].items():
        if method in methods and re.fullmatch(re.sub("{.*?}", "[^/]+", template), path):
            documented = methods[method]["responses"].get(str(answer.status_code))
            assert documented, (
                f"{method} {template} may answer {answer.status_code}: {answer.read()!r}"
            )
            schema = documented["content"]["application/json"]["schema"]
            answer.read()
            jsonschema.validate(answer.json(), schema | {"components": description()["components"]})


@cache
def description() -> Any:
    """Return a server's OpenAPI document."""
    app = App(Settings.model_validate({}), cast(Any, None))
    return build(app, ReplicateMcpServer(app), host="127.0.0.1").openapi()


@contextmanager
def running_server(
    variables: Mapping[str, str], *words: str, program: Sequence[str] = PROGRAM
) -> Iterator[Server]:
    """Run a server with these settings while the block runs, with `--local` on loopback."""
    usual = {"REPLICATE_MCP_ADMIN_API_KEY": ADMIN_KEY}
    if "--host" not in words:
        usual["REPLICATE_MCP_LOCAL"] = "1"
    around = {**os.environ, **usual, **variables}
    command = [*program, "serve", "--http", "--port", "0", *words]
    with subprocess.Popen(command, env=around, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + process.stderr.read()
        log = [line]
        reader = Thread(target=_read, args=(process.stderr, log))
        reader.start()
        server = Server(found[0], process, log)
        try:
            yield server
        finally:
            server.client.close()
            process.kill()
            reader.join()


def _read(stream: IO[str], log: list[str]) -> None:
    log.extend(stream)


@pytest.fixture
def serve(simulator: Simulator, tmp_path: Path) -> Callable[..., Any]:
    """Return a function that starts servers over one state; keywords are environment variables."""

    def running(
        *words: str, program: Sequence[str] = PROGRAM, **variables: str
    ) -> AbstractContextManager[Server]:
        own = {**environment(simulator, tmp_path), **variables}
        return running_server(own, *words, program=program)

    return running


@pytest.fixture
def server(serve: Serve) -> Iterator[Server]:
    """Run a server with default settings on loopback."""
    with serve() as running:
        yield running


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server for all tests of a module that leave nothing behind."""
    folder = tmp_path_factory.mktemp("shared")
    with (
        simulator_without_a_rate() as simulator,
        running_server(environment(simulator, folder)) as running,
    ):
        yield running


@pytest.fixture
def traced(tmp_path: Path) -> Traced:
    """Return the program for `serve(program=traced.program)`."""
    spans = tmp_path / "spans"
    return Traced([sys.executable, "-c", FORKABLE + TRACED, str(spans)], spans)
