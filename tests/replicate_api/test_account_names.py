"""Account names: how they are requested, cached and rejected."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

import anyio
import pytest

from batches.direct import ACCOUNT, TOKEN, URL, Answer, Replicate, lost, refused, slow, unsent
from batches.orphans import now
from batches.virtual_time import in_virtual_time
from replicate_mcp.auth import fingerprint
from replicate_mcp.errors import (
    ReplicateMcpError,
    ReplicateUnavailable,
    ReplicateUnreachable,
    TooManyAttempts,
    Unauthorized,
)
from replicate_mcp.refused_credentials import MAX_REFUSED, RefusedCredentials
from replicate_mcp.replicate_api import accounts as module
from replicate_mcp.replicate_api.accounts import Accounts
from replicate_mcp.replicate_api.exceptions import ConnectionMisconfigured
from replicate_mcp.replicate_api.webhooks import Message

HOME = "192.0.2.1"


class RecordingCache:
    """A cache that records each value and its time to live."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.seconds: dict[str, float] = {}

    async def get_cached(self, key: str) -> str | None:
        return self.values.get(key)

    async def set_cached(self, key: str, value: str, *, seconds: float) -> None:
        self.values[key], self.seconds[key] = value, seconds


@pytest.fixture
def accounts_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Accounts]:
    """Return a function that creates accounts whose gateways end at a simulator."""

    def make(replicate: Replicate, memory: RecordingCache | None = None, **more: Any) -> Accounts:
        monkeypatch.setattr(module, "Gateway", lambda token, _url: replicate.gateway(token))
        refused = RefusedCredentials(now)
        return Accounts(URL, memory or RecordingCache(), refused=refused, **more)

    return make


MakeAccounts = Callable[..., Accounts]


@in_virtual_time
async def test_account_name_is_fetched_once_and_cached_for_a_month(
    accounts_of: MakeAccounts,
) -> None:
    replicate, cache = Replicate(), RecordingCache()
    accounts = accounts_of(replicate, cache)
    assert [await accounts.name(TOKEN) for _ in range(2)] == [ACCOUNT] * 2
    assert len(replicate.calls) == 1
    key = f"account:{URL}:{fingerprint(TOKEN)}"
    assert cache.values == {key: ACCOUNT}
    assert cache.seconds == {key: 30 * 24 * 3600}
    assert await accounts_of(replicate, cache).name(TOKEN) == ACCOUNT
    assert len(replicate.calls) == 1
    assert TOKEN not in repr(cache.values)


@pytest.mark.parametrize("status", [403, 404])
@in_virtual_time
async def test_token_fingerprint_is_used_when_account_name_is_unavailable(
    accounts_of: MakeAccounts, status: int
) -> None:
    replicate, cache = Replicate(), RecordingCache()
    replicate.always("other", refused(status))
    accounts = accounts_of(replicate, cache)
    assert await accounts.name(TOKEN) == fingerprint(TOKEN)
    assert cache.values == {}


# The responses to the requests; then the error, its message, and the number of requests.
FAILURES: list[tuple[Answer, type[ReplicateMcpError], str, int]] = [
    (refused(401), Unauthorized, "Replicate refused the token", 1),
    (refused(400), ReplicateUnavailable, r"did not answer \(400: .*\), so nothing was created", 1),
    (refused(402), ReplicateUnavailable, r"did not answer \(402: ", 1),
    (refused(429), ReplicateUnavailable, r"did not answer \(429: ", 3),
    (refused(500), ReplicateUnavailable, r"did not answer \(500: .*try again\.$", 3),
    (lost(carried_out=True), ReplicateUnavailable, r"did not answer \(the answer of ", 3),
    (unsent, ReplicateUnavailable, r"could not be reached: .*Nothing was created: try again\.$", 3),
]


@pytest.mark.parametrize(("answer", "kind", "sentence", "asked"), FAILURES)
@in_virtual_time
async def test_unavailable_account_name_raises_instead_of_creating_a_second_limit(
    accounts_of: MakeAccounts,
    answer: Answer,
    kind: type[ReplicateMcpError],
    sentence: str,
    asked: int,
) -> None:
    replicate = Replicate()
    replicate.always("other", answer)
    accounts = accounts_of(replicate)
    with pytest.raises(kind, match=sentence) as caught:
        await accounts.name(TOKEN)
    assert type(caught.value) is kind
    assert len(replicate.calls) == asked
    assert accounts._gateways == {}
    replicate.always("other", None)
    assert await accounts.name(TOKEN) == ACCOUNT


