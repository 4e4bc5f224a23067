"""A process that is suspended, as on a sleeping laptop, and resumes."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import anyio
import anyio.to_thread
import pytest

from backends.servers import KINDS, RunningServer
from replicate_mcp.app.app import App
from replicate_mcp.app.composition import open_backend
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.tasks.result import BatchResult, TaskResult
from scenarios.conftest import LEASE_SECONDS, Programs

ProgramsAt = Callable[..., Programs]

LIMIT = 6

SHORT_HOLD = """
from replicate_mcp.replicate_api import gateway, transport
gateway.HOLD_SECONDS, transport.HOLD_SLACK_SECONDS, transport.KEEPALIVE_SECONDS = 2, 1.0, 1.0
"""
"""A held answer counts as lost after 3 s, and an idle connection as too old after 1 s."""

SHORT_IDLE = """
from replicate_mcp.replicate_api import transport
transport.KEEPALIVE_SECONDS = 1.0
"""

IN_TWO_BATCHES = """
import asyncio, sys
import replicate_mcp
_generate = replicate_mcp.generate_images
async def generate_images(tasks):
    await _generate(tasks[:1])
    print("idle", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    return await _generate(tasks[1:])
replicate_mcp.generate_images = generate_images
"""
"""Makes the first task alone, and the others when the next line comes on stdin."""

STOPPED_BEFORE_SENDING = """
import os, signal, time
from replicate_mcp.replicate_api.gateway import Gateway
_create = Gateway.create
async def create(self, *arguments, **options):
    Gateway.create = _create
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.2)  # The stop may reach another thread first.
    return await _create(self, *arguments, **options)
Gateway.create = create
"""
"""Stops itself once, when its first attempt is recorded and not sent yet."""

STOPPED_AS_NOTED = """
import os, signal, time
from replicate_mcp.batches.task_execution import TaskExecutor
_run = TaskExecutor._run
async def run(self, *arguments):
    TaskExecutor._run = _run
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.2)  # The stop may reach another thread first.
    await _run(self, *arguments)
