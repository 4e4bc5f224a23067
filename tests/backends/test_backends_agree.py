"""SQLite (rules in Python) and Redis (rules in Lua) return the same on the same histories.

Several processes work on each backend, with one clock. Every call is made on both, and the
responses and all readable state are compared. The histories are random, each with a bias that leads
it where chance alone seldom goes: a rate that is lowered repeatedly, withdrawn slots, an exhausted
daily quota, a first entry that waits for the second of its semaphores, batches that change their
process.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from secrets import token_hex
from typing import Any

import pytest

from backends.servers import RunningServer, open_for_admission
from backends.steps import OWN, attempt, failed
from backends.worlds import Clock
from replicate_mcp.backends.redis.backend import RedisBackend
from replicate_mcp.backends.sqlite.backend import SqliteBackend
from replicate_mcp.batches.attempt_store import RecordedAttempts
from replicate_mcp.batches.backend import Backend
from replicate_mcp.batches.journal import (
    IdempotencyKey,
    IdempotencyKeyExists,
    JournalTask,
    NewBatch,
    TakenOver,
)
from replicate_mcp.errors import SemaphoreInUse, UnknownSemaphore
from replicate_mcp.semaphores.adaptive_rate import Throttling
from replicate_mcp.semaphores.permit_store import AcceptedOffers, AdmissionResult, QueueEntry

NAMES = ("team", "studio")

SIDES = ("in Python", "in Lua")

Step = Callable[[Backend], Awaitable[Any]]


class Side:
    """One backend, and neutral names of its permits: only their order is equal on both."""

    def __init__(self) -> None:
        self.holders: dict[str, Backend] = {}
        self.numbers: list[int] = []

    def name(self, number: int) -> int:
        return self.numbers.index(number)

    def read(self, answer: Any) -> Any:
        """Return a response in terms that both sides share."""
        match answer:
            case AdmissionResult():
                self.numbers += sorted({o.permit for o in answer.offers} - set(self.numbers))
                offers = [(self.name(offer.permit), offer.entry) for offer in answer.offers]
                return offers, _near(answer.retry_in), answer.paused_for
            case AcceptedOffers():
                return sorted(map(self.name, answer.permits)), self.read(answer.admission)
            case RecordedAttempts():
                chosen = {self.name(permit): s for permit, s in answer.cancel_after.items()}
                return chosen, self.read(answer.admission), _near(answer.quota_resets_in)
            case TakenOver():
                return _near(answer.seconds_left), answer.entry
        return answer


def _near(seconds: float | None) -> Any:
    return None if seconds is None else pytest.approx(seconds, abs=1e-4)


@dataclass
class Batch:
    """A process's knowledge of an entry."""

    holder: str
    semaphores: tuple[str, ...]
    creates: bool
    tasks: list[int]


@dataclass
class Bent:
    """The bias of a history: weights of the calls, and the limits."""

    name: str
    weights: dict[str, int]
    per_minute: float = 60_000
    limit: int = 4
    images_per_day: int | None = None
    waits: Sequence[float] = (0.01, 0.06, 0.3, 0.6, 2.0)
    named: bool = False


USUAL = {
    "begin": 4, "join": 3, "admit": 4, "note": 10, "finish": 8, "put_back": 2, "record": 1,
    "leave": 2, "resize": 1, "wait": 6, "names": 1, "claim": 2, "orphans": 1, "leave_all": 1,
    "cancel": 1, "mark": 1, "resume": 2, "give_back": 2,
}  # fmt: skip

