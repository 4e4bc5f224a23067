"""Each fault's effect on a task: what its user receives, and how often Replicate created it."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anyio
import pytest

from conftest import AppFactory, settings_for
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.backends.sqlite.journal import JournalTables
from replicate_mcp.errors import ReplicateUnavailable, Unauthorized
from replicate_mcp.replicate_api import attempt_matching
from replicate_mcp.simulator import Fault, Simulator
from replicate_mcp.tasks.result import BatchResult, TaskResult, TaskSuccess

OTHER_TOKEN = "r8_acme_2"


async def make(app: App, tasks: list[dict[str, Any]]) -> BatchResult:
    batch_id = await app.batches.start(app.caller(), BatchRequest(tasks))
    with anyio.fail_after(100):
        await app.batches.wait(app.caller(), batch_id, seconds=None)
    return await app.batches.result(app.caller(), batch_id)


A_MINUTE = (pytest.mark.soak, pytest.mark.long_wait)

# The creation's fault, and how often it is then sent.
PASSING = [
    pytest.param("429", 2, id="429"),
    pytest.param("reset", 2, id="reset before it was accepted"),
    pytest.param("500", 2, id="500"),
    pytest.param("502", 2, id="502"),
    pytest.param("503", 2, id="503"),
    pytest.param("504", 2, id="504"),
    pytest.param("reset_after", 1, id="reset after it was accepted"),
    pytest.param("500_after", 1, id="500 after it was accepted"),
    pytest.param("502_after", 1, id="502 after it was accepted"),
    pytest.param("503_after", 1, id="503 after it was accepted"),
    pytest.param("504_after", 1, id="504 after it was accepted"),
    pytest.param("truncated", 1, id="truncated body"),
    pytest.param("malformed", 1, id="malformed body"),
    pytest.param("silence", 2, id="never answered", marks=A_MINUTE),
    pytest.param("silence_after", 1, id="made and never answered", marks=A_MINUTE),
]


@pytest.mark.usefixtures("short_intervals")
@pytest.mark.parametrize(("fault", "sent"), PASSING)
async def test_transient_error_costs_time_but_no_second_prediction(
    app_with: AppFactory,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    sent: int,
) -> None:
    # A response that never comes times out after all others: only the grace period is left.
    grace = 10 if fault.startswith("silence") else 60
    monkeypatch.setattr(attempt_matching, "GRACE_SECONDS", grace)
    monkeypatch.setattr(attempt_matching, "EVIDENCE_SECONDS", 0.3)
    simulator.configure(predict_seconds=0.05)
    simulator.fault_next(Fault(fault))
    # After a lost response, only the predictions created beside it show that the list is up to
    # date. A throttled account's rate is low afterwards, and needs no list.
    count = 6 if fault == "429" else 40
    async with app_with(REPLICATE_CONCURRENT_LIMIT="2") as app:
        result = await make(app, [{"prompt": f"car {n}"} for n in range(count)])
    account = simulator.account("acme")
    assert (result.successful_count, result.failed_count) == (count, 0)
    assert (account["created"], account["creations_seen"]) == (count, count - 1 + sent)


# A task, its error, whether a retry can help, and whether it was created.
LASTING = [
    pytest.param({"prompt": "x [fail]"}, "prediction_failed", True, 1, id="it fails"),
    pytest.param({"prompt": "x [nsfw]"}, "content_flagged", False, 1, id="it is flagged"),
    pytest.param({"prompt": "x [nsfw-log]"}, "content_flagged", False, 1, id="flagged in its log"),
    pytest.param({"prompt": "x [words]"}, "no_output", True, 1, id="it answers in words"),
    pytest.param({"prompt": "x [no-output]"}, "no_output", True, 1, id="no output"),
    pytest.param({"prompt": "x [hang]"}, "deadline_exceeded", True, 1, id="it never ends"),
]


@pytest.mark.parametrize(("task", "code", "retryable", "made"), LASTING)
async def test_permanent_error_is_reported_with_its_reason(
    app_with: AppFactory,
    simulator: Simulator,
    task: dict[str, Any],
    code: str,
    retryable: bool,
    made: int,
) -> None:
    async with app_with(REPLICATE_MCP_PREDICTION_SECONDS="5") as app:
        result = await make(app, [task, {"prompt": "beside it"}])
        (own,) = await app.semaphores.list_for(app.caller())
    (row,) = result.failed_results
    assert (row.error_code, row.retryable) == (code, retryable)
    assert row.error.endswith(".")
    assert (row.prediction_id is not None) == bool(made)
    assert result.successful_count == 1
    assert simulator.account("acme")["created"] == made + 1
    assert own.in_use == 0


async def test_clock_ahead_of_replicate_creates_nothing_twice(
    app_with: AppFactory, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempt_matching, "GRACE_SECONDS", 2)
    simulator.configure(clock_offset_seconds=-20, predict_seconds=0.4)
    async with app_with() as app:
        await make(app, [{"prompt": "what is known of account and model is remembered"}])
    async with app_with(REPLICATE_CONCURRENT_LIMIT="2") as app:
        simulator.configure(fault_after_seconds=1)
        simulator.fault_next("reset", on="get")
        simulator.fault_next("reset_after")
        result = await make(app, [{"prompt": f"car {n}"} for n in range(3)])
    assert result.successful_count == 3
    assert simulator.account("acme")["created"] == 4


async def test_nothing_is_created_before_the_clock_is_synced(
    app_with: AppFactory, simulator: Simulator
) -> None:
    async with app_with() as app:
        await make(app, [{"prompt": "what is known of account and model is remembered"}])
    async with app_with() as app:
        simulator.fault_next("reset", 3, on="get")
        with pytest.raises(ReplicateUnavailable, match=r"^Nothing was created\. Replicate did not"):
            await make(app, [{"prompt": "x"}])
        assert simulator.account("acme")["creations_seen"] == 1
        assert (await make(app, [{"prompt": "x"}])).successful_count == 1


async def test_rejection_by_replicate_is_reported_with_its_own_message(
    app_with: AppFactory, simulator: Simulator
) -> None:
    async with app_with() as app:
        await app.semaphores.list_for(app.caller())
        simulator.fault_next(Fault("500"), 3, on="get")  # No schema: Replicate validates.
        result = await make(app, [{"prompt": "x", "num_outputs": 9}])
    (row,) = result.failed_results
    assert (row.error_code, row.retryable) == ("invalid_input", False)
    assert "num_outputs" in row.error
    assert simulator.account("acme")["created"] == 0


async def test_message_from_replicate_may_contain_a_lone_surrogate(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(failure_text="no \ud83d for you")
    async with app_with() as app:
        result = await make(app, [{"prompt": "x [fail]"}])
        (own,) = await app.semaphores.list_for(app.caller())
    (row,) = result.failed_results
    assert (row.error_code, row.error) == ("prediction_failed", "The model failed: no ? for you.")
    assert own.in_use == 0


async def test_unrecordable_result_ends_its_task_and_frees_its_permit(
    app_with: AppFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = JournalTables.record_results

    def picky(tables: JournalTables, batch: str, results: Iterable[TaskResult]) -> bool:
        rows = list(results)
        if any(isinstance(row, TaskSuccess) for row in rows):
            raise ValueError("no such row")
        return record(tables, batch, rows)

    monkeypatch.setattr(JournalTables, "record_results", picky)
    async with app_with() as app:
        result = await make(app, [{"prompt": "x"}])
        (own,) = await app.semaphores.list_for(app.caller())
    (row,) = result.failed_results
    assert (result.status, row.error_code) == ("completed", "create_outcome_unknown")
    assert (row.prediction_id is not None, row.retryable) == (True, False)
    assert own.in_use == 0


@pytest.mark.parametrize(
    "model", ["community/sticker-maker", "deployments/acme/fast-flux", "flux-dev"]
)
async def test_transient_error_during_model_lookup_fails_no_task(
    app_with: AppFactory, simulator: Simulator, model: str
) -> None:
    async with app_with() as app:
        await app.semaphores.list_for(app.caller())
        simulator.fault_next(Fault("503"), on="get")
        result = await make(app, [{"prompt": f"x{n}", "model": model} for n in range(3)])
    assert (result.successful_count, result.failed_count) == (3, 0)


async def test_failed_model_lookup_makes_the_task_retryable(
    app_with: AppFactory, simulator: Simulator
) -> None:
    task = {"prompt": "x", "model": "community/sticker-maker"}
    async with app_with() as app:
        await app.semaphores.list_for(app.caller())
        simulator.fault_next(Fault("503"), 3, on="get")
        result = await make(app, [task])
        again = await make(app, [task])
    (row,) = result.failed_results
    assert (row.error_code, row.retryable) == ("replicate_unavailable", True)
    assert "could not be asked for this model's version" in row.error
    assert again.successful_count == 1


async def test_rejected_token_rejects_the_request(
    app_with: AppFactory, simulator: Simulator
) -> None:
    async with app_with() as app:
        with pytest.raises(Unauthorized, match="refused the token"):
            await app.batches.start(app.caller("not-a-token"), BatchRequest([{"prompt": "x"}]))
    assert simulator.account("acme")["creations_seen"] == 0


@pytest.mark.soak
async def test_token_revoked_midway_ends_the_batch_within_a_second_and_keeps_results(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=0.3)
    async with app_with(REPLICATE_CONCURRENT_LIMIT="5") as app:
        batch_id = await app.batches.start(
            app.caller(), BatchRequest([{"prompt": f"car {n}"} for n in range(200)])
        )
        await simulator.reached(account="acme", succeeded=10)
        simulator.change_account("acme", revoke=["r8_acme_1"])
        revoked_at = time.monotonic()
        with anyio.fail_after(10):
            await app.batches.wait(app.caller(), batch_id, seconds=None)
        assert time.monotonic() - revoked_at < 1
        result = await app.batches.result(app.caller(), batch_id)
    assert {row.error_code for row in result.failed_results} == {"unauthorized"}
    assert len({row.error for row in result.failed_results}) == 1
    assert result.successful_count == simulator.account("acme")["created"]
    assert simulator.stats()["requests"]["POST /v1/models/{owner}/{name}/predictions"] <= 30


async def test_account_without_credit_ends_the_batch_with_one_reason(
    app_with: AppFactory, simulator: Simulator
) -> None:
    simulator.change_account("acme", out_of_credit=True)
    async with app_with(REPLICATE_CONCURRENT_LIMIT="2") as app:
        result = await make(app, [{"prompt": f"car {n}"} for n in range(50)])
    assert {row.error_code for row in result.failed_results} == {"insufficient_credit"}
    assert simulator.account("acme")["creations_seen"] <= 2


async def test_predictions_of_a_revoked_token_are_followed_with_another_token(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.configure(predict_seconds=3)
    async with App.running(settings_for(simulator, tmp_path)) as app:
        simulator.fault_next(Fault("502_after"))  # Its response is lost, so it is followed.
        batch_id = await app.batches.start(app.caller(), BatchRequest([{"prompt": "x"}]))
        await simulator.reached(account="acme", in_flight=1)
        await simulator.reached(account="acme", other_calls=4)  # account, model, list, itself
        simulator.change_account("acme", revoke=["r8_acme_1"])
        with anyio.fail_after(10):
            await app.batches.wait(app.caller(), batch_id, seconds=None)
        (row,) = (await app.batches.result(app.caller(), batch_id)).failed_results
        other = app.caller(OTHER_TOKEN)
        assert (row.error_code, row.prediction_id is not None) == ("unauthorized", True)
        assert (await app.semaphores.list_for(other))[0].in_use == 1, "it still runs at Replicate"
        await simulator.reached(account="acme", succeeded=1)
        with anyio.fail_after(100):
            while (await app.semaphores.list_for(other))[0].in_use:
                await anyio.sleep(0.05)
