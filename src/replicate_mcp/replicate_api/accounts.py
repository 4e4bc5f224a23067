"""The accounts of tokens: one gateway a token, and one account lookup for each."""

import logging
import math
from collections import deque
from dataclasses import dataclass, field

import anyio

from replicate_mcp.auth import fingerprint, validate_token
from replicate_mcp.errors import (
    ReplicateMcpError,
    ReplicateUnavailable,
    TooManyAttempts,
    Unauthorized,
)
from replicate_mcp.refused_credentials import RefusedCredentials
from replicate_mcp.replicate_api.cache import Cache
from replicate_mcp.replicate_api.error_policy import rule_for, to_public_error
from replicate_mcp.replicate_api.exceptions import ApiStatusError, ReplicateApiError, RequestNotSent
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.replicate_api.retry import retry_read
from replicate_mcp.replicate_api.transport import KEEPALIVE_SECONDS
from replicate_mcp.replicate_api.webhooks import Message, Webhooks, address, store

log = logging.getLogger(__name__)

ACCOUNT_TTL_SECONDS = 30 * 24 * 3600
"""Seconds for which a token's account name is cached."""

ASK_SECONDS = 20.0
"""Timeout of an account lookup, whatever is still in flight: MCP hosts wait for a minute."""

REFUSED_SECONDS = 60.0
"""Seconds for which a token that came over HTTP and was rejected is rejected without a request to
Replicate."""

MAX_REFUSED_TOKENS = 10_000
"""Maximum number of rejected tokens whose fingerprints are kept; the oldest are dropped first."""

MAX_UNVERIFIED_PER_MINUTE = 300
"""Maximum number of webhooks a minute stored unverified, because this process has no token of their
account; the process that follows the prediction verifies them."""

MAX_UNVERIFIED_BYTES_PER_MINUTE = 2 * 1024 * 1024
"""Maximum size of those webhooks in bytes a minute: a backend keeps each for two minutes."""

ACCOUNTS_PART = 3
"""One account's share of both limits is a third, so that one known account name is not enough to
exhaust them."""


@dataclass(eq=False, slots=True)
class _Lookup:
    """Concurrent lookups of one token's account: one request to Replicate serves all of them."""

    turn: anyio.Lock = field(default_factory=anyio.Lock)
    waiting: int = 0
    failed_at: float = -math.inf
    failure: ReplicateMcpError | None = None


