"""Stateful test of admission: limits hold, no start is lost, and no entry starves.

A Hypothesis state machine lets several holders of one backend enqueue, accept, finish, give up,
stop, resume, close, and take over batches of closed ones, on a clock that the test advances. A
model keeps plain counts beside it: the starts that each entry requested, the permits that it holds,
and the offers that its holder received. Calls of other holders may change a holder's offers before
that holder reads them again; until then, only facts that are certain are checked.
"""

from asyncio import Runner
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count, cycle
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from backends.servers import KINDS, RunningServer, open_for_admission
from backends.steps import failed
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.batches.attempt_store import Attempt
from replicate_mcp.batches.backend import Backend
from replicate_mcp.batches.journal import JournalTask, NewBatch
from replicate_mcp.replicate_api.attempt_matching import hash_inputs
from replicate_mcp.semaphores.admission import OFFER_STALE_SECONDS, OFFER_TTL_SECONDS
from replicate_mcp.semaphores.names import account_semaphore
from replicate_mcp.semaphores.permit_store import AdmissionResult, QueueEntry, SemaphoreState

T = TypeVar("T")

OWN = account_semaphore("acme")
SEMAPHORES = (OWN, "team", "studio")

RATE_OUT_OF_THE_WAY = 60_000.0

MAX_HOLDERS = 3
MAX_BUSY_ENTRIES = 8

CLOCK_STEPS = (0.01, 0.04, 0.06, 0.3, 0.6, 2.0, 5.0)
"""Seconds: some short of the bounds on an offer's age, some beyond them."""

ENDS_WITHIN = 7.503
"""Seconds from an attempt to the end of its prediction at the latest; no sum of `CLOCK_STEPS`."""

BATCH_SECONDS = 1e6
"""Seconds until the deadline of a batch: longer than any history."""

SLACK = 0.002
"""Seconds by which a backend may round: that near to a bound, both outcomes are right."""

CROWD = 6
"""How many wait for each semaphore alone, at the end: more than it has units."""

ROUND_SECONDS = 0.1
"""Duration of a round in which living holders work; an offer of that age has stalled."""

ROUNDS_A_STOPPED_HOLDER_COSTS = 8
"""Until its offers have stalled and been withdrawn, and it is offered nothing any more."""


class Clock:
    """A clock that the test advances."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


Open = Callable[[], Coroutine[Any, Any, Backend]]
"""Opens a backend for one more holder."""


@asynccontextmanager
async def in_memory(clock: Clock) -> AsyncIterator[Open]:
    yield lambda: SqliteBackend.open(":memory:", clock=clock)


@asynccontextmanager
async def in_a_file(clock: Clock) -> AsyncIterator[Open]:
    with TemporaryDirectory() as folder:
        yield lambda: SqliteBackend.open(str(Path(folder, "state.db")), clock=clock)


def at_a_server(server: RunningServer) -> Callable[[Clock], AbstractAsyncContextManager[Open]]:
    @asynccontextmanager
    async def world(clock: Clock) -> AsyncIterator[Open]:
        prefix = token_hex(4)
        await open_for_admission(server, prefix, "acme")
        yield lambda: RedisBackend.open(server.url(prefix, lease=600), clock=clock)

    return world


@dataclass(eq=False)
class Holder:
    """A holder and the last state that it received.

    Attributes:
        declared: the limit that it declares for the account.
        stopped: whether it makes no calls.
        offers: received offers that it has not accepted, by number.
        newest: the highest offer number received.
        decided_since: earliest possible time of the first decision after that; None without one.
    """

    name: str
    backend: Backend
    declared: int
    stopped: bool = False
    offers: dict[int, "Seen"] = field(default_factory=dict)
    newest: int = 0
    decided_since: float | None = None


@dataclass(eq=False)
class Entry:
    """An entry: a batch, or all contexts of a holder on the same semaphores.

    Attributes:
        pending: starts that wait or are offered; for a batch, the numbers of its tasks.
        in_queue: whether it has not been dequeued.
        resumable: whether it is a batch that another holder may take over.
    """

    id: str
    holder: Holder
    semaphores: tuple[str, ...]
    is_batch: bool
    max_running: int | None = None
    pending: deque[int] = field(default_factory=deque)
    in_queue: bool = True
    resumable: bool = False


@dataclass(frozen=True)
class Seen:
    """An offer as its holder received it, with its earliest and latest possible time."""

    entry: Entry
    earliest: float
    latest: float


@dataclass(frozen=True)
class Permit:
    """A permit of an entry's start, whose prediction ends at `ends_by` at the latest."""

    entry: Entry
    start: int
    ends_by: float


