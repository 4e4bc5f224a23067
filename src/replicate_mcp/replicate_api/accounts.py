"""The accounts behind tokens: one gateway a token, and each token's account asked for once."""

import logging
from collections import defaultdict

import anyio

from replicate_mcp.access import fingerprint
from replicate_mcp.errors import ReplicateUnavailable, Unauthorized
from replicate_mcp.replicate_api.fault_policy import rule_for
from replicate_mcp.replicate_api.faults import Fault, Refusal
from replicate_mcp.replicate_api.gateway import Gateway
from replicate_mcp.replicate_api.memory import Memory

log = logging.getLogger(__name__)

REMEMBERED_SECONDS = 30 * 24 * 3600
"""For how long it is remembered which account a token belongs to."""

ASK_AGAIN_SECONDS = (0.3, 1.0)
"""Pauses before an account that was not told is asked for again."""


class Accounts:
    """Every token's gateway and account, for as long as the process lives."""

    def __init__(self, base_url: str, memory: Memory) -> None:
        self._base_url = base_url
        self._memory = memory
        self._gateways: dict[str, Gateway] = {}
        self._names: dict[str, str] = {}
        self._asking: defaultdict[str, anyio.Lock] = defaultdict(anyio.Lock)

    def gateway(self, token: str) -> Gateway:
        """The one gateway of a token."""
        if token not in self._gateways:
            self._gateways[token] = Gateway(token, self._base_url)
        return self._gateways[token]

    async def name(self, token: str) -> str:
        """The name of the account; the token's fingerprint where Replicate will not tell it.

        Raises:
            Unauthorized: Replicate refused the token.
            ReplicateUnavailable: Replicate did not answer.
        """
        mark = fingerprint(token)
        async with self._asking[mark]:
            if mark not in self._names:
                self._names[mark] = await self._ask(token, mark)
        return self._names[mark]

    async def close(self) -> None:
        """Close every connection."""
        for gateway in self._gateways.values():
            await gateway.aclose()

    async def _ask(self, token: str, mark: str) -> str:
        key = f"account:{self._base_url}:{mark}"
        remembered = await self._memory.recall(key)
        if remembered is not None:
            return remembered
        for pause in (*ASK_AGAIN_SECONDS, None):
            try:
                name = await self.gateway(token).account()
                break
            except Fault as fault:
                if isinstance(fault, Refusal) and fault.status == 401:
                    raise Unauthorized(rule_for(fault).sentence) from None
                if isinstance(fault, Refusal) and fault.status in (403, 404):
                    log.warning("Replicate does not say whose token this is: %s", fault)
                    return mark
                if pause is None:
                    # Another name for the account would be another limit: better none than two.
                    raise ReplicateUnavailable(
                        f"Replicate did not answer ({fault}), so nothing was created: try again."
                    ) from None
                await anyio.sleep(pause)
        await self._memory.remember(key, name, seconds=REMEMBERED_SECONDS)
        return name
