"""Scenarios: a batch, a first fault that requires a remedy, and a fault during the remedy."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from socket import socket

import anyio

from replicate_mcp.app.app import App
from replicate_mcp.platform.sockets import listening_socket
from replicate_mcp.semaphores.context_permits import ContextPermit
from scenarios.remedy_cells import KILLS
from scenarios.remedy_stage import LIMIT, PATIENCE, Stage

PNG = b"\x89PNG\r\n\x1a\n"

READS_FILES = "black-forest-labs/flux-kontext-max"

FOLLOWED = "GET /v1/predictions/{id}"


async def cancel(stage: Stage) -> str:
    stage.simulator.configure(predict_seconds=1.5 if stage.is_final() else 60)
    async with stage.app() as app:
        stage.simulator.fault_next("reset_after", LIMIT)  # Their ids are then read from the list.
        batch_id = await stage.begin(app)
        await stage.seen(FOLLOWED, LIMIT)
        stage.strike(LIMIT if stage.is_final() else LIMIT + 1)
        await stage.request(app.batches.cancel(app.caller(), batch_id))
        with anyio.fail_after(PATIENCE):
            await app.batches.wait_until_stopped(batch_id)
        assert stage.simulator.account(stage.account)["in_flight"] == 0, "stopped, and yet it runs"
        if stage.fault == "429-after":
            assert stage.seconds_since() >= 1, "repeated sooner than Replicate asked"
        await stage.was_struck()
        return await stage.ended(app)


async def read_list(stage: Stage) -> str:
    stage.simulator.configure(predict_seconds=0.3)
    async with stage.app() as app:
        stage.simulator.fault_next("reset_after")
        stage.simulator.fault_next("reset")
        stage.strike(LIMIT if stage.is_final() else 3)
        await stage.begin(app)
        await stage.was_struck()
        return await stage.ended(app)


async def account(stage: Stage) -> str:
    async with stage.app() as app:
        stage.strike(1 if stage.is_final() else 2)
        return await _twice(stage, app)


async def upload(stage: Stage) -> str:
    (stage.folder / "in.png").write_bytes(PNG)
    async with stage.app() as app:
        stage.strike(1)
        return await _twice(stage, app, model=READS_FILES, input_image="in.png")


async def _twice(stage: Stage, app: App, **inputs: str) -> str:
    """Make a batch; if it is rejected, wait until the fault is over and make it again."""
    if await stage.request(stage.begin(app, LIMIT, **inputs)) is None:
        assert stage.simulator.account(stage.account)["creations_seen"] == 0
        await stage.was_struck()
        await stage.begin(app, LIMIT, **inputs)
    await stage.was_struck()
    return await stage.ended(app)


async def adopt(stage: Stage) -> str:
    stage.simulator.configure(predict_seconds=0.8)
    async with stage.app() as first:
        batch_id = await stage.begin(first)
        await stage.running()
    stage.strike(8)  # More than are tolerated by the clock synchronisation.
    async with stage.app() as second:
        await second.recover()
        await stage.was_struck()
        if stage.fault == "redis-restarted":
            await stage.request(second.batches.result(second.caller(), batch_id))
            await stage.begin(second)  # It waits for the running predictions of the lost one.
        elif stage.fault in ("401", "403"):
            await _bring_the_token_again(second, batch_id)
        return await stage.ended(second)


async def _bring_the_token_again(app: App, batch_id: str) -> None:
    with anyio.fail_after(PATIENCE):
        while (await app.batches.result(app.caller(), batch_id)).status == "running":
            await app.semaphores.list_for(app.caller())
            await anyio.sleep(0.05)


async def claim(stage: Stage) -> str:
    stage.simulator.configure(predict_seconds=0.3)
    stage.simulator.fault_next("reset_after")
    return await _make(stage)


async def finish(stage: Stage) -> str:
    stage.simulator.configure(predict_seconds=0.2)
    return await _make(stage)


async def put_back(stage: Stage) -> str:
    stage.simulator.configure(predict_seconds=0.2)
    stage.simulator.fault_next("429")
    return await _make(stage, 1)


async def _make(stage: Stage, count: int = LIMIT) -> str:
    async with stage.app() as app:
        stage.strike()
        await stage.begin(app, count)
        await stage.was_struck()
        return await stage.ended(app)


async def release(stage: Stage) -> str:
    async with stage.app() as app:
        lease = await held(stage, app)
        stage.strike()
        await app.semaphores.release(lease)
        await stage.was_struck()
        return await used_again(stage, app)


async def held(stage: Stage, app: App) -> ContextPermit:
    """Acquire the only unit of a semaphore."""
    lease = ContextPermit(f"team-{stage.account}")
    await app.semaphores.register(lease.semaphore, 1)
    with anyio.fail_after(PATIENCE):
        await app.semaphores.acquire(lease)
    return lease


async def used_again(stage: Stage, app: App) -> str:
    """Use that unit once more, and check that it is free at the end."""
    lease = await held(stage, app)
    await app.semaphores.release(lease)
    with anyio.fail_after(PATIENCE):
        while any(
            each.in_use for each in await app.semaphores.list_own() if each.name == lease.semaphore
        ):
            await anyio.sleep(0.02)
    return "permit returned"


async def wake_up(stage: Stage) -> str:
    stage.limit = 1
    if stage.fault in KILLS:  # The waiting process is another one.
        stage.simulator.configure(predict_seconds=1.5)
        async with stage.app() as app:
            stage.strike()
            await stage.begin(app, 1)
            return await stage.ended(app)
    stage.simulator.configure(predict_seconds=0.5)
    async with stage.app() as first, stage.app() as second:
        await stage.begin(first, 1)
        await stage.running(1)
        await stage.begin(second, 1)
        stage.strike()
        await stage.was_struck()
        return await stage.ended(second)


async def webhook(stage: Stage) -> str:
    stage.simulator.configure(predict_seconds=0.5)
    with listening_socket("127.0.0.1", 0, 64) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with stage.app(REPLICATE_MCP_PUBLIC_URL=url) as app, serving(app, listener):
            stage.simulator.fault_next("reset_after", LIMIT)  # They are then followed.
            await stage.begin(app)
            stage.strike(3000)  # No webhook can be verified, so predictions are only polled.
            await stage.was_struck()
            return await stage.ended(app)


@asynccontextmanager
async def serving(app: App, listener: socket) -> AsyncIterator[None]:
    """Serve an app's routes over HTTP while the block runs."""
    import uvicorn

    from replicate_mcp.http_api.server import build
    from replicate_mcp.mcp_server.server import ReplicateMcpServer

    api = build(app, ReplicateMcpServer(app), host="127.0.0.1")
    config = uvicorn.Config(api, log_config=None, lifespan="off", ws="none")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


SCENARIOS: Mapping[str, Callable[[Stage], Awaitable[str]]] = {
    "cancel": cancel,
    "list": read_list,
    "account": account,
    "adopt": adopt,
    "claim": claim,
    "finish": finish,
    "put-back": put_back,
    "release": release,
    "wake-up": wake_up,
    "upload": upload,
    "webhook": webhook,
}
