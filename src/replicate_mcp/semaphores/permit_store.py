"""Interface of a store of semaphores and permits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Scope = Literal["process", "machine", "fleet"]


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer of a permit, which its holder may accept within `admission.OFFER_TTL_SECONDS`.

    A holder's later offers have higher numbers in `permit`.
    """

    permit: int
    entry: str


@dataclass(frozen=True, slots=True)
class AdmissionResult:
    """The outcome of a backend call for its holder: offers to accept, and when to decide again.

    Attributes:
        offers: the offers to accept.
        retry_in: seconds until admission is worth running again; None if only a release can free
            units.
        paused_for: seconds for which no waiting entry is admitted, because the backend is new or
            may have lost its state; None if admission is not paused.
    """

    offers: tuple[Offer, ...] = ()
    retry_in: float | None = None
    paused_for: float | None = None


@dataclass(frozen=True, slots=True)
class AcceptedOffers:
    """The offers that became permits; the others had been withdrawn and wait in the queue."""

    permits: frozenset[int]
    admission: AdmissionResult


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """An entry that joins the queue: a batch, or all the contexts of a process on one semaphore.

    Attributes:
        semaphores: names of the semaphores of which every start needs one unit.
        account: the account whose creation rate each start uses; None for callers' own code.
        waiting: initial number of starts to wait for.
        max_running: number of starts that may run at once; None for the semaphores' limits alone.
    """

    id: str
    semaphores: tuple[str, ...]
    account: str | None
    waiting: int
    max_running: int | None = None


@dataclass(frozen=True, slots=True)
class SemaphoreState:
    """The state of a semaphore.

    Attributes:
        requests_per_minute: rate of an account's semaphore, in creations a minute; else None.
        throttled_for: seconds for which an account's creations are paused; None if they are not.
    """

    name: str
    limit: int
    in_use: int
    waiting: int
    requests_per_minute: float | None = None
    throttled_for: float | None = None

    @property
    def available(self) -> int:
        """Number of free units."""
        return max(0, self.limit - self.in_use)


@dataclass(frozen=True, slots=True)
class HolderUsage:
    """One holder's usage of one semaphore, for display.

    Attributes:
        holder: its program and process; "" for permits of processes that have ended.
    """

    holder: str
    semaphore: str
    in_use: int
    waiting: int


class PermitStore(Protocol):
    """Named semaphores and their permits, shared by every holder of one backend.

    Every method raises `BackendUnavailable` if the backend cannot be used. A holder is this
    process; every call returns its new offers, and `wait_for_wakeup` returns when another holder's
    call may have made it an offer.
    """

    scope: Scope

    async def declare_limit(self, semaphore: str, limit: int, *, per_minute: float) -> None:
        """Declare this process's limit and rate of an account; the lowest limit applies."""

    async def set_rate(self, semaphore: str, per_minute: float) -> AdmissionResult:
        """Set an account's creations a minute manually; the setting persists."""

    async def register(self, semaphore: str, limit: int) -> SemaphoreState:
        """Register a name for this process's lifetime; return a known semaphore unchanged."""

    async def resize(
        self, semaphore: str, limit: int, *, by_admin: bool = False
    ) -> AdmissionResult:
        """Set a limit manually; permits that are held stay valid.

        Raises:
            UnknownSemaphore: no such name.
        """

    async def unset(self, semaphore: str) -> AdmissionResult:
        """Remove a limit that was set manually; the lowest that living processes declare applies.

        A name that no living process has registered is removed with its last permit.

        Raises:
            UnknownSemaphore: no such name.
        """

    async def remove(self, semaphore: str) -> None:
        """Remove a registered name, and this process's registration of it.

        Raises:
            UnknownSemaphore: no such name.
            SemaphoreInUse: permits of it are held, tasks wait for it, or another living process has
                registered it.
        """

    async def semaphores(self) -> list[SemaphoreState]:
        """Return the states of all semaphores, sorted by name."""

    async def usage_by_holder(self) -> list[HolderUsage]:
        """Return held and waiting units by semaphore and holder."""

    async def enqueue(self, entry: QueueEntry) -> AdmissionResult:
        """Add an entry to the queue; one already in it waits for `entry.waiting` more starts."""

    async def dequeue(self, entry: str, count: int | None = None) -> AdmissionResult:
        """Wait for `count` fewer starts; None removes the entry and withdraws its offers."""

    async def accept_offers(self, permits: Sequence[int]) -> AcceptedOffers:
        """Turn offers into permits; offers missing from the result had been withdrawn."""

    async def release(self, permit: int) -> AdmissionResult:
        """Release a permit."""

    async def admit(self) -> AdmissionResult:
        """Release what dead holders held, withdraw stale offers, and make new ones."""

    async def run(self) -> None:
        """Run the backend's background work until cancelled."""

    async def wait_for_wakeup(self) -> None:
        """Return when another holder's call may have made this holder an offer."""
