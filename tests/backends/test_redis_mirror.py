"""What a process keeps of what it has, for a server that forgets: no server is needed for it."""

from dataclasses import replace

from backends.acting import OWN, attempt, failed
from replicate_mcp.backends.redis.membership import RENEWALS_A_LEASE, ROWS_A_CALL
from replicate_mcp.backends.redis.mirror import (
    MAX_ENDED_BATCH_BYTES,
    ENDED_BATCH_TTL_SECONDS,
    MirroredBatch,
    MirroredEntry,
    MirroredPermit,
    Mirror,
)
from replicate_mcp.backends.redis.told import attempt_fingerprint, encode_inputs, encode_row
from replicate_mcp.batches.backend import JournalTask, NewBatch
from replicate_mcp.semaphores.permits import QueueEntry


class Clock:
    """A process's own clock."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def with_batch(
    tasks: int = 2, *, clock: Clock | None = None, batch: str = "b", prompt: str = "p"
) -> Mirror:
    mirror = Mirror(clock or Clock())
    add(mirror, batch, tasks, prompt)
    return mirror


def add(mirror: Mirror, batch: str, tasks: int = 1, prompt: str = "p", failures: int = 0) -> None:
    journal = tuple(JournalTask(prompt, f"{n}.png", "o/m") for n in range(tasks))
    new = NewBatch(
        batch, "server", "acme", "g", journal, failures=tuple(map(failed, range(failures)))
    )
    entry = QueueEntry(batch, (OWN,), "acme", tasks - failures)
    mirror.enqueue(MirroredEntry(entry, entry.waiting), [(OWN, "7")])
    mirror.batches[batch] = MirroredBatch(new, 1_000.0)


def test_an_offer_that_became_a_permit_waits_no_more_and_is_kept_with_its_attempt() -> None:
    mirror = with_batch(2)
    mirror.add_attempt(5, attempt("b", 1, images=3), 597, now=100.0)
    assert mirror.waiting("b") == 1
    noted = attempt("b", 1)
    assert mirror.permits == {
        5: MirroredPermit(
            "b", (OWN,), "acme", False, 100.0, 1, 597, attempt_fingerprint(noted), 800.0, 3, None, "o/m",
            encode_inputs(noted), 1_000.0,
        )
    }  # fmt: skip
    assert mirror.encode()["permits"] == [
        {
            "permit": "5",
            "record": {
                "entry": "b", "semaphores": (OWN,), "account": "acme", "taken_at": 100.0, "task": 1,
                "cancel_after": 597, "alike": attempt_fingerprint(noted), "ends_by": 800.0, "images": 3,
            },
            "about": {"model": "o/m", "inputs": encode_inputs(noted), "sent_at": 1_000.0},
        }
    ]  # fmt: skip


def test_an_answer_that_comes_twice_counts_once() -> None:
    mirror = with_batch(3)
    for now in (1.0, 2.0):
        mirror.add_permit(5, "b", taken_at=now)
    assert mirror.waiting("b") == 2
    assert mirror.permits[5].taken_at == 1.0
    mirror.add_permit(6, "unknown", taken_at=1.0)
    assert list(mirror.permits) == [5]


def test_a_permit_of_an_entry_with_a_limit_of_its_own_says_so() -> None:
    mirror = Mirror(Clock())
    mirror.enqueue(MirroredEntry(QueueEntry("c", ("team",), None, 2, 1), 2), [("team", "3")])
    mirror.add_permit(5, "c", taken_at=1.0)
    assert mirror.encode()["permits"] == [
        {
            "permit": "5",
            "record": {"entry": "c", "semaphores": ("team",), "limited": True, "taken_at": 1.0},
        }
    ]
    assert mirror.encode()["entries"] == [
        {"entry": "c", "semaphores": ("team",), "wanted": 1, "at_most": 1}
    ]


def test_a_permit_that_was_taken_over_is_read_as_the_server_tells_it() -> None:
    told = ["9", "b", [OWN], "acme", "1", "5.5", "2", "30", "x", "70.25", "4", "p1", "m", "{}", "6"]
    assert MirroredPermit.decode(told) == MirroredPermit(
        "b", [OWN], "acme", True, 5.5, 2, 30, "x", 70.25, 4, "p1", "m", "{}", 6.0
    )
    told[3] = told[4] = told[11] = ""
    read = MirroredPermit.decode(told)
    assert (read.account, read.limited, read.prediction) == (None, False, None)


def test_what_an_entry_waits_for_is_never_less_than_nothing() -> None:
    mirror = with_batch(2)
    mirror.set_waiting("b", -3)
    assert mirror.waiting("b") == 0
    mirror.add_permit(5, "b", taken_at=1.0)
    assert mirror.waiting("b") == 0
    mirror.set_waiting("unknown", 3)
    assert mirror.waiting("unknown") == 0


def test_a_limit_that_was_declared_stays_whatever_joins_later() -> None:
    mirror = with_batch()
    mirror.declared[OWN] = (3, 600.0)
    mirror.declared["account:other"] = (4, None)
    add(mirror, "b2")
    assert mirror.encode()["declared"] == [
        {"semaphore": OWN, "limit": 3, "per_minute": 600.0},
        {"semaphore": "account:other", "limit": 4},
    ]
    assert mirror.accounts() == ["acme", "other"]


def test_a_name_that_was_removed_goes_with_the_entries_that_wait_for_it() -> None:
    mirror = with_batch()
    mirror.enqueue(MirroredEntry(QueueEntry("c", ("studio", "team"), None, 1), 1), [("team", "1")])
    mirror.remove_semaphore("team")
    assert (list(mirror.entries), list(mirror.declared)) == (["b"], [OWN])
    mirror.remove_semaphore("unknown")


def test_a_batch_has_ended_with_the_last_of_its_results_and_failures() -> None:
    mirror = Mirror(Clock())
    add(mirror, "b", 3, failures=1)
    mirror.add_results("b", [encode_row(failed(1))])
    mirror.add_results("b", [encode_row(failed(1, "p1"))])
    assert mirror.running() == ["b"]
    assert mirror.batches["b"].rows[1] == encode_row(failed(1)), "the first counts"
    mirror.add_results("b", [encode_row(failed(2))])
    assert (mirror.running(), mirror.entries, list(mirror.batches)) == ([], {}, ["b"])
    mirror.add_results("unknown", [encode_row(failed(0))])


def test_a_batch_that_was_taken_over_is_said_once_and_runs_no_more() -> None:
    mirror = with_batch(2)
    assert mirror.mark_taken_over("b")
    assert not mirror.mark_taken_over("b")
    assert (mirror.running(), mirror.entries) == ([], {})


def test_ended_batches_are_kept_for_an_hour_and_no_longer() -> None:
    clock = Clock()
    mirror = with_batch(1, clock=clock, batch="b1")
    add(mirror, "b2")
    add(mirror, "runs")
    mirror.add_results("b1", [encode_row(failed(0))])
    clock.now = 1.0
    mirror.add_results("b2", [encode_row(failed(0))])
    clock.now = 3_600.0
    mirror.drop_expired()
    assert list(mirror.batches) == ["b1", "b2", "runs"]
    clock.now = 3_600.5
    mirror.drop_expired()
    assert list(mirror.batches) == ["b2", "runs"]
    clock.now = 9_999.0
    mirror.drop_expired()
    assert list(mirror.batches) == ["runs"]
    assert ENDED_BATCH_TTL_SECONDS == 3_600


def test_ended_batches_take_so_much_memory_at_most_and_the_oldest_go() -> None:
    assert MAX_ENDED_BATCH_BYTES == 32 * 1024**2
    mirror = Mirror(Clock())
    text = "x" * (MAX_ENDED_BATCH_BYTES // 4)
    for number in range(6):
        add(mirror, f"b{number}", prompt=text)
    add(mirror, "runs", prompt=text)
    for number in range(6):
        mirror.add_results(f"b{number}", [encode_row(failed(0))])
    assert list(mirror.batches) == ["b3", "b4", "b5", "runs"]
    mirror.drop_batch("b4")
    add(mirror, "b6", prompt=text)
    mirror.add_results("b6", [encode_row(failed(0))])
    assert list(mirror.batches) == ["b3", "b5", "runs", "b6"], "what was forgotten takes nothing"
    mirror.add_results("b6", [encode_row(failed(0))])
    mirror.mark_taken_over("b6")
    assert list(mirror.batches) == ["b3", "b5", "runs", "b6"], "and what ended twice counts once"


def test_a_batchs_size_is_of_its_tasks_failures_and_results() -> None:
    empty = with_batch(1, prompt="").batches["b"]
    size = empty.size()
    assert 0 < size < 1_000
    assert with_batch(1, prompt="x" * 9_000).batches["b"].size() == size + 9_000
    empty.rows[0] = encode_row(failed(0).model_copy(update={"error": "e" * 5_000}))
    assert 5_000 < empty.size() - size < 6_000
    new = replace(empty.batch, failures=(failed(0).model_copy(update={"error": "e" * 7_000}),))
    assert MirroredBatch(new, 0.0).size() - size > 7_000


def test_what_is_shared_is_said_as_it_was_last_told() -> None:
    mirror = Mirror(Clock())
    mirror.newest = 12
    mirror.set_shared_limits(
        [("team", "7", "1", "5.5"), ("studio", "2", "", "6")], [("acme", "600", "5")],
        [("acme", "19", "4")],
    )  # fmt: skip
    told = mirror.encode()
    assert told["newest"] == "12"
    assert told["set"] == [
        {"name": "team", "units": 7, "by_admin": True, "at": 5.5},
        {"name": "studio", "units": 2, "by_admin": False, "at": 6.0},
    ]
    assert told["rates"] == [{"account": "acme", "values": ["600", "5"]}]
    assert told["images"] == [{"account": "acme", "day": 19, "count": 4}]


def test_how_often_a_lease_is_renewed_and_how_much_is_written_at_once() -> None:
    assert (RENEWALS_A_LEASE, ROWS_A_CALL) == (3, 200)
