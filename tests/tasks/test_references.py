"""References to other tasks' images among a task's inputs."""

from collections.abc import Mapping
from typing import Any

import pytest

from replicate_mcp.tasks.input_schema import InputSchema
from replicate_mcp.tasks.references import (
    Reference,
    read_references,
    reference_problems,
    references_of,
    with_placeholders,
    with_references,
    with_urls,
)

FILE = {"type": "string", "format": "uri"}
FIELDS = InputSchema(
    {
        "properties": {
            "prompt": {"type": "string"},
            "image": FILE,
            "images": {"type": "array", "items": FILE},
            "style": {"type": "object"},
        }
    }
).fields


@pytest.mark.parametrize(
    ("value", "reference"),
    [
        ({"task": 0}, Reference(0)),
        ({"task": 3.0}, Reference(3)),
        ({"task": 2, "output": 1}, Reference(2, None, 1)),
        ({"batch": "b_1", "task": 2}, Reference(2, "b_1")),
        ({"batch": None, "task": 2}, Reference(2)),
        ({"batch": "b", "task": 2}, Reference(2, "b")),
        ({"batch": "b" * 60, "task": 2}, Reference(2, "b" * 60)),
        ("https://example.com/cat.png", None),
        ({"url": "https://example.com/cat.png"}, None),
        ({}, None),
        (None, None),
        (0, None),
        ([{"task": 0}], None),
    ],
)
def test_reference_is_recognised_by_its_keys(value: object, reference: Reference | None) -> None:
    assert Reference.read(value) == reference


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"task": "first"}, "task"),
        ({"task": -1}, "task"),
        ({"task": True}, "task"),
        ({"task": 1.5}, "task"),
        ({"batch": "b_1"}, "task"),
        ({"task": 0, "output": -1}, "output"),
        ({"task": 0, "output": None}, "output"),
        ({"task": 0, "index": 1}, "'index'"),
        ({"task": 0, "batch": 7}, "batch"),
        ({"task": 0, "batch": ""}, "batch"),
        ({"task": 0, "batch": "b" * 61}, "batch"),
    ],
)
def test_fault_of_a_reference_is_named(value: object, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Reference.read(value)


def test_json_of_a_reference_has_no_defaults_and_reads_back() -> None:
    for reference in (Reference(0), Reference(1, "b_1"), Reference(2, None, 3)):
        assert Reference.read(reference.as_json()) == reference
    assert Reference(0).as_json() == {"task": 0}


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"image": {"task": 0.0}}, {"image": {"task": 0}}),
        ({"image": '{"task": 0}'}, {"image": {"task": 0}}),
        (
            {"images": ["https://example.com/a.png", {"task": 1}, '{"task": 2}']},
            {"images": ["https://example.com/a.png", {"task": 1}, {"task": 2}]},
        ),
        ({"images": '[{"task": 1}]'}, {"images": [{"task": 1}]}),
    ],
)
def test_references_are_read_in_files_and_lists_of_files_as_objects_and_as_json(
    given: Mapping[str, Any], read: Mapping[str, Any]
) -> None:
    found = read_references({"prompt": "x", **given}, FIELDS)
    assert found.inputs == {"prompt": "x", **read}
    assert found.names == tuple(read)
    assert not found.faults


@pytest.mark.parametrize(
    "inputs",
    [
        {"prompt": '{"task": 0}'},
        {"style": {"task": 0}},
        {"image": "https://example.com/cat.png"},
        {"image": "[cat].png"},
        {"image": '{"task": 0'},
        {"other": {"task": 0}},
    ],
)
def test_other_inputs_are_left_as_they_are(inputs: Mapping[str, Any]) -> None:
    found = read_references(inputs, FIELDS)
    assert found.inputs == inputs
    assert not found.names
    assert not found.faults


def test_fault_is_reported_by_the_input_and_without_a_schema_it_is_the_models_own_object() -> None:
    found = read_references({"image": {"task": -1}}, FIELDS)
    assert list(found.faults) == ["image"]
    assert found.faults["image"].startswith("image refers to another task's image with task")
    unknown = read_references({"image": {"task": -1}, "mask": {"task": 0}, "prompt": "x"}, None)
    assert not unknown.faults
    assert unknown.names == ("mask",)


def test_prompt_of_a_model_with_an_unknown_schema_is_never_a_reference() -> None:
    assert not read_references({"prompt": '{"task": 0}'}, None).names


