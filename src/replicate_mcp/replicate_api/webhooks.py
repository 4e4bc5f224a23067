"""Webhooks: Replicate reports the end of a prediction to any process of the fleet.

A received message is stored unchanged, with its signature, in the backend that the fleet shares.
The process that follows the prediction finds it there, verifies it with its own account's secret,
and then fetches the prediction from Replicate. So no process needs another's token, and a lost,
forged or repeated message changes nothing: predictions are also polled at a low rate.
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
"""Path of the webhook endpoint below the public URL; the account's name follows."""

EVENTS = ["completed"]
"""Only the terminal event is useful, and only its delivery is retried by Replicate."""

MAX_BYTES = 64 * 1024
"""Maximum size of a message to store; a larger one has images in its prediction's input."""

MESSAGE_TTL_SECONDS = 120.0
"""Seconds for which a message is stored for the process that follows its prediction."""

TOLERANCE_SECONDS = 300.0
"""Maximum difference in seconds between a message's timestamp and Replicate's clock."""

MESSAGE_POLL_SECONDS = 1.0
"""Seconds between two checks for a followed prediction's message."""

FALLBACK_POLL_SECONDS = 15.0
"""Seconds between two polls of a prediction whose webhook has not arrived."""

NEW_SECRET_SECONDS = 60.0
"""Minimum seconds between two requests for the secret, which can change, when messages do not match
it."""

_HEADERS = {"id": "webhook-id", "timestamp": "webhook-timestamp", "signature": "webhook-signature"}
_ID = re.compile(r"[a-z0-9]{1,64}")


def address(public_url: str, account: str) -> str:
    """Return the URL to which Replicate sends an account's webhooks."""
    return f"{public_url}{PATH}/{quote(account, safe='')}"


@dataclass(frozen=True, slots=True)
class Message:
    """A webhook as received.

    Attributes:
        id: the id of the message.
        timestamp: when it was sent, in seconds since the epoch.
        signature: the signature over the other fields, with the account's secret.
        body: the body as text.
    """

    id: str
    timestamp: str
    signature: str
    body: str

    @classmethod
    def from_request(cls, headers: Mapping[str, str], body: bytes) -> "Message":
        """Build a message from the headers of a request, in lower case, and its body.

        Raises:
            InvalidInput: the request is not a webhook of Replicate's, or is too large to store.
        """
        if len(body) > MAX_BYTES:
            raise InvalidInput(f"A webhook has at most {MAX_BYTES} bytes.")
        try:
            parsed = {name: headers[header] for name, header in _HEADERS.items()}
            message = cls(**parsed, body=body.decode())
            float(message.timestamp)
            message.prediction  # noqa: B018 - raises if the body has no id
        except (KeyError, ValueError, RecursionError):
            raise InvalidInput("This is not a webhook as Replicate sends them.") from None
        return message

    @property
    def size(self) -> int:
        """The approximate size of the stored message in bytes."""
        return sum(len(str(each).encode()) for each in asdict(self).values())

    @property
    def prediction(self) -> str:
        """The id of the prediction that the message is about."""
        parsed = json.loads(self.body)
        found = parsed.get("id") if isinstance(parsed, dict) else None
        if not isinstance(found, str) or not _ID.fullmatch(found):
            raise ValueError("no id")
        return found


class Webhooks:
    """One account's webhooks: the URL for its predictions, and its messages.

    Args:
        url: the URL to which Replicate sends the webhooks.
        memory: the cache that holds the messages.
        now: returns the time on Replicate's clock.
        secret: fetches the signing secret of the account's webhooks.
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
        """Wait for a prediction's webhook for at most `seconds`; each is reported only once."""
        with anyio.move_on_after(seconds):
            # Polling: another process may receive it, and storing it sends no wake-up.
            while prediction in self._delivered or not await self._arrived(prediction):  # noqa: ASYNC110
                await anyio.sleep(MESSAGE_POLL_SECONDS)
            self._delivered.add(prediction)

    def forget(self, prediction: str) -> None:
        """Stop tracking a prediction that is not followed any more."""
        self._delivered.discard(prediction)

    async def verify(self, message: Message) -> bool:
        """Return whether Replicate signed a message recently for this account.

        Raises:
            ReplicateApiError: Replicate did not provide the signing secret.
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
            cached = await self._memory.get_cached(_key(prediction))
            if cached is not None:
                message = Message(**json.loads(cached))
                return message.prediction == prediction and await self.verify(message)
        return False


async def store(message: Message, memory: Cache) -> None:
    """Store a message for the process that follows its prediction, whichever it is."""
    parsed = json.dumps(asdict(message))
    await memory.set_cached(_key(message.prediction), parsed, seconds=MESSAGE_TTL_SECONDS)


def _key(prediction: str) -> str:
    return f"webhook:{prediction}"


def _fits(message: Message, secret: str) -> bool:
    from replicate.webhook import Webhooks as Verifier
    from replicate.webhook import WebhookSigningSecret

    headers = {header: getattr(message, name) for name, header in _HEADERS.items()}
    try:
        # The errors may contain the secret, so none of their text is passed on.
        Verifier.validate(
            headers=headers, body=message.body, secret=WebhookSigningSecret(key=secret)
        )
    except ValueError:
        return False
    return True
