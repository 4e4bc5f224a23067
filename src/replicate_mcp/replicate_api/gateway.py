"""The gateway: one token's calls to Replicate's API through the `replicate` client."""

import contextlib
import io
import logging
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeGuard
from urllib.parse import urlencode

import anyio

from replicate_mcp.auth import fingerprint
from replicate_mcp.cpu_bound import run_cpu_bound
from replicate_mcp.replicate_api.attempt_matching import (
    SETTLED_WITHIN_SECONDS,
    ListedPrediction,
    PredictionList,
)
from replicate_mcp.replicate_api.exceptions import (
    ApiStatusError,
    PredictionStuck,
    ReplicateApiError,
    ResponseLost,
    UnreadableCreation,
)
from replicate_mcp.replicate_api.prediction import ENDED_STATUSES, Prediction
from replicate_mcp.replicate_api.prediction_list import listed_page
from replicate_mcp.replicate_api.retry import retry_read
from replicate_mcp.replicate_api.transport import Call, Transport, call
from replicate_mcp.replicate_api.webhooks import EVENTS, FALLBACK_POLL_SECONDS, Webhooks
from replicate_mcp.tasks.model_name import ModelName

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from replicate.client import Client

log = logging.getLogger(__name__)

HOLD_SECONDS = 60
"""Maximum seconds for which Replicate holds the response to a creation."""

CALLS_A_SECOND = 40.0
"""Rate of calls other than creations, for all followed predictions together: Replicate allows 3,000
a minute."""

MIN_POLL_SECONDS = 0.5

DEADLINE_GRACE_SECONDS = 60.0
"""Seconds past its deadline for which a prediction is followed before it counts as stuck."""

MAX_ACCOUNT_CHARACTERS = 200
"""Maximum length of an account name; Replicate takes names from GitHub, where they have at most 39.
"""

MAX_LIST_PAGES = 20
"""Maximum number of pages, of 100 rows each, to read from the list of predictions."""


