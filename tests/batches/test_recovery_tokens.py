"""Recovery with rejected tokens, assigned filenames and a failing backend."""

from typing import Any

import anyio
import pytest

from batches.direct import (
    ACCOUNT,
    OTHER_TOKEN,
    TOKEN,
    Answer,
    Replicate,
    changed,
    lost,
    refused,
    running_process,
    wrapped,
)
from batches.orphans import CAR, MADE, kind, left, now, recovered, recovery_of, with_token
from batches.virtual_time import in_virtual_time
from replicate_mcp.errors import BackendUnavailable
from replicate_mcp.tasks.result import TaskResult, TaskSuccess

# Tokens.


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("known", [True, False])
@in_virtual_time
async def test_recovery_uses_another_token_when_one_is_rejected(known: bool, status: int) -> None:
    adopted: list[int] = []

    async def recorded(adopt: Any, permit: int) -> bool:
        adopted.append(permit)
        return bool(await adopt(permit))

    replicate = Replicate()
    for call in ("get", "list"):
        replicate.always(call, with_token(TOKEN, refused(status)))
    async with running_process(wrap=wrapped(adopt=recorded)) as process:
        (permit,) = await left(process, CAR)
        made = replicate.made()
        if known:
            assert await process.store.claim_prediction(permit, "b_1", made)
        process.runner.recover(ACCOUNT, replicate.gateway())
        process.runner.recover(ACCOUNT, replicate.gateway(OTHER_TOKEN))
        assert kind((await recovered(process))[0]) == (MADE, False)
        assert now() < 5
        assert adopted == [permit], "the permit is kept for the other token"
        tried = len(replicate.calls)
        await left(process, CAR, batch="b_2")
        replicate.made()
        assert kind((await recovered(process, batch="b_2"))[0]) == (MADE, False)
    assert {call.token for call in replicate.calls[tried:]} == {OTHER_TOKEN}


@pytest.mark.parametrize("known", [True, False])
@in_virtual_time
async def test_attempt_keeps_its_permit_until_a_working_token_is_available(
    known: bool,
) -> None:
    adopted: list[float] = []

    async def recorded(adopt: Any, permit: int) -> bool:
        adopted.append(now())
        return bool(await adopt(permit))

    replicate = Replicate(predict_seconds=30)
    replicate.always("get", with_token(TOKEN, refused(401)))
    replicate.always("list", with_token(TOKEN, refused(401)))
    async with running_process(wrap=wrapped(adopt=recorded)) as process:
        (permit,) = await left(process, CAR)
        made = replicate.made()
        if known:
            assert await process.store.claim_prediction(permit, "b_1", made)
        process.runner.recover(ACCOUNT, replicate.gateway())
        await anyio.sleep(20)
        assert await process.store.results("b_1") == []
        assert await process.in_use() == 1
        assert [each.permit for each in await process.store.orphans(ACCOUNT)] == [permit]
        asked = len(replicate.calls)
        await anyio.sleep(60)
        assert len(replicate.calls) == asked, "a token that was refused is not tried again"
        assert len(adopted) == 1, "without a token no permit is taken over"
        process.runner.recover(ACCOUNT, replicate.gateway(OTHER_TOKEN))
        assert kind((await recovered(process))[0]) == (MADE, False)
        assert await process.in_use() == 0


@pytest.mark.parametrize(
    "answer", [refused(402), refused(404), refused(429), refused(500), lost(carried_out=False)]
)
@in_virtual_time
async def test_token_is_kept_after_transient_call_errors(answer: Answer) -> None:
    replicate = Replicate()
    replicate.answer("list", *[answer] * 6)
    async with running_process() as process:
        await left(process, CAR)
        made = replicate.made()
        process.runner.recover(ACCOUNT, replicate.gateway())
        row = (await recovered(process))[0]
        assert (kind(row), row.prediction_id) == ((MADE, False), made)


@in_virtual_time
async def test_token_given_twice_is_used_once() -> None:
    async with running_process() as process:
        gateway = Replicate().gateway()
        process.runner.recover(ACCOUNT, gateway)
        process.runner.recover(ACCOUNT, gateway)
        assert recovery_of(process)._gateways == [gateway]


# Filenames.


@in_virtual_time
async def test_assigned_filenames_are_not_reused() -> None:
    replicate = Replicate(predict_seconds=20)
    async with running_process() as process:
        await left(process, CAR, {"prompt": "b"}, {"prompt": "c"}, {"prompt": "d"})
        replicate.made()
        replicate.made("b")
        process.runner.recover(ACCOUNT, replicate.gateway())
        await anyio.sleep(15)  # The other two were not created.
        await recovered(process, 4)
        assert recovery_of(process)._names == {}
        assert recovery_of(process)._in_recovery == {}
        rows = await recovered(process, 4)
    names = [
        file.filename
        for row in rows.values()
        if isinstance(row, TaskSuccess)
        for file in row.generated_files
    ]
    assert sorted(names) == ["car.webp", "car_2.webp"]


