"""The mirror: the state that a process keeps for a resync, without a server."""

from dataclasses import replace

from backends.steps import OWN, attempt, failed
from replicate_mcp.backends.redis.encoding import attempt_fingerprint, encode_inputs, encode_row
from replicate_mcp.backends.redis.mirror import (
    ENDED_BATCH_TTL_SECONDS,
    MAX_ENDED_BATCH_BYTES,
    RATE_FIELDS,
    Mirror,
    MirroredBatch,
    MirroredEntry,
    MirroredPermit,
)
from replicate_mcp.backends.redis.session import RENEWALS_A_LEASE, ROWS_A_CALL
from replicate_mcp.batches.journal import JournalTask, NewBatch
from replicate_mcp.semaphores.permit_store import QueueEntry


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


def test_accepted_offer_leaves_the_queue_and_is_mirrored_with_its_attempt() -> None:
    mirror = with_batch(2)
    mirror.add_attempt(5, attempt("b", 1, images=3), 597, now=100.0)
    assert mirror.waiting("b") == 1
    recorded = attempt("b", 1)
    assert mirror.permits == {
        5: MirroredPermit(
            "b", (OWN,), "acme", False, 100.0, 1, 597, attempt_fingerprint(recorded), 800.0, 3,
            None, "o/m", encode_inputs(recorded), 1_000.0,
        )
    }  # fmt: skip
    assert mirror.encode()["permits"] == [
        {
            "permit": "5",
            "record": {
                "entry": "b", "semaphores": (OWN,), "account": "acme", "taken_at": 100.0, "task": 1,
                "cancel_after": 597, "fingerprint": attempt_fingerprint(recorded),
                "ends_by": 800.0, "images": 3,
            },
            "about": {"model": "o/m", "inputs": encode_inputs(recorded), "sent_at": 1_000.0},
        }
    ]  # fmt: skip


def test_repeated_reply_is_applied_once() -> None:
    mirror = with_batch(3)
    for now in (1.0, 2.0):
        mirror.add_permit(5, "b", taken_at=now)
    assert mirror.waiting("b") == 2
    assert mirror.permits[5].taken_at == 1.0
    mirror.add_permit(6, "unknown", taken_at=1.0)
    assert list(mirror.permits) == [5]


def test_permit_of_an_entry_with_its_own_limit_is_marked_limited() -> None:
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
        {"entry": "c", "semaphores": ("team",), "wanted": 1, "max_running": 1}
    ]


def test_taken_over_permit_is_decoded_from_server_reply() -> None:
    encoded = [
        "9",
        "b",
        [OWN],
        "acme",
        "1",
        "5.5",
        "2",
        "30",
        "x",
        "70.25",
        "4",
        "p1",
        "m",
        "{}",
        "6",
    ]
    assert MirroredPermit.decode(encoded) == MirroredPermit(
        "b", [OWN], "acme", True, 5.5, 2, 30, "x", 70.25, 4, "p1", "m", "{}", 6.0
    )
    encoded[3] = encoded[4] = encoded[11] = ""
    read = MirroredPermit.decode(encoded)
    assert (read.account, read.limited, read.prediction) == (None, False, None)


def test_waiting_count_of_an_entry_is_never_negative() -> None:
    mirror = with_batch(2)
    mirror.set_waiting("b", -3)
    assert mirror.waiting("b") == 0
    mirror.add_permit(5, "b", taken_at=1.0)
    assert mirror.waiting("b") == 0
    mirror.set_waiting("unknown", 3)
    assert mirror.waiting("unknown") == 0


def test_declared_limit_is_unchanged_by_later_entries() -> None:
    mirror = with_batch()
    mirror.declared[OWN] = (3, 600.0)
    mirror.declared["account:other"] = (4, None)
    add(mirror, "b2")
    assert mirror.encode()["declared"] == [
        {"semaphore": OWN, "limit": 3, "per_minute": 600.0},
        {"semaphore": "account:other", "limit": 4},
    ]
    assert mirror.accounts() == ["acme", "other"]


def test_removed_name_drops_its_waiting_entries() -> None:
    mirror = with_batch()
    mirror.enqueue(MirroredEntry(QueueEntry("c", ("studio", "team"), None, 1), 1), [("team", "1")])
    mirror.remove_semaphore("team")
    assert (list(mirror.entries), list(mirror.declared)) == (["b"], [OWN])
    mirror.remove_semaphore("unknown")