@in_virtual_time
async def test_misconfigured_connection_is_reported_without_retrying(
    accounts_of: MakeAccounts,
) -> None:
    async def misconfigured(*_: Any) -> Any:
        raise ConnectionMisconfigured("TLS fails")

    replicate = Replicate()
    replicate.always("other", misconfigured)
    with pytest.raises(ReplicateUnreachable, match="TLS fails"):
        await accounts_of(replicate).name(TOKEN)
    assert len(replicate.calls) == 1


@in_virtual_time
async def test_account_name_lookup_times_out_after_twenty_seconds(
    accounts_of: MakeAccounts,
) -> None:
    async def silent(*_: Any) -> Any:
        await anyio.sleep_forever()

    replicate = Replicate()
    replicate.always("other", silent)
    accounts = accounts_of(replicate)
    with pytest.raises(ReplicateUnavailable, match=r"did not answer.* within 20 s"):
        await accounts.name(TOKEN)
    assert now() == 20
    assert accounts._gateways == {}


@in_virtual_time
async def test_cache_read_times_out_after_twenty_seconds(
    accounts_of: MakeAccounts,
) -> None:
    class Hanging(RecordingCache):
        async def get_cached(self, key: str) -> str | None:
            await anyio.sleep_forever()
            raise AssertionError

    with pytest.raises(ReplicateUnavailable, match=r"^Replicate did not answer within 20 s, "):
        await accounts_of(Replicate(), Hanging()).name(TOKEN)
    assert now() == 20


async def errors_of(*calls: Callable[[], Awaitable[object]]) -> list[Exception | None]:
    """Make all calls concurrently; return the error of each."""
    errors: list[Exception | None] = [None] * len(calls)

    async def one(place: int) -> None:
        try:
            await calls[place]()
        except ReplicateMcpError as error:
            errors[place] = error

    async with anyio.create_task_group() as group:
        for place in range(len(calls)):
            group.start_soon(one, place)
    return errors


@in_virtual_time
async def test_concurrent_name_requests_share_one_call_and_its_error(
    accounts_of: MakeAccounts,
) -> None:
    async def slow(*_: Any) -> Any:
        await anyio.sleep(5)
        return await refused(401)(*_)

    replicate = Replicate()
    replicate.always("other", slow)
    accounts = accounts_of(replicate)
    errors = await errors_of(*[lambda: accounts.name(TOKEN)] * 4)
    assert {type(each) for each in errors} == {Unauthorized}
    assert len({str(each) for each in errors}) == 1
    assert len(replicate.calls) == 1
    assert accounts._asking == {}
    await errors_of(lambda: accounts.name(TOKEN))
    assert len(replicate.calls) == 2


@in_virtual_time
async def test_concurrent_requests_share_an_uncached_response(
    accounts_of: MakeAccounts,
) -> None:
    replicate = Replicate()
    replicate.always("other", slow(5, refused(403)))
    accounts = accounts_of(replicate)
    assert await errors_of(*[lambda: accounts.name(TOKEN)] * 3) == [None] * 3
    assert len(replicate.calls) == 1