def test_long_text_is_not_searched_for_references() -> None:
    text = '{"task": 0'
    longest = text.ljust(9_999) + "}"
    assert read_references({"image": longest}, FIELDS).names == ("image",)
    assert not read_references({"image": text.ljust(10_000) + "}"}, FIELDS).names


def test_reference_names_its_image_in_a_sentence() -> None:
    assert str(Reference(1)) == "task 1"
    assert str(Reference(1, "b_1", 2)) == "image 2 of task 1 of batch b_1"


def test_placeholders_are_urls_that_a_schema_accepts() -> None:
    inputs = {"prompt": "x", "images": [{"task": 3}]}
    assert with_placeholders(inputs, ["images"]) == {
        "prompt": "x",
        "images": ["https://reference.invalid/3"],
    }


def test_references_are_replaced_in_the_named_inputs_alone() -> None:
    inputs = {"image": {"task": 0}, "images": ["u", {"task": 1}], "style": {"task": 2}}
    names = ("image", "images")
    assert list(references_of(inputs, names)) == [Reference(0), Reference(1)]
    urls = with_urls(inputs, names, lambda each: f"url {each.task}")
    assert urls == {"image": "url 0", "images": ["u", "url 1"], "style": {"task": 2}}
    moved = with_references(inputs, names, lambda each: Reference(each.task + 5, "b"))
    assert moved["images"] == ["u", {"batch": "b", "task": 6}]
    assert inputs["image"] == {"task": 0}


def problems(
    *references: Mapping[str, Reference], counts: list[int | None] | None = None
) -> list[tuple[int, str, str]]:
    return list(
        reference_problems(
            [{name: [one] for name, one in each.items()} for each in references],
            counts or [None] * len(references),
        )
    )


def test_references_forwards_backwards_and_to_earlier_batches_are_right() -> None:
    tasks = [{"image": Reference(1)}, {}, {"image": Reference(0), "mask": Reference(9, "b_1")}]
    assert problems(*tasks) == []


def test_unknown_task_is_a_problem_of_the_input() -> None:
    assert problems({"image": Reference(2)}, {}) == [
        (0, "image", "image refers to task 2, but this batch has tasks 0 to 1")
    ]
    assert problems({"image": Reference(1)})[0][2].endswith("its only task is 0")


def test_every_unknown_task_of_one_input_is_a_problem() -> None:
    several = [Reference(3, "b_1"), Reference(8), Reference(9)]
    found = list(reference_problems([{"images": several}], [1]))
    assert [sentence for _, _, sentence in found] == [
        "images refers to task 8, but its only task is 0",
        "images refers to task 9, but its only task is 0",
    ]


def test_image_beyond_a_certain_number_is_a_problem() -> None:
    third = {"image": Reference(0, None, 2)}
    assert problems({}, third, counts=[2, 1])[0][2] == (
        "image refers to image 2 of task 0, which makes 2 images, 0 to 1"
    )
    assert problems({}, third, counts=[1, 1])[0][2].endswith("which makes 1 image, number 0")
    assert problems({}, third, counts=[None, 1]) == problems({}, third, counts=[3, 1]) == []


def test_each_circle_is_named_once_at_its_first_task() -> None:
    found = problems(
        {"image": Reference(2)},
        {"mask": Reference(1)},
        {"image": Reference(3)},
        {"image": Reference(0)},
        {"image": Reference(3)},
    )
    assert found == [
        (
            0,
            "image",
            "image refers to task 2 in a circle: each of the tasks 0, 2, 3 needs the next one's "
            "image",
        ),
        (1, "mask", "mask refers to the task's own image"),
    ] or found == [
        (1, "mask", "mask refers to the task's own image"),
        (
            0,
            "image",
            "image refers to task 2 in a circle: each of the tasks 0, 2, 3 needs the next one's "
            "image",
        ),
    ]


def test_circle_of_ten_is_named_whole() -> None:
    tasks = [{"image": Reference((number + 1) % 10)} for number in range(10)]
    (problem,) = problems(*tasks)
    assert "each of the tasks 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 needs" in problem[2]


def test_long_circle_names_ten_tasks() -> None:
    tasks = [{"image": Reference((number + 1) % 1000)} for number in range(1000)]
    (problem,) = problems(*tasks)
    assert "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 990 more" in problem[2]