_FILE_PATH = re.compile(r"/v1/files/([\w-]+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Target:
    """The endpoint for creating a model's predictions: its version, or the model's own address.

    Attributes:
        name: the model.
        version: the version to create with; "" to use the model's or deployment's own address.
        is_resolved: whether Replicate was asked for the endpoint; else it is derived from the name
            as given.
    """

    name: ModelName
    version: str = ""
    is_resolved: bool = True


class Gateway:
    """A token's calls to Replicate, over one client and one set of connections.

    Attributes:
        webhooks: the account's webhooks, which signal the ends of predictions; None to rely on
            polling alone.
        unanswered_since: time of the first call in the current run of calls without a response, in
            seconds since the epoch; None where the last call got a response.
    """

    def __init__(self, token: str, base_url: str) -> None:
        self._token = token
        self._base_url = base_url
        self._transport = Transport(base_url)
        self._lazy_client: Client | None = None
        self._following = 0
        self.webhooks: Webhooks | None = None
        self.unanswered_since: float | None = None

    @property
    def base_url(self) -> str:
        """The base URL of the API."""
        return self._base_url

    def __repr__(self) -> str:
        """Return a representation without the token."""
        return f"Gateway({fingerprint(self._token)}, {self._base_url})"

    async def close_idle(self) -> None:
        """Close the connections that have been idle for too long."""
        await self._transport.close_idle()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    def now(self) -> float:
        """Return the time on Replicate's clock, in seconds since the epoch."""
        return self._transport.now()

    async def sync_clock(self) -> None:
        """Synchronise `now` with Replicate's clock.

        Without any response so far, request an empty list.

        Raises:
            ReplicateApiError: no response has a date; one with an error status is sufficient.
        """

        async def ask() -> None:
            with contextlib.suppress(ApiStatusError):
                await self._page("/v1/predictions?created_after=9999-01-01T00:00:00Z")

        if not self._transport.clock_known:
            await retry_read(ask)
        if not self._transport.clock_known:
            raise ResponseLost("its answer has no Date header: a proxy may have taken it out")

    async def account(self) -> str:
        """Return the name of the token's account."""
        answer = await self._get(lambda client: client.accounts.async_current())
        name = answer.get("username")
        if not isinstance(name, str) or not _is_usable_name(name):
            raise ResponseLost("the answer names no account")
        return name

    async def create(
        self,
        target: Target,
        inputs: Mapping[str, Any],
        *,
        cancel_after: int,
        send_by: float = math.inf,
    ) -> Prediction:
        """Create a prediction and wait while Replicate holds the response.

        Args:
            target: the endpoint to create it with.
            inputs: the model's inputs.
            cancel_after: seconds, at least 5, after which Replicate cancels the prediction by
                itself.
            send_by: the time, on the clock of `steady_time`, after which it is not created.

        Raises:
            ApiStatusError: nothing was created, unless the status is 5xx.
            RequestNotSent: nothing was created; `SentTooLate` if it is after `send_by`.
            ResponseLost: a prediction may have been created, and billed; with `UnreadableCreation`,
                it was.
        """
        with call(hold=HOLD_SECONDS, cancel_after=cancel_after, send_by=send_by) as this:
            await self._send(self._creation(target, dict(inputs)), this)
        try:
            return Prediction.from_response(this.answer)
        except ValueError as error:
            raise UnreadableCreation(str(error)) from error

    async def follow(self, prediction: Prediction, *, until: float) -> Prediction:
        """Poll a prediction until it is done; poll at once if it was not fetched yet.

        Args:
            prediction: the prediction as last known.
            until: the deadline on Replicate's clock, in seconds since the epoch; the prediction is
                cancelled then.

        Raises:
            PredictionStuck: the prediction did not end even after it was cancelled.
            ApiStatusError: the token is no longer valid, or the prediction does not exist.
            ReplicateApiError: polling failed for so long that the output files have been deleted.
        """
        self._following += 1
        canceled = False
        pause = 0.0 if not prediction.status else self._poll_interval()
        try:
            while not prediction.done:
                await self._wait(prediction.id, pause, until)
                pause, seen = self._poll_interval(), False
                try:
                    prediction, seen = await self.get(prediction.id), True
                    if prediction.inline and prediction.status in ENDED_STATUSES:
                        break
                    if self.now() > until and not prediction.done and not canceled:
                        await self.cancel(prediction.id)
                        canceled = True
                except ReplicateApiError as fault:
                    if not seen and self.now() > until + SETTLED_WITHIN_SECONDS:
                        raise
                    if isinstance(fault, ApiStatusError):
                        if fault.status in (401, 403, 404):
                            raise
                        pause = max(pause, min(fault.retry_after or 2.0, 30.0))
                    log.info("prediction %s is polled again: %s", prediction.id, fault)
                if seen and not prediction.done and self.now() > until + DEADLINE_GRACE_SECONDS:
                    raise PredictionStuck(f"prediction {prediction.id} does not end")
        finally:
            self._following -= 1
            if self.webhooks is not None:
                self.webhooks.forget(prediction.id)
        return prediction

    async def _wait(self, prediction_id: str, seconds: float, until: float) -> None:
        if self.webhooks is None:
            return await anyio.sleep(seconds)
        if until > self.now():
            seconds = min(seconds, until - self.now() + MIN_POLL_SECONDS)
        return await self.webhooks.wait(prediction_id, seconds=seconds)

    def _poll_interval(self) -> float:
        if self.webhooks is not None:
            return FALLBACK_POLL_SECONDS
        return max(MIN_POLL_SECONDS, self._following / CALLS_A_SECOND)

    async def get(self, prediction_id: str) -> Prediction:
        """Return the current state of a prediction."""
        return _read(await self._get(lambda client: client.predictions.async_get(prediction_id)))

    async def cancel(self, prediction_id: str) -> None:
        """Cancel a prediction; do nothing if it has ended or is unknown."""
        with call() as this:
            try:
                await self._send(self._client.predictions.async_cancel(prediction_id), this)
            except ApiStatusError as refusal:
                if refusal.status not in (404, 409, 422):
                    raise

    async def webhook_secret(self) -> str:
        """Return the signing secret of the account's webhooks."""
        answer = await self._get(lambda client: client.webhooks.default.async_secret())
        return str(answer.get("key") or "")

    async def predictions_since(self, moment: float) -> PredictionList:
        """Return the account's predictions created since `moment`; the newest if too many.

        Args:
            moment: a time on Replicate's clock, in seconds since the epoch.
        """
        since = datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")
        cursor = f"/v1/predictions?created_after={since}"
        found: list[ListedPrediction] = []
        for _ in range(MAX_LIST_PAGES):
            page, next_cursor = await self._page(cursor)
            found += [each for each in page if each.created_at >= moment]
            dated = [each.created_at for each in page if each.created_at > -math.inf]
            if not next_cursor or (dated and dated[-1] < moment):
                return PredictionList(found, moment)
            cursor = next_cursor
        return PredictionList(found, found[-1].created_at if found else math.inf)

    async def _page(self, cursor: str) -> tuple[list[ListedPrediction], str]:
        """Return one page of the account's list, without unreadable rows, and the next cursor."""
        with call() as this:
            await self._send(self._client.predictions.async_list(cursor), this)
        rows, next_cursor = this.answer.get("results"), this.answer.get("next")
        page = await run_cpu_bound(lambda: listed_page(rows), size_bytes=this.size_bytes)
        return page, next_cursor if isinstance(next_cursor, str) else ""

    async def model(self, owner: str, name: str) -> Mapping[str, Any]:
        """Return a model as the API describes it."""
        return await self._get(lambda client: client.models.async_get(owner, name))

    async def search_models(self, query: str, *, limit: int) -> Sequence[Mapping[str, Any]]:
        """Search Replicate's models for `query`; each result has the model and its `metadata`."""
        address = f"/v1/search?{urlencode({'query': query, 'limit': limit})}"
        # The client has no search call, but can request a page of models from any address.
        answer = await self._get(lambda client: client.models.async_list(address))
        models = answer.get("models")
        return [each for each in models if isinstance(each, Mapping)] if _is_list(models) else []

    async def upload(self, content: bytes, name: str, kind: str) -> str:
        """Upload a file, which Replicate keeps for a day, and return the URL for model inputs.

        Args:
            content: the bytes of the file.
            name: its filename.
            kind: its media type, like `image/png`.
        """
        answer = await self._get(
            lambda client: client.files.async_create(
                io.BytesIO(content), filename=name, content_type=kind
            )
        )
        urls = answer.get("urls")
        url = urls.get("get") if isinstance(urls, Mapping) else None
        if not isinstance(url, str):
            raise ResponseLost("the answer names no URL of the file")
        return url

    def is_uploaded(self, url: str) -> bool:
        """Return whether `url` is that of a file at Replicate, as `upload` returns it."""
        return self._file_id(url) is not None

    async def has_upload(self, url: str) -> bool:
        """Return whether Replicate still has the uploaded file of this URL."""
        file_id = self._file_id(url)
        try:
            await self._get(lambda client: client.files.async_get(str(file_id)))
        except ApiStatusError as refusal:
            if refusal.status == 404:
                return False
            raise
        return True

    def _file_id(self, url: str) -> str | None:
        path = url.removeprefix(self._base_url)
        found = _FILE_PATH.fullmatch(path) if path != url else None
        return found[1] if found else None

    async def version(self, owner: str, name: str, version: str) -> Mapping[str, Any]:
        """Return a model's version as the API describes it."""
        from replicate.version import Versions

        return await self._get(
            lambda client: Versions(client, model=(owner, name)).async_get(version)
        )

    async def deployment(self, owner: str, name: str) -> Mapping[str, Any]:
        """Return a deployment as the API describes it."""
        return await self._get(lambda client: client.deployments.async_get(f"{owner}/{name}"))

    @property
    def _client(self) -> "Client":
        if self._lazy_client is None:
            # Imported at the first call: a server that only lists its tools does not need it.
            from replicate.client import Client

            self._lazy_client = Client(
                api_token=self._token, base_url=self._base_url, transport=self._transport
            )
        return self._lazy_client

    def _creation(self, target: Target, inputs: dict[str, Any]) -> "Awaitable[object]":
        name, client, webhook_args = target.name, self._client, self._webhook_args()
        address = name.owner, name.name
        if name.kind == "deployment":
            return client.deployments.predictions.async_create(address, inputs, **webhook_args)
        if target.version:
            return client.predictions.async_create(target.version, inputs, **webhook_args)
        return client.models.predictions.async_create(address, inputs, **webhook_args)

    def _webhook_args(self) -> dict[str, Any]:
        if self.webhooks is None:
            return {}
        return {"webhook": self.webhooks.url, "webhook_events_filter": EVENTS}

    async def _get(self, ask: "Callable[[Client], Awaitable[object]]") -> Mapping[str, Any]:
        with call() as this:
            await self._send(ask(self._client), this)
        answer: Mapping[str, Any] = this.answer
        return answer

    async def _send(self, asking: "Awaitable[object]", this: Call) -> None:
        """Await the client's call; ignore errors of its parsing if a raw response has arrived."""
        try:
            await asking
        except ReplicateApiError as fault:
            if isinstance(fault, ApiStatusError | UnreadableCreation):
                self.unanswered_since = None
            elif self.unanswered_since is None:
                self.unanswered_since = time.time()
            raise
        except Exception:
            if this.answer is None:
                raise
        self.unanswered_since = None


def _read(answer: Mapping[str, Any]) -> Prediction:
    try:
        return Prediction.from_response(answer)
    except ValueError as error:
        raise ResponseLost(str(error)) from error


def import_client() -> None:
    """Import the client now instead of at the first call."""
    import replicate.client  # noqa: F401


def _is_usable_name(account: str) -> bool:
    """Return whether every backend can store limits under the account name."""
    # Redis marks the generation of a hash by the field "#".
    encodable = account.isascii() or account.encode(errors="replace").decode() == account
    return 0 < len(account) <= MAX_ACCOUNT_CHARACTERS and encodable and account[0] != "#"


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)
