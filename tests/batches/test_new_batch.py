"""A batch that is planned, and written to the journal: what is private is not shown."""

from dataclasses import replace
from typing import cast

from replicate_mcp.batches.journal import JournalTask, NewBatch
from replicate_mcp.batches.planning import PlannedBatch
from replicate_mcp.replicate_api.gateway import Gateway

BATCH = NewBatch("b", "server", "acme", "replicate-global", (JournalTask("a fox", "1", "o/m"),))


def test_batch_without_inputs_has_none() -> None:
    assert (BATCH.inputs, BATCH.key, BATCH.failures, BATCH.retry) == ("", None, (), None)


def test_inputs_of_a_batch_are_hidden_in_repr() -> None:
    assert "private" not in repr(replace(BATCH, inputs='{"image": "private"}'))


def test_gateway_of_a_planned_batch_is_hidden_in_repr() -> None:
    batch = PlannedBatch((), cast(Gateway, "private"), "acme", "server", "global", ())
    assert "private" not in repr(batch)
