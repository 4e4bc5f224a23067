"""The cache protocol for Replicate's responses, so that each is requested once."""

from typing import Protocol


class Cache(Protocol):
    """A store of expiring values; a backend implements it."""

    async def get_cached(self, key: str) -> str | None:
        """Return the value of `key`; None if it is missing or expired."""

    async def set_cached(self, key: str, value: str, *, seconds: float) -> None:
        """Cache `value` for `seconds`."""