TaskExecutor._run = run
"""
"""Stops itself once, as its first attempt has just been recorded."""


class Router:
    """A router between programs and a port; it can drop connections without notice."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._generation = 0
        self.port = 0

    def forget(self) -> None:
        """Drop the data sent on the present connections from now on."""
        self._generation += 1

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        made_in = self._generation
        self._writers += [writer, up_writer]

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(1 << 16):
                    if made_in == self._generation:
                        sink.write(data)
                if made_in == self._generation:
                    sink.close()

        for source, sink in ((reader, up_writer), (up_reader, writer)):
            task = asyncio.create_task(pump(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def router_to(target: int) -> AsyncIterator[Router]:
    """Run a router while the block runs."""
    router = Router(target)
    listening = await asyncio.start_server(router.serve, "127.0.0.1", 0)
    router.port = listening.sockets[0].getsockname()[1]
    try:
        yield router
    finally:
        listening.close()
        await router.close()


@asynccontextmanager
async def away(programs: Programs) -> AsyncIterator[Callable[[], None]]:
    """Route connections to Replicate and Redis through routers; yield a function to drop them."""
    async with AsyncExitStack() as stack:
        routers = []
        for name in ("REPLICATE_BASE_URL", "REPLICATE_MCP_BACKEND"):
            url = urlsplit(programs.variables.get(name, programs.simulator.url))
            assert url.port is not None
            router = await stack.enter_async_context(router_to(url.port))
            routers.append(router)
            if url.scheme == "redis" or name == "REPLICATE_BASE_URL":
                moved = url._replace(netloc=f"127.0.0.1:{router.port}")
                programs.variables[name] = urlunsplit(moved)

        def forget() -> None:
            for router in routers:
                router.forget()

        yield forget


async def begin(programs: Programs, process: subprocess.Popen[str]) -> None:
    """Let a program begin while the routers work."""
    await anyio.to_thread.run_sync(programs.begin, process)


async def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return await anyio.to_thread.run_sync(process.stdout.readline)


async def result_of(process: subprocess.Popen[str], *, within: float) -> BatchResult:
    """Return the batch of a program that ends; fail the test if it does not end in time."""
    with anyio.fail_after(within):
        out, _ = await anyio.to_thread.run_sync(process.communicate, abandon_on_cancel=True)
    return BatchResult.model_validate_json(out)


async def stopped(process: subprocess.Popen[str]) -> None:
    """Wait until a program has suspended itself."""
    await anyio.to_thread.run_sync(os.waitid, os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)


async def batch_in(app: App, count: int) -> str:
    tasks = [{"prompt": f"other {number}"} for number in range(count)]
    return await app.batches.start(app.caller(), BatchRequest(tasks))


def check_rows(result: BatchResult, count: int) -> list[TaskResult]:
    """Check that each task is in exactly one list, and return the rows."""
    rows: list[TaskResult] = [*result.successful_results, *result.failed_results]
    assert sorted(row.task_index for row in rows) == list(range(count))
    assert (result.successful_count, result.failed_count, result.pending_count) == (
        len(result.successful_results),
        len(result.failed_results),
        0,
    )
    return rows


async def check_permits(app: App) -> None:
    """Check that all permits are released."""
    with anyio.fail_after(10):
        while True:
            (account,) = await app.semaphores.list_for(app.caller())
            if account.in_use == 0 and account.waiting == 0:
                return
            await anyio.sleep(0.1)


@pytest.mark.parametrize(
    ("programs_at", "before", "seconds", "lease", "others"),
    [
        *((kind, SHORT_HOLD, 4.0, LEASE_SECONDS, 20) for kind in ("sqlite", KINDS[-1])),
        *(
            pytest.param(kind, "", 90.0, 15.0, 400, marks=pytest.mark.soak)
            for kind in ("sqlite", *KINDS)
        ),
    ],
    indirect=["programs_at"],
)
async def test_process_suspended_during_its_batch_resumes(
    programs_at: ProgramsAt, before: str, seconds: float, lease: float, others: int
) -> None:
    count = 24
    # All rows fit one page: links to others have the simulator's address, not the router's.
    programs = programs_at(LIMIT, lease=lease, predict_seconds="0.5-1.5", page_size=1_000)
    simulator = programs.simulator
    async with programs.app() as app, away(programs) as forget:
        await app.recover()
        suspended = programs.start(
            [{"prompt": f"own {number}"} for number in range(count)], before=before
        )
        await begin(programs, suspended)
        mine = await batch_in(app, others)
        await simulator.reached(account="acme", created=2 * LIMIT)
        suspended.send_signal(signal.SIGSTOP)
        forget()
        made = simulator.account("acme")["created"]
        await anyio.sleep(seconds)
        went_on = simulator.account("acme")["created"] - made
        suspended.send_signal(signal.SIGCONT)
        result = await result_of(suspended, within=60)
        with anyio.fail_after(60):
            await app.batches.wait(app.caller(), mine, seconds=None)
        other = await app.batches.result(app.caller(), mine)
        await check_permits(app)
    assert went_on > seconds / 2  # The other process continues meanwhile.
    assert simulator.account("acme")["max_in_flight"] <= LIMIT
    rows = check_rows(result, count)
    # Tasks taken over after an expired lease are not created by the resumed process.
    assert {row.error_code for row in result.failed_results} <= {"interrupted"}
    check_rows(other, others)
    assert other.successful_count == others
    delivered = Counter(row.prediction_id for row in (*rows, *other.successful_results))
    del delivered[None]
    assert delivered == Counter(each["id"] for each in simulator.predictions("acme"))


@pytest.mark.parametrize("programs_at", ["sqlite"], indirect=True)
async def test_resumed_process_reuses_no_dead_connection(
    programs_at: ProgramsAt,
) -> None:
    programs = programs_at(LIMIT)
    async with away(programs) as forget:
        tasks = [{"prompt": f"picture {number}"} for number in range(5)]
        suspended = programs.start(tasks, before=SHORT_IDLE + IN_TWO_BATCHES)
        await begin(programs, suspended)
        assert await line_of(suspended) == "idle\n"
        suspended.send_signal(signal.SIGSTOP)
        forget()
        await anyio.sleep(1.5)
        suspended.send_signal(signal.SIGCONT)
        assert suspended.stdin is not None
        print(file=suspended.stdin, flush=True)
        result = await result_of(suspended, within=15)
    assert result.successful_count == 4


@pytest.mark.parametrize(
    ("programs_at", "before", "made"),
    [("sqlite", STOPPED_AS_NOTED, 0), (KINDS[-1], "", 1)],
    indirect=["programs_at"],
    ids=["recorded", "running"],
)
async def test_batch_past_its_deadline_after_suspension_creates_nothing_more(
    programs_at: ProgramsAt, before: str, made: int
) -> None:
    programs = programs_at(1, lease=30, predict_seconds=0.5)
    simulator = programs.simulator
    programs.variables["REPLICATE_MCP_BATCH_SECONDS"] = "7"  # Creates for 2 s: 5 s is the minimum.
    tasks = [{"prompt": f"picture {number}"} for number in range(4)]
    suspended = programs.start(tasks, before=before)
    await begin(programs, suspended)
    if made:
        await simulator.reached(account="acme", created=1)
        suspended.send_signal(signal.SIGSTOP)
    await stopped(suspended)
    await anyio.sleep(2.5)
    suspended.send_signal(signal.SIGCONT)
    result = await result_of(suspended, within=30)
    check_rows(result, 4)
    assert result.successful_count == made
    assert {row.error_code for row in result.failed_results} == {"deadline_exceeded"}
    assert simulator.account("acme")["created"] == made
    async with programs.app() as app:
        await check_permits(app)


@pytest.mark.parametrize("programs_at", ["sqlite"], indirect=True)
async def test_attempt_recorded_before_suspension_is_sent_once_afterwards(
    programs_at: ProgramsAt,
) -> None:
    programs = programs_at(4, predict_seconds=0.3)
    simulator = programs.simulator
    async with programs.app() as app:
        await app.recover()
        suspended = programs.start([{"prompt": "own"}] * 2, before=STOPPED_BEFORE_SENDING)
        await begin(programs, suspended)
        mine = await batch_in(app, 4)
        await stopped(suspended)
        with anyio.fail_after(30):
            await app.batches.wait(app.caller(), mine, seconds=None)
        suspended.send_signal(signal.SIGCONT)
        result = await result_of(suspended, within=30)
        with anyio.fail_after(30):
            await app.batches.wait(app.caller(), mine, seconds=None)
        await check_permits(app)
    check_rows(result, 2)
    assert result.successful_count == 2
    assert simulator.account("acme")["created"] == 6
    assert simulator.account("acme")["max_in_flight"] <= 4


async def test_dead_redis_connection_costs_at_most_the_call_timeout_on_macos(
    servers: Callable[[str], RunningServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # There, one has another name, and the other is missing.
    monkeypatch.setattr(socket, "TCP_KEEPALIVE", socket.TCP_KEEPIDLE, raising=False)
    monkeypatch.delattr(socket, "TCP_KEEPIDLE")
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT")
    server = servers(KINDS[-1])
    async with router_to(server.port) as router:
        url = server.url(tmp_path.name, lease=LEASE_SECONDS, port=router.port)
        backend = await open_backend(url)
        await backend.semaphores()
        router.forget()
        with anyio.fail_after(1.5):
            with pytest.raises(BackendUnavailable, match="no answer within 1 s"):
                await backend.semaphores()
            await backend.semaphores()
        await backend.close()
