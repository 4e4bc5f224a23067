"""The estimated memory of batches, and the limit for new ones."""

import sys
from dataclasses import replace
from typing import Any

import pytest

from batches.running_batches import running_batch
from batches.test_outcome import TASK
from replicate_mcp.batches.memory_limit import BATCH_BYTES, TASK_BYTES, check_memory, estimate_bytes
from replicate_mcp.errors import TooManyBatches

EMPTY = sys.getsizeof({})


def weight(*inputs: dict[str, Any]) -> int:
    """Return the size of these tasks beyond that of tasks without inputs."""
    tasks = [replace(TASK, inputs=each) for each in inputs]
    return estimate_bytes(tasks) - BATCH_BYTES - TASK_BYTES * len(tasks)


def sizes(*values: object) -> int:
    return sum(map(sys.getsizeof, values))


def test_batch_and_tasks_without_inputs_have_a_base_size() -> None:
    assert (BATCH_BYTES, TASK_BYTES) == (65_536, 2_048)
    assert weight() == 0
    assert weight({}, {}) == 2 * EMPTY


def test_every_nested_name_and_value_is_counted() -> None:
    text, inner = "x" * 1_000, ["y" * 2_000, {"z": 3.5}]
    inputs = {"prompt": text, "images": inner}
    assert weight(inputs) == sizes(
        *(inputs, "prompt", text, "images", inner, inner[0], inner[1], "z", 3.5)
    )


def test_inputs_shared_by_tasks_are_counted_once() -> None:
    image, images = "x" * 1_000_000, ["y" * 1_000_000]
    shared = {"image": image, "images": images}
    one = weight(dict(shared))
    assert one > 2_000_000
    assert weight(dict(shared), dict(shared)) == one + sys.getsizeof(dict(shared))
    assert weight(shared, shared) == one


def test_values_after_a_shared_one_are_counted() -> None:
    image, text = "x" * 1_000, "y" * 2_000
    assert weight({"text": text, "image": image}, {"image": image}) == sizes(
        *({"text": text, "image": image}, "text", text, {"image": image}, "image", image)
    )


def test_numbers_count_each_time() -> None:
    assert weight({"a": 7}, {"b": 7}) == sizes({"a": 7}, "a", 7, {"b": 7}, "b", 7)


def check(new: int, *running: tuple[str, int], most: int) -> None:
    check_memory(
        running_batch(weight=new),
        [running_batch(account=account, weight=taken) for account, taken in running],
        most,
    )


@pytest.mark.parametrize(
    ("new", "running", "is_everybodys"),
    [
        (250, [], None),
        (251, [], False),
        (100, [("acme", 150)], None),
        (101, [("acme", 150)], False),
        (250, [("other", 750)], None),
        (250, [("other", 751)], True),
        (250, [("other", 250), ("third", 500)], None),
        (1, [("acme", 250), ("other", 999)], False),
        (1, [("other", 1_000)], True),
    ],
)
def test_account_may_use_a_quarter_and_all_accounts_the_whole_memory_limit(
    new: int, running: list[tuple[str, int]], is_everybodys: bool | None
) -> None:
    if is_everybodys is None:
        return check(new, *running, most=1_000)
    with pytest.raises(TooManyBatches) as refused:
        check(new, *running, most=1_000)
    assert refused.value.is_global is is_everybodys
    return None


@pytest.mark.parametrize(("new", "sentence"), [(5, "at most 4 MiB"), (4, "at most 16 MiB")])
def test_rejection_names_the_available_memory(new: int, sentence: str) -> None:
    with pytest.raises(TooManyBatches, match=sentence):
        check(new * 2**20, ("other", 13 * 2**20), most=16 * 2**20)
