"""Retries of read requests: for which errors, at which intervals, and for how long."""

import asyncio
from collections.abc import Sequence

import anyio
import pytest

from batches.virtual_time import in_virtual_time
from replicate_mcp.replicate_api.exceptions import (
    ApiStatusError,
    ConnectionMisconfigured,
    Intercepted,
    RequestNotSent,
    ResponseLost,
)
from replicate_mcp.replicate_api.retry import retry_read


class Question:
    """A request that fails with each of these errors, then succeeds; records its call times."""

    def __init__(self, *errors: Exception, seconds: Sequence[float] = ()) -> None:
        self._errors = list(errors)
        self._seconds = list(seconds)
        self.times: list[float] = []

    async def __call__(self) -> str:
        self.times.append(asyncio.get_running_loop().time())
        if self._seconds:
            await anyio.sleep(self._seconds.pop(0))
        if self._errors:
            raise self._errors.pop(0)
        return "an answer"


PASSING = [
    ResponseLost("reset"),
    RequestNotSent("no connection"),
    Intercepted("a firewall"),
    *(ApiStatusError(status, "refused") for status in (429, 500, 502, 503, 520, 599)),
]

LASTING = [
    ConnectionMisconfigured("a certificate"),
    *(
        ApiStatusError(status, "refused")
        for status in (400, 401, 402, 403, 404, 422, 428, 430, 499)
    ),
    KeyError("not of Replicate's"),
]


@in_virtual_time
async def test_successful_read_is_made_once() -> None:
    question = Question()
    assert await retry_read(question) == "an answer"
    assert question.times == [0]


@pytest.mark.parametrize("fault", PASSING, ids=repr)
@in_virtual_time
async def test_transient_read_error_is_retried_up_to_three_attempts(fault: Exception) -> None:
    twice = Question(fault, fault)
    assert await retry_read(twice) == "an answer"
    assert twice.times == pytest.approx([0, 0.3, 1.3])
    last = ResponseLost("the last one")
    with pytest.raises(ResponseLost, match="the last one"):
        await retry_read(Question(fault, fault, last, fault))


@pytest.mark.parametrize("fault", LASTING, ids=repr)
@in_virtual_time
async def test_permanent_read_error_is_not_retried(fault: Exception) -> None:
    question = Question(fault)
    with pytest.raises(type(fault)) as caught:
        await retry_read(question)
    assert caught.value is fault
    assert question.times == [0]


@in_virtual_time
async def test_read_times_out_after_twenty_seconds_in_total() -> None:
    question = Question(RequestNotSent("no connection"), seconds=(12, 60))
    with pytest.raises(ResponseLost, match=r"^not within 20 s$"):
        await retry_read(question)
    assert question.times == pytest.approx([0, 12.3])
    assert asyncio.get_running_loop().time() == 20


@in_virtual_time
async def test_read_response_within_twenty_seconds_is_awaited() -> None:
    assert await retry_read(Question(seconds=[19.9])) == "an answer"
