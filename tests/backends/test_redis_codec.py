"""Encoding of Redis calls, decoding of replies, and error messages, without a server."""

import dataclasses
import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

import anyio
import pytest
from redis import exceptions

from backends.steps import OWN, attempt, failed
from replicate_mcp.backends.redis.config_checks import config_warnings
from replicate_mcp.backends.redis.connection import Address, RedisConnection, lua, masked
from replicate_mcp.backends.redis.decoding import (
    REASONS,
    decode_admission,
    decode_attempt,
    decode_batch,
    decode_recorded_attempts,
    decode_result,
    decode_semaphore,
)
from replicate_mcp.backends.redis.encoding import (
    FinishCall,
    OpenBatchCall,
    RecordAttemptsCall,
    attempt_fingerprint,
    encode_inputs,
    encode_reason,
    encode_row,
    encode_throttling,
)
from replicate_mcp.backends.redis.mirror import (
    Mirror,
    MirroredBatch,
    MirroredEntry,
    MirroredPermit,
    decode_complete_batch,
)
from replicate_mcp.batches.journal import (
    BatchState,
    IdempotencyKey,
    JournalTask,
    NewBatch,
    RetriedTasks,
)
from replicate_mcp.errors import BackendUnavailable, InvalidInput
from replicate_mcp.semaphores.adaptive_rate import Throttling
from replicate_mcp.semaphores.permit_store import AdmissionResult, Offer, QueueEntry, SemaphoreState
from replicate_mcp.tasks.result import GeneratedFile, TaskSuccess

SUCCESS = TaskSuccess(
    task_index=3,
    prompt="a cat",
    output_filename="3.png",
    model="o/m",
    prediction_id="p3",
    count=1,
    generated_files=(
        GeneratedFile(
            url="https://x/3.png", filename="3.png", expires_at=datetime(2026, 1, 1, tzinfo=UTC)
        ),
    ),
)

# Server settings.

SUITS: dict[str, Any] = {
    "redis_version": "7.2.4",
    "maxmemory_policy": "noeviction",
    "maxmemory": 1,
    "aof_enabled": 1,
    "role": "master",
}
VERSION = "is needed."
MEMORY = "throws keys away when memory is short: set noeviction."
PERSISTENCE = "it keeps no append-only file"
ROLE = "it is a replica, which takes no writes: name the primary."


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"redis_version": "6.2.0"}, []),
        ({"redis_version": "6.1.9"}, ["it is version 6.1.9: Redis 6.2 or newer, or Valkey,"]),
        ({"redis_version": "5.9"}, ["version 5.9"]),
        ({"redis_version": "10.0"}, []),
        ({"redis_version": "255.x.255"}, []),
        ({"redis_version": None}, ["version None"]),
        ({"redis_version": "6.0", "valkey_version": "8.0"}, []),
        ({"maxmemory_policy": "allkeys-lru"}, ["maxmemory-policy is allkeys-lru, which throws"]),
        ({"maxmemory_policy": "allkeys-lru", "maxmemory": 0}, []),
        ({"maxmemory_policy": "noeviction", "maxmemory": 9}, []),
        ({"aof_enabled": 0}, ["append-only file: after a restart, work pauses for a lease"]),
        ({"role": "slave"}, [ROLE]),
        (
            {"redis_version": "4.0", "maxmemory_policy": "volatile-ttl", "aof_enabled": 0,
             "role": "slave"},
            [VERSION, MEMORY, PERSISTENCE, ROLE],
        ),
    ],
)  # fmt: skip
def test_each_unsuitable_server_setting_is_reported(
    changes: dict[str, Any], expected: list[str]
) -> None:
    found = config_warnings(SUITS | changes)
    assert len(found) == len(expected)
    for sentence, part in zip(found, expected, strict=True):
        assert part in sentence


def test_missing_info_fields_count_as_defaults_except_version_and_persistence() -> None:
    (version, file) = config_warnings({})
    assert version.startswith("it is version 0:")
    assert file.startswith(PERSISTENCE)
    assert "set noeviction" in config_warnings({"maxmemory_policy": "x", "maxmemory": 1})[1]
    assert config_warnings({"redis_version": "7.0", "aof_enabled": 1, "maxmemory": 1}) == []


# Replies.


def test_admission_is_decoded_with_its_offers_in_order() -> None:
    assert decode_admission(["", ""]) == AdmissionResult()
    assert decode_admission(["0.25", "", "7", "b1", "9", "b2"]) == AdmissionResult(
        (Offer(7, "b1"), Offer(9, "b2")), 0.25, None
    )
    assert decode_admission(["60", "59.5"]) == AdmissionResult((), 60.0, 59.5)


