"""The message of a rejected request with many problems."""

import pytest

from replicate_mcp.errors import (
    MAX_PROBLEMS,
    InvalidInput,
    ModelNotFound,
    TaskProblem,
    refusal_of,
)


def test_equal_problems_are_reported_once_with_their_task_numbers() -> None:
    wrong = [TaskProblem(n, "seed", "seed 'x' is not a whole number.") for n in (0, 1, 2, 5, 7)]
    wrong.insert(1, TaskProblem(0, "model", "model 'y' is unknown: did you mean z?"))
    error = refusal_of(wrong)
    assert str(error) == (
        "tasks 0-2, 5, 7: seed 'x' is not a whole number; task 0: model 'y' is unknown: did you "
        "mean z?"
    )
    assert error.problems == tuple(wrong)


@pytest.mark.parametrize(
    ("clause", "sentence"),
    [
        ("seed 'x' is not a number", "seed 'x' is not a number."),
        ("It is wrong.", "It is wrong."),
        ("model 'y' is unknown: did you mean z?", "model 'y' is unknown: did you mean z?"),
        ("It is cut…", "It is cut…"),
    ],
)
def test_problem_ends_its_sentence_once(clause: str, sentence: str) -> None:
    problem = TaskProblem(0, "seed", clause)
    assert problem.error == sentence
    assert str(refusal_of([problem])) == f"task 0: {sentence}"


def test_several_problems_of_one_task_name_it_once() -> None:
    error = refusal_of(
        [TaskProblem(3, "a", "a is wrong: did you mean b?"), TaskProblem(3, "c", "c.")]
    )
    assert str(error) == "task 3: a is wrong: did you mean b? c."


def test_message_has_the_first_ten_problems_and_all_are_listed() -> None:
    wrong = [TaskProblem(n, "seed", f"seed {n} is wrong.") for n in range(40)]
    error = refusal_of(wrong)
    assert str(error).startswith("task 0: seed 0 is wrong; task 1: seed 1 is wrong; ")
    assert str(error).endswith("task 9: seed 9 is wrong (and 30 more).")
    assert len(error.problems) == 40


def test_rejection_message_is_bounded() -> None:
    wrong = [TaskProblem(n, "x" * 10_000, f"{n} " + "y" * 10_000) for n in range(5_000)]
    error = refusal_of(wrong)
    assert len(error.problems) == MAX_PROBLEMS
    assert len(str(error)) < 9_000
    assert sum(len(each.error) + len(each.field or "") for each in error.problems) < 1_000_000


@pytest.mark.parametrize(
    ("codes", "kind"),
    [
        (["model_not_found"] * 2, ModelNotFound),
        (["model_not_found", "invalid_input"], InvalidInput),
        (["invalid_input"], InvalidInput),
    ],
)
def test_only_unknown_models_give_model_not_found(codes: list[str], kind: type[Exception]) -> None:
    wrong = [TaskProblem(n, None, "x.", code) for n, code in enumerate(codes)]  # type: ignore[arg-type]
    assert type(refusal_of(wrong)) is kind


def test_serialised_problem_omits_absent_values() -> None:
    assert TaskProblem(0, "seed", "x.").as_json() == {
        "task_index": 0,
        "field": "seed",
        "error": "x.",
    }
    assert TaskProblem(None, None, "x.").as_json() == {"error": "x."}


def test_serialised_error_has_its_problems_only_if_it_has_any() -> None:
    assert InvalidInput("x.").as_json() == {
        "error": "x.",
        "error_code": "invalid_input",
        "retryable": False,
    }
    problem = TaskProblem(1, "seed", "seed is wrong.")
    assert refusal_of([problem]).as_json() == {
        "error": "task 1: seed is wrong.",
        "error_code": "invalid_input",
        "retryable": False,
        "problems": [problem.as_json()],
    }
