"""Tasks as callers send them: every form is read, and every fault is found."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_mcp.errors import InvalidInput
from replicate_mcp.tasks.models import SHORT_NAMES, ModelName
from replicate_mcp.tasks.task import MAX_PROMPT_CHARACTERS, MAX_TASK_PROBLEMS, Task, parse_tasks

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
def test_a_task_is_read_from_every_form_in_which_clients_send_it(raw: object) -> None:
    (task,) = parse(raw)
    assert (task.prompt, dict(task.inputs), task.problems) == ("a red car", RED, ())


@pytest.mark.parametrize("prompt", ["a fox", "[masterpiece], a fox", "{a drawing}", '"Hi" in neon'])
def test_a_string_is_a_task_with_that_prompt(prompt: str) -> None:
    assert [task.prompt for task in parse([prompt, {"prompt": prompt}])] == [prompt, prompt]
    assert [task.prompt for task in parse(prompt)] == [prompt]


@pytest.mark.parametrize("prompt", ['{"scene": "a fox", "style": "ink"}', "{'scene': 'a fox',}"])
def test_a_prompt_may_be_json_text_that_describes_the_image(prompt: str) -> None:
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
def test_a_prompt_that_is_json_text_of_tasks_is_not_drawn(prompt: str, sentence: str) -> None:
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
def test_a_request_that_holds_no_tasks_is_refused_alone(raw: object, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence) as refused:
        parse(raw)
    assert refused.value.problems == ()


def test_a_model_beside_the_tasks_is_theirs_unless_another_was_asked_for() -> None:
    wrapped = {"tasks": [RED, {**RED, "model": "a/b"}], "model": "flux-dev"}
    assert [str(task.model) for task in parse(wrapped)] == ["black-forest-labs/flux-dev", "a/b"]
    assert str(parse(wrapped, model="c/d")[0].model) == "c/d"


def test_blank_text_for_an_optional_field_is_as_if_it_were_not_given() -> None:
    blank = {"prompt": "x", "model": "", "output_filename": "", "input": ""}
    (task,) = parse([blank], model="")
    assert (str(task.model), task.output_filename) == (DEFAULT, "generated_image_1")
    assert (task.named, dict(task.inputs), task.problems) == (False, {"prompt": "x"}, ())


def test_every_fault_of_every_task_is_found() -> None:
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


def test_the_faults_of_one_task_are_bounded_and_nothing_of_it_is_kept_that_cannot_be() -> None:
    wrong = {f"input_{n}": float("nan") for n in range(50)}
    (task,) = parse([{**wrong, "prompt": "\ud83d" + "x" * MAX_PROMPT_CHARACTERS}])
    assert len(task.problems) == MAX_TASK_PROBLEMS
    assert task.prompt == "?" + "x" * (MAX_PROMPT_CHARACTERS - 1)


def test_a_filename_with_a_fault_is_not_used() -> None:
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
def test_a_recommended_model_has_its_name_without_the_owner_as_a_short_name(
    short: str, name: str
) -> None:
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
def test_whatever_is_sent_is_read_or_refused_with_sentences(raw: object, as_text: bool) -> None:
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
