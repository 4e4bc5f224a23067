"""Retry of a batch's tasks from the journal's inputs, on every backend."""

import base64
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from backends.servers import KINDS, RunningServer, open_for_admission
from batches.test_outcome import TASK
from conftest import AppFactory
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest, Retry
from replicate_mcp.app.retry import MAX_LISTED_TASKS, retries_of
from replicate_mcp.auth import Caller
from replicate_mcp.batches.journal import (
    BatchState,
    IdempotencyKey,
    JournalTask,
    NewBatch,
    RetriedTasks,
)
from replicate_mcp.batches.journal_inputs import encode_inputs
from replicate_mcp.errors import (
    IdempotencyKeyConflict,
    InvalidInput,
    ReplicateMcpError,
    UnknownBatch,
)
from replicate_mcp.semaphores.permit_store import QueueEntry
from replicate_mcp.simulator import Simulator
from replicate_mcp.tasks.input_schema import InputProblem, InputSchema
from replicate_mcp.tasks.result import BatchResult, TaskFailure

EDIT = "black-forest-labs/flux-kontext-max"

PNG = b"\x89PNG\r\n\x1a\n" + secrets.token_bytes(20_000)
LARGE = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
"""A data URI of more than 16 kB."""


Opened = Callable[[], AbstractAsyncContextManager[App]]


@pytest.fixture(params=["memory", "sqlite", *KINDS])
async def opened(
    request: pytest.FixtureRequest,
    app_with: AppFactory,
    servers: Callable[[str], RunningServer],
    tmp_path: Path,
) -> Opened:
    """Return a function that opens an app on each kind of backend in turn."""
    backend = "memory" if request.param == "memory" else f"sqlite:///{tmp_path / 'state.db'}"
    if request.param in KINDS:
        server, prefix = servers(request.param), secrets.token_hex(4)
        await open_for_admission(server, prefix, "acme", "alice", "bob")
        backend = server.url(prefix)
    return lambda: app_with(REPLICATE_MCP_BACKEND=backend)


async def run(app: App, request: BatchRequest, caller: Caller | None = None) -> BatchResult:
    """Run a batch to its end."""
    caller = caller or app.caller()
    batch = await app.batches.start(caller, request)
    with anyio.fail_after(20):
        await app.batches.wait(caller, batch, seconds=None)
    return await app.batches.result(caller, batch)


async def refusal(app: App, retry: Retry, caller: Caller | None = None) -> ReplicateMcpError:
    """Return the error of a retry that is refused, after checking that it created nothing."""
    caller = caller or app.caller()
    before = len(await app.batches.list(caller))
    with pytest.raises(ReplicateMcpError) as caught:
        await app.batches.start(caller, BatchRequest(retry=retry))
    assert len(await app.batches.list(caller)) == before
    return caught.value


@contextmanager
def all_failing(simulator: Simulator) -> Iterator[None]:
    """Let every prediction fail while the block runs."""
    simulator.configure(failing=1)
    yield
    simulator.configure(failing=0)


def inputs_of(simulator: Simulator) -> list[dict[str, Any]]:
    """Return the inputs of all predictions, oldest first."""
    return [each["input"] for each in simulator.predictions()]


async def test_failed_tasks_are_made_again_with_the_inputs_that_they_had(
    opened: Opened, simulator: Simulator
) -> None:
    async with opened() as app:
        await app.semaphores.register("posters", 2)
        with all_failing(simulator):
            first = await run(
                app,
                BatchRequest(
                    [
                        {"prompt": "a", "output_filename": "a.png", "aspect_ratio": "16:9"},
                        {"prompt": "[nsfw] b", "output_filename": "b.png"},
                        {"prompt": "c", "seed": 7, "num_outputs": 2},
                        {"prompt": "d", "model": EDIT, "input_image": "https://example.com/d.png"},
                    ],
                    semaphore="posters",
                    shared_inputs={"output_format": "jpg"},
                ),
            )
        assert first.failed_count == 4
        assert first.retry_of is None
        sent = inputs_of(simulator)
        retryable = [row.task_index for row in first.failed_results if row.retryable]
        assert retryable == [0, 2, 3], "flagged content is not tried again"

        again = await run(app, BatchRequest(retry=Retry(first.batch_id)))
        assert (again.retry_of, again.semaphore) == (first.batch_id, "posters")
        assert again.successful_count == again.total_tasks == 3
        assert [row.retried_task_index for row in again.successful_results] == [0, 2, 3]
        assert [row.task_index for row in again.successful_results] == [0, 1, 2]
        assert [row.output_filename for row in again.successful_results] == [
            "a.png",
            "generated_image_3",
            "generated_image_4",
        ]
        by_prompt = {each["prompt"]: each for each in sent}
        assert {each["prompt"]: each for each in inputs_of(simulator)[4:]} == {
            prompt: by_prompt[prompt] for prompt in ("a", "c", "d")
        }
        assert by_prompt["a"]["seed"] != by_prompt["c"]["seed"] == 7
        assert again.successful_results[2].model == EDIT

        listed = {each.batch_id: each.retry_of for each in await app.batches.list(app.caller())}
        assert listed == {first.batch_id: None, again.batch_id: first.batch_id}
        error = await refusal(app, Retry(again.batch_id))
        assert str(error) == (
            f"There is nothing to retry in batch {again.batch_id}: of its 3 tasks, 3 made."
        )
        with pytest.raises(UnknownBatch, match="nothing to retry"):
            await app.batches.newest_to_retry(app.caller())


