"""Names and limits of semaphores: valid values, visibility and removal."""

import pytest

from replicate_mcp.errors import InvalidInput, SemaphoreInUse
from replicate_mcp.semaphores.names import (
    MAX_LIMIT,
    account_of,
    account_semaphore,
    check_limit,
    check_name,
    check_removable,
    is_account,
    unknown_semaphore,
    visible_to,
)
from replicate_mcp.semaphores.permit_store import SemaphoreState


@pytest.mark.parametrize("name", ["a", "7", "A.b_c-d", "x" * 100])
def test_valid_name_is_accepted(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "x" * 101, ".a", "_a", "-a", "a b", "a:b", "account:acme", "a\n", "é", None, 7]
)
def test_invalid_name_is_rejected_with_the_naming_rule(name: object) -> None:
    with pytest.raises(InvalidInput, match=r"is not a name: use 1 to 100 letters, digits"):
        check_name(name)


def test_long_invalid_name_is_truncated_in_the_error() -> None:
    with pytest.raises(InvalidInput) as refused:
        check_name("x" * 500)
    assert f"'{'x' * 60}'" in str(refused.value)
    assert "x" * 61 not in str(refused.value)


@pytest.mark.parametrize("limit", [1, 2, 10_000])
def test_valid_limit_is_accepted(limit: int) -> None:
    assert check_limit(limit) == limit


@pytest.mark.parametrize("limit", [0, -1, 10_001, True, False, 2.0, "3", None])
def test_invalid_limit_is_rejected_with_its_bounds(limit: object) -> None:
    with pytest.raises(InvalidInput, match="must be a whole number from 1 to 10000"):
        check_limit(limit)
    assert MAX_LIMIT == 10_000


def test_account_semaphore_has_a_reserved_name() -> None:
    own = account_semaphore("acme")
    assert own == "account:acme", "state that is kept has it under that name"
    assert (is_account(own), account_of(own)) == (True, "acme")
    assert not is_account("acme")
    assert not is_account("my-account:acme")


def test_caller_sees_its_account_semaphore_first_and_then_named_ones() -> None:
    states = [
        SemaphoreState("a-team", 5, 1, 0),
        SemaphoreState(account_semaphore("acme"), 60, 3, 2, 600.0, 1.5),
        SemaphoreState(account_semaphore("other"), 60, 9, 0),
    ]
    assert visible_to("acme", states, own_name="mine") == [
        SemaphoreState("mine", 60, 3, 2, 600.0, 1.5),
        states[0],
    ]
    assert visible_to("unknown", states, own_name="mine") == [states[0]]


@pytest.mark.parametrize(
    ("in_use", "waiting", "processes", "sentence"),
    [
        (1, 0, 0, r"'team' is in use \(1 in use, 0 waiting\)"),
        (0, 1, 0, r"'team' is in use \(0 in use, 1 waiting\)"),
        (2, 3, 4, r"'team' is in use \(2 in use, 3 waiting\)"),
        (0, 0, 1, "registered by another running process: stop"),
        (0, 0, 2, "registered by 2 other processes: stop.*semaphores unset team"),
    ],
)
def test_name_in_use_may_not_be_removed(
    in_use: int, waiting: int, processes: int, sentence: str
) -> None:
    with pytest.raises(SemaphoreInUse, match=sentence):
        check_removable("team", in_use=in_use, waiting=waiting, processes=processes)


def test_unused_name_may_be_removed() -> None:
    check_removable("team", in_use=0, waiting=0, processes=0)


def test_unknown_name_error_lists_the_known_names() -> None:
    known = ["zoo", "ant", account_semaphore("acme")]
    assert "'x' is not registered (known are ant, zoo): register" in unknown_semaphore("x", known)
    assert "'x' is not registered (none is registered)" in unknown_semaphore("x", known[2:])


def test_available_units_are_never_negative() -> None:
    assert [SemaphoreState("s", 3, used, 0).available for used in (0, 2, 3, 5)] == [3, 1, 0, 0]