BENTS = [
    Bent("two semaphores", {**USUAL, "begin": 8, "resize": 3}, limit=3),
    Bent("a low rate", {**USUAL, "wait": 12, "put_back": 0}, per_minute=40, limit=30),
    Bent("withdrawn slots", {**USUAL, "wait": 14, "leave": 6}, per_minute=6, limit=30),
    Bent(
        "refused again and again",
        {**USUAL, "put_back": 14, "finish": 2, "wait": 14, "resize": 0},
        per_minute=600,
        limit=30,
        waits=(1.1, 2.0, 9.0, 40.0),
    ),
    Bent("rates are named", {**USUAL, "put_back": 6}, per_minute=600, limit=30, named=True),
    Bent(
        "a full day",
        {**USUAL, "put_back": 6, "finish": 10},
        images_per_day=9,
        limit=6,
        waits=(0.3, 0.6, 7_000.0),
    ),
    Bent("processes come and go", {**USUAL, "leave_all": 8, "orphans": 8}, waits=(0.1, 200, 2_000)),
    Bent("names come and go", {**USUAL, "names": 12, "resize": 6, "leave_all": 4}),
    Bent(
        "batches change their process",
        {
            **USUAL,
            "leave_all": 8,
            "orphans": 8,
            "resume": 16,
            "give_back": 8,
            "mark": 4,
            "cancel": 2,
        },
        limit=8,
        waits=(0.1, 1, 20),
    ),
]