def test_semaphore_is_decoded_with_an_optional_rate() -> None:
    assert decode_semaphore(["team", "3", "2", "1"]) == SemaphoreState("team", 3, 2, 1)
    assert decode_semaphore([OWN, "3", "2", "1", "5.5", ""]) == SemaphoreState(OWN, 3, 2, 1, 5.5)
    assert decode_semaphore([OWN, "3", "0", "0", "6", "9.5"]) == SemaphoreState(
        OWN, 3, 0, 0, 6.0, 9.5
    )


def test_attempt_is_decoded_with_an_optional_prediction() -> None:
    encoded = ["7", "b", "2", "o/m", '{"prompt":"h"}', "597", "1000.25", ""]
    read = decode_attempt(encoded)
    assert (read.permit, read.batch, read.task, read.model) == (7, "b", 2, "o/m")
    assert (read.inputs, read.cancel_after, read.sent_at) == ({"prompt": "h"}, 597, 1000.25)
    assert read.prediction_id is None
    assert decode_attempt([*encoded[:-1], "p1"]).prediction_id == "p1"


def test_recorded_attempts_are_decoded_with_the_quota_reset_time() -> None:
    read = decode_recorded_attempts([[["7", "600"], ["8", "597"]], ""], AdmissionResult())
    assert (read.cancel_after, read.admission, read.quota_resets_in) == (
        {7: 600, 8: 597},
        AdmissionResult(),
        None,
    )
    assert decode_recorded_attempts([[], "3600.5"], AdmissionResult()).quota_resets_in == 3600.5


def test_batch_is_decoded_with_an_optional_first_prompt() -> None:
    encoded = ["b", "server", "acme", "g", "5", "2", "1", "", "10.5", "", "", "", ""]
    assert decode_batch(encoded) == BatchState(
        "b", "server", "acme", "g", 5, 2, 1, False, 10.5, None, None
    )
    encoded[7], encoded[9] = "1", "20.25"
    task = json.dumps({"prompt": "a cat", "output_filename": "0.png", "model": "o/m"})
    assert decode_batch([*encoded, task]) == BatchState(
        "b", "server", "acme", "g", 5, 2, 1, True, 10.5, 20.25, "a cat"
    )
    assert decode_batch([*encoded, ""]).first_prompt is None
    encoded[12] = "3"
    assert (decode_batch(encoded).resumed, decode_batch(encoded).first_prompt) == (3, None)


def test_result_is_decoded_as_it_was_encoded() -> None:
    for result in (SUCCESS, failed(1), failed(2, "p2")):
        assert decode_result(encode_row(result)[2]) == result
    assert encode_row(SUCCESS, 9) == (3, True, SUCCESS.model_dump_json(exclude_none=True), "p3", 9)
    assert encode_row(failed(1))[:2] == (1, False)
    assert encode_row(failed(1))[3:] == (None, None)
    assert "null" not in encode_row(failed(1))[2]


@pytest.mark.parametrize(
    ("name", "code", "retryable", "words"),
    [
        ("interrupted", "interrupted", True, "Nothing was billed: send it again."),
        ("lost", "create_outcome_unknown", False, "It may have been billed: check replicate.com"),
        ("unsure", "create_outcome_unknown", False, "Redis was restarted and may have lost"),
        ("canceled", "canceled", True, "The batch was cancelled before this task was created."),
        ("out_of_time", "deadline_exceeded", True, "while it waited for a process to run it"),
    ],
)
def test_reason_for_a_task_of_a_dead_holder_forms_a_valid_result(
    name: str, code: str, retryable: bool, words: str
) -> None:
    assert REASONS.keys() == {"interrupted", "lost", "unsure", "canceled", "out_of_time"}
    task = '"prompt": "a", "output_filename": "0.png", "model": "o/m"}'
    read = decode_result('{"task_index":0,' + REASONS[name] + "," + task)
    assert not isinstance(read, TaskSuccess)
    assert (read.error_code, read.retryable) == (code, retryable)
    assert words in read.error
    assert read.prompt == "a"


# Calls.


def new_batch(**changes: Any) -> NewBatch:
    tasks = (JournalTask("a", "0.png", "o/m"), JournalTask(None, "1.png", "o/m"))
    return dataclasses.replace(NewBatch("b", "server", "acme", "g", tasks), **changes)


