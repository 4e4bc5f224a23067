"""What is believed of a webhook, and what is not."""

import base64
import hashlib
import hmac
import json
from dataclasses import replace

import anyio
import pytest

from replicate_mcp.errors import InvalidInput
from replicate_mcp.replicate_api.webhooks import MOST_BYTES, Message, Webhooks, address, keep

NOW = 1_800_000_000.0
KEY, OTHER_KEY = b"k" * 24, b"o" * 24


def secret(key: bytes) -> str:
    return f"whsec_{base64.b64encode(key).decode()}"


def message(prediction: str = "abc", *, at: float = NOW, key: bytes = KEY) -> Message:
    body = json.dumps({"id": prediction, "status": "succeeded"})
    digest = hmac.new(key, f"msg_1.{int(at)}.{body}".encode(), hashlib.sha256).digest()
    return Message("msg_1", str(int(at)), f"v1,{base64.b64encode(digest).decode()}", body)


class Remembering:
    """A memory as a backend is one."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}

    async def recall(self, key: str) -> str | None:
        return self.kept.get(key)

    async def remember(self, key: str, value: str, *, seconds: float) -> None:
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
    ids=["another key", "another body", "another id", "none", "nonsense", "odd", "old", "early"],
)
async def test_what_replicate_did_not_sign_lately_is_not_genuine(changed: Message) -> None:
    hooks = webhooks(Remembering(), secret(KEY))
    assert await hooks.is_genuine(message())
    assert not await hooks.is_genuine(changed)


async def test_one_of_several_signatures_suffices() -> None:
    fits = message()
    two = replace(fits, signature=f"{message(key=OTHER_KEY).signature} {fits.signature}")
    assert await webhooks(Remembering(), secret(KEY)).is_genuine(two)


async def test_a_secret_that_was_changed_is_asked_for_again_but_not_for_every_forgery(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hooks = webhooks(Remembering(), secret(KEY), secret(OTHER_KEY))
    assert await hooks.is_genuine(message())
    assert not await hooks.is_genuine(message(key=OTHER_KEY)), "asked for a moment ago"
    monkeypatch.setattr("replicate_mcp.replicate_api.webhooks.NEW_SECRET_SECONDS", 0)
    assert await hooks.is_genuine(message(key=OTHER_KEY))


async def test_whoever_follows_a_prediction_hears_of_it_once() -> None:
    memory = Remembering()
    hooks = webhooks(memory, secret(KEY))
    await keep(message(), memory)
    await hooks.wait("abc", seconds=60)
    # Else it would be looked at again and again.
    with anyio.move_on_after(0.05) as waiting:
        await hooks.wait("abc", seconds=60)
    assert waiting.cancelled_caught
    await hooks.wait("other", seconds=0.01)


async def test_a_forged_message_that_is_kept_is_not_heard() -> None:
    memory = Remembering()
    hooks = webhooks(memory, secret(KEY))
    await keep(message(key=OTHER_KEY), memory)
    await hooks.wait("abc", seconds=0.01)
    await keep(message(), memory)
    await hooks.wait("abc", seconds=60)


def test_what_is_no_webhook_is_refused() -> None:
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(NOW)),
        "webhook-signature": "v1,x",
    }
    assert Message.read(headers, b'{"id": "abc"}').prediction == "abc"
    for body in (
        b"",
        b"[]",
        b"{}",
        b'{"id": 3}',
        b'{"id": "../x"}',
        b"\xff",
        b"x" * (MOST_BYTES + 1),
    ):
        with pytest.raises(InvalidInput):
            Message.read(headers, body)
    for name in headers:
        with pytest.raises(InvalidInput):
            Message.read({k: v for k, v in headers.items() if k != name}, b'{"id": "abc"}')
    with pytest.raises(InvalidInput):
        Message.read(headers | {"webhook-timestamp": "soon"}, b'{"id": "abc"}')


def test_an_accounts_name_cannot_lead_elsewhere() -> None:
    assert address("https://x.example", "a/../b").endswith("/webhooks/replicate/a%2F..%2Fb")
