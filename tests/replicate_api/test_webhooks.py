"""Webhook verification: accepted and rejected messages."""

import asyncio
import base64
import hashlib
import hmac
import json
from dataclasses import asdict, replace

import anyio
import pytest

from batches.direct import MODEL, Replicate
from batches.virtual_time import in_virtual_time
from replicate_mcp.errors import BackendUnavailable, InvalidInput
from replicate_mcp.replicate_api.exceptions import ResponseLost
from replicate_mcp.replicate_api.gateway import Target
from replicate_mcp.replicate_api.webhooks import Message, Webhooks, address, store
from replicate_mcp.tasks.model_name import ModelName

NOW = 1_800_000_000.0
KEY, OTHER_KEY = b"k" * 24, b"o" * 24


def secret(key: bytes) -> str:
    return f"whsec_{base64.b64encode(key).decode()}"


def message(prediction: str = "abc", *, at: float = NOW, key: bytes = KEY) -> Message:
    body = json.dumps({"id": prediction, "status": "succeeded"})
    digest = hmac.new(key, f"msg_1.{int(at)}.{body}".encode(), hashlib.sha256).digest()
    return Message("msg_1", str(int(at)), f"v1,{base64.b64encode(digest).decode()}", body)


class Remembering:
    """A cache like that of a backend."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    async def get_cached(self, key: str) -> str | None:
        return self.kept.get(key)

    async def set_cached(self, key: str, value: str, *, seconds: float) -> None:
        assert seconds > 0
        self.kept[key] = value


def webhooks(memory: Remembering, *secrets: str) -> Webhooks:
    given = list(secrets)

    async def ask() -> str:
        return given.pop(0)

    return Webhooks("https://x.example/hook", memory, now=lambda: NOW, secret=ask)


@pytest.mark.parametrize(
    "changed",
    [
        message(key=OTHER_KEY),
        replace(message(), body=message("other").body),
        replace(message(), id="msg_2"),
        replace(message(), signature="v1,"),
        replace(message(), signature="nonsense"),
        replace(message(), signature="v1,é"),
        message(at=NOW - 301),
        message(at=NOW + 301),
    ],
    ids=[
        "another key",
        "another body",
        "another id",
        "none",
        "nonsense",
        "malformed",
        "old",
        "early",
    ],
)
async def test_webhook_with_stale_or_wrong_signature_is_rejected(changed: Message) -> None:
    hooks = webhooks(Remembering(), secret(KEY))
    for at in (NOW, NOW - 300, NOW + 300):
        assert await hooks.verify(message(at=at))
    assert not await hooks.verify(changed)


async def test_one_valid_signature_of_several_suffices() -> None:
    fits = message()
    two = replace(fits, signature=f"{message(key=OTHER_KEY).signature} {fits.signature}")
    assert await webhooks(Remembering(), secret(KEY)).verify(two)


@in_virtual_time
async def test_changed_secret_is_refetched_but_not_for_every_forgery() -> None:
    hooks = webhooks(Remembering(), secret(KEY), secret(OTHER_KEY))
    assert await hooks.verify(message())
    await anyio.sleep(59.9)
    assert not await hooks.verify(message(key=OTHER_KEY)), "asked for a minute ago"
    assert await hooks.verify(message()), "it stands"
    await anyio.sleep(0.1)
    assert await hooks.verify(message(key=OTHER_KEY))
    assert not await hooks.verify(message()), "it is another now, and was asked for just now"


@in_virtual_time
async def test_concurrent_verifications_fetch_the_secret_once() -> None:
    asked = 0

    async def ask() -> str:
        nonlocal asked
        asked += 1
        await anyio.sleep(1)
        return secret(KEY)

    hooks = Webhooks("https://x.example/hook", Remembering(), now=lambda: NOW, secret=ask)
    genuine = await asyncio.gather(*(hooks.verify(message()) for _ in range(3)))
    assert (genuine, asked) == ([True] * 3, 1)


class Ailing(Remembering):
    """A cache that returns these values first, and counts its reads."""

    def __init__(self, *first: Exception | str) -> None:
        super().__init__()
        self._first = list(first)
        self.times: list[float] = []

    async def get_cached(self, key: str) -> str | None:
        self.times.append(asyncio.get_running_loop().time())
        if not self._first:
            return self.kept.get(key)
        first = self._first.pop(0)
        if isinstance(first, Exception):
            raise first
        return first


@in_virtual_time
async def test_stored_message_is_polled_every_second_despite_invalid_entries() -> None:
    about_another = json.dumps(asdict(message("other")))
    memory = Ailing(
        BackendUnavailable("It is away."), "no JSON", "[]", "{}", '{"id": 1}', about_another
    )
    hooks = webhooks(memory, secret(KEY))
    await store(message(), memory)
    await hooks.wait("abc", seconds=60)
    assert memory.times == [0, 1, 2, 3, 4, 5, 6]


@in_virtual_time
async def test_unavailable_secret_is_fetched_again() -> None:
    faults = [ResponseLost("reset")]

    async def ask() -> str:
        if faults:
            raise faults.pop()
        return secret(KEY)

    memory = Remembering()
    hooks = Webhooks("https://x.example/hook", memory, now=lambda: NOW, secret=ask)
    await store(message(), memory)
    await hooks.wait("abc", seconds=60)
    assert asyncio.get_running_loop().time() == 1


@in_virtual_time
async def test_wait_without_a_message_ends_at_its_timeout() -> None:
    memory = Ailing()
    await webhooks(memory).wait("abc", seconds=15)
    assert asyncio.get_running_loop().time() == 15
    assert memory.times == [float(n) for n in range(15)]


@in_virtual_time
async def test_message_is_delivered_again_when_a_prediction_is_followed_again() -> None:
    memory = Remembering()
    hooks = webhooks(memory, secret(KEY))
    await store(message(), memory)
    await hooks.wait("abc", seconds=60)
    await hooks.wait("abc", seconds=60)
    assert asyncio.get_running_loop().time() == 60, "the message was received"
    hooks.forget("abc")
    hooks.forget("abc")
    await hooks.wait("abc", seconds=60)
    assert asyncio.get_running_loop().time() == 60


async def test_message_is_stored_for_two_minutes_under_its_prediction() -> None:
    kept: list[tuple[str, str, float]] = []

    class Memory(Remembering):
        async def set_cached(self, key: str, value: str, *, seconds: float) -> None:
            kept.append((key, value, seconds))

    await store(message(), Memory())
    assert kept == [("webhook:abc", json.dumps(asdict(message())), 120)]


def test_message_size_counts_all_parts() -> None:
    assert Message("a", "22", "é", "body").size == 1 + 2 + 2 + 4


async def test_message_is_delivered_once_per_follower() -> None:
    memory = Remembering()
    hooks = webhooks(memory, secret(KEY))
    await store(message(), memory)
    await hooks.wait("abc", seconds=60)
    # Otherwise it would be polled repeatedly.
    with anyio.move_on_after(0.05) as waiting:
        await hooks.wait("abc", seconds=60)
    assert waiting.cancelled_caught
    await hooks.wait("other", seconds=0.01)


async def test_stored_forged_message_is_ignored() -> None:
    memory = Remembering()
    hooks = webhooks(memory, secret(KEY))
    await store(message(key=OTHER_KEY), memory)
    await hooks.wait("abc", seconds=0.01)
    await store(message(), memory)
    await hooks.wait("abc", seconds=60)


def test_non_webhook_request_is_rejected() -> None:
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(NOW)),
        "webhook-signature": "v1,x",
    }
    assert Message.from_request(headers, b'{"id": "abc"}').prediction == "abc"
    assert (
        Message.from_request(headers, b'{"id": "abc"}' + b" " * (64 * 1024 - 13)).prediction
        == "abc"
    )
    assert Message.from_request(headers, f'{{"id": "{"a" * 64}"}}'.encode()).prediction == "a" * 64
    assert Message.from_request(headers, b'{"id": "abc"}') == Message(
        "msg_1", headers["webhook-timestamp"], "v1,x", '{"id": "abc"}'
    )
    for body in (
        b"",
        b"[]",
        b"{}",
        b'{"id": 3}',
        b'{"id": "../x"}',
        b'{"id": ""}',
        b"\xff",
        b"[" * 60_000,
        f'{{"id": "{"a" * 65}"}}'.encode(),
        b'{"id": "abc"}' + b" " * (64 * 1024 - 12),
    ):
        with pytest.raises(InvalidInput):
            Message.from_request(headers, body)
    for name in headers:
        with pytest.raises(InvalidInput):
            Message.from_request({k: v for k, v in headers.items() if k != name}, b'{"id": "abc"}')
    with pytest.raises(InvalidInput):
        Message.from_request(headers | {"webhook-timestamp": "soon"}, b'{"id": "abc"}')


def test_account_name_is_escaped_in_the_webhook_url() -> None:
    assert address("https://x.example", "a/../b") == (
        "https://x.example/webhooks/replicate/a%2F..%2Fb"
    )


@in_virtual_time
async def test_prediction_with_lost_webhook_is_polled_every_fifteen_seconds() -> None:
    replicate = Replicate(predict_seconds=100, webhook_lost=1)
    gateway = replicate.gateway()
    gateway.webhooks = Webhooks(
        "https://x.example/hook", Remembering(), now=gateway.now, secret=gateway.webhook_secret
    )
    target = Target(ModelName.parse(MODEL))
    prediction = await gateway.create(target, {"prompt": "a red car"}, cancel_after=600)
    (made,) = replicate.predictions
    assert made.asked.webhook == "https://x.example/hook"
    assert made.asked.webhook_events == ("completed",)
    ended = await gateway.follow(prediction, until=gateway.now() + 500)
    assert ended.status == "succeeded"
    assert replicate.times("get") == [75, 90, 105]
