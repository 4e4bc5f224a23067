"""The rules in Lua decide like the pure functions in Python, on the same random histories."""

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.servers import KINDS, RunningServer
from replicate_mcp.backends.redis.connection import lua
from replicate_mcp.replicate_api.attempt_matching import distinct_cancel_after
from replicate_mcp.semaphores import adaptive_rate, admission
from replicate_mcp.semaphores.adaptive_rate import Throttling
from replicate_mcp.semaphores.admission import Entry, admit
from replicate_mcp.semaphores.rate_limit import Rate

NOW = 1_000_000.0

FIELDS = [field.name for field in fields(Rate)]

quietly = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Lua:
    """Runs a rule of `backends/redis/lua` on a real server, with JSON in and out."""

    def __init__(self, server: RunningServer, file: str, body: str) -> None:
        self._client = server.client
        self._script = (
            f"local rule = (function() {lua(file)} end)()\n"
            f"local given = cjson.decode(ARGV[1])\n{body}"
        )

    def __call__(self, **given: Any) -> Any:
        return self._client.eval(self._script, 0, json.dumps(given))


@pytest.fixture(params=KINDS)
def server(
    request: pytest.FixtureRequest, servers: Callable[[str], RunningServer]
) -> RunningServer:
    return servers(request.param)


# Rates.

RATE_HISTORIES = """
local rate = rule
local function follow(given)
local state = rate.initial(given.per_minute, given.now)
local out = {}
for _, event in ipairs(given.history) do
  local what = event.what
  if what == 'time' then rate.refilled_at(state, event.now)
  elseif what == 'later' then state = state
  elseif what == 'declared' then rate.with_configured(state, event.per_minute, event.now)
  elseif what == 'set' then rate.with_manual(state, event.per_minute, event.now)
  elseif what == 'spent' then rate.consume(state, event.count)
  elseif what == 'given_back' then rate.refund(state, event.count)
  elseif what == 'sent' then rate.on_sent(state, event.count)
  else rate.on_throttled(state, event.throttling, event.sent_at) end
  local row = {string.format('%.17g', rate.next_available_at(state))}
  for _, field in ipairs(rate.FIELDS) do row[#row + 1] = string.format('%.17g', state[field]) end
  out[#out + 1] = row
end
return out
end
local all = {}
for place, each in ipairs(given.histories) do all[place] = follow(each) end
return all
"""

seconds = st.one_of(st.floats(0, 3), st.floats(0, 900), st.just(-3_600.0))
numbers = st.one_of(st.none(), st.integers(1, 700), st.floats(0.5, 700))
counts = st.integers(1, 20)

events = st.one_of(
    st.tuples(st.just("time"), seconds),
    st.tuples(st.just("declared"), st.sampled_from([6, 60, 300, 600, 60_000])),
    st.tuples(st.just("set"), st.sampled_from([6, 60, 300, 600, 60_000])),
    st.tuples(st.just("spent"), counts),
    st.tuples(st.just("given_back"), counts),
    st.tuples(st.just("sent"), counts),
    st.tuples(st.just("throttled"), st.builds(Throttling, numbers, numbers, numbers), seconds),
)


def in_python(per_minute: float, history: Sequence[tuple[Any, ...]]) -> tuple[list[Rate], Any]:
    """Return the rate after each event, and the history in the format of the Lua rule."""
    rate, now, events_for_lua = Rate.initial(per_minute, NOW), NOW, []
    states = []
    for what, *how in history:
        event: dict[str, Any] = {"what": what}
        if what == "time":
            now += how[0]
            rate = rate.refilled_at(now)
            event["now"] = now
        elif what == "later":
            now += how[0]  # This event does not read the bucket.
        elif what in ("declared", "set"):
            rate = (
                rate.with_manual(how[0], now)
                if what == "set"
                else rate.with_configured(how[0], now)
            )
            event |= {"per_minute": how[0], "now": now}
        elif what == "throttled":
            throttling, ago = how
            rate = adaptive_rate.on_throttled(rate, throttling, sent_at=now - max(0.0, ago))
            event["throttling"] = {k: v for k, v in asdict(throttling).items() if v is not None}
            event["sent_at"] = now - max(0.0, ago)
        else:
            rate = (
                adaptive_rate.on_sent(rate, how[0])
                if what == "sent"
                else rate.consume(how[0])
                if what == "spent"
                else rate.refund(how[0])
            )
            event["count"] = how[0]
        events_for_lua.append(event)
        states.append(rate)
    return states, events_for_lua