async def test_repeated_retry_makes_only_what_failed_again(
    opened: Opened, simulator: Simulator
) -> None:
    async with opened() as app:
        with all_failing(simulator):
            first = await run(app, BatchRequest([{"prompt": p} for p in ("[fail] a", "b", "c")]))
        retry = Retry(first.batch_id)
        simulator.configure(predict_seconds=60)
        running = await app.batches.start(app.caller(), BatchRequest(retry=retry))
        assert str(await refusal(app, retry)) == (
            f"There is nothing to retry in batch {first.batch_id}: of its 3 tasks, "
            f"3 retried already in batch {running}."
        )
        await app.batches.cancel(app.caller(), running)
        await app.batches.wait(app.caller(), running, seconds=None)
        simulator.configure(predict_seconds=0.01)

        second = await run(app, BatchRequest(retry=retry))
        assert (second.successful_count, second.failed_count) == (2, 1)
        third = await run(app, BatchRequest(retry=retry))
        assert [row.retried_task_index for row in third.failed_results] == [0]
        assert third.total_tasks == 1


async def test_retries_requested_at_the_same_moment_are_one_batch(
    opened: Opened, simulator: Simulator
) -> None:
    async with opened() as app, opened() as other:
        with all_failing(simulator):
            first = await run(app, BatchRequest([{"prompt": p} for p in ("a", "b")]))
        simulator.configure(predict_seconds=0.5)
        request = BatchRequest(retry=Retry(first.batch_id))
        apps = [app] if app.settings.backend == "memory" else [app, other]
        begun: list[str] = []

        async def retry(at: App) -> None:
            with suppress(InvalidInput):  # It was begun already.
                begun.append(await at.batches.start(at.caller(), request))

        async with anyio.create_task_group() as group:
            for at in apps * 2:
                group.start_soon(retry, at)
        assert len(set(begun)) == 1
        await app.batches.wait(app.caller(), begun[0], seconds=None)
        assert simulator.account("acme")["created"] == 4

        again = await run(app, BatchRequest(retry=Retry(first.batch_id, [0])))
        assert again.batch_id not in begun, "chosen tasks are always made"


async def test_what_the_retry_of_a_retry_made_is_not_made_again(
    opened: Opened, simulator: Simulator
) -> None:
    async with opened() as app:
        with all_failing(simulator):
            first = await run(app, BatchRequest([{"prompt": p} for p in ("a", "b")]))
            second = await run(app, BatchRequest(retry=Retry(first.batch_id)))
        assert second.failed_count == 2
        third = await run(app, BatchRequest(retry=Retry(second.batch_id)))
        assert third.successful_count == 2
        for batch, retry in ((second, third), (first, second)):
            assert str(await refusal(app, Retry(batch.batch_id))) == (
                f"There is nothing to retry in batch {batch.batch_id}: of its 2 tasks, "
                f"2 retried already in batch {retry.batch_id}."
            )
        with pytest.raises(UnknownBatch, match="nothing to retry"):
            await app.batches.newest_to_retry(app.caller())


async def test_failed_tasks_beside_a_retried_one_are_still_found(
    opened: Opened, simulator: Simulator
) -> None:
    async with opened() as app:
        with all_failing(simulator):
            first = await run(app, BatchRequest([{"prompt": p} for p in ("a", "b")]))
        await run(app, BatchRequest(retry=Retry(first.batch_id, [0])))
        assert await app.batches.newest_to_retry(app.caller()) == first.batch_id
        rest = await run(app, BatchRequest(retry=Retry(first.batch_id)))
        assert [row.retried_task_index for row in rest.successful_results] == [1]


