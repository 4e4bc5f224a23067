"""Tasks as callers send them: every form is parsed, and every problem is found."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_mcp.errors import InvalidInput
from replicate_mcp.tasks.model_name import SHORT_NAMES, ModelName
from replicate_mcp.tasks.task import (
    MAX_PROMPT_CHARACTERS,
    MAX_TASK_PROBLEMS,
    OWN_FIELDS,
    Task,
    parse_tasks,
)

DEFAULT = "black-forest-labs/flux-schnell"


def parse(raw: object, **more: Any) -> list[Task]:
    return parse_tasks(raw, **{"model": None, "default_model": DEFAULT, **more})


def faults(raw: object) -> list[tuple[int | None, str | None, str]]:
    return [(p.task_index, p.field, p.error) for task in parse(raw) for p in task.problems]


RED = {"prompt": "a red car", "aspect_ratio": "16:9"}


@pytest.mark.parametrize(
    "raw",
    [
        [RED],
        RED,
        json.dumps([RED]),
        json.dumps(RED),
        json.dumps({"tasks": [RED]}),
        {"tasks": [RED]},
        {"tasks": json.dumps([RED])},
        [json.dumps(RED)],
        json.dumps([json.dumps(RED)]),
        repr([RED]),
        f"```json\n{json.dumps([RED])}\n```",
        [f"```\n{json.dumps(RED)}\n```"],
        [{"prompt": "a red car", "input": json.dumps({"aspect_ratio": "16:9"})}],
        [{"prompt": "a red car", "input": "{'aspect_ratio': '16:9',}"}],
        [{"input": RED}],
    ],
    ids=str,
)
def test_task_is_parsed_from_every_client_form(raw: object) -> None:
    (task,) = parse(raw)
    assert (task.prompt, dict(task.inputs), task.problems) == ("a red car", RED, ())


@pytest.mark.parametrize("prompt", ["a fox", "[masterpiece], a fox", "{a drawing}", '"Hi" in neon'])
def test_string_is_a_task_with_that_prompt(prompt: str) -> None:
    assert [task.prompt for task in parse([prompt, {"prompt": prompt}])] == [prompt, prompt]
    assert [task.prompt for task in parse(prompt)] == [prompt]


@pytest.mark.parametrize("prompt", ['{"scene": "a fox", "style": "ink"}', "{'scene': 'a fox',}"])
def test_prompt_may_be_json_text_describing_the_image(prompt: str) -> None:
    (task,) = parse([{"prompt": prompt}])
    assert (task.prompt, task.problems) == (prompt, ())


@pytest.mark.parametrize(
    ("prompt", "sentence"),
    [
        (json.dumps(RED), "prompt is JSON text of a task: give its fields as the task's own"),
        (json.dumps({"tasks": [RED]}), "prompt is JSON text of a task"),
        (json.dumps([RED]), "prompt is JSON text of a list: give each prompt a task of its own."),
        ('["a red car", "a blue house"]', "prompt is JSON text of a list"),
        ('{"prompt": "a red c', "prompt is JSON text that is cut off at character 20."),
        ("[1, 2]", "prompt is JSON text of a list"),
        ("{}", "prompt is JSON text of an empty object: say what to draw."),
        ('Here: {"prompt": "x"}', "prompt holds a task or a list as code"),
        ("[object Object]", "prompt holds '[object Object]', which a program writes"),
        ("undefined", "prompt holds 'undefined', which a program writes"),
    ],
)
def test_prompt_containing_a_json_task_list_is_rejected(prompt: str, sentence: str) -> None:
    ((index, field, error),) = faults([{"prompt": prompt}])
    assert (index, field) == (0, "prompt")
    assert error.startswith(sentence)


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        ('[{"prompt": "a red car"}, {"prompt": "a blu', "tasks is JSON text that is cut off at ch"),
        ({"tasks": '[{"prompt": "a'}, "tasks is JSON text that is cut off"),
        ("", "tasks is empty"),
        ("  ", "tasks is empty"),
        ("[]", "tasks is empty"),
        ({"tasks": [RED], "semaphore": "x"}, "tasks and 'semaphore': give only the list"),
        ({"tasks": 7}, "tasks must be a list"),
        ([RED] * 1_001, "1001 tasks are more than the 1000"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_request_without_tasks_is_rejected_without_task_problems(
    raw: object, sentence: str
) -> None:
    with pytest.raises(InvalidInput, match=sentence) as refused:
        parse(raw)
    assert refused.value.problems == ()


def test_model_beside_the_tasks_applies_unless_another_is_given() -> None:
    wrapped = {"tasks": [RED, {**RED, "model": "a/b"}], "model": "flux-dev"}
    assert [str(task.model) for task in parse(wrapped)] == ["black-forest-labs/flux-dev", "a/b"]
    assert str(parse(wrapped, model="c/d")[0].model) == "c/d"


def test_blank_optional_field_counts_as_omitted() -> None:
    blank = {"prompt": "x", "model": "", "output_filename": "", "input": ""}
    (task,) = parse([blank], model="")
    assert (str(task.model), task.output_filename) == (DEFAULT, "generated_image_1")
    assert (task.named, dict(task.inputs), task.problems) == (False, {"prompt": "x"}, ())


def test_every_problem_of_every_task_is_found() -> None:
    assert faults(
        [
            {"prompt": 7, "output_filename": "a/b", "model": "nope", "input": [1]},
            RED,
            {"prompt": "x", "seed": float("inf"), "lora\ud83d": 1},
            7,
            '{"prompt": "a red',
        ]
    ) == [
        (0, "input", "input must be an object of model inputs, not a list."),
        (0, "prompt", "prompt must be text, not a number."),
        (
            0,
            "output_filename",
            "output_filename 'a/b' contains a path separator '/'. It is a label, not a path: give "
            "a plain name like red_car.jpg.",
        ),
        (
            0,
            "model",
            "model 'nope' is not a model's name (write owner/name, owner/name:version, "
            f"deployments/owner/name, or a short name: {', '.join(SHORT_NAMES)}).",
        ),
        (2, "seed", "seed is not a finite number."),
        (2, "lora\ud83d", "lora\\ud83d contains half a character, an unpaired surrogate."),
        (3, None, 'must be an object like {"prompt": "a red car"}, not a number.'),
        (4, None, "the task is JSON text that is cut off at character 18."),
    ]


def test_problems_of_one_task_are_bounded_and_its_kept_prompt_is_sanitised() -> None:
    wrong = {f"input_{n}": float("nan") for n in range(50)}
    (task,) = parse([{**wrong, "prompt": "\ud83d" + "x" * MAX_PROMPT_CHARACTERS}])
    assert len(task.problems) == MAX_TASK_PROBLEMS
    assert task.prompt == "?" + "x" * (MAX_PROMPT_CHARACTERS - 1)


def test_invalid_filename_is_not_used() -> None:
    (task,) = parse([{"prompt": "x", "output_filename": "../../etc/passwd"}])
    assert (task.output_filename, task.named) == ("generated_image_1", False)


@pytest.mark.parametrize(
    ("short", "name"),
    [
        ("flux-schnell", "black-forest-labs/flux-schnell"),
        ("imagen-4", "google/imagen-4"),
        ("flux-dev", "black-forest-labs/flux-dev"),
        (" nano-banana ", "google/nano-banana"),
    ],
)
def test_recommended_model_has_its_short_name(short: str, name: str) -> None:
    assert str(ModelName.parse(short)) == name


ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from(
            ["", "[{", '{"prompt": "x"}', "[a], b", "flux-dev", "a/b", "../x", "\ud83d"]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["prompt", "model", "output_filename", "input", "tasks", "seed", ""]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@given(ANYTHING, st.booleans())
def test_arbitrary_input_is_parsed_or_rejected_with_messages(raw: object, as_text: bool) -> None:
    try:
        tasks = parse(json.dumps(raw) if as_text else raw)
    except InvalidInput:
        return
    assert [task.index for task in tasks] == list(range(len(tasks)))
    for task in tasks:
        assert all(problem.task_index == task.index for problem in task.problems)
        assert all(problem.error.endswith((".", "?")) for problem in task.problems)
        if not task.problems and isinstance(task.prompt, str):
            assert '"prompt"' not in task.prompt
            assert task.inputs["prompt"] == task.prompt


SHARED = {"prompt": "a fox", "seed": 1, "style": None, 7: "x"}


@pytest.mark.parametrize(
    ("own", "inputs"),
    [
        ({}, {"prompt": "a fox", "seed": 1, "7": "x"}),
        ({"prompt": None, "input": None}, {"prompt": "a fox", "seed": 1, "7": "x"}),
        ({"seed": 2}, {"prompt": "a fox", "seed": 2, "7": "x"}),
        ({"seed": None}, {"prompt": "a fox", "7": "x"}),
        ({"seed": 2, "input": {"seed": 3}}, {"prompt": "a fox", "seed": 3, "7": "x"}),
        ({"seed": 2, "input": {"seed": None}}, {"prompt": "a fox", "7": "x"}),
        ({"prompt": "a cat"}, {"prompt": "a cat", "seed": 1, "7": "x"}),
        ({"prompt": "a cat", "input": {}}, {"prompt": "a cat", "seed": 1, "7": "x"}),
        ({"prompt": "a", "input": {"prompt": "b"}}, {"prompt": "b", "seed": 1, "7": "x"}),
        ({8: "y", "input": {9: "z"}}, {"prompt": "a fox", "seed": 1, "7": "x", "8": "y", "9": "z"}),
        ({"style": "ink"}, {"prompt": "a fox", "seed": 1, "7": "x", "style": "ink"}),
        (
            {"model": "a/b", "output_filename": "cat.png", "tasks": 1},
            {"prompt": "a fox", "seed": 1, "7": "x", "tasks": 1},
        ),
    ],
)
def test_task_inputs_override_shared_ones_and_null_removes_one(
    own: dict[Any, Any], inputs: dict[str, Any]
) -> None:
    (task,) = parse([own], shared=SHARED)
    assert (dict(task.inputs), task.prompt, task.problems) == (inputs, inputs["prompt"], ())
    assert str(task.model) == own.get("model", DEFAULT)
    assert task.output_filename == own.get("output_filename", "generated_image_1")
    assert task.named is ("output_filename" in own)


def test_task_has_four_fields() -> None:
    assert OWN_FIELDS == ("prompt", "output_filename", "model", "input")


@pytest.mark.parametrize(
    ("shared", "error"),
    [
        ({"seed": float("inf")}, "shared inputs: seed is not a finite number."),
        ({"a\ud83d": 1}, "shared inputs: a\\ud83d contains half a character, an unpaired "),
        ({"x" * 99: 2**70}, f"shared inputs: {'x' * 60} is a number of more than 64 bits."),
    ],
)
def test_invalid_shared_input_rejects_the_request(shared: dict[str, Any], error: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse([RED], shared=shared)
    assert str(refused.value).startswith(error)


def test_shared_prompt_is_validated_with_each_task() -> None:
    tasks = parse([{}, {"prompt": "a cat"}], shared={"prompt": float("inf")})
    assert [task.prompt for task in tasks] == [None, "a cat"]
    assert [p.error for task in tasks for p in task.problems] == [
        "prompt must be text, not a number."
    ]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, "true or false"),
        (7, "a number"),
        (1.5, "a number"),
        ([], "a list"),
        ({}, "an object"),
        ({1}, "set"),
    ],
)
def test_value_of_a_wrong_type_is_named_in_the_problem(value: object, kind: str) -> None:
    assert faults([{"prompt": value}]) == [(0, "prompt", f"prompt must be text, not {kind}.")]
    assert faults([{"output_filename": value}]) == [
        (0, "output_filename", f"output_filename must be text, not {kind}.")
    ]
    model = f"model must be text like owner/name, not {kind}."
    assert faults([{"model": value}]) == [(0, "model", model)]
    with pytest.raises(InvalidInput) as refused:
        parse([RED], model=value)
    assert str(refused.value) == model
    if not isinstance(value, dict):
        example = 'must be an object like {"prompt": "a red car"}, not '
        assert faults([RED, value]) == [(1, None, f"{example}{kind}.")]
        assert faults([{"input": value}]) == [
            (0, "input", f"input must be an object of model inputs, not {kind}.")
        ]
    (task,) = parse([{"prompt": value, "seed": 1}])
    assert (task.prompt, dict(task.inputs)) == (None, {"seed": 1})


def test_null_and_text_are_named_as_wrong_types() -> None:
    assert faults([None, {"input": "seed=4"}, {"input": '["a"]'}, {"input": '{"a'}]) == [
        (0, None, 'must be an object like {"prompt": "a red car"}, not null.'),
        (1, "input", "input must be an object of model inputs, not text."),
        (2, "input", "input must be an object of model inputs, not a list."),
        (3, "input", "input is JSON text that is cut off at character 4."),
    ]


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (7, 'tasks must be a list of objects like {"prompt": "a red car"}.'),
        (None, 'tasks must be a list of objects like {"prompt": "a red car"}.'),
        ([], 'tasks is empty: give at least one, like {"prompt": "a red car"}.'),
        ({"tasks": " "}, 'tasks is empty: give at least one, like {"prompt": "a red car"}.'),
        ([RED] * 1_001, "1001 tasks are more than the 1000 of one batch: send several batches."),
        (
            {"tasks": [RED], 5: 1, "model": "a/b"},
            "tasks holds an object with tasks and '5': give only the list, "
            "with each input in its task.",
        ),
        ({"tasks": [RED], "model": 7}, "model must be text like owner/name, not a number."),
        (
            {"tasks": [RED], "model": "flux-schnel"},
            "model 'flux-schnel' is not a model's name (write owner/name, owner/name:version, "
            "deployments/owner/name, or a short name: flux-schnell): "
            "did you mean black-forest-labs/flux-schnell?",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_request_without_usable_tasks_is_rejected_with_the_full_message(
    raw: object, error: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(raw)
    assert str(refused.value) == error


def test_batch_has_at_most_a_thousand_tasks() -> None:
    assert len(parse([RED] * 1_000)) == 1_000


def test_object_with_tasks_and_a_prompt_is_one_task() -> None:
    (task,) = parse({"prompt": "a", "tasks": "b"})
    assert dict(task.inputs) == {"prompt": "a", "tasks": "b"}


def test_object_without_a_prompt_is_one_task() -> None:
    (task,) = parse({"image": "https://example.com/cat.png", "scale": 2})
    assert (task.prompt, task.problems) == (None, ())
    assert dict(task.inputs) == {"image": "https://example.com/cat.png", "scale": 2}


@pytest.mark.parametrize(("size", "shown"), [(60, "/" * 60), (61, "/" * 57 + "...")])
def test_long_filename_is_truncated_in_the_problem(size: int, shown: str) -> None:
    assert faults([{"prompt": "x", "output_filename": "/" * size}]) == [
        (
            0,
            "output_filename",
            f"output_filename '{shown}' contains a path separator '/'. It is a label, not a path: "
            "give a plain name like red_car.jpg.",
        )
    ]


def test_invalid_input_is_omitted_from_the_inputs() -> None:
    given = {"prompt": "x", "seed": float("nan"), "y" * 70: float("nan"), "size": 1}
    (task,) = parse([given])
    assert dict(task.inputs) == {"prompt": "x", "size": 1}
    assert [(p.field, p.error) for p in task.problems] == [
        ("seed", "seed is not a finite number."),
        ("y" * 70, f"{'y' * 60} is not a finite number."),
    ]


def test_at_most_ten_problems_of_a_task_are_reported() -> None:
    for count in (9, 10, 11):
        (task,) = parse([{f"input_{n}": float("nan") for n in range(count)}])
        assert len(task.problems) == min(count, 10)


def test_prompt_has_at_most_20000_characters() -> None:
    fits, long = parse(["x" * 20_000, "y" * 20_001])
    assert fits.problems == ()
    assert fits.inputs["prompt"] == "x" * 20_000
    assert [(p.field, p.error) for p in long.problems] == [
        ("prompt", "prompt has 20001 characters, over the 20000 allowed.")
    ]
    assert (long.prompt, dict(long.inputs)) == ("y" * 20_000, {})


def test_prompts_of_a_batch_total_at_most_4_mib() -> None:
    many = ["\U0001f98a" * 20_000] * 52
    assert len(parse([*many, "x" * 17_152, "x" * 17_152])) == 54
    with pytest.raises(InvalidInput) as refused:
        parse([*many, "x" * 17_152, "x" * 17_153])
    assert str(refused.value) == (
        "the prompts have 4,194,305 bytes together, over the 4,194,304 of one batch: "
        "send several batches."
    )


def test_inputs_of_a_batch_have_at_most_half_a_million_values() -> None:
    tasks: list[object] = ["x"] * 99
    shared = {"sizes": [0] * 4_990}
    assert len(parse([*tasks, {"prompt": "x", "own": [0] * 390}], shared=shared)) == 100
    with pytest.raises(InvalidInput) as refused:
        parse([*tasks, {"prompt": "x", "own": [0] * 410}], shared=shared)
    assert str(refused.value) == (
        "task 99: the inputs up to it hold over 500,000 values, shared ones counted for each "
        "task: send several batches, or smaller inputs."
    )


def test_task_repr_omits_its_inputs() -> None:
    (task,) = parse([{"prompt": "a red car", "image": "data:image/png;base64,AAAA"}])
    assert "base64" not in repr(task)


def test_lone_surrogate_in_a_prompt_is_a_problem() -> None:
    (task,) = parse([{"prompt": "a fox\ud83d"}])
    assert [(p.field, p.error) for p in task.problems] == [
        ("prompt", "prompt contains half a character, an unpaired surrogate.")
    ]
    assert (task.prompt, dict(task.inputs)) == ("a fox?", {})