@dataclass
class History:
    """Random calls made on both sides."""

    bent: Bent
    chance: random.Random
    clock: Clock
    open_as: Sequence[Callable[[str], Awaitable[Backend]]]
    sides: tuple[Side, Side] = field(default_factory=lambda: (Side(), Side()))
    batches: dict[str, Batch] = field(default_factory=dict)
    offers: dict[int, str] = field(default_factory=dict)
    permits: dict[int, tuple[str, int, str]] = field(default_factory=dict)
    left_behind: dict[int, tuple[str, int]] = field(default_factory=dict)
    adopted: set[int] = field(default_factory=set)
    claimed: dict[int, str] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    count: int = 0

    # Calls on both sides.

    async def both(self, what: str, holder: str, step: Callable[[Backend, Side], Any]) -> Any:
        """Make a call on both sides and return both responses."""
        self.done.append(f"{self.clock.now:.2f} {holder}: {what}")
        answers = []
        for side in self.sides:
            try:
                answer = await step(side.holders[holder], side)
            except (UnknownSemaphore, SemaphoreInUse, IdempotencyKeyExists) as error:
                answer = type(error), str(error)
            answers.append(side.read(answer))
        assert answers[1] == answers[0], self.describe_history()
        return answers[0]

    def describe_history(self) -> str:
        return f"{self.bent.name}\n" + "\n".join(self.done[-60:])

    async def compare(self, *, wholly: bool) -> None:
        """Check that all readable state is the same on both sides."""
        await self.both("semaphores", "onlooker", lambda backend, _: semaphores(backend))
        await self.both("shares", "onlooker", lambda backend, _: shares(backend))
        await self.both("attempts", "onlooker", attempts)
        await self.both("waiting", "onlooker", lambda b, _: b.resumable_batches("acme"))
        if wholly:
            for batch in [name for name, each in self.batches.items() if each.creates]:
                await self.both("results", "onlooker", partial(journal, batch))
                await self.both("unstarted", "onlooker", partial(unstarted, batch))
            await self.both(
                "predictions", "onlooker", lambda backend, _: backend.list_prediction_ids("acme")
            )

    def shown(self, holder: str, admission: Any) -> None:
        """Replace a holder's known offers by those of the last response."""
        offers, *_ = admission
        mine = {number for number, entry in self.offers.items() if self.holder(entry) == holder}
        for number in mine:
            del self.offers[number]
        self.offers |= dict(offers)

    def holder(self, entry: str) -> str:
        return self.batches[entry].holder

    # Participants.

    async def come(self) -> str:
        self.count += 1
        holder = f"h{self.count}"
        for side, open_as in zip(self.sides, self.open_as, strict=True):
            side.holders[holder] = await open_as(holder)
        limit = self.bent.limit + self.chance.choice([0, 0, 1])
        await self.both(
            f"declare {limit}",
            holder,
            lambda backend, _: backend.declare_limit(OWN, limit, per_minute=self.bent.per_minute),
        )
        for name in NAMES:
            units = self.chance.randint(1, 3)
            await self.both(f"register {name}", holder, partial(register, name, units))
        return holder

    def living(self) -> list[str]:
        return [holder for holder in self.sides[0].holders if holder != "onlooker"]

    def pick(self, choices: Sequence[Any]) -> Any:
        return self.chance.choice(list(choices)) if choices else None

    # Calls.

    async def go_on(self) -> None:
        what = self.chance.choices(list(self.bent.weights), list(self.bent.weights.values()))[0]
        await getattr(self, what)()

    async def wait(self) -> None:
        self.clock.now += self.pick(self.bent.waits)
        self.done.append(f"now {self.clock.now:.2f}")

    async def begin(self) -> None:
        self.count += 1
        holder, batch = self.pick(self.living()), f"b{self.count}"
        also = self.pick([(), (), *[(name,) for name in NAMES]])
        tasks, max_running = self.chance.randint(1, 6), self.pick([None, None, 1, 2])
        key = IdempotencyKey(f"k{self.chance.randint(1, 30)}", batch)
        key_or_none = self.pick([None, None, key])
        journal_tasks = tuple(JournalTask(f"prompt {n}", f"{n}.png", "o/m") for n in range(tasks))
        invalid = (failed(0),) if tasks > 2 and self.chance.random() < 0.2 else ()
        new = NewBatch(
            batch, "server", "acme", "g", journal_tasks, key_or_none, invalid,
            seconds=self.pick([30, 4_000, 4_000]), resumable=self.chance.random() < 0.5,
        )  # fmt: skip
        entry = QueueEntry(batch, (OWN, *also), "acme", tasks - len(invalid), max_running)
        waiting = list(range(len(invalid), tasks))
        self.batches[batch] = Batch(holder, entry.semaphores, True, waiting)
        admission = await self.both(f"begin {entry}", holder, lambda b, _: b.open_batch(new, entry))
        if admission[0] in (IdempotencyKeyExists, UnknownSemaphore):
            del self.batches[batch]
        else:
            self.shown(holder, admission)

    async def join(self) -> None:
        holder = self.pick(self.living())
        semaphores = self.pick([("team",), ("studio",), ("team", "studio"), ("studio", OWN)])
        entry = QueueEntry(
            f"{holder} {'+'.join(semaphores)}", semaphores, None, self.chance.randint(1, 3)
        )
        known = self.batches.setdefault(entry.id, Batch(holder, semaphores, False, []))
        admission = await self.both(f"join {entry}", holder, lambda b, _: b.enqueue(entry))
        if admission[0] is not UnknownSemaphore:
            known.tasks += [0] * entry.waiting
            self.shown(holder, admission)

    async def admit(self) -> None:
        holder = self.pick(self.living())
        self.shown(holder, await self.both("admit", holder, lambda b, _: b.admit()))

    async def note(self) -> None:
        """Accept some or all of a process's offers; sometimes ones that were withdrawn."""
        holder = self.pick(self.living())
        if self.chance.random() < 0.8:
            self.shown(holder, await self.both("admit", holder, lambda b, _: b.admit()))
        mine = [number for number, entry in self.offers.items() if self.holder(entry) == holder]
        mine = mine[: self.chance.choice([1, 2, 9])]
        wanted = {n: self.offers[n] for n in mine if self.batches[self.offers[n]].creates}
        free = {name: list(each.tasks) for name, each in self.batches.items()}
        asked: dict[int, Any] = {}
        for number, entry in wanted.items():
            if free[entry]:
                task, prompt = free[entry].pop(0), self.pick("pq")
                images = self.chance.randint(1, 3)
                about = attempt(entry, task, prompt=prompt, cancel_after=30, images=images)
                asked[number] = replace(about, max_seconds=100)
        if asked:
            chosen, admission, _ = await self.both(
                f"note {asked}",
                holder,
                lambda backend, side: backend.record_attempts(
                    {side.numbers[n]: each for n, each in asked.items()},
                    images_per_day=self.bent.images_per_day,
                ),
            )
            for number in asked:
                entry = self.offers.pop(number)
                if number in chosen:
                    self.batches[entry].tasks.remove(asked[number].task)
                    self.permits[number] = (entry, asked[number].task, holder)
            if admission[0]:
                self.shown(holder, admission)
        await self._take(holder, [number for number in mine if number not in wanted])

    async def _take(self, holder: str, numbers: Sequence[int]) -> None:
        if numbers:
            taken, admission = await self.both(
                f"take {numbers}",
                holder,
                lambda backend, side: backend.accept_offers([side.numbers[n] for n in numbers]),
            )
            for number in numbers:
                entry = self.offers.pop(number)
                if number in taken:
                    self.batches[entry].tasks.pop()
                    self.permits[number] = (entry, 0, holder)
            if admission[0]:
                self.shown(holder, admission)

    async def finish(self) -> None:
        number = self.pick(list(self.permits))
        if number is None:
            return
        entry, task, holder = self.permits[number]
        if not self.batches[entry].creates:
            del self.permits[number]
            admission = await self.both(
                f"release {number}", holder, lambda b, side: b.release(side.numbers[number])
            )
            self.shown(holder, admission)
            return
        prediction = self.claimed.get(number, self.pick([None, *self._predictions(number)]))
        ended = prediction is None or self.chance.random() < 0.8
        admission = await self.both(
            f"finish {number} of {entry} {prediction} {ended}",
            holder,
            lambda backend, side: backend.finish(
                side.numbers[number], entry, failed(task, prediction), ended=ended
            ),
        )
        if admission is not None:
            if prediction is not None:
                self.claimed[number] = prediction
            del self.permits[number]
            self.left_behind[number] = (entry, task)
            self.shown(holder, admission)

    def _predictions(self, number: int) -> list[str]:
        """Return prediction ids, some of which may belong to other attempts."""
        return [f"p{self.chance.randint(1, 40)}", f"q{number}"]

    async def put_back(self) -> None:
        mine = [number for number, each in self.permits.items() if self.batches[each[0]].creates]
        number = self.pick(mine)
        if number is None:
            return
        entry, task, holder = self.permits.pop(number)
        throttling = Throttling(self.pick([None, None, 1, 7]))
        if self.bent.named:
            throttling = replace(throttling, per_minute=self.pick([None, 6, 60]), burst=2)
        said = self.pick([None, throttling, throttling, throttling])
        self.batches[entry].tasks.append(task)
        admission = await self.both(
            f"put back {number} {said}", holder, lambda b, s: b.requeue(s.numbers[number], said)
        )
        self.shown(holder, admission)

    async def record(self) -> None:
        """End some waiting tasks without a prediction."""
        entry = self.pick([name for name, each in self.batches.items() if each.creates])
        if entry is None or not self.batches[entry].tasks:
            return
        batch = self.batches[entry]
        gone, batch.tasks = batch.tasks[-2:], batch.tasks[:-2]
        admission = await self.both(
            f"record {entry} {gone}",
            batch.holder,
            lambda backend, _: backend.record_results(entry, [failed(task) for task in gone]),
        )
        self.shown(batch.holder, admission)

    async def leave(self) -> None:
        living = self.living()
        entry = self.pick([name for name, each in self.batches.items() if each.holder in living])
        if entry is None:
            return
        batch = self.batches[entry]
        some = None if batch.creates else self.pick([None, 1, 2])
        batch.tasks = [] if some is None else batch.tasks[: max(0, len(batch.tasks) - some)]
        admission = await self.both(
            f"leave {entry} {some}", batch.holder, lambda backend, _: backend.dequeue(entry, some)
        )
        self.shown(batch.holder, admission)

    async def resize(self) -> None:
        holder, name = self.pick(self.living()), self.pick([OWN, *NAMES])
        limit, by_admin = self.chance.randint(1, 5), self.chance.random() < 0.3
        admission = await self.both(
            f"resize {name} {limit} {by_admin}",
            holder,
            lambda backend, _: backend.resize(name, limit, by_admin=by_admin),
        )
        if admission[0] is not UnknownSemaphore:
            self.shown(holder, admission)

    async def names(self) -> None:
        holder, name = self.pick(self.living()), self.pick([OWN, *NAMES])
        what = self.pick(["unset", "unset", "remove", "register", "declare", "set_rate"])
        rate, limit = self.pick([30.0, 600.0]), self.chance.randint(1, 4)
        steps: dict[str, Step] = {
            "unset": lambda backend: backend.unset(name),
            "remove": lambda backend: backend.remove("team"),
            "register": lambda backend: backend.register("team", limit),
            "declare": lambda backend: backend.declare_limit(OWN, limit, per_minute=rate),
            "set_rate": lambda backend: backend.set_rate(OWN, rate),
        }
        admission = await self.both(
            f"{what} {name}", holder, lambda backend, _: steps[what](backend)
        )
        if what in ("unset", "set_rate") and admission[0] is not UnknownSemaphore:
            self.shown(holder, admission)

    async def claim(self) -> None:
        mine = [number for number, each in self.permits.items() if self.batches[each[0]].creates]
        number = self.pick(mine)
        if number is not None:
            entry, _, holder = self.permits[number]
            prediction = self.claimed.get(number, self.pick(self._predictions(number)))
            if await self.both(
                f"claim {prediction} for {number}",
                holder,
                lambda b, side: b.claim_prediction(side.numbers[number], entry, prediction),
            ):
                self.claimed[number] = prediction

    async def cancel(self) -> None:
        entry = self.pick([name for name, each in self.batches.items() if each.creates])
        if entry is not None:
            await self.both(f"cancel {entry}", "onlooker", lambda b, _: b.cancel_batch(entry))
            for holder in self.living():
                await self.both("canceled?", holder, lambda b, _: canceled(b))

    async def mark(self) -> None:
        """Make a batch resumable, whichever process runs it."""
        entry = self.pick([name for name, each in self.batches.items() if each.creates])
        if entry is not None:
            holder = self.pick(self.living())
            await self.both(f"mark {entry}", holder, lambda b, _: b.mark_resumable(entry))

    async def resume(self) -> None:
        """Take over a batch that waits for a process; sometimes one that does not."""
        holder = self.pick(self.living())
        waiting = await self.both("waiting?", holder, lambda b, _: b.resumable_batches("acme"))
        entry = self.pick(waiting) or self.pick([n for n, e in self.batches.items() if e.creates])
        if entry is None:
            return
        taken = await self.both(f"take over {entry}", holder, lambda b, _: b.take_over(entry))
        assert (taken is not None) == (entry in waiting)
        if taken is not None:
            tasks = await self.both("unstarted", holder, partial(unstarted, entry))
            batch = self.batches[entry]
            batch.holder, batch.tasks = holder, tasks
            more = QueueEntry(entry, batch.semaphores, "acme", len(tasks))
            admission = await self.both(f"go on {more}", holder, lambda b, _: b.enqueue(more))
            if admission[0] is not UnknownSemaphore:
                self.shown(holder, admission)

    async def give_back(self) -> None:
        """Leave the task of an adopted attempt to the process that runs its batch."""
        number = self.pick([number for number in self.permits if number in self.adopted])
        if number is not None:
            _, _, holder = self.permits.pop(number)
            admission = await self.both(
                f"give back {number}", holder, lambda b, s: b.give_back(s.numbers[number])
            )
            self.shown(holder, admission)

    async def orphans(self) -> None:
        """Adopt a process's orphans, or abandon an attempt."""
        holder = self.pick(self.living())
        left = await self.both("orphans", holder, orphans)
        for number in left[:2]:
            assert await self.both(f"adopt {number}", holder, partial(adopt, number))
            self.permits[number] = (*self.left_behind[number], holder)
            self.adopted.add(number)
        mine = [n for n, each in self.permits.items() if self.batches[each[0]].creates]
        number = self.pick(mine)
        if number is not None and self.chance.random() < 0.3:
            entry, task, holder = self.permits.pop(number)
            self.left_behind[number] = (entry, task)
            await self.both(f"abandon {number}", holder, lambda b, s: b.abandon(s.numbers[number]))

    async def leave_all(self) -> None:
        """Close a process and open another."""
        holder = self.pick(self.living())
        await self.both("close", holder, lambda backend, _: backend.close())
        for side in self.sides:
            del side.holders[holder]
        for number, entry in list(self.offers.items()):
            if self.holder(entry) == holder:
                del self.offers[number]
        for number, (entry, task, of) in list(self.permits.items()):
            if of == holder:
                del self.permits[number]
                self.left_behind[number] = (entry, task)
        for entry in [name for name, each in self.batches.items() if each.holder == holder]:
            self.batches[entry].tasks = []
            self.batches[entry].holder = "onlooker"
        await self.come()


