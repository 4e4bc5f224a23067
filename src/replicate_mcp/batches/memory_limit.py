"""How much memory batches take that have not ended: a server keeps their inputs until they have."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from replicate_mcp.errors import TooManyBatches

if TYPE_CHECKING:
    from replicate_mcp.batches.planning import PlannedTask
    from replicate_mcp.batches.running_batch import RunningBatch

BATCH_BYTES = 64 * 1024
TASK_BYTES = 2 * 1024
"""What a batch and each of its tasks take beside the inputs, rounded up."""

ACCOUNTS_PART = 4
"""An account may have a quarter of the whole, as a caller has of what is counted at the edge."""


def estimate_bytes(tasks: "Sequence[PlannedTask]") -> int:
    """What a batch takes, in bytes. An input that tasks share is there once, and counts once."""
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
    """See whether one more batch may run, where all together may take so many bytes.

    Raises:
        TooManyBatches: it may not.
    """
    whole = of_the_account = new.weight
    for batch in running:
        whole += batch.weight
        of_the_account += batch.weight if batch.account == new.account else 0
    if of_the_account > most // ACCOUNTS_PART:
        raise TooManyBatches(is_global=False, most=most // ACCOUNTS_PART)
    if whole > most:
        raise TooManyBatches(is_global=True, most=most)
