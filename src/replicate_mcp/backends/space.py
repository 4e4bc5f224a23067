"""How many bytes a backend keeps at most: of each account's batches, and of remembered answers."""

import math

from replicate_mcp.errors import InvalidInput, JournalFull, ReplicateMcpError

JOURNAL_BYTES = 64 * 1024**2
"""The default allowance of an account in the journal, ended batches included."""

BATCH_BYTES = 2048
"""What a batch counts as beside its tasks and results. Redis 6.2 was measured to take 1.8 KiB for
one of a single short task, and 2.6 KiB for one with an idempotency key."""

KEY_BYTES = 512
"""What a batch counts as of which only the idempotency key is left."""

MEMO_BYTES = 64 * 1024**2
"""All remembered answers together: hundreds of models' schemas, beside two minutes of webhooks
(at most 64 KiB each, 300 a minute before their signatures are verified)."""

MEMO_VALUE_BYTES = 1024**2
"""A larger answer is not remembered: one model's schema would push out all others."""

MEMO_ENTRY_BYTES = 512
"""What a remembered answer counts as beside its key and value."""


def memo_size(key: str, value: str) -> int | None:
    """Return the bytes that a remembered answer counts as; None for one that is not kept."""
    value_bytes = len(value.encode(errors="replace"))
    if value_bytes > MEMO_VALUE_BYTES:
        return None
    return MEMO_ENTRY_BYTES + len(key.encode(errors="replace")) + value_bytes


def journal_full(*, needed: int, running: int, keys: int, allowed: int) -> ReplicateMcpError:
    """Return the error for a batch that does not fit, though all ended batches were forgotten.

    Args:
        needed: bytes of the new batch.
        running: bytes of the account's batches that have not ended.
        keys: bytes of the idempotency keys of forgotten batches.
        allowed: the account's allowance in bytes.
    """
    if needed > allowed:
        return InvalidInput(
            f"This batch takes {_mib(needed)} MiB in the journal, and all of an account's together "
            f"may take {_mib(allowed)} MiB (REPLICATE_MCP_JOURNAL_MB). Nothing was created: send "
            "its tasks in smaller batches."
        )
    return JournalFull(running=_mib(running), keys=_mib(keys), allowed=_mib(allowed))


def _mib(size: int) -> str:
    """Return a size in MiB, rounded up to a tenth: what does not fit never looks as if it did."""
    return f"{math.ceil(size * 10 / 1024**2) / 10:.1f}".removesuffix(".0")