def test_batch_is_encoded_with_its_tasks_and_failures() -> None:
    entry = QueueEntry("b", (OWN, "team"), "acme", 2)
    encoded = OpenBatchCall(new_batch(), entry).encode()
    encoded["batch"]["tasks"] = [*map(json.loads, encoded["batch"]["tasks"])]
    assert encoded == {
        "entry": "b",
        "semaphores": (OWN, "team"),
        "wanted": 2,
        "account": "acme",
        "batch": {
            "caller": "server",
            "account": "acme",
            "semaphore": "g",
            "tasks": [
                {"prompt": "a", "output_filename": "0.png", "model": "o/m"},
                {"prompt": None, "output_filename": "1.png", "model": "o/m"},
            ],
            "failures": [],
            "seconds": 0,
        },
    }  # fmt: skip
    resumable = OpenBatchCall(new_batch(resumable=True, seconds=90.5), entry).encode()["batch"]
    assert (resumable["resumable"], resumable["seconds"]) == (True, 90.5)
    batch = new_batch(key=IdempotencyKey("k", "d"), failures=(failed(1),))
    encoded = OpenBatchCall(batch, dataclasses.replace(entry, account=None, max_running=4)).encode()
    assert (encoded["batch"]["key"], encoded["batch"]["digest"], encoded["max_running"]) == (
        "k",
        "d",
        4,
    )
    assert "account" not in encoded
    assert encoded["batch"]["failures"] == [
        (1, '"error": "It failed.", "error_code": "prediction_failed", "retryable": true')
    ]
    assert encode_reason("interrupted", "x", retryable=False) == (
        '"error": "x", "error_code": "interrupted", "retryable": false'
    )


def test_result_is_encoded_with_an_optional_prediction() -> None:
    encoded = FinishCall(7, "b", encode_row(SUCCESS), ended=True, counts_images=False).encode()
    assert encoded == {
        "permit": "7", "batch": "b", "result": encode_row(SUCCESS)[:3], "ended": True,
        "counts_images": False, "prediction": "p3",
    }  # fmt: skip
    encoded = FinishCall(7, "b", encode_row(failed(1)), ended=False, counts_images=True).encode()
    assert "prediction" not in encoded
    assert (encoded["ended"], encoded["counts_images"]) == (False, True)


def test_attempts_are_encoded_with_all_identifying_fields() -> None:
    one = attempt("b", 2, cancel_after=60, images=3)
    (encoded,) = RecordAttemptsCall({7: one}, None).encode()["attempts"]
    assert encoded == {
        "permit": "7", "task": 2, "model": "o/m", "inputs": encode_inputs(one),
        "fingerprint": attempt_fingerprint(one),
        "cancel_after": 60, "sent_at": 1_000.0, "max_seconds": 700, "images": 3,
    }  # fmt: skip
    assert "images_per_day" not in RecordAttemptsCall({}, None).encode()
    assert RecordAttemptsCall({}, 0).encode() == {"attempts": [], "images_per_day": 0}
    assert json.loads(encode_inputs(one)) == dict(one.inputs)
    assert (
        attempt_fingerprint(one)
        == attempt_fingerprint(attempt("b2", 9, cancel_after=9))
        != attempt_fingerprint(attempt("b", 2, prompt="q"))
    )
    assert attempt_fingerprint(one) != attempt_fingerprint(dataclasses.replace(one, model="o/n"))
    swapped = dataclasses.replace(one, inputs={"b": "2", "a": "1"})
    assert encode_inputs(swapped) == '{"a": "1", "b": "2"}'
    assert len(attempt_fingerprint(one)) == 24


def test_throttling_is_encoded_with_its_known_fields() -> None:
    assert encode_throttling(Throttling()) == {}
    assert encode_throttling(Throttling(0.0, 6, 1)) == {
        "retry_after": 0.0, "per_minute": 6, "burst": 1,
    }  # fmt: skip
    assert encode_throttling(Throttling(per_minute=6)) == {"per_minute": 6}


# Mirrored state, encoded for a resync.


def test_empty_mirror_is_encoded_as_empty() -> None:
    mirror = Mirror(lambda: 0.0)
    assert mirror.encode() == {
        "newest": "0", "declared": [], "set": [], "rates": [], "images": [], "permits": [],
        "entries": [], "batches": {},
    }  # fmt: skip
    assert (mirror.accounts(), mirror.running(), mirror.waiting("b")) == ([], [], 0)


