"""A batch to be written to the journal, which may hold private inputs."""

from dataclasses import replace

from replicate_mcp.batches.journal import JournalTask, NewBatch

BATCH = NewBatch("b", "server", "acme", "replicate-global", (JournalTask("a fox", "1", "o/m"),))


def test_batch_without_inputs_has_none() -> None:
    assert (BATCH.inputs, BATCH.key, BATCH.failures, BATCH.retry) == ("", None, (), None)


def test_inputs_of_a_batch_are_hidden_in_repr() -> None:
    assert "private" not in repr(replace(BATCH, inputs='{"image": "private"}'))