@pytest.mark.property
@given(per_minute=st.sampled_from([1, 6, 60, 600]), history=st.lists(events, max_size=40))
@quietly
def test_rate_evolves_identically_in_lua(
    server: RunningServer, per_minute: float, history: list[tuple[Any, ...]]
) -> None:
    assert_same_rates(server, (per_minute, history))


@pytest.mark.property
@given(runs=st.lists(st.integers(0, 6), min_size=11, max_size=30))
@quietly
def test_occasional_429s_are_tolerated_identically_in_lua(
    server: RunningServer, runs: list[int]
) -> None:
    history: list[tuple[Any, ...]] = []
    for run in runs:
        history += [("sent", run)] if run else []
        history += [("time", 1.5), ("sent", 1), ("throttled", Throttling(retry_after=1), 0.0)]
    assert_same_rates(server, (600, history))


TIMES = (0.0, 0.5, 1.0, 1.5, 2.0, 5.0, 9.0, 10.0, 20.0, 40.0, 100.0, 300.0, 600.0, -3_600.0)
PER_MINUTE = (6, 60, 300, 600)
RETRY_AFTER = (None, None, 0.0, 0.05, 1.0, 8.0, 300.0, 400.0)
NAMED = (None, None, None, 0.5, 30.0, 90.0, 700.0)
BURSTS = (None, 0.5, 1.0, 3.0)

USUAL = {
    "time": 6, "later": 0, "spent": 2, "given_back": 1, "sent": 4, "throttled": 4, "declared": 1,
    "set": 0,
}  # fmt: skip
BENTS = (
    USUAL,
    {**USUAL, "throttled": 1, "declared": 0},
    {**USUAL, "later": 4, "declared": 4, "set": 1},
    {**USUAL, "time": 3, "throttled": 9, "declared": 0},
)


def random_history(chance: random.Random, bent: Mapping[str, int]) -> list[tuple[Any, ...]]:
    """Return random events at round times, which meet bounds exactly."""
    history: list[tuple[Any, ...]] = []
    for name in chance.choices([*bent], [*bent.values()], k=30):
        if name in ("time", "later"):
            # Clocks are seldom set back; small advances are the most common.
            history.append((name, chance.choices(TIMES, [9] * 9 + [3] * 4 + [1])[0]))
        elif name in ("declared", "set"):
            history.append((name, chance.choice(PER_MINUTE)))
        elif name == "throttled":
            events_for_lua = Throttling(
                chance.choice(RETRY_AFTER), chance.choice(NAMED), chance.choice(BURSTS)
            )
            history.append((name, events_for_lua, chance.choice((0.0, 0.0, 0.5, 2.0, 20.0))))
        else:
            history.append((name, chance.choice((1, 1, 2, 3, 9))))
    return history


def repeatedly_throttled(chance: random.Random) -> list[tuple[Any, ...]]:
    """Return repeated 429s with few creations in between, and occasionally many."""
    history: list[tuple[Any, ...]] = []
    is_hopeless = chance.random() < 0.3
    for _ in range(26):
        run = 0 if is_hopeless else chance.choice((0, 0, 1, 3, 30))
        history += [("sent", run)] if run else []
        history += [("time", chance.choice((1.5, 1.5, 1.5, 30.0))), ("sent", 1)]
        retry_after = None if is_hopeless else chance.choice((None, 1.0))
        events_for_lua = Throttling(retry_after, chance.choice((None,) * 30 + (90.0,)))
        history.append(("throttled", events_for_lua, 0.0))
    history += [("throttled", Throttling(), 0.5)] * 25
    return [*history, ("sent", 1)]


EXACTLY_TWICE_THE_TIME: list[tuple[Any, ...]] = [
    ("time", 20.0), ("sent", 3), ("time", 10.0), ("sent", 2), ("time", 10.0), ("sent", 1),
    ("throttled", Throttling(), 0.0),
]  # fmt: skip


