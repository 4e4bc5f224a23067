"""Values that JSON cannot represent, the number of values, and limits of the validation effort."""

import math
from typing import Any

import pytest

from replicate_mcp.tasks.effort import (
    MAX_COMPARISONS,
    Effort,
    EffortSpent,
    may_compare,
    metered,
    spending,
)
from replicate_mcp.tasks.json_limits import MAX_DEPTH, Unreadable, count_values, json_problem


def nested(depth: int, inside: Any = 1) -> Any:
    for level in range(depth):
        inside = [inside] if level % 2 else {"a": inside}
    return inside


HALF = "contains half a character, an unpaired surrogate"
BITS = "is a number of more than 64 bits"
FINITE = "is not a finite number"
NOTHING = "is nothing that JSON can hold"
PLAIN: list[object] = [None, "", "é", "x" * 99, True, 0, -1, 1.5, [], {}, [{}]]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        *[(value, None) for value in PLAIN],
        (2**64 - 1, None),
        (2**64, BITS),
        (-(2**64), BITS),
        (math.inf, FINITE),
        (-math.inf, FINITE),
        (math.nan, FINITE),
        ("a\ud800", HALF),
        ("\udfff", HALF),
        ("\ue000", None),
        ({"a": [1, "\ud800"]}, HALF),
        ({"\ud800": 1}, HALF),
        ([1, math.nan, "\ud800"], FINITE),
        (Unreadable("cannot be read"), "cannot be read"),
        ([Unreadable("cannot be read")], "cannot be read"),
        ({1, 2}, NOTHING),
        ((1, 2), NOTHING),
        (b"x", NOTHING),
        ([object()], NOTHING),
        (nested(MAX_DEPTH + 1), None),
        (nested(MAX_DEPTH + 2), "is nested more than 30 deep"),
    ],
)
def test_unserialisable_value_is_reported(value: object, why: str | None) -> None:
    assert json_problem(value) == why


@pytest.mark.parametrize(
    ("value", "count"),
    [(1, 1), ("abc", 1), (None, 1), ([], 1), ([1, 2], 3), ({"a": 1}, 3), ({"a": [1, {}]}, 5)],
)
def test_value_count_includes_each_key_and_item(value: object, count: int) -> None:
    assert count_values(value) == count


def test_effort_limit_raises_when_exceeded() -> None:
    effort = Effort(10)
    effort.spend(4)
    effort.spend(6)
    with pytest.raises(EffortSpent):
        effort.spend(1)
    whole = Effort()
    whole.spend(1_000_000)
    with pytest.raises(EffortSpent):
        whole.spend(1)


def test_hint_comparisons_have_their_own_limit() -> None:
    effort = Effort(1)
    assert effort.allows(50_000)
    assert not effort.allows(1)
    effort.spend(1)


def test_comparison_limit_applies_only_inside_a_check() -> None:
    assert may_compare(MAX_COMPARISONS + 1)
    with spending(Effort()):
        assert may_compare(MAX_COMPARISONS)
        assert not may_compare(1)
        with spending(Effort()):
            assert may_compare(1)
        assert not may_compare(1)
    assert may_compare(MAX_COMPARISONS + 1)


def cost(value: object, instance: object, **options: bool) -> int:
    """Return the number of steps that one check uses."""
    checked = metered(lambda *_: None, **options)
    for steps in range(1_000):
        try:
            with spending(Effort(steps)):
                assert list(checked(None, value, instance, {})) == []
        except EffortSpent:
            continue
        return steps
    raise AssertionError("more than was tried")


@pytest.mark.parametrize(
    ("value", "instance", "squared", "steps"),
    [
        (1, "a long text", False, 1),
        ([1, 2, 3], 1, False, 4),
        ({"a": 1}, [1, 2], False, 4),
        (True, [1] * 10, False, 11),
        (True, [1] * 10, True, 101),
        (True, {"a": 1}, True, 2),
    ],
)
def test_comparison_cost_grows_with_the_compared_lengths(
    value: object, instance: object, squared: bool, steps: int
) -> None:
    assert cost(value, instance, squared=squared) == steps
    if not squared:
        assert cost(value, instance) == steps


def test_metered_check_finds_the_same_problems() -> None:
    seen: list[tuple[Any, ...]] = []

    def check(*arguments: Any) -> list[str]:
        seen.append(arguments)
        return ["a", "b"]

    with spending(Effort()):
        assert list(metered(check)("validator", "value", "instance", "schema")) == ["a", "b"]
    assert seen == [("validator", "value", "instance", "schema")]