@in_virtual_time
async def test_filenames_of_journal_results_are_not_reused() -> None:
    replicate = Replicate()
    async with running_process() as process:
        one, two = await left(process, CAR, {"prompt": "b"}, held=(1,))
        replicate.made()
        process.runner.recover(ACCOUNT, replicate.gateway())
        first = (await recovered(process))[0]
        assert isinstance(first, TaskSuccess)
        await process.store.abandon(two)
        replicate.made("b")
        second = (await recovered(process, 2))[1]
        assert isinstance(second, TaskSuccess)
    assert [row.generated_files[0].filename for row in (first, second)] == [
        "car.webp",
        "car_2.webp",
    ]
    assert one != two


def with_two_files(document: dict[str, Any]) -> None:
    if document["output"]:
        document["output"] = [f"https://replicate.delivery/a/{n}.webp" for n in (1, 2)]


def filenames(row: TaskResult) -> list[str]:
    return [file.filename for file in row.generated_files] if isinstance(row, TaskSuccess) else []


@in_virtual_time
async def test_filename_in_the_journal_is_not_given_to_another_task() -> None:
    replicate = Replicate(predict_seconds=5)
    replicate.always("get", changed(with_two_files))
    async with running_process() as process:
        _, two = await left(process, CAR, {"prompt": "b"}, names={1: "car_1"}, held=(1,))
        replicate.made()
        process.runner.recover(ACCOUNT, replicate.gateway())
        await recovered(process)
        replicate.always("get", None)
        replicate.made("b")
        await process.store.abandon(two)
        rows = await recovered(process, 2)
    assert filenames(rows[0]) == ["car_1.webp", "car_2.webp"]
    assert filenames(rows[1]) == ["car_1_2.webp"]


@in_virtual_time
async def test_filename_of_an_unrecorded_result_is_not_reused() -> None:
    async def slow(finish: Any, permit: int, *args: Any, **kwargs: Any) -> Any:
        if permit == first:
            await anyio.sleep(10)
        return await finish(permit, *args, **kwargs)

    replicate = Replicate(predict_seconds=5)
    replicate.answer("get", changed(with_two_files))
    async with running_process(wrap=wrapped(finish=slow)) as process:
        first, _, _ = await left(
            process, CAR, {"prompt": "b"}, {"prompt": "c"}, names={1: "b", 2: "car_1"}
        )
        replicate.made()
        await anyio.sleep(6)
        process.runner.recover(ACCOUNT, replicate.gateway())
        await anyio.sleep(1.5)
        replicate.made("c")
        rows = await recovered(process, 3)
    assert kind(rows[1])[0] == "interrupted", "it ends before the first is recorded"
    assert filenames(rows[0]) == ["car_1.webp", "car_2.webp"]
    assert filenames(rows[2]) == ["car_1_2.webp"]


# Polling for orphans.


@pytest.mark.parametrize(("busy", "expected_polls"), [(False, 10), (True, 60)])
@in_virtual_time
async def test_orphans_are_polled_more_often_while_batches_wait(
    busy: bool, expected_polls: int
) -> None:
    seen: list[float] = []

    async def counted(orphans: Any, account: str) -> Any:
        seen.append(now())
        return await orphans(account)

    replicate = Replicate(predict_seconds=100)
    async with running_process(wrap=wrapped(orphans=counted)) as process:
        if busy:
            await process.start(replicate.gateway())
        process.runner.recover(ACCOUNT, replicate.gateway())
        await anyio.sleep(29.9)
    assert len(seen) == expected_polls


@pytest.mark.parametrize("error", [BackendUnavailable("locked"), KeyError("a fault of our own")])
@pytest.mark.parametrize("method", ["orphans", "adopt", "has_lost_state"])
@in_virtual_time
async def test_failed_recovery_poll_is_followed_by_another(
    method: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    async def fails_once(whole: Any, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise error
        return await whole(*args)

    replicate = Replicate()
    async with running_process(wrap=wrapped(**{method: fails_once})) as process:
        await left(process, CAR)
        replicate.made()
        process.runner.recover(ACCOUNT, replicate.gateway())
        assert kind((await recovered(process))[0]) == (MADE, False)
        assert calls >= 2
        assert now() == pytest.approx(4, abs=1)
    # A traceback is logged for an error in this program's code.
    with_traceback = [record for record in caplog.records if record.exc_info]
    assert len(with_traceback) == isinstance(error, KeyError)
    assert str(error) in caplog.text


@pytest.mark.parametrize("method", ["tasks", "finish", "claim_prediction", "results"])
@in_virtual_time
async def test_temporary_backend_outage_loses_no_result(method: str) -> None:
    async def unavailable(whole: Any, *args: Any, **kwargs: Any) -> Any:
        if now() < 8:
            raise BackendUnavailable("locked")
        return await whole(*args, **kwargs)

    replicate = Replicate()
    async with running_process(wrap=wrapped(**{method: unavailable})) as process:
        await left(process, CAR)
        replicate.made()
        process.runner.recover(ACCOUNT, replicate.gateway())
        assert kind((await recovered(process))[0]) == (MADE, False)
        assert await process.in_use() == 0
