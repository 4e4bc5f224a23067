"""Batches run against the simulator: every task ends in exactly one list."""

from typing import Any

import anyio
import httpx
import pytest

from conftest import AppFactory
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.batches.progress import Progress
from replicate_mcp.errors import (
    InvalidInput,
    ModelNotFound,
    ReplicateMcpError,
    ReplicateUnavailable,
    Unauthorized,
    UnknownBatch,
)
from replicate_mcp.simulator import Simulator
from replicate_mcp.tasks.result import BatchResult, TaskFailure, TaskSuccess

pytestmark = pytest.mark.usefixtures("short_intervals")


async def make(app: App, tasks: Any, token: str | None = None, **more: Any) -> BatchResult:
    """Run a batch to its end."""
    caller = app.caller(token)
    batch_id = await app.batches.start(caller, BatchRequest(tasks, **more))
    with anyio.fail_after(60):
        await app.batches.wait(caller, batch_id, seconds=None)
    return await app.batches.result(caller, batch_id)


def creations(simulator: Simulator) -> int:
    return int(simulator.account("acme")["creations_seen"])


async def test_every_prompt_comes_back_with_a_url_and_a_filename(
    app_with: AppFactory, simulator: Simulator
) -> None:
    async with app_with() as app:
        result = await make(
            app,
            [
                {"prompt": "A red car", "output_filename": "red_car.jpg"},
                {"prompt": "A blue house"},
            ],
        )
    red, blue = result.successful_results
    assert (result.status, result.successful_count, result.failed_count) == ("completed", 2, 0)
    assert [file.filename for file in red.generated_files] == ["red_car.jpg"]
    assert [file.filename for file in blue.generated_files] == ["generated_image_2.webp"]
    async with httpx.AsyncClient() as client:
        image = await client.get(red.generated_files[0].url)
    assert image.content[:3] == b"\xff\xd8\xff"
    assert simulator.stats()["requests"] == {
        "GET /v1/account": 1,
        "GET /v1/models/{owner}/{name}": 1,
        "POST /v1/models/{owner}/{name}/predictions": 2,
    }


async def test_chosen_seed_is_sent_and_reported(app_with: AppFactory, simulator: Simulator) -> None:
    async with app_with() as app:
        result = await make(app, [{"prompt": "x"}, {"prompt": "x", "seed": 7}])
    chosen, given = result.successful_results
    assert given.seed == 7
    sent = {each["id"]: each["input"]["seed"] for each in simulator.predictions()}
    assert sent[chosen.prediction_id] == chosen.seed


async def test_model_without_seed_input_gets_no_seed(
    app_with: AppFactory, simulator: Simulator
) -> None:
    async with app_with() as app:
        result = await make(app, [{"prompt": "x"}], model="google/imagen-4")
    assert result.successful_results[0].seed is None
    assert "seed" not in simulator.predictions()[0]["input"]


@pytest.mark.parametrize(
    ("model", "inputs", "names"),
    [
        ("black-forest-labs/flux-schnell", {"num_outputs": 3}, ["x_1.png", "x_2.png", "x_3.png"]),
        ("flux-kontext-max", {}, ["x.png"]),
        ("google/imagen-4", {}, ["x.png"]),
        ("bytedance/seedream-4", {}, ["x.jpg"]),
        ("openai/gpt-image-1.5", {"number_of_images": 2}, ["x_1.png", "x_2.png"]),
        ("community/sticker-maker", {}, ["x.png"]),
        ("deployments/acme/fast-flux", {}, ["x.png"]),
    ],
)
async def test_models_of_every_kind_deliver_correct_extensions(
    app_with: AppFactory, model: str, inputs: dict[str, Any], names: list[str]
) -> None:
    async with app_with() as app:
        result = await make(
            app, [{"prompt": "x", "output_filename": "x.png", **inputs}], model=model
        )
    (success,) = result.successful_results
    files = [file.filename for file in success.generated_files]
    if model.startswith("bytedance"):
        assert files[0].startswith("x.")
        assert files[0] == "x." + success.generated_files[0].url.rsplit(".", 1)[1]
    else:
        assert files == names


