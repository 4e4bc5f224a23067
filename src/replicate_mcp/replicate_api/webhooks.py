"""Webhooks: Replicate tells that a prediction has ended, to any process of a fleet that it reaches.

What arrives is kept as it came, signed, where the backend keeps it for all who share it. Whoever
follows the prediction looks there, verifies it with the secret of its own account, and then asks
Replicate for the prediction. So nobody needs another's token, and a message that is lost, forged or
repeated changes nothing: predictions are looked at now and then all the same.
"""

import contextlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from urllib.parse import quote

import anyio

from replicate_mcp.errors import BackendUnavailable, InvalidInput
from replicate_mcp.replicate_api.cache import Cache
from replicate_mcp.replicate_api.exceptions import ReplicateApiError

PATH = "/webhooks/replicate"
"""Where they are received, below the public URL; the account's name follows."""

EVENTS = ["completed"]
"""Only the terminal event is of use, and only that one is sent again where it did not arrive."""

MAX_BYTES = 64 * 1024
"""A larger message (its prediction has images in its input) is not kept."""

MESSAGE_TTL_SECONDS = 120.0
"""How long a message is kept for whoever follows its prediction."""

TOLERANCE_SECONDS = 300.0
"""How far a message's time may be from Replicate's clock."""

MESSAGE_POLL_SECONDS = 1.0
"""How often whoever follows a prediction looks for its message."""

FALLBACK_POLL_SECONDS = 15.0
"""How often a prediction is looked at whose webhook has not come."""

NEW_SECRET_SECONDS = 60.0
"""How long a secret stands, though a message does not fit it: secrets can be changed."""

_HEADERS = {"id": "webhook-id", "timestamp": "webhook-timestamp", "signature": "webhook-signature"}
_ID = re.compile(r"[a-z0-9]{1,64}")


def address(public_url: str, account: str) -> str:
    """Where Replicate is to send an account's webhooks."""
    return f"{public_url}{PATH}/{quote(account, safe='')}"


@dataclass(frozen=True, slots=True)
class Message:
    """A webhook as it came.

    Attributes:
        timestamp: when it was sent, in seconds since the epoch.
        signature: what has to fit the rest and the account's secret.
    """

    id: str
    timestamp: str
    signature: str
    body: str

    @classmethod
    def from_response(cls, headers: Mapping[str, str], body: bytes) -> "Message":
        """From a request's headers, in lower case, and its body.

        Raises:
            InvalidInput: it is no webhook of Replicate's, or one that is not kept.
        """
        if len(body) > MAX_BYTES:
            raise InvalidInput(f"A webhook has at most {MAX_BYTES} bytes.")
        try:
            parsed = {name: headers[header] for name, header in _HEADERS.items()}
            message = cls(**parsed, body=body.decode())
            float(message.timestamp)
            message.prediction  # noqa: B018 - whether there is one
        except (KeyError, ValueError, RecursionError):
            raise InvalidInput("This is not a webhook as Replicate sends them.") from None
        return message

    @property
    def size(self) -> int:
        """How many bytes it takes, about, where it is kept."""
        return sum(len(str(each).encode()) for each in asdict(self).values())

    @property
    def prediction(self) -> str:
        """The id of the prediction that it is about."""
        parsed = json.loads(self.body)
        found = parsed.get("id") if isinstance(parsed, dict) else None
        if not isinstance(found, str) or not _ID.fullmatch(found):
            raise ValueError("no id")
        return found


class Webhooks:
    """One account's: what its predictions are created with, and what is heard of them.

    Args:
        url: where Replicate is to send them.
        now: the time on Replicate's clock.
        secret: asks Replicate for what the account's webhooks are signed with.
    """

    def __init__(
        self,
        url: str,
        memory: Cache,
        *,
        now: Callable[[], float],
        secret: Callable[[], Awaitable[str]],
    ) -> None:
        self.url = url
        self._memory = memory
        self._now = now
        self._ask_for_secret = secret
        self._secret: str | None = None
        self._secret_at = -NEW_SECRET_SECONDS
        self._asking = anyio.Lock()
        self._delivered: set[str] = set()

    async def wait(self, prediction: str, *, seconds: float) -> None:
        """Wait until a prediction's webhook has come, at most so long; each is told of once."""
        with anyio.move_on_after(seconds):
            # It may come to another process, and what is kept wakes nobody.
            while prediction in self._delivered or not await self._arrived(prediction):  # noqa: ASYNC110
                await anyio.sleep(MESSAGE_POLL_SECONDS)
            self._delivered.add(prediction)

    def forget(self, prediction: str) -> None:
        """Nobody follows it any more."""
        self._delivered.discard(prediction)

    async def verify(self, message: Message) -> bool:
        """Whether it was signed by Replicate, for this account, lately.

        Raises:
            Fault: Replicate does not tell what it should be signed with.
        """
        if abs(self._now() - float(message.timestamp)) > TOLERANCE_SECONDS:
            return False
        if self._secret is not None and _fits(message, self._secret):
            return True
        async with self._asking:
            if anyio.current_time() - self._secret_at >= NEW_SECRET_SECONDS:
                self._secret = await self._ask_for_secret()
                self._secret_at = anyio.current_time()
        return self._secret is not None and _fits(message, self._secret)

    async def _arrived(self, prediction: str) -> bool:
        with contextlib.suppress(BackendUnavailable, ReplicateApiError, ValueError, TypeError):
            kept = await self._memory.get_cached(_key(prediction))
            if kept is not None:
                message = Message(**json.loads(kept))
                return message.prediction == prediction and await self.verify(message)
        return False


async def store(message: Message, memory: Cache) -> None:
    """Keep a message for whoever follows its prediction, in whatever process."""
    parsed = json.dumps(asdict(message))
    await memory.set_cached(_key(message.prediction), parsed, seconds=MESSAGE_TTL_SECONDS)


def _key(prediction: str) -> str:
    return f"webhook:{prediction}"


def _fits(message: Message, secret: str) -> bool:
    from replicate.webhook import Webhooks as Verifier
    from replicate.webhook import WebhookSigningSecret

    headers = {header: getattr(message, name) for name, header in _HEADERS.items()}
    try:
        # Its errors may name the secret: nothing of them is passed on.
        Verifier.validate(
            headers=headers, body=message.body, secret=WebhookSigningSecret(key=secret)
        )
    except ValueError:
        return False
    return True
