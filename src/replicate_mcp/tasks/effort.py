"""Bound what checking a batch's inputs costs, whatever its models' schemas ask for.

The time grows with the size of a schema times that of the inputs, and strangers choose both. Each
keyword of a schema that is applied to a value counts; once a batch's allowance is spent, the rest
is left to Replicate.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

MAX_STEPS = 1_000_000
"""Of one batch: about a second. A thousand ordinary tasks take a hundred thousand."""

MAX_COMPARISONS = 50_000
"""Of one batch: names compared with each other for `did you mean`, about half a second."""

Check = Callable[..., Any]
"""How jsonschema applies a keyword: `(validator, value, instance, schema)`, giving errors."""


class EffortSpent(Exception):
    """The allowance is spent."""


class Effort:
    """The steps that checking may still take, and the comparisons for its hints."""

    def __init__(self, steps: int = MAX_STEPS) -> None:
        self._left = steps
        self._comparisons = MAX_COMPARISONS

    def spend(self, steps: int) -> None:
        """Take `steps` off the allowance.

        Raises:
            EffortSpent: it does not reach.
        """
        self._left -= steps
        if self._left < 0:
            raise EffortSpent

    def allows(self, comparisons: int) -> bool:
        """Take `comparisons` off the allowance for hints; False where it does not reach."""
        self._comparisons -= comparisons
        return self._comparisons >= 0


_current: ContextVar[Effort] = ContextVar("effort")


def may_compare(count: int) -> bool:
    """Return whether `count` names may be compared for a hint."""
    effort = _current.get(None)
    return effort is None or effort.allows(count)


@contextmanager
def spending(effort: Effort) -> Iterator[None]:
    """Count what metered checks cost inside the block."""
    reset = _current.set(effort)
    try:
        yield
    finally:
        _current.reset(reset)


def metered(check: Check, *, squared: bool = False) -> Check:
    """Return the same check, counted by the length of its keyword's value and of the instance.

    Args:
        squared: whether it compares each item of the instance with each other.
    """

    def counted(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        length = _length(instance)
        _current.get().spend(1 + _length(value) + (length * length if squared else length))
        yield from check(validator, value, instance, schema) or ()

    return counted


def _length(value: object) -> int:
    return len(value) if isinstance(value, list | dict) else 0
