"""Planning of a task: its inputs, the seed and format chosen for it, and its problems."""

import random
from pathlib import Path
from typing import Any, cast

import anyio.to_thread
import pytest

from replicate_mcp.batches.local_images import LocalImages
from replicate_mcp.batches.planning import PlannedTask, check_problems, find_models, plan
from replicate_mcp.errors import InvalidInput, ModelNotFound, TaskProblem, Unauthorized
from replicate_mcp.replicate_api.exceptions import ApiStatusError
from replicate_mcp.replicate_api.gateway import Target
from replicate_mcp.replicate_api.model_resolver import Model, ModelResolver
from replicate_mcp.tasks.input_schema import InputSchema
from replicate_mcp.tasks.model_name import ModelName
from replicate_mcp.tasks.task import MAX_TASK_PROBLEMS, Task

NAME = ModelName.parse("o/m")
PNG = b"\x89PNG\r\n\x1a\n"
URI = {"type": "string", "format": "uri"}
PROPERTIES: dict[str, Any] = {
    "prompt": {"type": "string"},
    "seed": {"type": "integer", "minimum": 5, "maximum": 9},
    "num_outputs": {"type": "integer", "default": 1, "maximum": 4},
    "output_format": {"enum": ["webp", "jpeg", "png"], "default": "webp"},
    "image": URI,
    "images": {"type": "array", "items": URI},
    "text": {"type": "string"},
}


def model(
    properties: dict[str, Any] | None = None, *, streams_output: bool = False, **more: Any
) -> Model:
    inputs = {"properties": PROPERTIES if properties is None else properties, **more}
    document = {"components": {"schemas": {"Input": inputs}}}
    return Model(Target(NAME, "v1"), InputSchema.from_openapi(document), streams_output)


UNCHECKED = Model(Target(NAME, "", is_resolved=False), None)


def task(name: str | None = "fox.png", *problems: TaskProblem, **inputs: Any) -> Task:
    prompt = inputs.get("prompt")
    return Task(0, prompt, name or "generated_image_1", NAME, inputs, name is not None, problems)


async def planned(
    each: Task, found: Model | None, folder: Path | None = None, seed: int = 1
) -> PlannedTask:
    (one,) = await plan(
        [each], {NAME: found}, LocalImages(folder, "Nothing."), dice=random.Random(seed)
    )
    return one


async def test_planned_task_has_the_inputs_its_model_receives() -> None:
    found = await planned(task(prompt="a fox", seed=7, num_outputs=2), model())
    assert found == PlannedTask(
        index=0,
        prompt="a fox",
        output_filename="fox.png",
        model="o/m",
        target=Target(NAME, "v1"),
        inputs={"prompt": "a fox", "seed": 7, "num_outputs": 2, "output_format": "png"},
        seed=7,
        expected_format="png",
        expected_count=2,
        complete_at_count=2,
        problems=(),
    )


async def test_task_repr_omits_its_inputs() -> None:
    shown = repr(await planned(task(prompt="x", text="a secret"), model()))
    assert "a secret" not in shown
    assert "fox.png" in shown


async def test_seed_is_chosen_when_the_model_has_one_and_the_task_sets_none() -> None:
    seeds = {(await planned(task(prompt="x"), model(), seed=n)).seed for n in range(60)}
    assert seeds == {5, 6, 7, 8, 9}
    found = await planned(task(prompt="x"), model({"prompt": {"type": "string"}}))
    assert (found.seed, "seed" in found.inputs) == (None, False)
    one = await planned(task(prompt="x"), model())
    assert one.inputs["seed"] == one.seed


async def test_seed_is_drawn_from_the_given_random_generator() -> None:
    found = model({"seed": {"type": "integer", "minimum": 0, "maximum": 10**9}})
    one, same, other = [(await planned(task(), found, seed=n)).seed for n in (1, 1, 2)]
    assert one == same != other
    tasks = [task(), task()]
    first, second = await plan(tasks, {NAME: found}, LocalImages(None))
    assert first.seed != second.seed


