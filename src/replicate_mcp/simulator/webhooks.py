"""Delivery of signed webhooks, as Replicate sends them."""

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from typing import IO

from replicate_mcp.simulator.engine.predictions import Prediction
from replicate_mcp.simulator.engine.world import World
from replicate_mcp.simulator.serializers import Representations

_RETRY_SECONDS = (1, 2, 4, 8, 16, 29)
"""Delays before the retries of a `completed` event; the last is a minute after the end."""
_TIMEOUT_SECONDS = 5


class Webhooks:
    """Deliveries in progress."""

    def __init__(
        self,
        world: World,
        representations: Representations,
        happens: Callable[[float], bool],
    ) -> None:
        self._world = world
        self._happens = happens
        self._representations = representations
        self._deliveries: set[asyncio.Task[None]] = set()

    def secret_of(self, account: str) -> str:
        """Return an account's signing secret, as `GET /v1/webhooks/default/secret` shows it."""
        return f"whsec_{base64.b64encode(self._key_of(account)).decode()}"

    def announce(self, prediction: Prediction, event: str) -> None:
        """Send the prediction's current state; only `completed` is retried."""
        url = prediction.asked.webhook
        settings = self._world.settings
        if url is None or self._happens(settings.webhook_lost):
            return
        body = json.dumps(self._representations.prediction(prediction)).encode()
        retries = _RETRY_SECONDS if event == "completed" else ()
        headers = self._signed(body, self._key_of(prediction.asked.account.name))
        for _ in range(2 if self._happens(settings.webhook_duplicates) else 1):
            delivery = _deliver(url, body, headers, retries)
            task = asyncio.get_running_loop().create_task(delivery)
            self._deliveries.add(task)
            task.add_done_callback(self._deliveries.discard)

    async def close(self) -> None:
        """Cancel all deliveries."""
        deliveries = list(self._deliveries)
        for delivery in deliveries:
            delivery.cancel()
        await asyncio.gather(*deliveries, return_exceptions=True)

    def _key_of(self, account: str) -> bytes:
        return hashlib.sha256(f"webhooks {self._world.settings.seed} {account}".encode()).digest()

    def _signed(self, body: bytes, key: bytes) -> dict[str, str]:
        message_id = f"msg_{secrets.token_hex(12)}"
        now = self._world.clock.now() + self._world.settings.clock_offset_seconds
        moment = str(int(now))
        signed = f"{message_id}.{moment}.".encode() + body
        digest = hmac.new(key, signed, hashlib.sha256).digest()
        return {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": moment,
            "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
        }


async def _deliver(
    url: str, body: bytes, headers: dict[str, str], retries: tuple[int, ...]
) -> None:
    for pause in (*retries, None):
        if await asyncio.to_thread(_post, url, body, headers):
            return
        if pause is not None:
            await asyncio.sleep(pause)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> None:
        return None


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)


def _post(url: str, body: bytes, headers: dict[str, str]) -> bool:
    request = urllib.request.Request(url, body, headers)  # noqa: S310 - the route checks the scheme
    try:
        with _OPENER.open(request, timeout=_TIMEOUT_SECONDS):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False