async def test_chosen_tasks_are_made_again_with_their_seed_or_a_new_one(
    opened: Opened, simulator: Simulator
) -> None:
    async with opened() as app:
        first = await run(app, BatchRequest([{"prompt": "a"}, {"prompt": "b", "seed": 5}, "c"]))
        assert first.successful_count == 3
        seeds = [row.seed for row in first.successful_results]
        same = await run(app, BatchRequest(retry=Retry(first.batch_id, [1, 0, 1])))
        assert [row.retried_task_index for row in same.successful_results] == [0, 1]
        assert [row.seed for row in same.successful_results] == seeds[:2]
        new = await run(app, BatchRequest(retry=Retry(first.batch_id, [1, 0], new_seed=True)))
        assert [row.retried_task_index for row in new.successful_results] == [0, 1]
        assert not {row.seed for row in new.successful_results} & set(seeds)
        # A retry can be retried.
        third = await run(app, BatchRequest(retry=Retry(new.batch_id, [1])))
        assert third.retry_of == new.batch_id
        assert third.successful_results[0].prompt == "b"
        assert third.successful_results[0].seed == new.successful_results[1].seed


async def test_tasks_that_cannot_be_retried_are_refused_by_their_number(
    opened: Opened, simulator: Simulator
) -> None:
    async with opened() as app:
        with all_failing(simulator):
            first = await run(
                app,
                BatchRequest(
                    [{"prompt": "[nsfw] a"}, {"prompt": "b", "aspect_ratio": "7:1"}],
                    skip_invalid=True,
                ),
            )
        error = await refusal(app, Retry(first.batch_id))
        assert str(error) == (
            f"There is nothing to retry in batch {first.batch_id}: of its 2 tasks, 2 failed for "
            "good (1 invalid_input, 1 content_flagged)."
        )
        error = await refusal(app, Retry(first.batch_id, [1]))
        assert (
            str(error) == "task 1: was refused because of its inputs: correct it, in a new batch."
        )
        error = await refusal(app, Retry(first.batch_id, [2, 999]))
        expected = f"tasks 2, 999: there is no such task: batch {first.batch_id} has tasks 0 to 1."
        assert str(error) == expected
        for wrong in ([], [True], ["0"]):
            error = await refusal(app, Retry(first.batch_id, wrong))  # type: ignore[arg-type]
            assert isinstance(error, InvalidInput)
            assert "numbers of tasks" in str(error)
        flagged = await run(app, BatchRequest(retry=Retry(first.batch_id, [0])))
        assert [row.retried_task_index for row in flagged.failed_results] == [0]


async def test_task_with_an_unknown_outcome_is_made_again_only_if_it_is_chosen(
    opened: Opened, simulator: Simulator
) -> None:
    async with opened() as app:
        first = await run(app, BatchRequest(["a"]))
        caller, backend = app.caller(), await app.backend()
        state = await backend.get_batch(first.batch_id)
        assert state is not None
        await backend.open_batch(
            NewBatch(
                "b_lost",
                caller.name,
                state.account,
                state.semaphore,
                (JournalTask("a", "a.png", "black-forest-labs/flux-schnell"),),
                inputs=encode_inputs([TASK], max_running=None),
            ),
            QueueEntry("b_lost", (f"account:{state.account}",), state.account, 1),
        )
        lost = TaskFailure(
            task_index=0,
            output_filename="a.png",
            error="It is unknown.",
            error_code="create_outcome_unknown",
            retryable=False,
        )
        await backend.record_results("b_lost", [lost])
        error = await refusal(app, Retry("b_lost"))
        assert (
            "1 failed for good (1 create_outcome_unknown). What has an unknown outcome may"
            in str(error)
        )
        assert len(simulator.predictions()) == 1


