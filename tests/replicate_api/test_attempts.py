"""Which prediction came of which attempt."""

import time
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_mcp.replicate_api.attempts import (
    ListedPrediction,
    OpenAttempt,
    PredictionList,
    assign,
    cannot_be_told,
    distinct_cancel_after,
    hash_inputs,
    was_not_made,
)

SENT = 1_000.0


def attempt(permit: int, prompt: str = "a red car", cancel_after: int = 600) -> OpenAttempt:
    return OpenAttempt(permit, "o/m", hash_inputs({"prompt": prompt}), cancel_after, SENT - 5)


def made(
    name: str,
    prompt: str = "a red car",
    *,
    created: float = SENT,
    lives: float | None = 600.0,
    model: str = "o/m",
    **more: Any,
) -> ListedPrediction:
    inputs = hash_inputs({"prompt": prompt, **more})
    return ListedPrediction(name, model, "", inputs, created, lives, False)


def whole(*predictions: ListedPrediction) -> PredictionList:
    return PredictionList(predictions, SENT - 5)


def cut_off(*predictions: ListedPrediction) -> PredictionList:
    return PredictionList(predictions, min(each.created_at for each in predictions))


def ids(assigned: dict[int, ListedPrediction]) -> dict[int, str]:
    return {permit: prediction.id for permit, prediction in assigned.items()}


def test_the_prediction_with_the_same_model_inputs_and_life_is_the_attempts() -> None:
    listed = [made("other", "a blue car"), made("mine"), made("elsewhere", model="o/other")]
    assert ids(assign([attempt(1)], listed, set())) == {1: "mine"}


def test_inputs_that_the_api_adds_do_not_matter() -> None:
    assert ids(assign([attempt(1)], [made("mine", num_outputs=1)], set())) == {1: "mine"}


def test_a_prediction_made_before_the_attempt_is_not_its() -> None:
    assert assign([attempt(1)], [made("old", created=SENT - 60)], set()) == {}


def test_a_prediction_that_belongs_to_another_attempt_stays_with_it() -> None:
    assert assign([attempt(1)], [made("taken")], {"taken"}) == {}


def test_equal_inputs_are_told_apart_by_their_life() -> None:
    attempts = [attempt(1, cancel_after=600), attempt(2, cancel_after=599)]
    listed = [
        made("second", lives=599.0, created=SENT),
        made("first", lives=600.0, created=SENT + 1),
    ]
    assert ids(assign(attempts, listed, set())) == {1: "first", 2: "second"}


def test_without_deadlines_the_earliest_goes_first_and_none_twice() -> None:
    listed = [made("b", created=SENT + 1, lives=None), made("a", lives=None)]
    assert sorted(ids(assign([attempt(1), attempt(2)], listed, set())).values()) == ["a", "b"]


def test_a_long_input_is_not_compared_because_the_api_may_rewrite_it() -> None:
    picture = "data:image/png;base64," + "A" * 20_000
    sent = OpenAttempt(1, "o/m", hash_inputs({"prompt": "p", "image": picture}), 600, SENT - 5)
    listed = [made("mine", "p", image="https://replicate.delivery/x")]
    assert ids(assign([sent], listed, set())) == {1: "mine"}


@pytest.mark.parametrize("length", [20, 20_000])
def test_a_data_uri_is_not_compared_wherever_it_is(length: int) -> None:
    picture = "data:image/png;base64," + "A" * length
    inputs = {"prompt": "p", "images": [picture], "more": {"mask": picture}, "strength": 1}
    sent = OpenAttempt(1, "o/m", hash_inputs(inputs), 600, SENT - 5)
    url = "https://replicate.delivery/x"
    rewritten: dict[str, Any] = {"images": [url], "more": {"mask": url}}
    assert ids(assign([sent], [made("mine", "p", **rewritten, strength=1)], set())) == {1: "mine"}
    assert assign([sent], [made("other", "p", **rewritten, strength=2)], set()) == {}


@pytest.mark.parametrize("version", ["a" * 64, "hidden", "dp-4d0bcc010b3049749a251855f12800be"])
def test_a_version_that_the_list_does_not_tell_fits_any(version: str) -> None:
    sent = replace(attempt(1), model=f"o/m:{'a' * 64}")
    assert ids(assign([sent], [replace(made("mine"), version=version)], set())) == {1: "mine"}
    assert assign([sent], [replace(made("other"), version="b" * 64)], set()) == {}


def test_a_models_name_is_the_same_in_capitals() -> None:
    sent = replace(attempt(1), model="Owner/Model")
    assert ids(assign([sent], [made("mine", model="owner/model")], set())) == {1: "mine"}


def test_hundreds_of_attempts_are_told_apart_in_the_time_in_which_their_inputs_are_read() -> None:
    begun = time.process_time()
    listed = [made(f"p{n}", f"car {n}", seed=n, num_outputs=1) for n in range(500)]
    read = time.process_time()
    inputs = [hash_inputs({"prompt": f"car {n}", "seed": n}) for n in range(500)]
    attempts = [OpenAttempt(n, "o/m", inputs[n], 600, SENT - 5) for n in range(500)]
    told = time.process_time()
    assigned = assign(attempts, listed, set())
    done = time.process_time()
    assert ids(assigned) == {n: f"p{n}" for n in range(500)}
    assert done - told < 20 * (read - begun)


