"""A limit on the cost of checking a batch's inputs, whatever its models' schemas contain.

The time grows with the size of a schema times that of the inputs, and both come from outside. Every
keyword of a schema that is applied to a value counts as a step; once a batch's allowance is spent,
further checks are left to Replicate.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

MAX_STEPS = 1_000_000
"""Steps of one batch: about a second. A thousand ordinary tasks take a hundred thousand."""

MAX_COMPARISONS = 50_000
"""Comparisons of names for `did you mean` hints in one batch: about half a second."""

Check = Callable[..., Any]
"""A keyword check of jsonschema: `(validator, value, instance, schema)`, yielding errors."""


class EffortSpent(Exception):
    """The allowance is spent."""


class Effort:
    """The remaining steps of checks, and the remaining comparisons for hints."""

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self._left = steps
        self._comparisons = MAX_COMPARISONS

    def spend(self, steps: int) -> None:
        """Subtract `steps` from the allowance.

        Raises:
            EffortSpent: the allowance is insufficient.
        """
        self._left -= steps
        if self._left < 0:
            raise EffortSpent

    def allows(self, comparisons: int) -> bool:
        """Subtract `comparisons` from the allowance for hints; False if it is insufficient."""
        self._comparisons -= comparisons
        return self._comparisons >= 0


_current: ContextVar[Effort] = ContextVar("effort")


def may_compare(count: int) -> bool:
    """Return whether `count` names may be compared for a hint."""
    effort = _current.get(None)
    return effort is None or effort.allows(count)


@contextmanager
def spending(effort: Effort) -> Iterator[None]:
    """Charge the cost of metered checks in the block to `effort`."""
    reset = _current.set(effort)
    try:
        yield
    finally:
        _current.reset(reset)


def metered(check: Check, *, squared: bool = False) -> Check:
    """Return `check` with its cost counted, by the lengths of the keyword's value and the instance.

    Args:
        check: the check of one keyword.
        squared: whether it compares the items of the instance pairwise.
    """

    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        length = _length(instance)
        _current.get().spend(1 + _length(value) + (length * length if squared else length))
        yield from check(validator, value, instance, schema) or ()

    return counted


def _length(value: object) -> int:
    return len(value) if isinstance(value, list | dict) else 0