class Accounts:
    """The gateway and account of every token, for the lifetime of the process.

    Args:
        base_url: the base URL of Replicate's API.
        memory: the cache of account names and webhooks.
        public_url: the URL at which Replicate reaches this server or others of its fleet; None for
            no webhooks.
        refused: counts rejected tokens by the address that sent them.
    """

    def __init__(
        self,
        base_url: str,
        memory: Cache,
        *,
        public_url: str | None = None,
        refused: RefusedCredentials,
    ) -> None:
        self._base_url = base_url
        self._memory = memory
        self._public_url = public_url
        self._unverified: deque[tuple[float, str, int]] = deque()
        self._refused = refused
        self._refused_tokens: dict[str, tuple[float, str]] = {}
        self._gateways: dict[str, Gateway] = {}
        self._names: dict[str, str] = {}
        self._asking: dict[str, _Lookup] = {}

    def gateway(self, token: str) -> Gateway:
        """Return the one gateway of a token whose account is known.

        Raises:
            Unauthorized: the token cannot be sent in a header.
        """
        if token not in self._gateways:
            self._gateways[token] = Gateway(validate_token(token) or "", self._base_url)
        return self._gateways[token]

    async def name(self, token: str, source: str = "") -> str:
        """Return the name of a token's account, or its fingerprint if Replicate withholds the name.

        Args:
            token: a Replicate token.
            source: the address that sent the token over HTTP, whose number of rejected tokens is
                limited; "" for no limit.

        Raises:
            Unauthorized: Replicate rejected the token, now or within `REFUSED_SECONDS`.
            TooManyAttempts: the token is unknown, and too many from `source` were rejected.
            ReplicateUnavailable: Replicate did not respond.
        """
        mark = fingerprint(token)
        if mark not in self._names:
            self._check_not_refused(mark, source)
            asking = self._asking.setdefault(mark, _Lookup())
            asking.waiting += 1
            try:
                await self._learn(token, mark, asking, source)
            finally:
                asking.waiting -= 1
                if not asking.waiting:
                    self._asking.pop(mark, None)
        return self._names[mark]

    async def receive(self, account: str, message: Message) -> bool:
        """Store a webhook for the process that follows its prediction; return whether stored.

        Raises:
            Unauthorized: the signature is invalid.
        """
        genuine = await self._is_genuine(account, message)
        if genuine is False:
            raise Unauthorized("This webhook's signature does not fit.")
        if genuine is None and not self._accepts_unverified(account, message.size):
            return False
        await store(message, self._memory)
        return True

    async def close_idle(self) -> None:
        """Close connections that have been idle for too long, until cancelled."""
        while True:
            await anyio.sleep(KEEPALIVE_SECONDS)
            for gateway in list(self._gateways.values()):
                await gateway.close_idle()

    async def close(self) -> None:
        """Close all connections."""
        for gateway in self._gateways.values():
            await gateway.aclose()

    def _give_webhooks(self, gateway: Gateway, account: str) -> None:
        if self._public_url is not None:
            gateway.webhooks = Webhooks(
                address(self._public_url, account),
                self._memory,
                now=gateway.now,
                secret=gateway.webhook_secret,
            )

    async def _is_genuine(self, account: str, message: Message) -> bool | None:
        """Return whether the signature is valid; None if no token of the account is available."""
        for token, gateway in list(self._gateways.items()):
            if gateway.webhooks is not None and self._names.get(fingerprint(token)) == account:
                try:
                    return await gateway.webhooks.verify(message)
                except ReplicateApiError as fault:
                    log.info("the secret of webhooks is not known: %s", fault)
        return None

    def _accepts_unverified(self, account: str, size: int) -> bool:
        now = anyio.current_time()
        while self._unverified and now - self._unverified[0][0] > 60:
            self._unverified.popleft()
        sizes = [each for _, _, each in self._unverified]
        own = [each for _, its_account, each in self._unverified if its_account == account]
        for counted, part in ((sizes, 1), (own, ACCOUNTS_PART)):
            if (
                len(counted) >= MAX_UNVERIFIED_PER_MINUTE // part
                or sum(counted) + size > MAX_UNVERIFIED_BYTES_PER_MINUTE // part
            ):
                return False
        self._unverified.append((now, account, size))
        return True

    def _check_not_refused(self, mark: str, source: str) -> None:
        refused_at, sentence = self._refused_tokens.get(mark, (-math.inf, ""))
        # The local user may retry the token immediately.
        if source and anyio.current_time() - refused_at < REFUSED_SECONDS:
            raise Unauthorized(sentence)

    def _remember_refused(self, mark: str, sentence: str) -> None:
        self._refused_tokens.pop(mark, None)
        self._refused_tokens[mark] = anyio.current_time(), sentence
        if len(self._refused_tokens) > MAX_REFUSED_TOKENS:
            del self._refused_tokens[next(iter(self._refused_tokens))]

    async def _learn(self, token: str, mark: str, asking: _Lookup, source: str) -> None:
        arrived = anyio.current_time()
        async with asking.turn:
            if mark in self._names:
                return
            if asking.failure is not None and asking.failed_at >= arrived:
                raise type(asking.failure)(str(asking.failure))  # A concurrent lookup failed.
            try:
                with anyio.fail_after(ASK_SECONDS):
                    name = await self._ask(token, mark, source)
            except TooManyAttempts:
                raise  # Concerns this address only: others may retry.
            except (ReplicateMcpError, TimeoutError) as error:
                asking.failed_at = anyio.current_time()
                asking.failure = (
                    error if isinstance(error, ReplicateMcpError) else _account_unknown()
                )
                raise asking.failure from None
            else:
                self._give_webhooks(self.gateway(token), name)
                self._names[mark] = name
            finally:
                if mark not in self._names:
                    await self._forget(token)

    async def _forget(self, token: str) -> None:
        """Discard an unverified token's gateway, even if its request was cancelled."""
        if gateway := self._gateways.pop(token, None):
            with anyio.CancelScope(shield=True):
                await gateway.aclose()

    async def _ask(self, token: str, mark: str, source: str) -> str:
        key = f"account:{self._base_url}:{mark}"
        remembered = await self._memory.get_cached(key)
        if remembered is not None:
            return remembered
        try:
            async with self._refused.trying(source):
                name = await self._ask_replicate(token, mark, source)
        except ReplicateApiError as fault:
            if isinstance(fault, ApiStatusError) and fault.status in (403, 404):
                log.warning("Replicate does not say whose token this is: %s", fault)
                return mark
            # A second name for the account would mean a second limit: fail instead.
            if isinstance(fault, RequestNotSent):
                raise to_public_error(fault) from None
            raise _account_unknown(f" ({fault})") from None
        await self._memory.set_cached(key, name, seconds=ACCOUNT_TTL_SECONDS)
        return name

    async def _ask_replicate(self, token: str, mark: str, source: str) -> str:
        try:
            return await retry_read(self.gateway(token).account)
        except ApiStatusError as refusal:
            if refusal.status != 401:
                raise
            sentence = rule_for(refusal).sentence
            self._remember_refused(mark, sentence)
            if source:
                self._refused.add(source, mark)
            raise Unauthorized(sentence) from None


def _account_unknown(why: str = f" within {ASK_SECONDS:.0f} s") -> ReplicateUnavailable:
    return ReplicateUnavailable(
        f"Replicate did not answer{why}, so nothing was created: try again."
    )
