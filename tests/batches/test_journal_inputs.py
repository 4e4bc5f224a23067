"""Inputs in the journal: encoded and decoded without loss, shared ones once, within a limit."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batches.test_outcome import TASK
from replicate_mcp.batches.journal_inputs import (
    MAX_INPUTS_BYTES,
    RecordedInputs,
    decode_inputs,
    encode_inputs,
)
from replicate_mcp.batches.planning import PlannedTask
from replicate_mcp.errors import InvalidInput, TaskProblem

VALUES = st.recursive(
    st.booleans() | st.integers(-3, 3) | st.sampled_from([1.0, 0.5, "", "a\nb", "é", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner),
    max_leaves=5,
)
INPUTS = st.dictionaries(st.sampled_from(["prompt", "seed", "image", "x"]), VALUES, max_size=4)


def planned(index: int, inputs: dict[str, Any]) -> PlannedTask:
    return replace(TASK, index=index, inputs=inputs, prompt=inputs.get("prompt"))


@given(st.lists(INPUTS, min_size=1, max_size=4), st.none() | st.integers(1, 9))
def test_decoded_inputs_are_those_that_were_encoded(
    given_inputs: list[dict[str, Any]], max_running: int | None
) -> None:
    tasks = [planned(index, inputs) for index, inputs in enumerate(given_inputs)]
    recorded = decode_inputs(encode_inputs(tasks, max_running=max_running))
    assert recorded.max_running == max_running
    expected = [{k: v for k, v in each.items() if k != "prompt"} for each in given_inputs]
    # True and 1 are equal, but different inputs.
    assert list(map(repr, map(_sorted, expected))) == [
        repr(_sorted(dict(each.inputs or {}))) for each in recorded.tasks
    ]


def _sorted(inputs: dict[str, Any]) -> list[tuple[str, Any]]:
    return sorted(inputs.items())


def test_shared_inputs_are_written_once_and_prompts_not_at_all() -> None:
    workflow = "w" * 50_000
    tasks = [planned(n, {"prompt": "p" * 9, "workflow": workflow, "n": n}) for n in range(100)]
    text = encode_inputs(tasks, max_running=None)
    assert text.count(workflow) == 1
    assert "ppp" not in text
    assert decode_inputs(text).tasks[99].inputs == {"workflow": workflow, "n": 99}


def test_expectations_are_kept_and_refused_tasks_and_secrets_are_not() -> None:
    made = replace(
        planned(0, {"x": 1}), expected_format="png", expected_count=3, complete_at_count=None
    )
    refused = replace(planned(1, {}), problems=(TaskProblem(1, None, "is wrong"),))
    secret = replace(planned(2, {"hf_token": "hidden", "x": 1}), secrets=("hf_token",))
    text = encode_inputs([made, refused, secret], max_running=2)
    assert "hidden" not in text
    first, second, third = decode_inputs(text).tasks
    assert first == RecordedInputs({"x": 1}, "png", 3, None)
    assert (second.inputs, second.secrets) == (None, ())
    assert (third.inputs, third.secrets) == (None, ("hf_token",))


def test_equal_inputs_of_two_tasks_are_shared_although_a_refused_one_lacks_them() -> None:
    tasks = [planned(n, {"workflow": ["w" * 99, 1]}) for n in range(2)]
    refused = replace(planned(2, {}), problems=(TaskProblem(2, None, "is wrong"),))
    text = encode_inputs([*tasks, refused], max_running=None)
    assert text.count("w" * 99) == 1
    assert " " not in text
    assert [each.inputs for each in decode_inputs(text).tasks] == [
        {"workflow": ["w" * 99, 1]},
        {"workflow": ["w" * 99, 1]},
        None,
    ]


def test_secret_of_every_task_is_not_kept_as_a_shared_input() -> None:
    tasks = [replace(planned(n, {"hf_token": "hidden"}), secrets=("hf_token",)) for n in range(2)]
    assert "hidden" not in encode_inputs(tasks, max_running=None)


@pytest.mark.parametrize("pair", [(True, 1), (0, False), (1, 1.0), ([True], [1])])
def test_equal_inputs_of_different_types_are_not_shared(pair: tuple[Any, Any]) -> None:
    tasks = [planned(n, {"x": value}) for n, value in enumerate(pair)]
    recorded = decode_inputs(encode_inputs(tasks, max_running=None))
    assert repr([(each.inputs or {})["x"] for each in recorded.tasks]) == repr(list(pair))


def test_recorded_inputs_are_hidden_in_repr_and_of_one_image_by_default() -> None:
    recorded = RecordedInputs({"image": "private"})
    assert "private" not in repr(recorded)
    assert recorded.expected_count == 1


def test_inputs_may_take_exactly_the_limit() -> None:
    def encode(size: int) -> str:
        return encode_inputs([planned(0, {}), planned(1, {"a": "x" * size})], max_running=None)

    spare = MAX_INPUTS_BYTES - len(encode(1).replace("\n", ""))
    assert len(encode(1 + spare).replace("\n", "")) == MAX_INPUTS_BYTES
    with pytest.raises(InvalidInput):
        encode(2 + spare)


def test_inputs_over_the_limit_are_refused_by_the_first_task_beyond_it() -> None:
    half = "x" * (MAX_INPUTS_BYTES // 2 - 100)
    tasks = [planned(n, {"a": f"{n}{half}"}) for n in range(3)]
    assert encode_inputs(tasks[:2], max_running=None)
    with pytest.raises(InvalidInput, match="task 2: the inputs up to it have more than 16 MiB"):
        encode_inputs(tasks, max_running=None)
