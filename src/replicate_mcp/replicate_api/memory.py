"""Where answers of Replicate's are remembered, so that they are asked for once."""

from typing import Protocol


class Memory(Protocol):
    """Where answers are remembered; a backend is one."""

    async def recall(self, key: str) -> str | None:
        """A remembered answer, unless it is too old."""

    async def remember(self, key: str, value: str, *, seconds: float) -> None:
        """Keep an answer for so long."""
