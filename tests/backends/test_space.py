"""Sizes in the journal and the cache, without a backend."""

from replicate_mcp.backends.space import MEMO_VALUE_BYTES, journal_full, memo_size
from replicate_mcp.errors import InvalidInput, JournalFull


def test_batch_as_large_as_the_whole_allowance_may_fit_later() -> None:
    assert isinstance(journal_full(needed=10, running=1, keys=0, allowed=10), JournalFull)
    larger = journal_full(needed=11, running=1, keys=0, allowed=10)
    assert isinstance(larger, InvalidInput)
    assert not larger.retryable


def test_cached_text_counts_in_bytes_even_with_half_characters() -> None:
    assert memo_size("é", "🦊") == 512 + 2 + 4
    assert memo_size("\ud800", "\ud800") == 512 + 1 + 1
    assert memo_size("k", "é" * (MEMO_VALUE_BYTES // 2)) == 512 + 1 + MEMO_VALUE_BYTES
    assert memo_size("k", "é" * (MEMO_VALUE_BYTES // 2) + "x") is None