async def test_large_values_are_uploaded_once_and_a_retry_uses_the_same_file(
    opened: Opened, simulator: Simulator
) -> None:
    async with opened() as app:
        small = "data:image/png;base64,iVBORw0KGgo="
        with all_failing(simulator):
            first = await run(
                app,
                BatchRequest(
                    [
                        {"prompt": "a", "input_image": LARGE},
                        {"prompt": "b", "input_image": LARGE.replace("png;", "png;charset=x;")},
                        {"prompt": "c", "input_image": small},
                    ],
                    model=EDIT,
                ),
            )
        headers = {"Authorization": "Bearer r8_acme_1"}
        with httpx.Client(base_url=simulator.url, headers=headers) as client:
            (file,) = client.get("/v1/files").json()["results"]
            assert (file["size"], file["content_type"]) == (len(PNG), "image/png")
            url = file["urls"]["get"]
            sent = {each["prompt"]: each["input_image"] for each in inputs_of(simulator)}
            assert sent == {"a": url, "b": url, "c": small}
            text = await (await app.backend()).inputs(first.batch_id)
            assert text is not None
            assert len(text) < 1_000

            again = await run(app, BatchRequest(retry=Retry(first.batch_id)))
            assert again.successful_count == 3
            assert len(client.get("/v1/files").json()["results"]) == 1
            client.delete(url)
        error = await refusal(app, Retry(first.batch_id, [0, 1, 2]))
        assert str(error) == (
            "tasks 0-1: input_image is a file that was uploaded to Replicate, which keeps uploads "
            "for 24 hours and has deleted it: send this task with its file in a new batch."
        )
        assert [each.field for each in error.problems] == ["input_image"] * 2
        other = await run(app, BatchRequest(retry=Retry(first.batch_id, [2])))
        assert other.successful_count == 1


async def test_data_that_cannot_be_decoded_is_refused(opened: Opened, simulator: Simulator) -> None:
    async with opened() as app:
        broken = f"data:image/png;base64,{'A' * 20_001}"
        with pytest.raises(InvalidInput, match="task 0: input_image is a data: URI that cannot be"):
            await run(app, BatchRequest([{"prompt": "a", "model": EDIT, "input_image": broken}]))
        assert simulator.predictions() == []


async def test_key_of_a_retry_begins_one_batch(opened: Opened, simulator: Simulator) -> None:
    async with opened() as app:
        first = await run(app, BatchRequest(["a", "b"]))
        request = BatchRequest(retry=Retry(first.batch_id, [1]), key=IdempotencyKey("k", "1"))
        batches = {(await run(app, request)).batch_id for _ in range(2)}
        assert len(batches) == 1
        assert len(simulator.predictions()) == 3
        other = BatchRequest(retry=Retry(first.batch_id, [0]), key=IdempotencyKey("k", "2"))
        with pytest.raises(IdempotencyKeyConflict):
            await run(app, other)


async def test_only_the_batchs_own_caller_can_retry_it(opened: Opened) -> None:
    async with opened() as app:
        mine = app.caller("r8_alice_1")
        first = await run(app, BatchRequest(["a"]), mine)
        for caller in (app.caller("r8_bob_1"), app.caller(), app.caller("r8_alice_2")):
            error = await refusal(app, Retry(first.batch_id, [0]), caller)
            assert isinstance(error, UnknownBatch)
            assert str(error) == str(await refusal(app, Retry("b_none", [0]), caller)).replace(
                "b_none", first.batch_id
            )
        assert (await run(app, BatchRequest(retry=Retry(first.batch_id, [0])), mine)).retry_of
        servers = await run(app, BatchRequest(["b"]))
        admin = Caller("admin", app.caller().token)
        again = await run(app, BatchRequest(retry=Retry(servers.batch_id, [0])), admin)
        assert again.retry_of == servers.batch_id
        with pytest.raises(UnknownBatch):
            await app.batches.result(app.caller(), again.batch_id)


async def test_finished_tasks_of_a_running_batch_can_be_retried(
    opened: Opened, simulator: Simulator
) -> None:
    async with opened() as app:
        caller = app.caller()
        batch = await app.batches.start(caller, BatchRequest(["[fail] a", "[hang] b"]))
        with anyio.fail_after(20):
            while not (await app.batches.result(caller, batch)).failed_count:
                await anyio.sleep(0.02)
        error = await refusal(app, Retry(batch, [0, 1]))
        assert str(error) == "task 1: has not ended yet: retry it when it has its result."
        again = await run(app, BatchRequest(retry=Retry(batch)))
        assert [row.retried_task_index for row in again.failed_results] == [0]
        await app.batches.cancel(caller, batch)
        with anyio.fail_after(20):
            await app.batches.wait(caller, batch, seconds=None)


