"""Size limits of a backend: each account's batches, and the cached responses."""

import math

from replicate_mcp.errors import InvalidInput, JournalFull, ReplicateMcpError

JOURNAL_BYTES = 64 * 1024**2
"""Default allowance of an account in the journal, ended batches included."""

BATCH_BYTES = 2048
"""Size that a batch counts as beside its tasks and results. By measurement, Redis 6.2 takes 1.8 KiB
for one of a single short task, and 2.6 KiB for one with an idempotency key."""

KEY_BYTES = 512
"""Size that a batch counts as when only its idempotency key is left."""

MEMO_BYTES = 64 * 1024**2
"""Maximum total size of the cached responses: hundreds of models' schemas, beside two minutes of
webhooks (at most 64 KiB each, 300 a minute before their signatures are verified)."""

MEMO_VALUE_BYTES = 1024**2
"""Maximum size of a response to cache: a larger schema would evict all others."""

MEMO_ENTRY_BYTES = 512
"""Size that a cached response counts as beside its key and value."""


def memo_size(key: str, value: str) -> int | None:
    """Return the bytes that a cached response counts as; None if it is too large to cache."""
    value_bytes = len(value.encode(errors="replace"))
    if value_bytes > MEMO_VALUE_BYTES:
        return None
    return MEMO_ENTRY_BYTES + len(key.encode(errors="replace")) + value_bytes


def journal_full(*, needed: int, running: int, keys: int, allowed: int) -> ReplicateMcpError:
    """Return the error for a batch that does not fit even without the account's ended batches.

    Args:
        needed: bytes of the new batch.
        running: bytes of the account's batches that have not ended.
        keys: bytes of the idempotency keys of deleted batches.
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
    """Return a size in MiB, rounded up to a tenth, so that an excess is never rounded away."""
    return f"{math.ceil(size * 10 / 1024**2) / 10:.1f}".removesuffix(".0")