def test_mirrored_batch_is_encoded_with_its_creation_time() -> None:
    encoded = MirroredBatch(new_batch(), 1_000.5).encode()
    assert encoded["created_at"] == 1_000.5
    assert encoded["caller"] == "server"
    assert not {"entry", "elsewhere"} & encoded.keys()


def test_batch_that_was_taken_over_is_mirrored_completely() -> None:
    state = ["b", "token:x", "acme", "g", "3", "1", "1", "1", "10.5", "", "old", "[0, 2, 1]", "2"]
    tasks = [
        json.dumps({"prompt": "a", "output_filename": f"{n}.png", "model": "o/m"}) for n in range(3)
    ]
    rows = [encode_row(SUCCESS)[2], encode_row(failed(1))[2]]
    reply = [state, "100.5", "k", "d", "inputs", [OWN, "team"], "acme", "4", ["0"], tasks, rows]
    kept = decode_complete_batch(reply)
    entry = QueueEntry("b", (OWN, "team"), "acme", 0, 4)
    assert kept == MirroredBatch(
        NewBatch(
            "b", "token:x", "acme", "g",
            tuple(JournalTask("a", f"{n}.png", "o/m") for n in range(3)),
            IdempotencyKey("k", "d"), inputs="inputs", retry=RetriedTasks("old", (0, 2, 1)),
            seconds=90.0, resumable=True,
        ),
        10.5, {3: encode_row(SUCCESS), 1: encode_row(failed(1))}, canceled=True,
        entry=entry, resumed=2, elsewhere=(0,),
    )  # fmt: skip
    encoded = kept.encode()
    assert (encoded["elsewhere"], encoded["entry"]["max_running"]) == ((0,), 4)
    now = 0.0
    mirror = Mirror(lambda: now)
    mirror.take_over(kept, entry)
    assert mirror.encode()["batches"] == {"b": 2}
    assert [each["entry"] for each in mirror.encode()["entries"]] == ["b"]
    mirror.dequeue("b")
    assert "entry" not in kept.encode()
    mirror.mark_taken_over("b")
    assert mirror.encode()["batches"] == {"b": -1}
    again = dataclasses.replace(kept, resumed=3, taken_over=False, closed_at=None)
    mirror.take_over(again, entry)
    assert mirror.encode()["batches"] == {"b": 3}
    assert mirror.running() == ["b"]
    mirror.batches["c"] = MirroredBatch(new_batch(id="c"), 0.0)
    mirror.mark_taken_over("c")
    now += 3_601
    mirror.drop_expired()
    assert mirror.encode()["batches"] == {"b": 3}
    state[11] = state[10] = ""
    kept = decode_complete_batch([state, "100.5", "", "", "", [OWN], "", "", [], tasks, []])
    assert (kept.batch.key, kept.batch.retry, kept.rows) == (None, None, {})
    assert kept.entry == QueueEntry("b", (OWN,), None, 0)


def test_context_permit_is_encoded_without_and_attempt_with_attempt_fields() -> None:
    context = MirroredPermit("c", ("team",), None, False, 5.0)
    assert context.encode(7) == {
        "permit": "7", "record": {"entry": "c", "semaphores": ("team",), "taken_at": 5.0},
    }  # fmt: skip
    first = MirroredPermit("b", (OWN,), "acme", True, 5.0, task=0)
    assert first.encode(8) == {
        "permit": "8",
        "record": {
            "entry": "b", "semaphores": (OWN,), "account": "acme", "limited": True, "taken_at": 5.0,
            "task": 0, "cancel_after": 0, "ends_by": 0.0, "images": 0,
        },
        "about": {"model": "", "inputs": "", "sent_at": 0.0},
    }  # fmt: skip


def test_only_accounts_have_mirrored_rates() -> None:
    mirror = Mirror(lambda: 0.0)
    mirror.declared = {"team": (2, None), OWN: (3, 60.0), "account:other": (1, None)}
    assert mirror.accounts() == ["acme", "other"]


def test_ended_batch_is_mirrored_for_an_hour_despite_later_records() -> None:
    now = 0.0
    mirror = Mirror(lambda: now)
    mirror.batches["b"] = MirroredBatch(new_batch(), 1_000.0)
    mirror.add_results("b", [encode_row(failed(0)), encode_row(failed(1))])
    now = 3_000.0
    mirror.add_results("b", [encode_row(failed(1))])
    assert mirror.batches["b"].closed_at == 0.0
    now = 3_601.0
    mirror.drop_expired()
    assert mirror.encode()["batches"] == {}


