"""What a backend promises of semaphores and permits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Scope = Literal["process", "machine", "fleet"]


@dataclass(frozen=True, slots=True)
class Offer:
    """A permit that its holder may take, within `admission.OFFER_LASTS`.

    A holder's later offers have higher numbers in `permit`.
    """

    permit: int
    entry: str


@dataclass(frozen=True, slots=True)
class AdmissionResult:
    """What a step left to its holder: offers to take, and when to decide again.

    `next_in` is in seconds from now; None where only a release can make room. `paused_for` is the
    number of seconds for which nothing that waits is admitted, because the backend is new or may
    have lost what it knew; None where that is not so.
    """

    offers: tuple[Offer, ...] = ()
    retry_in: float | None = None
    paused_for: float | None = None


@dataclass(frozen=True, slots=True)
class AcceptedOffers:
    """The offers that became permits; the others had been withdrawn and wait in the queue again."""

    permits: frozenset[int]
    admission: AdmissionResult


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """One that joins the queue: a batch, or all the contexts of a process on one semaphore.

    Attributes:
        semaphores: one unit of each is needed for every start.
        account: whose creation rate each start uses; None for callers' own code.
        waiting: starts to wait for, at first.
        at_most: how many may run at once; None for no limit but the semaphores'.
    """

    id: str
    semaphores: tuple[str, ...]
    account: str | None
    waiting: int
    max_running: int | None = None


@dataclass(frozen=True, slots=True)
class SemaphoreState:
    """A semaphore as it stands; `requests_per_minute` and the next only for an account's."""

    name: str
    limit: int
    in_use: int
    waiting: int
    requests_per_minute: float | None = None
    throttled_for: float | None = None

    @property
    def available(self) -> int:
        """Units that nobody holds."""
        return max(0, self.limit - self.in_use)


@dataclass(frozen=True, slots=True)
class HolderUsage:
    """What one holder has of one semaphore, for people to look at.

    Attributes:
        holder: its program and process; "" for what processes left that are gone.
    """

    holder: str
    semaphore: str
    in_use: int
    waiting: int


class PermitStore(Protocol):
    """Named semaphores and their permits, shared by every holder of one backend.

    Every method raises `BackendUnavailable` where the backend cannot be used. A holder is this
    process; its offers come with the answer of any step it makes, and `woken` returns when
    another holder's step may have made it some.
    """

    scope: Scope

    async def declare_limit(self, semaphore: str, limit: int, *, per_minute: float) -> None:
        """Say which limit and rate this process allows an account; the lowest limit rules."""

    async def set_rate(self, semaphore: str, per_minute: float) -> AdmissionResult:
        """Set by hand how many creations a minute an account is allowed: that stays."""

    async def register(self, semaphore: str, limit: int) -> SemaphoreState:
        """Make the name known while this process lives; a known one is returned unchanged."""

    async def resize(
        self, semaphore: str, limit: int, *, by_admin: bool = False
    ) -> AdmissionResult:
        """Set a limit by hand; holders are not disturbed.

        Raises:
            UnknownSemaphore: no such name.
        """

    async def unset(self, semaphore: str) -> AdmissionResult:
        """Drop the limit that was set by hand: the lowest that living processes declare applies.

        A name that no living process has registered is removed with its last permit.

        Raises:
            UnknownSemaphore: no such name.
        """

    async def remove(self, semaphore: str) -> None:
        """Remove a registered name, and this process's registration of it.

        Raises:
            UnknownSemaphore: no such name.
            SemaphoreInUse: permits of it are out, tasks wait for it, or another living process has
                registered it.
        """

    async def semaphores(self) -> list[SemaphoreState]:
        """All of them, sorted by name."""

    async def usage_by_holder(self) -> list[HolderUsage]:
        """Who holds and who waits, by semaphore and holder."""

    async def enqueue(self, entry: QueueEntry) -> AdmissionResult:
        """Wait in the queue; an entry already in it waits for that many more."""

    async def dequeue(self, entry: str, count: int | None = None) -> AdmissionResult:
        """Wait for `count` starts less; None takes the entry and its offers out."""

    async def accept_offers(self, permits: Sequence[int]) -> AcceptedOffers:
        """Turn offers into permits; those that are not in the answer are gone."""

    async def release(self, permit: int) -> AdmissionResult:
        """Give a permit back."""

    async def admit(self) -> AdmissionResult:
        """Free what the dead hold, withdraw stale offers, and make new ones."""

    async def run(self) -> None:
        """See to what has to go on in the background, until cancelled."""

    async def wait_for_wakeup(self) -> None:
        """Return when another holder's step may have made this one an offer."""
