"""Whatever a model puts into its predictions, every task ends, and every permit comes back."""

import json
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batches.playback import Playback, running_playback
from hostile import HOSTILE_TEXTS, UNUSABLE_URLS
from replicate_mcp.app import App
from replicate_mcp.callers_batches import BatchRequest
from replicate_mcp.settings import Settings
from replicate_mcp.tasks.result import BatchResult

TASKS = 100
ENDED = ("succeeded", "failed", "canceled", "aborted")


class Raw(str):
    """JSON as it stands."""


RAW = [
    Raw("9" * 5_000),
    Raw("-1e999"),
    Raw("NaN"),
    Raw("[" * 1_500 + "]" * 1_500),
    Raw('{"output":' * 1_500 + '"https://replicate.delivery/a.png"' + "}" * 1_500),
    Raw('"\\ud83d"'),
    Raw('"\\u0000"'),
    Raw("[" + ",".join(['"https://replicate.delivery/a.png"'] * 300) + "]"),
    Raw("[" + ",".join(["1"] * 60_000) + "]"),
]
URLS = (
    "https://[x/",
    "https://a\uff0fb/x.png",
    "https://replicate.delivery/a.png",
    "http://replicate.delivery:99999/a.png",
    "HTTPS://REPLICATE.DELIVERY/A.PNG",
    "https://replicate.delivery/" + "a" * 70_000,
    "data:image/png;base64,AAAA",
)
TIMES = ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-11-30", "now")

values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from(HOSTILE_TEXTS + UNUSABLE_URLS + URLS + TIMES),
        st.sampled_from(RAW),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
changes = st.fixed_dictionaries(
    {},
    optional={
        name: values
        for name in (
            "output", "error", "metrics", "created_at", "completed_at", "deadline", "input",
            "logs", "model", "version", "urls", "webhook",
        )
    },
)  # fmt: skip
statuses = st.sampled_from(ENDED) | st.sampled_from(("processing", "starting", "", "\x1b[2J"))
documents = st.tuples(changes, statuses, changes, st.sampled_from(ENDED))


def written(value: Any) -> str:
    """A document as JSON, with what is raw in it as it stands."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, dict):
        return "{%s}" % ",".join(f"{json.dumps(k)}:{written(v)}" for k, v in value.items())
    if isinstance(value, list):
        return "[%s]" % ",".join(map(written, value))
    return json.dumps(value)


class Odd:
    """Answers with arbitrary predictions, one document each; every tenth is as it should be."""

    def __init__(self, playback: Playback, odd: list[Any]) -> None:
        self._odd = odd
        self._first = len(playback.predictions)

    def created(self, prediction: dict[str, Any]) -> str:
        """The answer to a creation: of any status."""
        return self._changed(prediction, 0)

    def seen(self, prediction: dict[str, Any]) -> str:
        """What a GET gives: it has ended."""
        return self._changed(prediction, 2)

    def _changed(self, prediction: dict[str, Any], place: int) -> str:
        number = int(prediction["id"][1:]) - self._first
        if number < 0 or number % 10 == 0:
            return json.dumps(prediction)
        odd = self._odd[number % len(self._odd)]
        return written({**prediction, **odd[place], "status": odd[place + 1]})


@pytest.fixture(scope="module")
def playback() -> Iterator[Playback]:
    with running_playback() as running:
        yield running


def settings_of(playback: Playback, backend: str = "memory") -> Settings:
    return Settings.model_validate(
        {
            "REPLICATE_API_TOKEN": "r8_acme",
            "REPLICATE_BASE_URL": playback.url,
            "REPLICATE_MCP_BACKEND": backend,
            "REPLICATE_CONCURRENT_LIMIT": "500",
            "REPLICATE_REQUESTS_PER_MINUTE": "1000000",
        }
    )


async def ended(app: App, batch_id: str) -> BatchResult:
    """The batch once it has ended, and no permit is out any more."""
    with anyio.fail_after(60):
        await app.batches.wait(app.caller(), batch_id, seconds=None)
        while (await app.semaphores.seen_by(app.caller()))[0].in_use:  # noqa: ASYNC110
            await anyio.sleep(0.05)
    return await app.batches.result(app.caller(), batch_id)


def every_task_ended(result: BatchResult, total: int) -> None:
    rows = [*result.successful_results, *result.failed_results]
    assert sorted(row.task_index for row in rows) == list(range(total))
    assert len(result.model_dump_json()) < total * 50_000
    for failed in result.failed_results:
        assert failed.error.isprintable()
        assert len(failed.error) <= 500


async def run_batch(playback: Playback, odd: list[Any]) -> None:
    answers = Odd(playback, odd)
    playback.created, playback.seen = answers.created, answers.seen
    async with App.running(settings_of(playback)) as app:
        tasks = [{"prompt": f"picture {number}"} for number in range(TASKS)]
        batch_id = await app.batches.start(app.caller(), BatchRequest(tasks))
        result = await ended(app, batch_id)
    every_task_ended(result, TASKS)
    assert result.successful_count >= TASKS // 10  # Those that are as they should be.
    playback.predictions.clear()


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
        HealthCheck.function_scoped_fixture,
    ],
)
@given(odd=st.lists(documents, min_size=10, max_size=TASKS))
def test_every_task_ends_whatever_its_prediction_holds(
    playback: Playback, caplog: pytest.LogCaptureFixture, odd: list[Any]
) -> None:
    anyio.run(partial(run_batch, playback, odd))
    assert [record for record in caplog.records if record.exc_info] == []
