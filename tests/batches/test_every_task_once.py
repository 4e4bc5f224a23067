"""Every task ends in exactly one list and appears once over all pages, with a unique filename."""

import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicate_mcp.app.batches import counts_of
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.batches.journal import JournalTask, NewBatch
from replicate_mcp.batches.outcome import outcome
from replicate_mcp.batches.planning import PlannedTask
from replicate_mcp.replicate_api.gateway import Target
from replicate_mcp.replicate_api.prediction import Prediction
from replicate_mcp.semaphores.names import account_semaphore
from replicate_mcp.semaphores.permit_store import QueueEntry
from replicate_mcp.tasks.filenames import BatchFilenames
from replicate_mcp.tasks.model_name import ModelName
from replicate_mcp.tasks.result import TaskResult, page

OWN = account_semaphore("acme")

URLS = st.builds(
    "https://replicate.delivery/{}/out{}".format,
    st.integers(0, 9),
    st.sampled_from(["-0.webp", "-0.jpg", "-1.png", "-0.jpeg", ".PNG", "", "?x=1.png"]),
)
OUTPUTS = st.recursive(
    st.one_of(URLS, st.none(), st.just(""), st.integers(), st.just("data:image/png;base64,AA")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=6,
)
ANSWERS = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["succeeded", "processing", "failed", "canceled", "aborted"]),
        "output": OUTPUTS,
        "error": st.one_of(st.none(), st.sampled_from(["out of luck", "NSFW content detected"])),
    },
    optional={
        "completed_at": st.sampled_from(["2026-11-24T10:00:00.123456789Z", "then", None]),
        "metrics": st.sampled_from([{}, {"predict_time": 1.5}, None]),
    },
)
NAMES = st.sampled_from(
    ["cat.png", "CAT.png", "cat.jpg", "cat", "cat_2.png", "my.file", "e\u0301.webp", "\u00e9.webp"]
)


def planned(index: int, name: str, expected: str | None) -> PlannedTask:
    return PlannedTask(
        index, f"prompt {index}", name, "o/m", Target(ModelName("model", "o", "m")), {},
        index, expected, 1,
    )  # fmt: skip


batches = given(
    st.lists(
        st.tuples(NAMES, st.sampled_from(["webp", "png", None]), ANSWERS, st.booleans()),
        min_size=1,
        max_size=12,
    ),
    st.randoms(use_true_random=False),
    st.integers(1, 5),
)


@settings(max_examples=30, deadline=None)
@batches
async def test_every_task_is_delivered_once_with_unique_filenames(
    drawn: list[tuple[str, str | None, dict[str, Any], bool]], dice: Any, rows_a_page: int
) -> None:
    await deliver_every_task_once(drawn, dice, rows_a_page)


@pytest.mark.soak
@settings(max_examples=1_000, deadline=None)
@batches
async def test_every_task_of_a_thousand_batches_is_delivered_once(
    drawn: list[tuple[str, str | None, dict[str, Any], bool]], dice: Any, rows_a_page: int
) -> None:
    await deliver_every_task_once(drawn, dice, rows_a_page)


async def deliver_every_task_once(
    drawn: list[tuple[str, str | None, dict[str, Any], bool]], dice: Any, rows_a_page: int
) -> None:
    tasks = [planned(n, name, expected) for n, (name, expected, _, _) in enumerate(drawn)]
    names = BatchFilenames([t.output_filename for t in tasks], [t.expected_format for t in tasks])
    backend = await SqliteBackend.open()
    try:
        await backend.declare_limit(OWN, 100, per_minute=600)
        journal = tuple(JournalTask(t.prompt, t.output_filename, t.model) for t in tasks)
        await backend.open_batch(
            NewBatch("b", "server", "acme", "replicate-global", journal),
            QueueEntry("b", (OWN,), "acme", len(tasks)),
        )
        order = list(range(len(tasks)))
        dice.shuffle(order)
        for index in order:
            _, _, answer, canceled = drawn[index]
            prediction = Prediction.from_response({"id": f"p{index}", **answer})
            result = outcome(tasks[index], prediction, names, canceled=canceled, now=1e9)
            await backend.record_results("b", [result])
            await backend.record_results("b", [result])
        seen: list[TaskResult] = []
        cursor = 0
        while True:
            state = await backend.get_batch("b")
            assert state is not None
            rows = await backend.results("b", after=cursor, limit=rows_a_page)
            answer_page = page(counts_of(state), rows, after=cursor)
            seen += [*answer_page.successful_results, *answer_page.failed_results]
            cursor = answer_page.cursor
            if cursor == answer_page.successful_count + answer_page.failed_count:
                break
        assert state.status == "completed"
        assert (state.succeeded, state.failed) == (
            sum(hasattr(row, "generated_files") for row in seen),
            sum(hasattr(row, "error_code") for row in seen),
        )
    finally:
        await backend.close()
    assert sorted(row.task_index for row in seen) == list(range(len(tasks)))
    files = [file for row in seen for file in getattr(row, "generated_files", ())]
    assert all(file.url.startswith("https://") for file in files)
    labels = [unicodedata.normalize("NFC", file.filename).casefold() for file in files]
    assert len(set(labels)) == len(labels)