async def semaphores(backend: Backend) -> Any:
    return [
        (
            each.name, each.limit, each.in_use, each.waiting, each.available,
            _near(each.requests_per_minute), _near(each.throttled_for),
        )
        for each in await backend.semaphores()
    ]  # fmt: skip


async def shares(backend: Backend) -> Any:
    return [each for each in await backend.usage_by_holder() if each.in_use or each.waiting]


async def attempts(backend: Backend, side: Side) -> Any:
    return [
        (side.name(each.permit), *(getattr(each, name) for name in ABOUT))
        for each in await backend.open_attempts("acme")
    ]


ABOUT = ("batch", "task", "model", "inputs", "cancel_after", "sent_at", "prediction_id")


async def orphans(backend: Backend, side: Side) -> Any:
    return [side.name(each.permit) for each in await backend.orphans("acme")]


async def canceled(backend: Backend) -> Any:
    return sorted(await backend.canceled_batches())


async def register(name: str, limit: int, backend: Backend, _: Side) -> Any:
    return await backend.register(name, limit)


async def adopt(number: int, backend: Backend, side: Side) -> Any:
    return await backend.adopt(side.numbers[number])


async def unstarted(batch: str, backend: Backend, _: Side) -> Any:
    return await backend.unstarted_tasks(batch)