def test_removed_name_and_its_entries_are_not_encoded() -> None:
    mirror = Mirror(lambda: 0.0)
    for name, semaphores in (("c", ("team",)), ("d", ("studio",)), ("e", ("studio", "team"))):
        mirror.enqueue(MirroredEntry(QueueEntry(name, semaphores, None, 1), 1), [("team", "2")])
    mirror.remove_semaphore("team")
    assert [each["entry"] for each in mirror.encode()["entries"]] == ["d"]
    assert mirror.encode()["declared"] == []


# URL.


@pytest.mark.parametrize(
    ("value", "url", "shown", "lease", "prefix"),
    [
        ("redis://h", "redis://h", "redis://h", 15.0, "{replicate-mcp}:"),
        ("rediss://h:6380/2", "rediss://h:6380/2", "rediss://h:6380/2", 15.0, "{replicate-mcp}:"),
        ("redis://h/0?lease=0.1&prefix=p", "redis://h/0", "redis://h/0", 0.1, "{p}:"),
        ("redis://h/0?lease=600", "redis://h/0", "redis://h/0", 600.0, "{replicate-mcp}:"),
        (
            "redis://u:s%2Fecret@h:1/0?ssl_ca_certs=x&prefix=q&lease=3",
            "redis://u:s%2Fecret@h:1/0?ssl_ca_certs=x", "redis://u:***@h:1/0", 3.0, "{q}:",
        ),
    ],
)  # fmt: skip
def test_address_is_parsed_without_our_own_options(
    value: str, url: str, shown: str, lease: float, prefix: str
) -> None:
    assert Address.parse(value) == Address(url, shown, lease, prefix)


@pytest.mark.parametrize(
    "value",
    ["redi://h", "redis://h:0/0", "redis://:6379/0", "unix:///x", "redis://h/?lease=0.09", "redis://h/?lease=nan",
     "redis://h/?lease=-1", "redis://h:99999/0", "redis://h/0?lease=1@", "h:6379", "redis://[h/0"],
)  # fmt: skip
def test_invalid_address_is_rejected_with_a_valid_example(value: str) -> None:
    with pytest.raises(BackendUnavailable) as error:
        Address.parse(value)
    assert "is not the address of a Redis: set REPLICATE_MCP_BACKEND to redis://" in str(
        error.value
    )
    assert not error.value.__cause__
    assert "lease" not in str(error.value).partition(" is not the address")[0]


@pytest.mark.parametrize(
    ("lease", "patience"),
    [(0.1, 1.0), (3.0, 1.0), (6.0, 2.0), (15.0, 5.0), (16.0, 5.0), (600.0, 5.0)],
)
def test_call_timeout_is_a_third_of_the_lease_within_bounds(lease: float, patience: float) -> None:
    assert Address("redis://h", "redis://h", lease, "{p}:").timeout == pytest.approx(patience)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:secret@h:1/2?x=y#z", "redis://user:***@h:1/2"),
        ("redis://user@h", "redis://user:***@h"),
        ("redis://:secret@h:1", "redis://***@h:1"),
        ("redis://h:1/2", "redis://h:1/2"),
        ("redis://H", "redis://h"),
        ("redis:///0", "redis:///0"),
        ("redis://h:port", "the address in REPLICATE_MCP_BACKEND"),
        ("redis://u:1/secret@h", "the address in REPLICATE_MCP_BACKEND"),
        ("redis://u:1#secret@h", "the address in REPLICATE_MCP_BACKEND"),
        ("redis://u:1?secret@h", "the address in REPLICATE_MCP_BACKEND"),
    ],
)
def test_address_is_shown_without_secrets(url: str, shown: str) -> None:
    assert masked(url) == shown


# Errors.


def at_nowhere(url: str = "redis://u:secret@127.0.0.1:1/0", lease: float = 3.0) -> RedisConnection:
    return RedisConnection(dataclasses.replace(Address.parse(url), lease=lease))


