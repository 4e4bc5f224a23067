"""What the stores of this process at a Redis server have in common: the session and the mirror."""

from collections.abc import Iterable, Sequence
from typing import Any

from replicate_mcp.backends.redis.decoding import REASONS, decode_admission
from replicate_mcp.backends.redis.mirror import Mirror
from replicate_mcp.backends.redis.session import Session
from replicate_mcp.errors import UnknownSemaphore
from replicate_mcp.semaphores.names import unknown_semaphore
from replicate_mcp.semaphores.permit_store import AdmissionResult


class RedisStore:
    """A store whose calls go through the session of this process.

    Args:
        session: the session of this process.
        mirror: the mirror of its state, which the stores change with each call.
        journal_bytes: the allowance of each account in the journal.
    """

    def __init__(self, session: Session, mirror: Mirror, journal_bytes: int) -> None:
        self._session = session
        self._mirror = mirror
        self._journal_bytes = journal_bytes

    def _reap_arguments(self) -> dict[str, Any]:
        return {"unbroken": self._session.is_connected_for_a_lease, "reasons": REASONS}

    def _admission_result(self, answer: Sequence[Any], *semaphores: str) -> AdmissionResult:
        """Decode the admission in a reply; raise `UnknownSemaphore` if a name is not registered."""
        if not answer[0] and len(answer) > 1:
            raise unknown_name(semaphores, answer[1])
        found = decode_admission(answer[0])
        self._mirror.newest = max(self._mirror.newest, *(o.permit for o in found.offers), 0)
        return found

    async def _restore(self, session: Session, batch_id: str) -> None:
        """Restore a running batch that the server has lost, with its results.

        An ended one was deleted there to make space for newer ones.
        """
        kept = self._mirror.batches.get(batch_id)
        if kept is not None:
            await session.restore(kept, entirely=True)


def unknown_name(semaphores: Iterable[str], known: Iterable[str]) -> UnknownSemaphore:
    """Return the error for the first of `semaphores` that is not one of `known`."""
    names = set(known)
    unknown = next(name for name in semaphores if name not in names)
    return UnknownSemaphore(unknown_semaphore(unknown, names))