async def journal(batch: str, backend: Backend, _: Side) -> Any:
    return await backend.get_batch(batch), await backend.results(batch)


@asynccontextmanager
async def history(bent: Bent, seed: int, server: RunningServer) -> AsyncIterator[History]:
    """Return both backends, each with three processes and an observer."""
    clock, prefix = Clock(), token_hex(4)
    await open_for_admission(server, prefix, "acme")

    async def in_python(label: str) -> Backend:
        return await SqliteBackend.open(":memory:", label=label, clock=clock)

    async def in_lua(label: str) -> Backend:
        return await RedisBackend.open(server.url(prefix, lease=600), label=label, clock=clock)

    history = History(bent, random.Random(seed), clock, (in_python, in_lua))
    for side, open_as in zip(history.sides, history.open_as, strict=True):
        side.holders["onlooker"] = await open_as("onlooker")
    for _ in range(3):
        await history.come()
    yield history
    for side in history.sides:
        for backend in side.holders.values():
            await backend.close()


STEPS = 120


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("bent", BENTS, ids=lambda bent: bent.name.replace(" ", "_"))
async def test_both_backends_return_equal_results(
    bent: Bent, seed: int, servers: Callable[[str], RunningServer]
) -> None:
    async with history(bent, seed, servers("redis")) as both:
        for number in range(STEPS):
            await both.go_on()
            await both.compare(wholly=number % 10 == 0)
        await both.compare(wholly=True)