async def test_secret_inputs_are_not_kept(opened: Opened, simulator: Simulator) -> None:
    async with opened() as app:
        simulator.configure(reject_unknown_inputs=False)
        secret = "r8_" + "x" * 20
        tasks = [
            {"prompt": "a", "model": EDIT, "input_image": f"https://example.com/?key={secret}"}
        ]
        first = await run(app, BatchRequest(tasks))
        text = await (await app.backend()).inputs(first.batch_id)
        assert text is not None
        assert secret not in text
        error = await refusal(app, Retry(first.batch_id, [0]))
        assert str(error) == (
            "task 0: its input input_image is a secret, which is not kept: send it in a new batch."
        )


async def test_daily_quota_and_limit_of_the_batch_hold_for_a_retry(
    simulator: Simulator, app_with: AppFactory
) -> None:
    async with app_with(REPLICATE_MCP_MAX_IMAGES_PER_DAY="3") as app:
        caller = app.caller()
        request = BatchRequest(["a", "b"], concurrency_limit=1)
        first = await run(app, request)
        again = await run(app, BatchRequest(retry=Retry(first.batch_id, [0, 1])))
        assert [row.error_code for row in again.failed_results] == ["daily_limit"]
        assert again.successful_count == 1
        assert len(simulator.predictions()) == 3
        asked: list[int] = []

        async def decline(tasks: Any) -> None:
            asked.append(len(tasks))
            raise InvalidInput("no")

        with pytest.raises(InvalidInput, match=r"^no$"):
            await app.batches.start(
                caller, BatchRequest(retry=Retry(first.batch_id, [0, 1])), consent=decline
            )
        assert asked == [2]
        simulator.configure(predict_seconds="0.2")
        async with app_with() as unlimited:
            third = await unlimited.batches.start(
                caller, BatchRequest(retry=Retry(first.batch_id, [0, 1]))
            )
            with anyio.fail_after(20):
                await unlimited.batches.wait(caller, third, seconds=None)
        assert simulator.account("acme")["max_in_flight"] == 1


async def test_retry_passes_the_models_schema_again(
    opened: Opened, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as app:
        first = await run(app, BatchRequest(["a", "b", "c"]))
        monkeypatch.setattr(
            InputSchema,
            "problems",
            lambda *_: [InputProblem("prompt", "prompt has become too long")],
        )
        error = await refusal(app, Retry(first.batch_id, [0, 2]))
        assert str(error) == "tasks 0, 2: prompt has become too long."
        assert [each.task_index for each in error.problems] == [0, 2]


async def test_newest_batch_to_retry_is_the_newest_that_was_not_retried(
    opened: Opened, simulator: Simulator
) -> None:
    async with opened() as app:
        caller = app.caller()
        with all_failing(simulator):
            old = await run(app, BatchRequest(["a"]))
            new = await run(app, BatchRequest(["b"]))
            await run(app, BatchRequest(["[nsfw] c"]))
        assert await app.batches.newest_to_retry(caller) == new.batch_id
        await run(app, BatchRequest(retry=Retry(new.batch_id)))
        assert await app.batches.newest_to_retry(caller) == old.batch_id


async def test_retries_of_a_batch_are_listed_with_their_own_retries(
    opened: Opened, simulator: Simulator
) -> None:
    async with opened() as app:
        mine, other = app.caller("r8_alice_1"), app.caller("r8_bob_1")
        first, unrelated = [await run(app, BatchRequest(["a", "b"]), mine) for _ in range(2)]
        await run(app, BatchRequest(retry=Retry(unrelated.batch_id, [0])), mine)
        second = await run(app, BatchRequest(retry=Retry(first.batch_id, [1])), mine)
        third = await run(app, BatchRequest(retry=Retry(second.batch_id, [0])), mine)
        found = await app.batches.retries(mine, first.batch_id)
        assert [(each["batch_id"], each["retry_of"]) for each in found] == [
            (second.batch_id, first.batch_id),
            (third.batch_id, second.batch_id),
        ]
        assert [list(each["task_indexes"]) for each in found] == [[1], [0]]
        assert await app.batches.retries(mine, third.batch_id) == []
        assert await app.batches.retries(other, first.batch_id) == []


def test_listed_retries_are_bounded() -> None:
    def state(number: int, retry: RetriedTasks | None) -> BatchState:
        return BatchState(
            f"b{number}", "server", "acme", "s", 1_000, 0, 0, False, number, None, retry=retry
        )

    count = MAX_LISTED_TASKS // 1_000
    again = RetriedTasks("b0", tuple(range(1_000)))
    newest = [*(state(number, again) for number in range(count + 2, 0, -1)), state(0, None)]
    assert [each["batch_id"] for each in retries_of("b0", newest)] == [
        f"b{number}" for number in range(1, count + 1)
    ]
