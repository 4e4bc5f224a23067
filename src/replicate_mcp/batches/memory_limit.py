"""Memory that running batches use: a server holds their inputs until they have ended."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from replicate_mcp.errors import TooManyBatches

if TYPE_CHECKING:
    from replicate_mcp.batches.planning import PlannedTask
    from replicate_mcp.batches.running_batch import RunningBatch

BATCH_BYTES = 64 * 1024
TASK_BYTES = 2 * 1024
"""Memory of a batch and of each of its tasks besides the inputs, in bytes, rounded up."""

ACCOUNTS_PART = 4
"""Divisor of the total for one account: a quarter, like a caller's share of the HTTP limits."""


def estimate_bytes(tasks: "Sequence[PlannedTask]") -> int:
    """Return the memory of a batch in bytes; an input that tasks share counts once."""
    weight = BATCH_BYTES + TASK_BYTES * len(tasks)
    seen: set[int] = set()
    left: list[Any] = [task.inputs for task in tasks]
    while left:
        each = left.pop()
        if isinstance(each, str | list | Mapping):
            if id(each) in seen:
                continue
            seen.add(id(each))
        weight += sys.getsizeof(each)
        if isinstance(each, Mapping):
            left += each
            left += each.values()
        elif isinstance(each, list):
            left += each
    return weight


def check_memory(new: "RunningBatch", running: "Iterable[RunningBatch]", most: int) -> None:
    """Check that `new` fits into the memory limits beside the running batches.

    Args:
        new: the batch to start.
        running: the batches that run.
        most: limit of all batches together, in bytes.

    Raises:
        TooManyBatches: its account's limit or the total would be exceeded.
    """
    whole = of_the_account = new.weight
    for batch in running:
        whole += batch.weight
        of_the_account += batch.weight if batch.account == new.account else 0
    if of_the_account > most // ACCOUNTS_PART:
        raise TooManyBatches(is_global=False, most=most // ACCOUNTS_PART)
    if whole > most:
        raise TooManyBatches(is_global=True, most=most)