def test_batch_ends_with_its_last_result_or_failure() -> None:
    mirror = Mirror(Clock())
    add(mirror, "b", 3, failures=1)
    mirror.add_results("b", [encode_row(failed(1))])
    mirror.add_results("b", [encode_row(failed(1, "p1"))])
    assert mirror.running() == ["b"]
    assert mirror.batches["b"].rows[1] == encode_row(failed(1)), "the first counts"
    mirror.add_results("b", [encode_row(failed(2))])
    assert (mirror.running(), mirror.entries, list(mirror.batches)) == ([], {}, ["b"])
    mirror.add_results("unknown", [encode_row(failed(0))])


def test_taken_over_batch_is_reported_once_and_no_longer_running() -> None:
    mirror = with_batch(2)
    assert mirror.mark_taken_over("b")
    assert not mirror.mark_taken_over("b")
    assert (mirror.running(), mirror.entries) == ([], {})


def test_ended_batches_are_mirrored_for_an_hour() -> None:
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


def test_ended_batches_are_bounded_in_bytes_and_the_oldest_are_dropped() -> None:
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


def test_batch_size_counts_tasks_failures_and_results() -> None:
    empty = with_batch(1, prompt="").batches["b"]
    size = empty.size()
    assert 0 < size < 1_000
    assert with_batch(1, prompt="x" * 9_000).batches["b"].size() == size + 9_000
    empty.rows[0] = encode_row(failed(0).model_copy(update={"error": "e" * 5_000}))
    assert 5_000 < empty.size() - size < 6_000
    new = replace(empty.batch, failures=(failed(0).model_copy(update={"error": "e" * 7_000}),))
    assert MirroredBatch(new, 0.0).size() - size > 7_000


def test_mirror_encodes_shared_limits_as_last_received() -> None:
    mirror = Mirror(Clock())
    mirror.newest = 12
    mirror.set_shared_limits(
        [("team", "7", "1", "5.5"), ("studio", "2", "", "6")],
        [("acme", "digest", "per_minute", "5")], [("acme", "19", "4")],
    )  # fmt: skip
    encoded = mirror.encode()
    assert encoded["newest"] == "12"
    assert encoded["set"] == [
        {"name": "team", "units": 7, "by_admin": True, "at": 5.5},
        {"name": "studio", "units": 2, "by_admin": False, "at": 6.0},
    ]
    assert encoded["rates"] == [{"account": "acme", "values": ["0", "5", *["0"] * 15]}]
    assert encoded["images"] == [{"account": "acme", "day": 19, "count": 4}]


def test_mirror_keeps_unchanged_rates_and_drops_those_the_server_lacks() -> None:
    mirror = Mirror(Clock())
    first = "full_per_minute"
    mirror.set_shared_limits([], [("acme", "a", first, "600"), ("other", "b", first, "5")], [])
    assert mirror.rate_digests() == {"acme": "a", "other": "b"}
    mirror.set_shared_limits([], [("other", "")], [])
    assert mirror.rate_digests() == {"acme": "a"}
    assert mirror.encode()["rates"] == [{"account": "acme", "values": ["600", *["0"] * 16]}]
    mirror.set_shared_limits([], [("acme", "c", first, "60")], [])
    assert mirror.rate_digests() == {"acme": "c"}
    assert mirror.encode()["rates"] == [{"account": "acme", "values": ["60", *["0"] * 16]}]


def test_all_fields_of_a_rate_are_mirrored_by_name() -> None:
    mirror = Mirror(Clock())
    fields = [text for place, name in enumerate(RATE_FIELDS) for text in (name, str(place))]
    mirror.set_shared_limits([], [("acme", "a", *fields)], [])
    values = [str(place) for place in range(len(RATE_FIELDS))]
    assert mirror.encode()["rates"] == [{"account": "acme", "values": values}]


def test_new_batch_is_mirrored_as_not_canceled() -> None:
    mirror = with_batch()
    assert not mirror.batches["b"].canceled


def test_claimed_prediction_is_encoded_with_its_permit() -> None:
    mirror = with_batch()
    mirror.add_attempt(5, attempt("b", 0), 600, now=100.0)
    (encoded,) = mirror.encode()["permits"]
    assert "prediction" not in encoded["record"]
    mirror.permits[5].prediction = "p1"
    (encoded,) = mirror.encode()["permits"]
    assert encoded["record"]["prediction"] == "p1"


def test_lease_renewal_and_write_chunk_constants() -> None:
    assert (RENEWALS_A_LEASE, ROWS_A_CALL) == (3, 200)