async def test_model_version_can_be_specified(app_with: AppFactory, simulator: Simulator) -> None:
    async with httpx.AsyncClient(headers={"Authorization": "Bearer r8_acme_1"}) as client:
        url = f"{simulator.url}/v1/models/community/sticker-maker"
        version = (await client.get(url)).json()["latest_version"]["id"]
    async with app_with() as app:
        result = await make(app, [{"prompt": "x"}], model=f"community/sticker-maker:{version}")
    assert result.successful_count == 1


async def test_object_output_yields_all_its_urls(
    app_with: AppFactory,
) -> None:
    async with app_with() as app:
        result = await make(app, [{"prompt": "x"}], model="community/layers")
    (success,) = result.successful_results
    assert success.count == len(success.generated_files) > 1


async def test_data_uri_outputs_are_refetched_and_never_passed_on(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(data_url_outputs=1)
    async with app_with() as app:
        result = await make(app, [{"prompt": "x"}])
    assert result.successful_results[0].generated_files[0].url.startswith("http")


async def test_processing_prediction_with_output_counts_as_finished(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(output_before_end=1, settle_seconds=0.2)
    async with app_with() as app:
        result = await make(app, [{"prompt": "x"}])
    assert result.successful_count == 1
    assert "GET /v1/predictions/{id}" not in simulator.stats()["requests"]


@pytest.mark.parametrize("is_announced", [True, False], ids=["by its schema", "unforeseen"])
async def test_files_appearing_one_by_one_are_awaited(
    app_with: AppFactory, simulator: Simulator, is_announced: bool
) -> None:
    async with app_with(REPLICATE_CONCURRENT_LIMIT="1") as app:
        simulator.configure(files_one_by_one=is_announced)
        await make(app, [{"prompt": "the schema is known from now on"}])
        simulator.configure(files_one_by_one=True, predict_seconds=1)
        result = await make(app, [{"prompt": "x", "num_outputs": 4}, {"prompt": "y"}])
    many, one = result.successful_results
    assert (many.count, len({file.url for file in many.generated_files}), one.count) == (4, 4, 1)
    if is_announced:  # The first file of an iterator may be a preview.
        assert all(row.predict_seconds is not None for row in (many, one))
        assert simulator.account("acme")["max_in_flight"] == 1


async def test_responses_with_202_and_without_metrics_are_accepted(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(answer_202=1, missing_metrics=1)
    async with app_with() as app:
        result = await make(app, [{"prompt": "x"}])
    assert result.successful_results[0].predict_seconds is None


async def test_delivery_without_extension_keeps_the_requested_extension(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(delivery_extensions=False)
    async with app_with() as app:
        result = await make(app, [{"prompt": "x", "output_filename": "x.png"}, {"prompt": "y"}])
    names = [row.generated_files[0].filename for row in result.successful_results]
    assert names == ["x.png", "generated_image_2.webp"]


async def test_failed_tasks_have_a_reason(app_with: AppFactory) -> None:
    async with app_with() as app:
        result = await make(
            app,
            [
                {"prompt": "a red car"},
                {"prompt": "[fail] a car"},
                {"prompt": "[nsfw] a car"},
                {"prompt": "[no-output] a car"},
            ],
        )
    assert result.successful_count == 1
    assert {row.task_index: row.error_code for row in result.failed_results} == {
        1: "prediction_failed",
        2: "content_flagged",
        3: "no_output",
    }
    assert all(row.prediction_id and row.error.endswith(".") for row in result.failed_results)


async def test_prediction_over_its_time_limit_is_cancelled_and_reported(
    app_with: AppFactory, simulator: Simulator
) -> None:
    async with app_with(REPLICATE_MCP_PREDICTION_SECONDS="5") as app:
        result = await make(app, [{"prompt": "[hang] a car"}])
    (failed,) = result.failed_results
    assert failed.error_code == "deadline_exceeded"
    assert simulator.account("acme")["in_flight"] == 0


async def test_batch_is_over_at_its_deadline_with_tasks_waiting(
    app_with: AppFactory, simulator: Simulator
) -> None:
    async with app_with(REPLICATE_CONCURRENT_LIMIT="1", REPLICATE_MCP_BATCH_SECONDS="6") as app:
        result = await make(app, [{"prompt": "[hang] a"}, {"prompt": "b"}, {"prompt": "c"}])
    assert {row.error_code for row in result.failed_results} == {"deadline_exceeded"}
    assert "throttled" not in "".join(row.error for row in result.failed_results)
    assert creations(simulator) == 1


async def test_timed_out_batch_reports_throttling_of_the_account(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.change_account("acme", low_credit=True)  # Six a minute, with a burst of one.
    async with app_with(REPLICATE_MCP_BATCH_SECONDS="6") as app:
        result = await make(app, [{"prompt": f"car {n}"} for n in range(3)])
    assert {row.error_code for row in result.failed_results} == {"deadline_exceeded"}
    assert {row.error for row in result.failed_results} == {
        "The batch's time was up before this task was created, because Replicate throttled the "
        "account, to about 5 creations a minute now: send it again."
    }
    assert result.successful_count == 1


async def test_timed_out_batch_reports_server_errors_of_replicate(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.fault_next("500", 100)
    async with app_with(REPLICATE_CONCURRENT_LIMIT="1", REPLICATE_MCP_BATCH_SECONDS="6") as app:
        result = await make(app, [{"prompt": "a"}, {"prompt": "b"}])
    assert result.successful_count == 0
    assert "because Replicate answered 500 to its creations: send it again" in "".join(
        row.error for row in result.failed_results
    )


async def test_batches_sharing_a_limit_fill_and_never_exceed_it(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=0.1)
    tasks = [{"prompt": f"car {n}"} for n in range(20)]
    async with app_with(REPLICATE_CONCURRENT_LIMIT="7") as app, anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(make, app, tasks)
    stats = simulator.account("acme")
    assert (stats["max_in_flight"], stats["succeeded"]) == (7, 60)


async def test_two_apps_and_two_tokens_of_one_account_share_its_limit(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=0.1)
    tasks = [{"prompt": f"car {n}"} for n in range(15)]
    async with (
        app_with(REPLICATE_CONCURRENT_LIMIT="4") as one,
        app_with(REPLICATE_CONCURRENT_LIMIT="4", REPLICATE_API_TOKEN="r8_acme_2") as two,
        anyio.create_task_group() as group,
    ):
        group.start_soon(make, one, tasks)
        group.start_soon(make, two, tasks)
    stats = simulator.account("acme")
    assert (stats["max_in_flight"], stats["succeeded"]) == (4, 30)


async def test_batch_can_have_its_own_concurrency_limit(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=0.05)
    async with app_with() as app:
        await make(app, [{"prompt": f"car {n}"} for n in range(9)], concurrency_limit=3)
    assert simulator.account("acme")["max_in_flight"] == 3


async def test_throttled_account_waits_and_loses_no_task(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(requests_per_minute=600, burst=5)
    async with app_with() as app:
        result = await make(app, [{"prompt": f"car {n}"} for n in range(12)])
    assert result.successful_count == 12


async def test_exhausted_daily_quota_ends_the_batch_with_the_reset_time(
    app_with: AppFactory, simulator: Simulator
) -> None:
    async with app_with(REPLICATE_MCP_MAX_IMAGES_PER_DAY="5") as app:
        result = await make(app, [{"prompt": f"car {n}", "num_outputs": 2} for n in range(4)])
        again = await make(app, [{"prompt": "one more"}, {"prompt": "too many"}])
    assert (result.successful_count, result.failed_count) == (2, 2)
    assert (again.successful_count, again.failed_count) == (1, 1)
    for row in (*result.failed_results, *again.failed_results):
        assert (row.error_code, row.retryable) == ("daily_limit", True)
        assert "5 images" in row.error
        assert "after 00:00 UTC, in " in row.error
    assert simulator.account("acme")["created"] == 3


async def test_cancelled_batch_stops_everywhere(app_with: AppFactory, simulator: Simulator) -> None:
    simulator.configure(predict_seconds=30, cancel_seconds=1)
    lines: list[str] = []

    async def keep(progress: Progress) -> None:
        lines.append(progress.line)

    async with app_with(REPLICATE_CONCURRENT_LIMIT="3") as app:
        caller = app.caller()
        batch_id = await app.batches.start(
            caller, BatchRequest([{"prompt": f"car {n}"} for n in range(8)])
        )
        await simulator.reached(account="acme", in_flight=3)
        await app.batches.cancel(caller, batch_id)
        with anyio.fail_after(20):
            await app.batches.wait(caller, batch_id, seconds=None, on_progress=keep)
    assert "5/8 done, 3 running, 5 not made" in lines
    async with app_with() as app:
        result = await app.batches.result(caller, batch_id)
    assert (result.status, result.failed_count) == ("canceled", 8)
    assert {row.error_code for row in result.failed_results} == {"canceled"}
    stats = simulator.account("acme")
    assert (stats["in_flight"], stats["creations_seen"]) == (0, 3)


async def test_cancelling_does_not_affect_an_equal_batch(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=3)
    tasks = [{"prompt": "the same car"} for _ in range(3)]
    async with app_with() as app:
        caller = app.caller()
        first = await app.batches.start(caller, BatchRequest(tasks, model="google/imagen-4"))
        second = await app.batches.start(caller, BatchRequest(tasks, model="google/imagen-4"))
        await simulator.reached(account="acme", in_flight=6)
        await app.batches.cancel(caller, first)
        with anyio.fail_after(20):
            await app.batches.wait(caller, second, seconds=None)
            await app.batches.wait(caller, first, seconds=None)
        kept = await app.batches.result(caller, second)
        stopped = await app.batches.result(caller, first)
    assert kept.successful_count == 3
    assert stopped.failed_count == 3


async def test_another_process_can_cancel_and_read_a_batch(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=30)
    async with app_with() as one, app_with() as two:
        batch_id = await one.batches.start(one.caller(), BatchRequest([{"prompt": "x"}]))
        await simulator.reached(account="acme", in_flight=1)
        assert (await two.batches.result(two.caller(), None)).batch_id == batch_id
        await two.batches.cancel(two.caller(), batch_id)
        with anyio.fail_after(20):
            await two.batches.wait(two.caller(), batch_id, seconds=None)
        assert (await two.batches.result(two.caller(), batch_id)).status == "canceled"


async def test_batch_is_visible_only_to_its_own_caller(app_with: AppFactory) -> None:
    async with app_with() as app:
        result = await make(app, [{"prompt": "x"}], token="r8_other_1")
        with pytest.raises(UnknownBatch):
            await app.batches.result(app.caller(), result.batch_id)
        with pytest.raises(UnknownBatch):
            await app.batches.cancel(app.caller(), result.batch_id)
        with pytest.raises(UnknownBatch, match="no batch yet"):
            await app.batches.result(app.caller(), None)


async def test_account_is_fetched_once_per_token(
    app_with: AppFactory, simulator: Simulator
) -> None:
    for _ in range(2):
        async with app_with() as app, anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(make, app, [{"prompt": "x"}])
    assert simulator.stats()["requests"]["GET /v1/account"] == 1
    assert simulator.stats()["requests"]["GET /v1/models/{owner}/{name}"] == 1


WRONG: list[tuple[Any, dict[str, Any], type[ReplicateMcpError], str]] = [
    ([], {}, InvalidInput, "tasks is empty"),
    ([{"prompt": "x"}] * 1001, {}, InvalidInput, "1001 tasks are more than the 1000"),
    (None, {}, InvalidInput, "tasks must be a list"),
    ("[" * 100_000, {}, InvalidInput, "nested too deeply"),
    ("[" * 3_000 + "]" * 3_000, {}, InvalidInput, "nested too deeply"),
    ([7], {}, InvalidInput, "task 0: must be an object"),
    ([{"prompt": "x"}, {"prompt": "  "}], {}, InvalidInput, "task 1: prompt is empty"),
    ([{"promt": "x"}], {}, InvalidInput, r"did you mean .prompt.\?"),
    ([{"prompt": 7}], {}, InvalidInput, "task 0: prompt must be text, not a number"),
    ([{"prompt": "a cat \ud83d"}], {}, InvalidInput, "task 0: prompt contains half a character"),
    (
        [{"prompt": "x", "model": "flux-dev", "image": "cat\udc00.png"}],
        {},
        InvalidInput,
        "task 0: image contains half a character",
    ),
    (
        [{"prompt": "\u00e9" * 2_100}] * 1_000,
        {},
        InvalidInput,
        "prompts have 4,200,000 bytes together, over the 4,194,304 of one batch: send several",
    ),
    ([{"prompt": "x", "a\ud83d": 1}], {}, InvalidInput, r"task 0: a\\ud83d contains half a char"),
    ([{"prompt": "x", "output_filename": "../x.png"}], {}, InvalidInput, "separator '/'"),
    ([{"prompt": "x", "output_filename": "CON.png"}], {}, InvalidInput, "reserved by Windows"),
    ([{"prompt": "x", "model": "nope"}], {}, InvalidInput, "task 0: model 'nope' is not a model"),
    ([{"prompt": "x", "model": "no/such"}], {}, ModelNotFound, "no model 'no/such'"),
    ([{"prompt": "x", "input": "y"}], {}, InvalidInput, "task 0: input must be an object"),
    (
        [{"prompt": "a"}, {"prompt": "x", "aspect_ratio": "16x9"}],
        {},
        InvalidInput,
        r"task 1: aspect_ratio '16x9' is not one of .*: did you mean '16:9'\?",
    ),
    ([{"prompt": "x", "aspectratio": "1:1"}], {}, InvalidInput, "did you mean 'aspect_ratio'"),
    ([{"prompt": "x", "num_outputs": 9}], {}, InvalidInput, "num_outputs 9 is more than 4"),
    ([{"prompt": "x"}], {"semaphore": "nope"}, InvalidInput, "semaphore 'nope' is not registered"),
    ([{"prompt": "x"}], {"model": "nope"}, InvalidInput, "model 'nope' is not a model's name"),
]


@pytest.mark.parametrize(("tasks", "more", "kind", "sentence"), WRONG, ids=lambda v: str(v)[:40])
async def test_invalid_request_is_rejected_with_a_message_and_nothing_reaches_the_api(
    app_with: AppFactory,
    simulator: Simulator,
    tasks: Any,
    more: dict[str, Any],
    kind: type[ReplicateMcpError],
    sentence: str,
) -> None:
    async with app_with() as app:
        with pytest.raises(kind, match=sentence):
            await make(app, tasks, **more)
        assert await app.batches.list(app.caller()) == []
    assert creations(simulator) == 0


async def test_results_have_the_fields_of_the_contract(app_with: AppFactory) -> None:
    async with app_with() as app:
        result = await make(app, [{"prompt": "x"}, {"prompt": "[fail] y"}])
    assert isinstance(result.successful_results[0], TaskSuccess)
    assert isinstance(result.failed_results[0], TaskFailure)
    wire = result.model_dump(mode="json", exclude_none=True)
    assert set(wire) == {
        "batch_id", "status", "total_tasks", "successful_count", "failed_count", "pending_count",
        "successful_results", "failed_results", "cursor", "semaphore",
    }  # fmt: skip
    assert set(wire["failed_results"][0]) == {
        "task_index", "prompt", "output_filename", "error", "error_code", "prediction_id",
        "retryable",
    }  # fmt: skip
    assert wire["failed_results"][0]["output_filename"] == "generated_image_2"


async def test_object_wrapping_the_tasks_is_unwrapped(app_with: AppFactory) -> None:
    async with app_with() as app:
        result = await make(app, {"tasks": [{"prompt": "x"}, {"prompt": "y"}]})
    assert result.successful_count == 2


async def test_transient_account_error_creates_no_second_limit(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=0.3)
    simulator.fault_next("503", on="get")
    tasks = [{"prompt": f"car {n}"} for n in range(8)]
    async with (
        app_with(REPLICATE_CONCURRENT_LIMIT="4", REPLICATE_API_TOKEN="r8_acme_2") as one,
        app_with(REPLICATE_CONCURRENT_LIMIT="4") as two,
        anyio.create_task_group() as group,
    ):
        group.start_soon(make, one, tasks)
        group.start_soon(make, two, tasks)
    stats = simulator.account("acme")
    assert (stats["max_in_flight"], stats["succeeded"]) == (4, 16)


async def test_unreachable_replicate_rejects_the_request_in_time(
    app_with: AppFactory,
) -> None:
    async with app_with(REPLICATE_BASE_URL="http://127.0.0.1:1") as app:
        with pytest.raises(ReplicateUnavailable, match="Nothing was created"), anyio.fail_after(10):
            await make(app, [{"prompt": "x"}])


async def test_equal_tasks_get_one_prediction_each_without_listed_deadlines(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(list_deadlines=False, predict_seconds=1.5)
    simulator.fault_next("reset")
    async with app_with() as app:
        result = await make(app, [{"prompt": "x"}] * 2, model="google/imagen-4")
    assert result.successful_count == 2
    assert len({row.prediction_id for row in result.successful_results}) == 2
    assert simulator.account("acme")["created"] == 2


async def test_cancelled_creation_with_lost_response_still_ends(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=30, fault_after_seconds=3, cancel_seconds=6)
    async with app_with() as app:
        simulator.fault_next("reset_after")
        batch_id = await app.batches.start(app.caller(), BatchRequest([{"prompt": "x"}]))
        await simulator.reached(account="acme", in_flight=1)
        await app.batches.cancel(app.caller(), batch_id)
        with anyio.fail_after(25):
            await app.batches.wait(app.caller(), batch_id, seconds=None)
        result = await app.batches.result(app.caller(), batch_id)
        (own,) = await app.semaphores.list_for(app.caller())
    assert result.failed_results[0].error_code == "canceled"
    assert own.in_use == 0


async def test_unsendable_input_is_rejected_without_a_schema_and_the_rest_is_left_to_replicate(
    app_with: AppFactory, simulator: Simulator
) -> None:
    async with app_with() as app:
        await app.semaphores.list_for(app.caller())
        simulator.fault_next("503", 9, on="get")
        with pytest.raises(InvalidInput, match="task 0: guidance is not a finite number"):
            await make(app, [{"prompt": "x", "guidance": float("nan")}])
        with pytest.raises(InvalidInput, match="task 0: prompt contains half a character"):
            await make(app, [{"prompt": "a cat \ud83d"}])
        result = await make(app, [{"prompt": "x", "num_outputs": 9}])
    assert result.failed_results[0].error_code == "invalid_input"
    assert "num_outputs" in result.failed_results[0].error


async def test_token_is_stripped_and_malformed_token_is_rejected_without_being_shown(
    app_with: AppFactory,
) -> None:
    async with app_with() as app:
        assert (await make(app, [{"prompt": "x"}], token="r8_acme_1\n")).successful_count == 1
        with pytest.raises(Unauthorized) as refused:
            await make(app, [{"prompt": "x"}], token="r8_ac\nme")
    assert "r8_ac" not in str(refused.value)


async def test_zero_limit_is_rejected(app_with: AppFactory) -> None:
    async with app_with() as app:
        with pytest.raises(InvalidInput, match="limit 0 must be a whole number from 1"):
            await make(app, [{"prompt": "x"}], concurrency_limit=0)


async def test_batch_end_during_a_progress_report_is_still_reported(
    app_with: AppFactory,
) -> None:
    reported: list[int] = []
    async with app_with() as app:
        caller = app.caller()
        batch_id = await app.batches.start(caller, BatchRequest([{"prompt": "x"}] * 2))

        async def on_progress(progress: Progress) -> None:
            if not reported:  # As slowly as a connection may read it.
                await app.batches.wait(caller, batch_id, seconds=None)
            reported.append(progress.finished)

        with anyio.fail_after(60):
            await app.batches.wait(caller, batch_id, seconds=None, on_progress=on_progress)
    assert reported[-1] == 2