async def test_input_is_converted_to_the_type_of_the_schema() -> None:
    found = await planned(task(prompt="x", seed=7.0), model())
    assert (found.inputs["seed"], type(found.inputs["seed"]), found.seed) == (7, int, 7)


@pytest.mark.parametrize(
    ("inputs", "in_thread"),
    [
        ({"text": "x" * 1_000, "image": "https://x/y.png"}, False),
        ({"images": ["https://x/y.png"]}, False),
        ({"text": "x" * 30_000}, True),  # Converting it may take as long as parsing JSON does.
        ({"image": "cat.png"}, True),
        ({"images": ["https://x/y.png", "cat.png"]}, True),
    ],
)
async def test_only_slow_validation_runs_in_a_thread(
    inputs: dict[str, Any], in_thread: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    threads: list[Any] = []
    run_sync = anyio.to_thread.run_sync

    async def recorded(work: Any, *args: Any, **options: Any) -> Any:
        threads.append(work)
        return await run_sync(work, *args, **options)

    monkeypatch.setattr(anyio.to_thread, "run_sync", recorded)
    (tmp_path / "cat.png").write_bytes(PNG)
    assert (await planned(task(prompt="x", **inputs), model(), tmp_path)).problems == ()
    assert len(threads) == in_thread


@pytest.mark.parametrize(
    ("given", "seed"), [(7, 7), (7.0, 7), (0, 0), ("7", None), (7.5, None), (None, None)]
)
async def test_whole_number_seed_is_reported_without_a_schema(
    given: object, seed: int | None
) -> None:
    found = await planned(task(prompt="x", seed=given), UNCHECKED)
    assert found.seed == seed
    assert found.inputs["seed"] == given


@pytest.mark.parametrize(
    ("name", "inputs", "asked", "expected"),
    [
        # The filename requests a format, translated to the model's own value.
        ("fox.png", {}, "png", "png"),
        ("fox.jpg", {}, "jpeg", "jpeg"),
        ("fox.JPEG", {}, "jpeg", "jpeg"),
        # The task's own input takes precedence.
        ("fox.png", {"output_format": "jpeg"}, "jpeg", "jpeg"),
        # A format that the model lacks, or no format.
        ("fox.gif", {}, None, "webp"),
        ("fox", {}, None, "webp"),
        (None, {}, None, "webp"),
    ],
)
async def test_filename_extension_requests_the_output_format(
    name: str | None, inputs: dict[str, Any], asked: str | None, expected: str
) -> None:
    found = await planned(task(name, prompt="x", **inputs), model())
    assert found.inputs.get("output_format") == asked
    assert found.expected_format == expected


async def test_generated_filename_requests_no_format() -> None:
    unnamed = Task(0, "x", "fox.png", NAME, {"prompt": "x"}, named=False)
    assert "output_format" not in (await planned(unnamed, model())).inputs


@pytest.mark.parametrize(("name", "expected"), [("fox.jpeg", "jpg"), ("fox", None)])
async def test_expected_format_comes_from_filename_when_schema_is_missing(
    name: str, expected: str | None
) -> None:
    found = await planned(task(name, prompt="x"), UNCHECKED)
    assert found.expected_format == expected
    assert found.inputs == {"prompt": "x"}
    assert found.target == Target(NAME, "", is_resolved=False)


@pytest.mark.parametrize(
    ("found", "inputs", "count", "whole_with"),
    [
        (model(), {}, 1, 1),
        (model(), {"num_outputs": 3}, 3, 3),
        (model(streams_output=True), {"num_outputs": 3}, 3, None),
        (UNCHECKED, {"num_images": 3}, 3, None),
    ],
)
async def test_number_of_images_is_counted(
    found: Model, inputs: dict[str, Any], count: int, whole_with: int | None
) -> None:
    one = await planned(task(prompt="x", **inputs), found)
    assert (one.expected_count, one.complete_at_count) == (count, whole_with)


@pytest.mark.parametrize("prompt", ["", "  \n"])
async def test_blank_prompt_is_omitted_without_a_schema(prompt: str) -> None:
    found = await planned(task(prompt=prompt, seed=1), UNCHECKED)
    assert found.inputs == {"seed": 1}
    assert found.prompt is None
    kept = await planned(task(prompt=" x"), UNCHECKED)
    assert kept.inputs == {"prompt": " x"}


# Problems.


async def test_invalid_task_has_all_problems_and_no_inputs() -> None:
    first = TaskProblem(0, "prompt", "prompt must be text.")
    given = task("fox.png", first, num_outputs=9, seed="x")
    found = await planned(given, model())
    assert [problem.field for problem in found.problems] == ["prompt", "seed", "num_outputs"]
    assert [problem.task_index for problem in found.problems] == [0, 0, 0]
    assert all(problem.error.endswith((".", "?")) for problem in found.problems)
    assert (found.inputs, found.seed, found.expected_count) == ({}, None, 0)
    assert (found.expected_format, found.complete_at_count) == (None, None)
    assert found.target == Target(NAME, "")
    assert found.output_filename == "fox.png"


@pytest.mark.parametrize(("prompt", "kept"), [("a fox", "a fox"), ("", None), (None, None)])
async def test_invalid_task_keeps_its_non_empty_prompt(
    prompt: str | None, kept: str | None
) -> None:
    faulty = Task(0, prompt, "x", NAME, {}, True, (TaskProblem(0, None, "It is wrong."),))
    assert (await planned(faulty, model())).prompt == kept


async def test_known_problem_of_an_input_is_its_only_problem() -> None:
    known = TaskProblem(0, "seed", "seed is not a finite number.")
    given = task("fox.png", known, prompt="x", seed="y")
    found = await planned(given, model())
    assert found.problems == (known,)


@pytest.mark.parametrize("field", [None, "model"])
async def test_inputs_of_an_unreadable_task_are_not_validated(field: str | None) -> None:
    known = TaskProblem(0, field, "It is wrong.")
    for found in (model(), None):
        one = await planned(task("fox.png", known, num_outputs=9), found)
        assert one.problems == (known,)


async def test_unknown_model_is_a_single_problem() -> None:
    (problem,) = (await planned(task(prompt="x", num_outputs=9), None)).problems
    assert (problem.task_index, problem.field, problem.code) == (0, "model", "model_not_found")
    assert problem.error == (
        "Replicate knows no model 'o/m': check its name, owner/name as on replicate.com."
    )


async def test_problem_of_combined_inputs_has_no_field() -> None:
    found = await planned(task(None, prompt="x", seed=5), model(maxProperties=1))
    assert [problem.field for problem in found.problems] == [None]


async def test_problems_of_a_task_are_limited_to_the_maximum() -> None:
    known = [TaskProblem(0, f"f{n}", "It is wrong.") for n in range(MAX_TASK_PROBLEMS - 1)]
    found = await planned(task("fox.png", *known, num_outputs=9, seed="x"), model())
    assert len(found.problems) == MAX_TASK_PROBLEMS
    assert found.problems[:-1] == tuple(known)


def faulty(*codes: str) -> list[PlannedTask]:
    """Return tasks with one problem of each code; "" for none."""
    problems = [
        (TaskProblem(n, None, "Wrong.", cast(Any, code)),) if code else ()
        for n, code in enumerate(codes)
    ]
    return [
        PlannedTask(n, "x", "x", "o/m", Target(NAME), {}, None, None, 1, problems=each)
        for n, each in enumerate(problems)
    ]


@pytest.mark.parametrize(
    ("codes", "skip_invalid", "refused"),
    [
        (["", ""], False, None),
        (["", "invalid_input"], False, InvalidInput),
        (["", "invalid_input"], True, None),
        (["invalid_input", "invalid_input"], True, InvalidInput),
        (["model_not_found"] * 2, False, ModelNotFound),
        (["model_not_found", "invalid_input"], False, InvalidInput),
    ],
)
def test_invalid_tasks_reject_a_batch_unless_skipped_with_valid_tasks_left(
    codes: list[str], skip_invalid: bool, refused: type[Exception] | None
) -> None:
    if refused is None:
        return check_problems(faulty(*codes), skip_invalid=skip_invalid)
    with pytest.raises(refused) as caught:
        check_problems(faulty(*codes), skip_invalid=skip_invalid)
    assert isinstance(caught.value, InvalidInput | ModelNotFound)
    assert len(caught.value.problems) == len([code for code in codes if code])
    return None


# Local images.


async def test_path_in_a_file_input_is_replaced_by_its_attachment(
    tmp_path: Path,
) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    given = task(prompt="cat.png", image="cat.png", images=["https://x/y.png", "cat.png"])
    found = await planned(given, model(), tmp_path)
    uri = (tmp_path / "cat.png").as_uri()
    assert found.problems == ()
    assert found.inputs["image"] == uri
    assert found.inputs["images"] == ["https://x/y.png", uri]
    assert found.inputs["prompt"] == "cat.png"


async def test_only_paths_in_a_list_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    found = await planned(task(prompt="x", images=["cat.png"]), model(), tmp_path)
    assert found.inputs["images"] == [(tmp_path / "cat.png").as_uri()]


@pytest.mark.parametrize("inputs", [{"image": 7}, {"images": [7]}, {"images": ["cat.png", None]}])
async def test_non_text_file_input_is_a_problem(inputs: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(PNG)
    (problem,) = (await planned(task(prompt="x", **inputs), model(), tmp_path)).problems
    assert problem.field in inputs
    assert problem.code == "invalid_input"


async def test_missing_path_is_a_problem_of_its_input(tmp_path: Path) -> None:
    given = task(prompt="x", image="cat.png", images=["https://x/y.png", "dog.png"])
    found = await planned(given, model(), tmp_path)
    assert [problem.field for problem in found.problems] == ["image", "images"]
    first, second = (problem.error for problem in found.problems)
    assert first.startswith("image 'cat.png' is not there: ")
    assert second.startswith("images[1] 'dog.png' is not there: ")


@pytest.mark.parametrize("value", ["https://x/y.png", "data:image/png;base64,AA", '["a.png"]', ""])
async def test_non_path_value_is_left_to_the_schema(tmp_path: Path, value: str) -> None:
    found = await planned(task(prompt="x", text="cat.png", image=value), model(), tmp_path)
    assert all("is not there" not in problem.error for problem in found.problems)


async def test_inputs_are_not_treated_as_paths_without_a_schema(tmp_path: Path) -> None:
    found = await planned(task(prompt="x", image="cat.png"), UNCHECKED, tmp_path)
    assert (found.inputs["image"], found.problems) == ("cat.png", ())


async def test_each_model_is_resolved_once() -> None:
    other = ModelName.parse("o/other")
    seen: list[Any] = []

    class Known:
        async def find(self, *arguments: Any) -> Model | None:
            seen.append(arguments)
            return UNCHECKED if arguments[0] == NAME else None

    tasks = [task(prompt="x"), task(prompt="y"), Task(2, "z", "z", other, {})]
    gateway = cast(Any, object())
    found = await find_models(tasks, gateway, cast(ModelResolver, Known()), "acme")
    assert found == {NAME: UNCHECKED, other: None}
    assert sorted(seen, key=str) == sorted(
        [(NAME, gateway, "acme"), (other, gateway, "acme")], key=str
    )


async def test_refusal_of_a_model_lookup_is_raised_as_a_public_error() -> None:
    class Refused:
        async def find(self, *arguments: Any) -> Model | None:
            raise ApiStatusError(401, "no such token")

    with pytest.raises(Unauthorized):
        await find_models(
            [task(prompt="x")], cast(Any, object()), cast(ModelResolver, Refused()), "acme"
        )
