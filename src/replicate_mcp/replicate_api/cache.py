"""Where answers of Replicate's are remembered, so that they are asked for once."""

from typing import Protocol


class Cache(Protocol):
    """Where answers are remembered; a backend is one."""

    async def get_cached(self, key: str) -> str | None:
        """A remembered answer, unless it is too old."""

    async def set_cached(self, key: str, value: str, *, seconds: float) -> None:
        """Keep an answer for so long."""