@in_virtual_time
async def test_failed_request_is_repeated_for_later_callers(
    accounts_of: MakeAccounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicate = Replicate()
    replicate.answer("other", refused(401))
    accounts = accounts_of(replicate)

    async def close_slowly() -> None:
        await anyio.sleep(10)

    monkeypatch.setattr(accounts.gateway(TOKEN), "aclose", close_slowly)

    async def later() -> None:
        await anyio.sleep(5)  # The first one's connections are being closed.
        assert await accounts.name(TOKEN) == ACCOUNT

    first, second = await errors_of(lambda: accounts.name(TOKEN), later)
    assert isinstance(first, Unauthorized)
    assert second is None
    assert len(replicate.calls) == 2


@in_virtual_time
async def test_connections_of_a_token_are_closed_although_its_request_was_cancelled(
    accounts_of: MakeAccounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicate = Replicate()
    replicate.always("other", slow(5))
    accounts = accounts_of(replicate)
    closed: list[float] = []

    async def close_slowly() -> None:
        await anyio.sleep(10)
        closed.append(now())

    monkeypatch.setattr(accounts.gateway(TOKEN), "aclose", close_slowly)
    with anyio.move_on_after(2):
        await accounts.name(TOKEN)
    assert closed == [12]


# Tokens over HTTP that were rejected.


@in_virtual_time
async def test_rejected_http_token_is_rejected_for_a_minute_without_a_call(
    accounts_of: MakeAccounts,
) -> None:
    replicate = Replicate()
    replicate.world.revoke({TOKEN})
    accounts = accounts_of(replicate)

    async def refuses(source: str) -> int:
        with pytest.raises(Unauthorized, match="Replicate refused the token"):
            await accounts.name(TOKEN, source)
        return len(replicate.calls)

    assert await refuses(HOME) == 1
    await anyio.sleep(59)
    assert await refuses("192.0.2.2") == 1
    assert await refuses("") == 2, "this machine's user may try at once"
    await anyio.sleep(59.5)
    assert await refuses(HOME) == 2
    await anyio.sleep(0.5)
    assert await refuses(HOME) == 3


@in_virtual_time
async def test_oldest_rejected_tokens_are_evicted_first(
    accounts_of: MakeAccounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_REFUSED_TOKENS", 2)
    replicate = Replicate()
    tokens = [f"r8_nobody_{number}" for number in range(3)]
    replicate.world.revoke(set(tokens))
    accounts = accounts_of(replicate)
    for token in (tokens[0], tokens[1], tokens[0]):
        await errors_of(lambda token=token: accounts.name(token, ""))  # type: ignore[misc]
    await errors_of(lambda: accounts.name(tokens[2], HOME))
    asked = len(replicate.calls)
    await errors_of(lambda: accounts.name(tokens[0], HOME))
    assert len(replicate.calls) == asked
    await errors_of(lambda: accounts.name(tokens[1], HOME))
    assert len(replicate.calls) == asked + 1


@in_virtual_time
async def test_address_trying_too_many_tokens_does_not_block_other_addresses(
    accounts_of: MakeAccounts,
) -> None:
    replicate = Replicate()
    guesses = [f"r8_nobody_{number}" for number in range(MAX_REFUSED)]
    replicate.world.revoke(set(guesses))
    accounts = accounts_of(replicate)
    for guess in guesses:
        await errors_of(lambda guess=guess: accounts.name(guess, HOME))  # type: ignore[misc]
    (error,) = await errors_of(lambda: accounts.name(TOKEN, HOME))
    assert isinstance(error, TooManyAttempts)
    assert accounts._asking == {}
    first, second = await errors_of(
        lambda: accounts.name(TOKEN, HOME), lambda: accounts.name(TOKEN, "192.0.2.2")
    )
    assert isinstance(first, TooManyAttempts)
    assert second is None


@in_virtual_time
async def test_rejected_tokens_of_the_local_user_count_for_no_address(
    accounts_of: MakeAccounts,
) -> None:
    replicate = Replicate()
    guesses = [f"r8_nobody_{number}" for number in range(MAX_REFUSED + 1)]
    replicate.world.revoke(set(guesses))
    accounts = accounts_of(replicate)
    for guess in guesses:
        (error,) = await errors_of(lambda guess=guess: accounts.name(guess))  # type: ignore[misc]
        assert isinstance(error, Unauthorized)
    assert len(replicate.calls) == MAX_REFUSED + 1


# Webhooks.


def message(size: int = 0, prediction: str = "p1") -> Message:
    return Message("m", "1", "s", f'{{"id": "{prediction}"}}' + " " * size)


@in_virtual_time
async def test_webhooks_of_unknown_accounts_are_limited_per_minute(
    accounts_of: MakeAccounts,
) -> None:
    cache = RecordingCache()
    accounts = accounts_of(Replicate(), cache)
    await anyio.sleep(1_000)
    assert all([await accounts.receive("one", message()) for _ in range(100)])
    assert not await accounts.receive("one", message()), "a third is one account's"
    assert list(cache.seconds.values()) == [120.0]
    for account in ("two", "three"):
        assert all([await accounts.receive(account, message()) for _ in range(100)])
    assert not await accounts.receive("four", message())
    await anyio.sleep(60)
    assert not await accounts.receive("four", message())
    await anyio.sleep(0.1)
    assert await accounts.receive("four", message())


@in_virtual_time
async def test_webhooks_of_unknown_accounts_are_limited_in_bytes(
    accounts_of: MakeAccounts,
) -> None:
    accounts = accounts_of(Replicate())
    third = 2 * 1024 * 1024 // 3
    whole = message(third - message().size)
    assert whole.size == third
    assert not await accounts.receive("one", message(third - message().size + 1))
    for account in ("one", "two", "three"):
        assert await accounts.receive(account, whole)
        assert not await accounts.receive(account, message())
    assert not await accounts.receive("four", message())


class Signed:
    """Webhooks of an account whose secret is known, or cannot be requested."""

    def __init__(self, answer: bool | None) -> None:
        self._answer = answer

    async def verify(self, _: Message) -> bool:
        if self._answer is None:
            raise ConnectionMisconfigured("TLS fails")
        return self._answer


@pytest.mark.parametrize("answer", [True, False, None])
@in_virtual_time
async def test_webhook_of_a_known_account_is_verified_and_stored_without_a_limit(
    accounts_of: MakeAccounts, answer: bool | None
) -> None:
    cache = RecordingCache()
    accounts = accounts_of(Replicate(), cache, public_url="https://mcp.example")
    assert await accounts.name(TOKEN) == ACCOUNT
    gateway = accounts.gateway(TOKEN)
    assert gateway.webhooks is not None
    assert gateway.webhooks.url == "https://mcp.example/webhooks/replicate/acme"
    gateway.webhooks = cast(Any, Signed(answer))
    cache.values.clear()
    if answer is False:
        with pytest.raises(Unauthorized, match="signature does not fit"):
            await accounts.receive(ACCOUNT, message())
        assert cache.values == {}
        return
    accepted = [await accounts.receive(ACCOUNT, message()) for _ in range(101)]
    assert accepted == [True] * 100 + [answer is True]
    assert list(cache.values) == ["webhook:p1"]


@in_virtual_time
async def test_webhook_is_verified_with_the_secret_of_its_own_account(
    accounts_of: MakeAccounts,
) -> None:
    accounts = accounts_of(Replicate(), public_url="https://mcp.example")
    for token, answer in (("r8_acme_1", False), ("r8_bob_1", True), ("r8_carol_1", False)):
        await accounts.name(token)
        accounts.gateway(token).webhooks = cast(Any, Signed(answer))
    assert await accounts.receive("bob", message())
    with pytest.raises(Unauthorized, match="signature does not fit"):
        await accounts.receive("carol", message())


@in_virtual_time
async def test_webhooks_are_stored_unverified_without_a_public_url(
    accounts_of: MakeAccounts,
) -> None:
    accounts = accounts_of(Replicate())
    await accounts.name(TOKEN)
    assert accounts.gateway(TOKEN).webhooks is None
    assert [await accounts.receive(ACCOUNT, message()) for _ in range(101)] == [True] * 100 + [
        False
    ]


# Gateways.


@in_virtual_time
async def test_token_has_one_gateway_and_malformed_token_is_rejected(
    accounts_of: MakeAccounts,
) -> None:
    accounts = accounts_of(Replicate())
    assert accounts.gateway(TOKEN) is accounts.gateway(TOKEN)
    assert accounts.gateway("r8_other_1") is not accounts.gateway(TOKEN)
    with pytest.raises(Unauthorized):
        accounts.gateway("r8 invalid")


@in_virtual_time
async def test_idle_connections_are_closed_periodically_and_all_on_close(
    accounts_of: MakeAccounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, float]] = []
    accounts = accounts_of(Replicate())
    gateway = accounts.gateway(TOKEN)

    def noting(what: str) -> Callable[[], Awaitable[None]]:
        async def note() -> None:
            done.append((what, now()))

        return note

    monkeypatch.setattr(gateway, "close_idle", noting("idle"))
    monkeypatch.setattr(gateway, "aclose", noting("all"))
    with anyio.move_on_after(50):
        await accounts.close_idle()
    await accounts.close()
    assert done == [("idle", 20), ("idle", 40), ("all", 50)]
