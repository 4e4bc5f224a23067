"""The accounts behind tokens: one gateway a token, and each token's account asked for once."""

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
"""For how long it is remembered which account a token belongs to."""

ASK_SECONDS = 20.0
"""After which it counts as not told, whatever is still under way: hosts wait for a minute."""

REFUSED_SECONDS = 60.0
"""For how long a token that came over HTTP and was refused is refused without asking Replicate."""

MAX_REFUSED_TOKENS = 10_000
"""Refused tokens whose fingerprints are remembered; the oldest are forgotten first."""

MAX_UNVERIFIED_PER_MINUTE = 300
"""Webhooks that are kept though this process cannot verify them: whoever follows theirs does."""

MAX_UNVERIFIED_BYTES_PER_MINUTE = 2 * 1024 * 1024
"""Bytes of those webhooks: a backend keeps each for two minutes."""

ACCOUNTS_PART = 3
"""One account's part of both is a third: whoever knows of one leaves room for the others."""


@dataclass(eq=False, slots=True)
class _Lookup:
    """Those who ask for the account of one token at once: one asks Replicate for all."""

    turn: anyio.Lock = field(default_factory=anyio.Lock)
    waiting: int = 0
    failed_at: float = -math.inf
    failure: ReplicateMcpError | None = None


class Accounts:
    """Every token's gateway and account, for as long as the process lives.

    Args:
        public_url: where Replicate reaches this server, or others of its fleet; None for nowhere.
        refused: counts refused tokens by the address that sent them.
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
        """The one gateway of a token, whose account was asked for before.

        Raises:
            Unauthorized: no header can carry it.
        """
        if token not in self._gateways:
            self._gateways[token] = Gateway(validate_token(token) or "", self._base_url)
        return self._gateways[token]

    async def name(self, token: str, source: str = "") -> str:
        """The name of the account; the token's fingerprint where Replicate will not tell it.

        Args:
            source: the address that sent the token over HTTP: so many that Replicate refused may
                come from there. "" for any number.

        Raises:
            Unauthorized: Replicate refused the token, now or within `REFUSED_SECONDS`.
            TooManyAttempts: it is unknown, and too many from `source` were refused.
            ReplicateUnavailable: Replicate did not answer.
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
        """Keep a webhook for whoever follows its prediction; False where it is not kept.

        Raises:
            Unauthorized: Replicate did not send it.
        """
        genuine = await self._is_genuine(account, message)
        if genuine is False:
            raise Unauthorized("This webhook's signature does not fit.")
        if genuine is None and not self._accepts_unverified(account, message.size):
            return False
        await store(message, self._memory)
        return True

    async def close_idle(self) -> None:
        """Close, from now on, every connection that has been idle for long."""
        while True:
            await anyio.sleep(KEEPALIVE_SECONDS)
            for gateway in list(self._gateways.values()):
                await gateway.close_idle()

    async def close(self) -> None:
        """Close every connection."""
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
        """None where no token of that account is at hand that would tell."""
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
        for kept, part in ((sizes, 1), (own, ACCOUNTS_PART)):
            if (
                len(kept) >= MAX_UNVERIFIED_PER_MINUTE // part
                or sum(kept) + size > MAX_UNVERIFIED_BYTES_PER_MINUTE // part
            ):
                return False
        self._unverified.append((now, account, size))
        return True

    def _check_not_refused(self, mark: str, source: str) -> None:
        refused_at, sentence = self._refused_tokens.get(mark, (-math.inf, ""))
        # This machine's user is not kept from trying the token again at once.
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
                raise type(asking.failure)(str(asking.failure))  # It was asked meanwhile.
            try:
                with anyio.fail_after(ASK_SECONDS):
                    name = await self._ask(token, mark, source)
            except TooManyAttempts:
                raise  # Of this address alone: others may ask.
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
        """Keep nothing of a token that may be anything, though who brought it is gone."""
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
            # Another name for the account would be another limit: better none than two.
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