def test_many_random_rates_evolve_identically_in_lua(server: RunningServer) -> None:
    chance = random.Random(0)
    histories = [
        (chance.choice((1, 6, 60, 600)), random_history(chance, bent))
        for bent in BENTS
        for _ in range(40)
    ]
    assert_same_rates(server, *histories)


def test_many_repeatedly_throttled_rates_evolve_identically_in_lua(
    server: RunningServer,
) -> None:
    chance = random.Random(0)
    assert_same_rates(server, *((600, repeatedly_throttled(chance)) for _ in range(20)))


def test_many_creations_are_counted_identically_in_lua(server: RunningServer) -> None:
    assert_same_rates(server, (600, EXACTLY_TWICE_THE_TIME), (60, EXACTLY_TWICE_THE_TIME))


def assert_same_rates(
    server: RunningServer, *histories: tuple[float, Sequence[tuple[Any, ...]]]
) -> None:
    in_python_all = [in_python(per_minute, history) for per_minute, history in histories]
    given = [
        {"per_minute": per_minute, "now": NOW, "history": events_for_lua}
        for (per_minute, _), (_, events_for_lua) in zip(histories, in_python_all, strict=True)
    ]
    in_lua = Lua(server, "rate_limit", RATE_HISTORIES)(histories=given)
    for (states, _), rows in zip(in_python_all, in_lua, strict=True):
        assert len(rows) == len(states)
        for rate, row in zip(states, rows, strict=True):
            expected = [rate.next_available_at(), *(float(getattr(rate, name)) for name in FIELDS)]
            for name, ours, theirs in zip(["ready_at", *FIELDS], expected, row, strict=True):
                assert math.isclose(ours, float(theirs), rel_tol=1e-12, abs_tol=1e-9), name


def test_rate_fields_are_identical_in_lua(server: RunningServer) -> None:
    assert Lua(server, "rate_limit", "return rule.FIELDS")() == FIELDS


# Admission.

ADMISSION = """
local decisions = {}
for place, given in ipairs(given.queues) do
  local stalled = {}
  for _, holder in ipairs(given.stalled) do stalled[holder] = true end
  local grants, next_at = rule.admit(given.queue, given.free, given.rates, stalled, given.now)
  decisions[place] = {grants, next_at and string.format('%.17g', next_at) or ''}
end
return decisions
"""

NAMES = ("s", "t", "u")
ACCOUNTS = ("a", "b")

entries = st.builds(
    Entry,
    id=st.integers(0, 10_000).map("e{}".format),
    holder=st.sampled_from(["p", "q", "r"]),
    semaphores=st.lists(st.sampled_from(NAMES), min_size=1, max_size=2, unique=True).map(tuple),
    account=st.sampled_from([None, *ACCOUNTS]),
    waiting=st.integers(0, 6),
    running=st.integers(0, 3),
    max_running=st.one_of(st.none(), st.integers(1, 4)),
)

rates = st.builds(
    lambda rate, tokens, paused_for: replace(
        rate, tokens=min(tokens, rate.burst), paused_until=NOW + paused_for
    ),
    st.sampled_from([6, 60, 600]).map(lambda per_minute: Rate.initial(per_minute, NOW)),
    st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.0, 3.0]) | st.floats(-2, 12),
    st.sampled_from([-100.0, -100.0, 0.0, 0.5, 30.0]),
)


@pytest.mark.property
@given(
    queue=st.lists(entries, max_size=9, unique_by=lambda each: each.id),
    free=st.fixed_dictionaries(
        {}, optional={name: st.sampled_from([-2, 0, 0, 1, 2, 3, 9]) for name in NAMES}
    ),
    by_account=st.dictionaries(st.sampled_from(ACCOUNTS), rates),
    stalled=st.sets(st.sampled_from(["p", "q"])),
)
@quietly
def test_admission_decides_identically_in_lua(
    server: RunningServer,
    queue: list[Entry],
    free: dict[str, int],
    by_account: dict[str, Rate],
    stalled: set[str],
) -> None:
    assert_same_decisions(server, (queue, free, by_account, stalled))