REFUSES = "refuses the user or the password in REPLICATE_MCP_BACKEND (redis://user:password@host"
FULL = "is out of memory, so it takes no new work, and what runs is followed to its end: raise its"
REPLICA = "is a replica, which takes no writes: set REPLICATE_MCP_BACKEND to the primary."
FORBIDS = "does not allow this user what is needed: EVAL, EVALSHA, SUBSCRIBE, what scripts do"
CLUSTER = (
    "is one of a cluster's nodes, and not the one that keeps these keys: one primary is needed"
)
CERTIFICATE = "has a certificate that this machine does not trust: set SSL_CERT_FILE to the file of"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (exceptions.AuthenticationError("WRONGPASS invalid"), REFUSES),
        (exceptions.ResponseError("NOAUTH Authentication required."), REFUSES),
        (exceptions.OutOfMemoryError("command not allowed"), FULL),
        (exceptions.ResponseError("a script: -OOM command not allowed"), FULL),
        (exceptions.ResponseError("MISCONF Redis is configured to save"), "cannot save its memory"),
        (exceptions.ReadOnlyError("x"), REPLICA),
        (exceptions.ResponseError("a script: -READONLY You can't write"), REPLICA),
        (exceptions.NoPermissionError("x"), FORBIDS),
        (exceptions.ResponseError("NOPERM this user has no permissions"), FORBIDS),
        (exceptions.MovedError("1 127.0.0.1:2"), CLUSTER),
        (exceptions.ClusterCrossSlotError("x"), CLUSTER),
        (exceptions.ResponseError("a script: -MOVED 1 h:2"), CLUSTER),
        (exceptions.ConnectionError("[SSL: CERTIFICATE_VERIFY_FAILED] no"), CERTIFICATE),
        (exceptions.ConnectionError(" Connection refused. "), "used (Connection refused): no work"),
        (exceptions.ConnectionError("it was not sent."), "cannot be used (it was not sent): no"),
        (exceptions.ConnectionError(""), "cannot be used (ConnectionError): no work begins until"),
        (TimeoutError(), "cannot be used (no answer within 1 s): no work begins until it can, and"),
        (OSError("nothing"), "cannot be used (nothing): no work begins"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else "",
)  # fmt: skip
def test_server_error_is_reported_with_a_remedy(error: Exception, words: str) -> None:
    said = at_nowhere()._error_message(error)
    assert said.startswith("Redis at redis://u:***@127.0.0.1:1/0 ")
    assert words in said
    assert said.endswith(".")


async def test_every_call_reports_an_unreachable_server_without_its_password() -> None:
    server = at_nowhere()
    for step in (
        lambda: server.call("admit", "me", {}),
        server.server_info,
        lambda: server.listen("me"),
    ):
        with pytest.raises(
            BackendUnavailable, match=r"redis://u:\*\*\*@127\.0\.0\.1:1/0 cannot"
        ) as error:
            await step()
        assert "secret" not in "".join(traceback.format_exception(error.value))
        assert error.value.__cause__ is not None
    await server.close()


async def test_non_unicode_text_is_not_sent() -> None:
    server = at_nowhere()
    with pytest.raises(InvalidInput):
        await server.call("get_cached", "me", {"key": "\ud800"})
    await server.close()


async def test_wakeup_connection_is_retried_with_a_delay(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    server = at_nowhere()
    with anyio.move_on_after(0.05) as waiting:
        await server.wait_for_wakeup("me")
    assert waiting.cancelled_caught
    assert len(caplog.messages) < 3, "not at once again"
    await server.close()


def test_missing_client_package_is_reported_with_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(BackendUnavailable, match=r"redis:// needs the client: .*redis"):
        at_nowhere()


@pytest.mark.parametrize(
    ("option", "named"),
    [("db=one", "db"), ("leese=5&db=one", "db"), ("max_connections=many&x=1", "max_connections")],
)  # fmt: skip
def test_unusable_client_option_is_named(option: str, named: str) -> None:
    with pytest.raises(BackendUnavailable) as error:
        at_nowhere(f"redis://u:secret@h/?{option}")
    assert str(error.value).startswith(
        "The address in REPLICATE_MCP_BACKEND (redis://u:***@h/) has an option that the Redis "
        "client cannot use: "
    )
    assert named in str(error.value).rpartition(": ")[2]
    assert "secret" not in str(error.value)
    assert error.value.__cause__ is None


def test_option_in_the_client_error_is_named_among_several() -> None:
    server = at_nowhere("redis://h/?socket_timeout=5&db=2")
    assert server._wrong_option(TypeError("no 'db' here")).endswith("cannot use: db.")
    assert server._wrong_option(TypeError("none")).endswith("cannot use: socket_timeout, db.")


def test_script_contains_all_lua_files_in_order() -> None:
    script = at_nowhere()._script.text
    for file in (
        "rate_limit", "admission", "cancel_after", "prelude", "generation", "leases", "queue",
        "permits", "holders", "space", "journal", "cache", "resync", "commands", "call",
    ):  # fmt: skip
        assert lua(file) in script
    assert script.endswith("return answer()\n")