def test_attempts_of_other_inputs_than_the_rest_are_told_apart_too() -> None:
    attempts = [
        OpenAttempt(1, "o/m", hash_inputs({"prompt": "a"}), 600, SENT - 5),
        OpenAttempt(2, "o/m", hash_inputs({"prompt": "a", "seed": 2}), 600, SENT - 5),
        OpenAttempt(3, "o/m", hash_inputs({"image": "data:,"}), 597, SENT - 5),
    ]
    listed = [made("b", "a", seed=2), made("a", "a", created=SENT + 1), made("c", "", lives=597.0)]
    assert ids(assign(attempts[1:], listed, set())) == {2: "b", 3: "c"}
    assert ids(assign(attempts[:1], listed, {"b"})) == {1: "a"}


def test_the_longest_life_that_no_equal_attempt_has_is_chosen() -> None:
    assert distinct_cancel_after(600, set()) == 600
    assert distinct_cancel_after(600, {600}) == 597
    assert distinct_cancel_after(600, {600, 597}) == 594
    assert distinct_cancel_after(6, {6}) == 5
    assert distinct_cancel_after(6, {6, 5}) == 6


def test_hundreds_of_equal_attempts_are_given_a_life_each() -> None:
    used: set[int] = set()
    for _ in range(301):
        used.add(distinct_cancel_after(600, used))
    assert used == set(range(300, 601))


def test_an_attempt_is_not_made_when_the_list_is_up_to_date_without_it() -> None:
    newer = made("newer", "another", created=SENT + 1.5)
    assert not was_not_made(attempt(1), whole(), set(), since=SENT, now=SENT + 3)
    assert was_not_made(attempt(1), whole(newer), {"newer"}, since=SENT, now=SENT + 3)
    assert was_not_made(attempt(1), whole(), set(), since=SENT, now=SENT + 11)


def test_a_slow_upload_counts_from_when_its_answer_was_lost() -> None:
    newer = made("newer", "another", created=SENT + 9)
    assert not was_not_made(attempt(1), whole(newer), {"newer"}, since=SENT + 12, now=SENT + 13)


def test_an_attempt_is_not_given_up_while_a_like_prediction_has_no_owner() -> None:
    assert not was_not_made(
        attempt(1), whole(made("like", lives=30.0)), set(), since=SENT, now=SENT + 60
    )


@pytest.mark.parametrize(
    "like",
    [
        made("another version", lives=30.0),
        made("in capitals", lives=30.0, model="O/M"),
        replace(made("without its inputs"), inputs={}),
    ],
    ids=lambda like: like.id,
)
def test_what_could_be_it_is_judged_loosely(like: ListedPrediction) -> None:
    sent = replace(attempt(1), model="o/m:a")
    assert not was_not_made(sent, whole(like), set(), since=SENT, now=SENT + 60)
    assert was_not_made(sent, whole(like), {like.id}, since=SENT, now=SENT + 60)


def test_a_list_that_was_cut_off_does_not_say_that_an_older_attempt_was_not_made() -> None:
    newest = cut_off(made("newest", "another", created=SENT + 30))
    older, now = attempt(1), SENT + 60
    assert not was_not_made(older, newest, {"newest"}, since=SENT, now=now)
    assert cannot_be_told(older, newest, since=SENT, now=now)
    younger = replace(older, sent_at=SENT + 31)
    assert was_not_made(younger, newest, {"newest"}, since=SENT + 36, now=now)
    assert not cannot_be_told(younger, newest, since=SENT + 36, now=now)


def test_a_list_that_was_cut_off_may_still_lag_behind_an_answer_just_lost() -> None:
    newest = cut_off(made("newest", "another", created=SENT + 30))
    assert not cannot_be_told(attempt(1), newest, since=SENT + 30, now=SENT + 31)


def test_an_attempt_older_than_fifty_minutes_cannot_be_told() -> None:
    assert not cannot_be_told(attempt(1), None, since=SENT, now=SENT + 50 * 60)
    assert cannot_be_told(attempt(1), None, since=SENT, now=SENT + 50 * 60 + 1)


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(590, 600)), max_size=6),
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(590, 600), st.floats(-20, 20)), max_size=8
    ),
)
def test_an_assignment_is_one_to_one(
    sent: list[tuple[str, int]], found: list[tuple[str, int, float]]
) -> None:
    attempts = [attempt(number, prompt, life) for number, (prompt, life) in enumerate(sent)]
    listed = [
        made(f"p{number}", prompt, lives=float(life), created=SENT + offset)
        for number, (prompt, life, offset) in enumerate(found)
    ]
    assigned = ids(assign(attempts, listed, {"p0"}))
    assert len(set(assigned.values())) == len(assigned)
    assert "p0" not in assigned.values()