Given = tuple[Sequence[Entry], Mapping[str, int], Mapping[str, Rate], set[str]]


def random_queue(chance: random.Random) -> Given:
    """Return a random queue: ample or scarce units, or a first entry that lacks one unit."""
    rates = {
        account: replace(
            Rate.initial(chance.choice((6, 60, 600)), NOW),
            tokens=chance.choice((-1.0, 0.0, 0.5, 1.0, 2.0, 5.0)),
            paused_until=NOW + chance.choice((-100.0, -100.0, -100.0, 0.0, 0.5, 30.0)),
        )
        for account in ACCOUNTS
        if chance.random() < 0.8
    }
    queue = [
        Entry(
            f"e{number}", chance.choice("pqr"),
            tuple(chance.sample(NAMES, chance.choice((1, 1, 2)))),
            chance.choice((None, *ACCOUNTS)), chance.choice((0, 1, 2, 6)),
            chance.choice((0, 0, 1, 3)), chance.choice((None, None, 1, 3, 4)),
        )
        for number in range(chance.randint(0, 8))
    ]  # fmt: skip
    free = {name: chance.choice((-2, 0, 1, 2, 5, 9)) for name in NAMES if chance.random() < 0.9}
    return queue, free, rates, {holder for holder in "pq" if chance.random() < 0.15}


def test_many_random_queues_are_admitted_identically_in_lua(server: RunningServer) -> None:
    chance = random.Random(0)
    assert_same_decisions(server, *(random_queue(chance) for _ in range(1_000)))


def assert_same_decisions(server: RunningServer, *queues: Given) -> None:
    events_for_lua = [
        {
            "queue": [_without_none(asdict(entry)) for entry in queue],
            "free": free,
            "rates": {account: asdict(rate) for account, rate in by_account.items()},
            "stalled": sorted(stalled),
            "now": NOW,
        }
        for queue, free, by_account, stalled in queues
    ]
    decided = Lua(server, "admission", ADMISSION)(queues=events_for_lua)
    for (queue, free, by_account, stalled), (grants, next_at) in zip(queues, decided, strict=True):
        decision = admit(queue, free, by_account, stalled=stalled, now=NOW)
        assert tuple(grants) == decision.grants
        if decision.next_at is None:
            assert not next_at
        else:
            assert math.isclose(float(next_at), decision.next_at, rel_tol=1e-12)


def _without_none(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if value is not None}


# Cancel-After.

CANCEL_AFTER = """
local chosen = {}
for place, given in ipairs(given.attempts) do
  local used = {}
  for _, seconds in ipairs(given.used) do used[seconds] = true end
  chosen[place] = rule(given.wanted, used)
end
return chosen
"""


@pytest.mark.property
@given(wanted=st.integers(5, 40), used=st.sets(st.integers(5, 40)))
@quietly
def test_distinct_cancel_after_is_chosen_identically_in_lua(
    server: RunningServer, wanted: int, used: set[int]
) -> None:
    assert_same_cancel_after(server, (wanted, used))


def test_many_equal_attempts_get_identical_cancel_after_in_lua(server: RunningServer) -> None:
    chance = random.Random(0)
    attempts = [
        (wanted, set(chance.sample(range(5, 41), chance.randint(0, 36))))
        for wanted in range(5, 41)
        for _ in range(20)
    ]
    assert_same_cancel_after(server, *attempts)


def assert_same_cancel_after(server: RunningServer, *attempts: tuple[int, set[int]]) -> None:
    given = [{"wanted": wanted, "used": sorted(used)} for wanted, used in attempts]
    chosen = Lua(server, "cancel_after", CANCEL_AFTER)(attempts=given)
    assert chosen == [distinct_cancel_after(wanted, used) for wanted, used in attempts]


def test_offer_lifetimes_are_identical_in_lua(server: RunningServer) -> None:
    body = "return {tostring(rule.OFFER_TTL_SECONDS), tostring(rule.OFFER_STALE_SECONDS)}"
    lasts, stalls_after = Lua(server, "admission", body)()
    assert float(lasts) == admission.OFFER_TTL_SECONDS
    assert float(stalls_after) == admission.OFFER_STALE_SECONDS
