"""Arbitrary predictions: every task ends and every permit is released, whatever a model returns."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from batches.playback import Playback, running_playback
from hostile import HOSTILE_TEXTS, UNUSABLE_URLS
from replicate_mcp.app.app import App
from replicate_mcp.app.preparation import BatchRequest
from replicate_mcp.settings import Settings
from replicate_mcp.tasks.result import BatchResult, TaskResult

TASKS = 30
"""Tasks of a batch; those of the soak have more."""

MANY_TASKS = 100
ENDED = ("succeeded", "failed", "canceled", "aborted")


class Raw(str):
    """JSON text inserted unchanged."""


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
FIELDS = ["output", "error", "metrics", "created_at", "completed_at", "deadline", "input"]
FIELDS += ["logs", "model", "version", "urls", "webhook"]
MODELS_FIELDS = ["output", "error", "metrics", "logs"]
"""Fields of a row that a model writes; the others are Replicate's own."""

changes = st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, values))
statuses = st.sampled_from(ENDED) | st.sampled_from(("processing", "starting", "", "\x1b[2J"))
documents = st.tuples(changes, statuses, changes, st.sampled_from(ENDED))


def written(value: Any) -> str:
    """Return a document as JSON, with `Raw` values inserted unchanged."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, dict):
        return f"{{{','.join(f'{json.dumps(k)}:{written(v)}' for k, v in value.items())}}}"
    if isinstance(value, list):
        return f"[{','.join(map(written, value))}]"
    return json.dumps(value)


class ArbitraryResponses:
    """Responses with arbitrary predictions, one document each; every tenth is valid."""

    def __init__(self, playback: Playback, drawn: list[Any]) -> None:
        self._drawn = drawn
        playback.predictions.clear()

    def created(self, prediction: dict[str, Any]) -> str:
        """Return the response to a creation, with any status."""
        return self._changed(prediction, 0)

    def seen(self, prediction: dict[str, Any]) -> str:
        """Return the response to a GET: the prediction has ended."""
        return self._changed(prediction, 2)

    def listed(self, prediction: dict[str, Any]) -> str:
        """Return the prediction's row in the list, of which a model influences only some fields."""
        return self._changed(prediction, 2, MODELS_FIELDS)

    def others(self) -> list[str]:
        """Return list rows of other programs, of any shape."""
        return [written(each[0]) for each in self._drawn] + ["null", "[]", '{"id": 5}', '"text"']

    def _changed(
        self, prediction: dict[str, Any], place: int, fields: Sequence[str] = FIELDS
    ) -> str:
        number = int(prediction["id"][1:])
        if number % 10 == 0:
            return json.dumps(prediction)
        drawn = self._drawn[number % len(self._drawn)]
        changed = {name: value for name, value in drawn[place].items() if name in fields}
        return written({**prediction, **changed, "status": drawn[place + 1]})


@pytest.fixture(scope="module")
def playback() -> Iterator[Playback]:
    with running_playback(Playback()) as running:
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
    """Return the ended batch, once no permit is held any more."""
    with anyio.fail_after(60):
        await app.batches.wait(app.caller(), batch_id, seconds=None)
        while (await app.semaphores.list_for(app.caller()))[0].in_use:
            await anyio.sleep(0.05)
    return await app.batches.result(app.caller(), batch_id)


def every_task_ended(result: BatchResult, total: int) -> None:
    rows: list[TaskResult] = [*result.successful_results, *result.failed_results]
    assert sorted(row.task_index for row in rows) == list(range(total))
    assert len(result.model_dump_json()) < total * 50_000
    for failed in result.failed_results:
        assert failed.error.isprintable()
        assert len(failed.error) <= 500


async def run_batch(playback: Playback, drawn: list[Any], total: int = TASKS) -> None:
    answers = ArbitraryResponses(playback, drawn)
    playback.created, playback.seen = answers.created, answers.seen
    async with App.running(settings_of(playback)) as app:
        tasks = [{"prompt": f"picture {number}"} for number in range(total)]
        batch_id = await app.batches.start(app.caller(), BatchRequest(tasks))
        result = await ended(app, batch_id)
    every_task_ended(result, total)
    assert result.successful_count >= total // 10  # The valid ones.


async def run_and_recover(
    playback: Playback, folder: Path, drawn: list[Any], total: int = TASKS
) -> None:
    """Create all tasks in a process that dies without a response; recover them in another."""
    answers = ArbitraryResponses(playback, drawn)
    playback.created, playback.seen = None, answers.seen
    playback.listed, playback.others = answers.listed, answers.others()
    state = f"sqlite://{folder / 'state.db'}"
    async with App.running(settings_of(playback, state)) as app:
        tasks = [{"prompt": f"picture {number}"} for number in range(total)]
        batch_id = await app.batches.start(app.caller(), BatchRequest(tasks))
        with anyio.fail_after(60):
            while len(playback.predictions) < total:
                await anyio.sleep(0.02)
    async with App.running(settings_of(playback, state)) as app:
        result = await ended(app, batch_id)
    every_task_ended(result, total)
    assert result.successful_count >= total // 10
    assert len(playback.predictions) == total  # Nothing was created twice.


def arbitrary_batches(count: int) -> Callable[[Any], Any]:
    """Run a test with `count` lists of arbitrary documents."""
    checks = list(HealthCheck)
    chosen = settings(max_examples=count, deadline=None, suppress_health_check=checks)
    lists = st.lists(documents, min_size=10, max_size=MANY_TASKS)
    return lambda test: chosen(given(drawn=lists)(test))


def no_traceback(caplog: pytest.LogCaptureFixture) -> bool:
    return not any(record.exc_info for record in caplog.records)


@arbitrary_batches(3)
def test_every_task_ends_for_arbitrary_predictions(
    playback: Playback, caplog: pytest.LogCaptureFixture, drawn: list[Any]
) -> None:
    anyio.run(run_batch, playback, drawn)
    assert no_traceback(caplog)


@arbitrary_batches(1)
def test_every_attempt_is_recovered_for_arbitrary_predictions(
    playback: Playback,
    caplog: pytest.LogCaptureFixture,
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[Any],
) -> None:
    anyio.run(run_and_recover, playback, tmp_path_factory.mktemp("state"), drawn)
    assert no_traceback(caplog)


@pytest.mark.soak
@arbitrary_batches(100)
def test_ten_thousand_arbitrary_predictions(
    playback: Playback, caplog: pytest.LogCaptureFixture, drawn: list[Any]
) -> None:
    anyio.run(run_batch, playback, drawn, MANY_TASKS)
    assert no_traceback(caplog)


@pytest.mark.soak
@arbitrary_batches(20)
def test_two_thousand_arbitrary_predictions_are_recovered(
    playback: Playback,
    caplog: pytest.LogCaptureFixture,
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[Any],
) -> None:
    anyio.run(run_and_recover, playback, tmp_path_factory.mktemp("state"), drawn, MANY_TASKS)
    assert no_traceback(caplog)