class Counts:
    """The model of a history, and the invariants checked after every call.

    Attributes:
        known: holders whose offers are exactly the ones that they received.
        decided: holders in `known` with no change since the last decision.
        decided_at: latest time known for certain at which a decision was made.
        waiting: batches of closed holders that another one may take over, by name.
        states: the semaphores as the observer last read them.
        allowed: how many units of each may be held, by the previous state.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.holders: dict[str, Holder] = {}
        self.entries: dict[str, Entry] = {}
        self.permits: dict[int, Permit] = {}
        self.limits_by_hand: dict[str, int] = {}
        self.known: set[Holder] = set()
        self.decided: set[Holder] = set()
        self.decided_at = 0.0
        self.waiting: dict[str, Entry] = {}
        self.states: dict[str, SemaphoreState] = {}
        self.allowed: dict[str, int] = {}

    def lives(self, entry: Entry) -> bool:
        return entry.holder.name in self.holders and not entry.holder.stopped

    def limit(self, name: str) -> int:
        declared = min((holder.declared for holder in self.holders.values()), default=0)
        return self.limits_by_hand.get(name, declared)

    def held(self, entry: Entry) -> int:
        return sum(
            permit.entry.id == entry.id and self._holds_units(permit)
            for permit in self.permits.values()
        )

    def offered(self, entry: Entry) -> int:
        return sum(offer.entry is entry for offer in entry.holder.offers.values())

    def _holds_units(self, permit: "Permit") -> bool:
        return permit.entry.holder.name in self.holders or permit.ends_by > self._clock.now

    def units_held(self, *, by_the_living: bool = True) -> Counter[str]:
        """Return the held units; those of closed holders are held until their predictions end."""
        return Counter(
            name
            for permit in self.permits.values()
            if self._holds_units(permit)
            if by_the_living or not self.lives(permit.entry)
            for name in permit.entry.semaphores
        )

    # Changes.

    def left(self, holder: Holder) -> None:
        """Remove all state of a closed holder except the permits of its predictions."""
        del self.holders[holder.name]
        for entry in [each for each in self.entries.values() if each.holder is holder]:
            del self.entries[entry.id]
            if entry.resumable and entry.in_queue and (entry.pending or self.held(entry)):
                self.waiting[entry.id] = entry
        for number, permit in list(self.permits.items()):
            if permit.entry.holder is holder and not permit.entry.is_batch:
                del self.permits[number]
        self.invalidate_decisions()

    def invalidate_decisions(self) -> None:
        self.known, self.decided = set(), set()
        for holder in self.holders.values():
            if holder.decided_since is None:
                holder.decided_since = self._clock.now

    def shown(
        self, holder: Holder, admission: AdmissionResult, *, given_up: Entry | None = None
    ) -> None:
        """Compare the offers that a decision left to a holder with those received before."""
        now, before = self._clock.now, holder.offers
        shown = {offer.permit: self.entries[offer.entry] for offer in admission.offers}
        assert len(shown) == len(admission.offers)
        assert all(entry.holder is holder and entry.in_queue for entry in shown.values())
        kept = before.keys() & shown.keys()
        for number in before.keys() - kept:
            assert self._may_be_withdrawn(before[number]) or before[number].entry is given_up
        for number in kept:
            assert before[number].entry is shown[number]
            assert before[number].latest > now - OFFER_TTL_SECONDS - SLACK, "a stale offer stays"
        new = shown.keys() - kept
        since = now if holder.decided_since is None else holder.decided_since
        assert all(number > holder.newest for number in new), "the numbers of offers do not rise"
        if any(before[number].latest < since - OFFER_STALE_SECONDS - SLACK for number in kept):
            assert not new, "a holder that leaves an offer lying is offered more"
        offers = {number: Seen(entry, since, now) for number, entry in shown.items()}
        holder.offers = offers | {number: before[number] for number in kept}
        holder.newest = max(holder.newest, *new, 0)
        self.invalidate_decisions()
        self.decided_at, holder.decided_since = now, None
        self.known, self.decided = {holder}, {holder}

    def took(
        self,
        holder: Holder,
        asked: Mapping[int, tuple[Seen, int]],
        taken: Collection[int],
        admission: AdmissionResult,
    ) -> None:
        """Turn offers into permits, checking that each could be accepted, or had to be.

        Args:
            asked: each offer as it was received, and the start that it is for.
        """
        assert set(taken) <= asked.keys()
        for number, (offer, start) in asked.items():
            lay_there = holder.offers.pop(number, None) is not None
            if number in taken:
                assert lay_there, "an offer that was gone is taken"
                assert self.decided_at < offer.latest + OFFER_TTL_SECONDS + SLACK
                offer.entry.pending.remove(start)
                self.permits[number] = Permit(offer.entry, start, self._clock.now + ENDS_WITHIN)
            elif lay_there:
                assert holder not in self.known, "an offer that lay there is not taken"
                assert self._may_be_withdrawn(offer)
        self.decided = set()
        if any(self._may_be_late(asked[number][0]) for number in taken):
            self.invalidate_decisions()
        if admission.offers:
            self.shown(holder, admission)

    def seen(self, states: Sequence[SemaphoreState]) -> None:
        """Check the state that the observer reads after a call."""
        before = {name: state.in_use for name, state in self.states.items()}
        self.states = {state.name: state for state in states}
        self.allowed = {name: max(self.limit(name), before.get(name, 0)) for name in self.states}
        self._learn_from_units_in_use()
        self.held_units_stay_within_the_limit_or_their_count_when_it_was_lowered()
        self.every_start_is_held_offered_or_waiting()
        self.units_in_use_are_held_or_offered()
        self.offers_are_for_waiting_starts_within_the_own_limit()
        self.free_units_are_withheld_for_at_most_one_entry()

    # Invariants.

    def held_units_stay_within_the_limit_or_their_count_when_it_was_lowered(self) -> None:
        assert self.states.keys() == set(SEMAPHORES)
        for name, state in self.states.items():
            assert state.limit == self.limit(name)
            assert state.in_use <= self.allowed[name]

    def every_start_is_held_offered_or_waiting(self) -> None:
        starts = self.units_held()
        for entry in self.entries.values():
            starts.update(dict.fromkeys(entry.semaphores, len(entry.pending)))
        for name, state in self.states.items():
            assert state.waiting >= 0
            assert state.in_use + state.waiting == starts[name]

    def units_in_use_are_held_or_offered(self) -> None:
        out = self.units_held()
        for holder in self.holders.values():
            for offer in holder.offers.values():
                if holder in self.known or not self._may_be_withdrawn(offer):
                    out.update(offer.entry.semaphores)
        all_known = all(
            entry.holder in self.known for entry in self.entries.values() if entry.pending
        )
        for name, state in self.states.items():
            assert state.in_use == out[name] if all_known else state.in_use >= out[name]

    def offers_are_for_waiting_starts_within_the_own_limit(self) -> None:
        for entry in self.entries.values():
            offered = self.offered(entry)
            assert offered <= len(entry.pending)
            assert entry.max_running is None or offered + self.held(entry) <= entry.max_running

    def free_units_are_withheld_for_at_most_one_entry(self) -> None:
        """Check that free units are withheld for one entry at most.

        No entry waits beside free units, except beside one unit each of the semaphores of one other
        entry, which lacks a unit of another semaphore and could start if it were free.
        """
        free = {name: state.limit - state.in_use for name, state in self.states.items()}

        def fits(entry: Entry, kept: Collection[str] = ()) -> bool:
            return all(free[name] > (name in kept) for name in entry.semaphores)

        in_turn = [entry for entry in self.entries.values() if self._is_certainly_waiting(entry)]
        kept_for_one = [
            entry.semaphores
            for entry in self.entries.values()
            if self._may_be_waiting(entry) and not fits(entry)
        ]
        assert any(not any(fits(entry, kept) for entry in in_turn) for kept in [(), *kept_for_one])

    # Certain and possible facts.

    def _learn_from_units_in_use(self) -> None:
        """Exclude other offers where the certain ones account for all units in use."""
        offers = [offer for holder in self.holders.values() for offer in holder.offers.values()]
        if any(map(self._may_be_withdrawn, offers)):
            return
        out = self.units_held()
        for offer in offers:
            out.update(offer.entry.semaphores)
        if all(state.in_use == out[name] for name, state in self.states.items()):
            self.known = set(self.holders.values())
            for holder in self.known:
                holder.decided_since = None

    def _may_be_withdrawn(self, offer: Seen) -> bool:
        return offer.earliest < self._clock.now - OFFER_TTL_SECONDS + SLACK

    def _may_be_late(self, offer: Seen) -> bool:
        return offer.earliest < self._clock.now - OFFER_STALE_SECONDS + SLACK

    def _is_late(self, offer: Seen) -> bool:
        return offer.latest < self._clock.now - OFFER_STALE_SECONDS - SLACK

    def _is_certainly_waiting(self, entry: Entry) -> bool:
        """Return whether an entry was certainly waiting when the last decision was made."""
        offers = entry.holder.offers.values()
        certain = entry.holder in self.decided and not any(map(self._may_be_late, offers))
        return certain and self._may_be_waiting(entry)

    def _may_be_waiting(self, entry: Entry) -> bool:
        if any(map(self._is_late, entry.holder.offers.values())):
            return False
        offered = self.offered(entry) if entry.holder in self.known else 0
        running = self.held(entry) + offered
        below = entry.max_running is None or running < entry.max_running
        return below and len(entry.pending) > offered


class NewEntry(NamedTuple):
    """A new entry: a batch if the account's own semaphore comes first, else contexts."""

    semaphores: tuple[str, ...]
    starts: int
    max_running: int | None = None
    resumable: bool = False


NEW_BATCHES = st.builds(
    NewEntry,
    st.sampled_from([(OWN,), (OWN, "team"), (OWN, "studio")]),
    st.sampled_from([1, 2, 3, 6]),
    st.sampled_from([None, 1, 2]),
    st.booleans(),
)
NEW_CONTEXTS = st.builds(
    NewEntry,
    st.sampled_from([("team",), ("studio",), ("team", "studio"), ("studio", OWN)]),
    st.sampled_from([1, 2, 3, 6]),
    st.none(),
)
NEW_ENTRIES = NEW_BATCHES | NEW_CONTEXTS

LIMITS = st.tuples(*[st.integers(1, 3)] * len(SEMAPHORES))


def one_of(choices: "Callable[[AdmissionHistory], list[T]]") -> st.SearchStrategy[T]:
    """Draw one of the items that the history has at that moment."""
    return st.runner().flatmap(lambda history: st.sampled_from(choices(history)))


def while_any(
    choices: "Callable[[AdmissionHistory], list[T]]",
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Enable a rule only while the history has any of these items."""
    return precondition(lambda history: bool(choices(history)))


class AdmissionHistory(RuleBasedStateMachine):
    """One backend's holders over time; an uninvolved observer reads the state after each call."""

    world: Callable[[Clock], AbstractAsyncContextManager[Open]]

    def __init__(self) -> None:
        super().__init__()
        self._loop = Runner()
        self._stack = AsyncExitStack()
        self._ids = count(1)
        self._sound = False
        self._clock = Clock()
        self._counts = Counts(self._clock)
        self._open: Open
        self._opened: list[Backend] = []
        self._onlooker: Backend

    # Targets of the rules.

    def living(self) -> list[str]:
        return [holder.name for holder in self._counts.holders.values() if not holder.stopped]

    def stopped(self) -> list[str]:
        return [holder.name for holder in self._counts.holders.values() if holder.stopped]

    def one_of_several(self) -> list[str]:
        return self.living() if len(self.living()) > 1 else []

    def idle_enough(self) -> list[str]:
        return self.living() if len(self._busy()) < MAX_BUSY_ENTRIES else []

    def shown_offers(self) -> list[str]:
        return [name for name in self.living() if self._counts.holders[name].offers]

    def not_up_to_date(self) -> list[str]:
        up_to_date = {holder.name for holder in self._counts.decided}
        return [name for name in self.living() if name not in up_to_date]

    def in_queue(self) -> list[str]:
        return [entry.id for entry in self._busy() if entry.in_queue and self._counts.lives(entry)]

    def waiting_for_a_holder(self) -> list[str]:
        return list(self._counts.waiting) if self.idle_enough() else []

    def held(self) -> list[int]:
        permits = self._counts.permits.items()
        return [number for number, permit in permits if self._counts.lives(permit.entry)]

    def held_by_batches(self) -> list[int]:
        return [number for number in self.held() if self._counts.permits[number].entry.is_batch]

    def _busy(self) -> list[Entry]:
        entries = self._counts.entries.values()
        return [entry for entry in entries if entry.pending or self._counts.held(entry)]

    # Rules.

    @initialize(
        limits=LIMITS,
        holders=st.integers(2, MAX_HOLDERS),
        entries=st.lists(NEW_ENTRIES, min_size=1, max_size=5),
    )
    def open_holders_with_entries(
        self, limits: tuple[int, ...], holders: int, entries: list[NewEntry]
    ) -> None:
        async def begin() -> None:
            self._open = await self._stack.enter_async_context(self.world(self._clock))
            self._onlooker = await self._backend((1_000, *limits[1:]))
            coming = [await self._come(limits) for _ in range(holders)]
            for holder, entry in zip(cycle(coming), entries, strict=False):
                await self._join(holder, entry)

        self._run(begin())

    @precondition(lambda self: len(self._counts.holders) < MAX_HOLDERS)
    @rule(limits=LIMITS, entry=NEW_ENTRIES)
    def open_holder_with_entry(self, limits: tuple[int, ...], entry: NewEntry) -> None:
        async def begin() -> None:
            await self._join(await self._come(limits), entry)

        self._run(begin())

    @while_any(idle_enough)
    @rule(holder=one_of(idle_enough), entry=NEW_ENTRIES)
    def enqueue_entry(self, holder: str, entry: NewEntry) -> None:
        self._run(self._join(self._counts.holders[holder], entry))

    @rule(holder=one_of(living))
    def holder_admits(self, holder: str) -> None:
        self._run(self._admit(self._counts.holders[holder]))

    @while_any(not_up_to_date)
    @rule()
    def repeated_admission_by_all_holders_changes_nothing(self) -> None:
        async def admit_twice() -> None:
            await self._admit_all()
            settled = self._counts.states
            await self._admit_all()
            assert self._counts.states == settled

        self._run(admit_twice())

    @while_any(shown_offers)
    @rule(holder=one_of(shown_offers), most=st.sampled_from([1, 2, 99]))
    def accept_received_offers(self, holder: str, most: int) -> None:
        self._run(self._take(self._counts.holders[holder], most))

    @rule(holder=one_of(living), most=st.sampled_from([1, 2, 99]))
    def holder_accepts_all_offers_and_finishes_some(self, holder: str, most: int) -> None:
        async def work() -> None:
            await self._admit_and_accept_all(self._counts.holders[holder])
            permits = self._counts.permits.items()
            held = [number for number, each in permits if each.entry.holder.name == holder]
            for number in held[:most]:
                await self._finish(number)

        self._run(work())

    @while_any(held)
    @rule(permit=one_of(held))
    def finish_start(self, permit: int) -> None:
        self._run(self._finish(permit))

    @while_any(held_by_batches)
    @rule(permit=one_of(held_by_batches))
    def requeue_task(self, permit: int) -> None:
        self._run(self._put_back(permit))

    @while_any(in_queue)
    @rule(entry=one_of(in_queue))
    def dequeue_entry(self, entry: str) -> None:
        self._run(self._leave(self._counts.entries[entry]))

    @while_any(in_queue)
    @rule(entry=one_of(in_queue), most=st.sampled_from([1, 2, 4]))
    def dequeue_some_starts(self, entry: str, most: int) -> None:
        self._run(self._leave_some(self._counts.entries[entry], most))

    @rule(holder=one_of(living), semaphore=st.sampled_from(SEMAPHORES), limit=st.integers(1, 5))
    def set_limit(self, holder: str, semaphore: str, limit: int) -> None:
        async def resize(of: Holder) -> None:
            self._counts.limits_by_hand[semaphore] = limit
            self._counts.shown(of, await of.backend.resize(semaphore, limit))

        self._run(resize(self._counts.holders[holder]))

    @while_any(one_of_several)
    @rule(holder=one_of(one_of_several))
    def stop_holder(self, holder: str) -> None:
        self._counts.holders[holder].stopped = True

    @while_any(stopped)
    @rule(holder=one_of(stopped))
    def resume_holder(self, holder: str) -> None:
        self._counts.holders[holder].stopped = False

    @while_any(one_of_several)
    @rule(holder=one_of(one_of_several))
    def close_holder(self, holder: str) -> None:
        self._run(self._go(self._counts.holders[holder]))

    @while_any(waiting_for_a_holder)
    @rule(holder=one_of(living), batch=one_of(waiting_for_a_holder))
    def take_over_batch(self, holder: str, batch: str) -> None:
        self._run(self._take_over(self._counts.holders[holder], batch))

    @rule(seconds=st.sampled_from(CLOCK_STEPS))
    def time_passes(self, seconds: float) -> None:
        self._run(self._wait(seconds))

    # Teardown.

    def teardown(self) -> None:
        """End the history and check that every entry is served and no state remains."""
        try:
            if self._sound:
                self._run(self._living_holders_progress_without_starvation())
                self._run(self._close_all_and_check_no_state_remains())
        finally:
            self._loop.run(self._close())
            self._loop.close()

    async def _living_holders_progress_without_starvation(self) -> None:
        """Check that every entry gets its turns, also in a crowd, while stopped holders stay so."""
        await self._add_units_beside_held_ones()
        living = [self._counts.holders[name] for name in self.living()]
        for holder in living:
            await self._admit_and_accept_all(holder)
        crowd = await self._crowd(living[0])
        for semaphores in [("team", "studio"), (OWN, "studio"), (OWN, "team")]:
            await self._join(living[-1], NewEntry(semaphores, 1))
        patience = sum(bool(entry.pending) for entry in self._counts.entries.values())
        patience += ROUNDS_A_STOPPED_HOLDER_COSTS * len(self.stopped()) + 2
        passed_over: Counter[str] = Counter()
        while self._pending() - crowd:
            await self._crowd(living[0])
            served = await self._work_for_a_round(living)
            waiting = self._pending() - served
            passed_over = Counter({name: passed_over[name] + 1 for name in waiting})
            assert all(rounds <= patience for rounds in passed_over.values()), passed_over
        for name in crowd:
            await self._leave(self._counts.entries[name])
        await self._work_for_a_round(living)
        assert not self._pending()
        assert not self.held()

    async def _add_units_beside_held_ones(self) -> None:
        """Add a unit or two beside those that stopped and closed holders will not release."""
        stays_out = self._counts.units_held(by_the_living=False)
        for name in SEMAPHORES:
            least, limit = stays_out[name] + 1, self._counts.limit(name)
            self._counts.limits_by_hand[name] = min(max(limit, least), least + 1)
            admission = await self._onlooker.resize(name, self._counts.limits_by_hand[name])
            assert admission.offers == ()
            self._counts.invalidate_decisions()
            await self._observe()

    async def _crowd(self, holder: Holder) -> set[str]:
        """Queue contexts for each semaphore alone, and add more as they become few."""
        crowd = [self._contexts(holder, (name,)) for name in SEMAPHORES]
        for entry in crowd:
            if len(entry.pending) < CROWD:
                await self._join_contexts(entry, CROWD)
        return {entry.id for entry in crowd}

    async def _work_for_a_round(self, living: Collection[Holder]) -> set[str]:
        """Finish all running work one by one, and accept the offers that follow immediately.

        Returns:
            The entries that were served.
        """
        served: set[str] = set()
        for number in self.held():
            await self._finish(number)
            for holder in living:
                served |= await self._admit_and_accept_all(holder)
        for holder in living:
            served |= await self._admit_and_accept_all(holder)
        await self._wait(ROUND_SECONDS)
        return served

    def _pending(self) -> set[str]:
        entries = self._counts.entries.values()
        return {entry.id for entry in entries if entry.pending and self._counts.lives(entry)}

    async def _close_all_and_check_no_state_remains(self) -> None:
        """Close all holders: units stay held until that, or until their predictions end."""
        living = [self._counts.holders[name] for name in self.living()]
        await self._begin_a_task_each(living)
        await self._wait(ENDS_WITHIN + 1)
        for number in self.held():
            await self._finish(number)
        await self._begin_a_task_each(living)
        for holder in list(self._counts.holders.values()):
            await self._go(holder)
        self._clock.now += ENDS_WITHIN + 1
        assert (await self._onlooker.admit()).offers == ()
        left = await self._onlooker.semaphores()
        assert {(state.in_use, state.waiting) for state in left} == {(0, 0)}

    async def _begin_a_task_each(self, holders: Collection[Holder]) -> None:
        for holder in holders:
            await self._join(holder, NewEntry((OWN, "team"), 1))
            await self._admit_and_accept_all(holder)

    async def _close(self) -> None:
        async with self._stack:
            for backend in self._opened:
                self._stack.push_async_callback(backend.close)

    # Helpers.

    def _run(self, steps: Coroutine[Any, Any, None]) -> None:
        async def run_and_observe() -> None:
            await steps
            await self._observe()

        self._sound = False
        self._loop.run(run_and_observe())
        self._sound = True

    async def _observe(self) -> None:
        self._counts.seen(await self._onlooker.semaphores())

    async def _backend(self, limits: Sequence[int]) -> Backend:
        own, *others = limits
        backend = await self._open()
        self._opened.append(backend)
        await backend.declare_limit(OWN, own, per_minute=RATE_OUT_OF_THE_WAY)
        for name, limit in zip(SEMAPHORES[1:], others, strict=True):
            state = await backend.register(name, limit)
            assert state.limit == self._counts.limits_by_hand.setdefault(name, limit)
        return backend

    async def _come(self, limits: Sequence[int]) -> Holder:
        holder = Holder(f"H{next(self._ids)}", await self._backend(limits), limits[0])
        self._counts.holders[holder.name] = holder
        self._counts.decided = set()
        return holder

    async def _go(self, holder: Holder) -> None:
        self._opened.remove(holder.backend)
        await holder.backend.close()
        self._counts.left(holder)
        await self._observe()

    async def _wait(self, seconds: float) -> None:
        self._clock.now += seconds
        self._counts.decided = set()
        await self._observe()

    async def _join(self, holder: Holder, new: NewEntry) -> None:
        if new.semaphores[0] == OWN:
            await self._begin_batch(holder, new)
        else:
            await self._join_contexts(self._contexts(holder, new.semaphores), new.starts)

    async def _begin_batch(self, holder: Holder, new: NewEntry) -> None:
        tasks = deque(range(new.starts))
        name = f"{holder.name}-batch{next(self._ids)}"
        self._counts.entries[name] = Entry(
            name, holder, new.semaphores, True, new.max_running, tasks, resumable=new.resumable
        )
        journal = tuple(JournalTask(f"prompt {n}", f"{n}.png", "o/m") for n in tasks)
        admission = await holder.backend.open_batch(
            NewBatch(
                name,
                "server",
                "acme",
                "replicate-global",
                journal,
                seconds=BATCH_SECONDS,
                resumable=new.resumable,
            ),
            QueueEntry(name, new.semaphores, "acme", new.starts, new.max_running),
        )
        self._counts.shown(holder, admission)

    async def _take_over(self, holder: Holder, batch: str) -> None:
        left, backend = self._counts.waiting.pop(batch), holder.backend
        assert batch in await backend.resumable_batches("acme")
        taken = await backend.take_over(batch)
        assert taken is not None
        own = QueueEntry(batch, left.semaphores, "acme", 0, left.max_running)
        assert taken.entry == own
        assert await self._onlooker.take_over(batch) is None
        tasks = await backend.unstarted_tasks(batch)
        assert tasks == sorted(left.pending)
        self._counts.entries[batch] = replace(left, holder=holder, pending=deque(tasks))
        self._counts.shown(holder, await backend.enqueue(replace(own, waiting=len(tasks))))

    def _contexts(self, holder: Holder, semaphores: tuple[str, ...]) -> Entry:
        entry = Entry(f"{holder.name}-{'+'.join(semaphores)}", holder, semaphores, False)
        return self._counts.entries.setdefault(entry.id, entry)

    async def _join_contexts(self, contexts: Entry, starts: int) -> None:
        contexts.in_queue = True
        contexts.pending.extend(next(self._ids) for _ in range(starts))
        entry = QueueEntry(contexts.id, contexts.semaphores, None, starts)
        self._counts.shown(contexts.holder, await contexts.holder.backend.enqueue(entry))

    async def _admit(self, holder: Holder) -> None:
        self._counts.shown(holder, await holder.backend.admit())

    async def _admit_all(self) -> None:
        living = [self._counts.holders[name] for name in self.living()]
        for holder in living:
            await self._admit(holder)
        await self._observe()
        self._counts.known, self._counts.decided = set(living), set(living)

    async def _take(self, holder: Holder, most: int) -> None:
        batches: dict[int, tuple[Seen, int]] = {}
        contexts: dict[int, tuple[Seen, int]] = {}
        pending = {name: iter(entry.pending) for name, entry in self._counts.entries.items()}
        for number, offer in list(holder.offers.items())[:most]:
            start = next(pending[offer.entry.id])
            (batches if offer.entry.is_batch else contexts)[number] = (offer, start)
        if batches:
            attempts = {n: attempt(offer.entry.id, task) for n, (offer, task) in batches.items()}
            recorded = await holder.backend.record_attempts(attempts)
            self._counts.took(holder, batches, recorded.cancel_after.keys(), recorded.admission)
        if contexts:
            taken = await holder.backend.accept_offers(list(contexts))
            self._counts.took(holder, contexts, taken.permits, taken.admission)

    async def _admit_and_accept_all(self, holder: Holder) -> set[str]:
        """Accept offers until there are none; return the entries that were served."""
        await self._admit(holder)
        served = {offer.entry.id for offer in holder.offers.values()}
        await self._take(holder, len(holder.offers))
        return served

    async def _finish(self, number: int) -> None:
        permit = self._counts.permits.pop(number)
        holder, entry = permit.entry.holder, permit.entry
        if entry.is_batch:
            admission = await holder.backend.finish(number, entry.id, failed(permit.start))
            assert admission is not None
        else:
            admission = await holder.backend.release(number)
        self._counts.shown(holder, admission)
        await self._observe()

    async def _put_back(self, number: int) -> None:
        permit = self._counts.permits.pop(number)
        holder, entry = permit.entry.holder, permit.entry
        if entry.in_queue:
            entry.pending.append(permit.start)
        self._counts.shown(holder, await holder.backend.requeue(number))

    async def _leave(self, entry: Entry) -> None:
        entry.pending.clear()
        entry.in_queue = False
        admission = await entry.holder.backend.dequeue(entry.id)
        self._counts.shown(entry.holder, admission, given_up=entry)

    async def _leave_some(self, entry: Entry, most: int) -> None:
        gone = [entry.pending.pop() for _ in range(min(most, len(entry.pending)))]
        if entry.is_batch:
            admission = await entry.holder.backend.record_results(
                entry.id, [failed(task) for task in gone]
            )
        else:
            admission = await entry.holder.backend.dequeue(entry.id, len(gone))
        self._counts.shown(entry.holder, admission, given_up=entry)


def attempt(batch: str, task: int) -> Attempt:
    inputs = hash_inputs({"prompt": f"{batch} {task}"})
    return Attempt(batch, task, "o/m", inputs, 600, 1_000.0, ENDS_WITHIN)


WORLDS = {"memory": in_memory, "sqlite": in_a_file}


@pytest.mark.parametrize("examples", [8, pytest.param(60, marks=pytest.mark.soak)])
@pytest.mark.parametrize("backend", [*WORLDS, *KINDS])
def test_admission_invariants_hold_for_arbitrary_histories(
    backend: str, examples: int, servers: Callable[[str], RunningServer]
) -> None:
    world = at_a_server(servers(backend)) if backend in KINDS else WORLDS[backend]
    history = type("History", (AdmissionHistory,), {"world": staticmethod(world)})
    run_state_machine_as_test(
        history, settings=settings(max_examples=examples, stateful_step_count=40, deadline=None)
    )
