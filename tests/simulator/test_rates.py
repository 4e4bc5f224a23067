"""Account restrictions: tokens, credit and rate limits."""

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicate_mcp.simulator import Simulator, ThrottleWording
from replicate_mcp.simulator.engine.accounts import TokenBucket
from simulator.calls import create


async def test_missing_token_is_unauthenticated(simulator: Simulator) -> None:
    async with httpx.AsyncClient(base_url=simulator.url) as unauthenticated:
        response = await create(unauthenticated)
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["title"] == "Unauthenticated"


@pytest.mark.parametrize("token", ["sk_other", "r8_", "r8"])
async def test_malformed_token_is_unauthenticated(client: httpx.AsyncClient, token: str) -> None:
    assert (await create(client, token=token)).status_code == 401


async def test_revoked_token_is_unauthenticated_until_restored(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    assert (await create(client)).status_code == 201
    simulator.change_account("acme", revoke=["r8_acme_1"])
    assert (await create(client)).status_code == 401
    assert (await create(client, token="r8_acme_2")).status_code == 201
    simulator.change_account("acme", restore=["r8_acme_1"])
    assert (await create(client)).status_code == 201


async def test_account_without_credit_creates_nothing(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.change_account("acme", out_of_credit=True)
    response = await create(client)
    assert response.status_code == 402
    assert response.json()["title"] == "Insufficient credit"
    assert simulator.account("acme")["created"] == 0


async def test_two_tokens_share_the_rate_of_their_account(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(requests_per_minute=6, burst=2)
    assert (await create(client, token="r8_acme_1")).status_code == 201
    assert (await create(client, token="r8_acme_2")).status_code == 201
    throttled = await create(client, token="r8_acme_1")
    assert throttled.status_code == 429
    assert throttled.json() == {
        "detail": "Request was throttled. Your rate limit resets in ~10s.",
        "status": 429,
        "retry_after": 10,
    }
    assert (await create(client, token="r8_other")).status_code == 201
    account = simulator.account("acme")
    assert (account["creations_seen"], account["created"], account["throttled"]) == (3, 2, 1)


@pytest.mark.parametrize(
    ("wording", "detail"),
    [
        ("plain", "Request was throttled. Your rate limit resets in ~10s."),
        (
            "announced",
            "Your rate limit for creating predictions is reduced to 6 requests per minute with a "
            "burst of 1 requests while you have less than $5.0 in credit. Your rate limit resets "
            "in ~10s.",
        ),
        (
            "announced_without_credit",
            "Your rate limit for creating predictions is reduced to 6 requests per minute with a "
            "burst of 1 requests. Your rate limit resets in ~10s.",
        ),
        ("bare", "Request was throttled."),
    ],
)
async def test_429_wording_is_configurable(
    simulator: Simulator, client: httpx.AsyncClient, wording: str, detail: str
) -> None:
    simulator.configure(requests_per_minute=6, burst=1, throttle_wording=ThrottleWording(wording))
    await create(client)
    assert (await create(client)).json()["detail"] == detail


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("field", [True, False])
async def test_429_reports_retry_after_where_configured(
    simulator: Simulator, client: httpx.AsyncClient, header: bool, field: bool
) -> None:
    simulator.configure(throttle_header=header, throttle_field=field, throttle_seconds=7)
    simulator.fault_next("429")
    response = await create(client)
    assert response.headers.get("retry-after") == ("7" if header else None)
    assert response.json().get("retry_after") == (7 if field else None)


async def test_low_credit_lowers_the_rate_and_reports_it(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.change_account("acme", low_credit=True)
    assert (await create(client)).status_code == 201
    throttled = await create(client)
    assert "reduced to 6 requests per minute with a burst of 1" in throttled.json()["detail"]


async def test_account_can_have_its_own_rate(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.change_account("acme", requests_per_minute=60, burst=1)
    assert (await create(client)).headers["ratelimit-remaining"] == "0"
    assert (await create(client)).status_code == 429
    assert (await create(client, token="r8_other")).headers["ratelimit-remaining"] == "599"


async def test_other_calls_have_a_separate_rate(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(other_requests_per_minute=60, other_burst=1)
    assert (await client.get("/v1/account")).status_code == 200
    assert (await client.get("/v1/account")).status_code == 429
    assert (await create(client)).status_code == 201


async def test_account_endpoint_returns_the_username(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/account")).json()["username"] == "acme"


@given(
    st.floats(1, 6000),
    st.integers(1, 100),
    st.lists(st.floats(0, 5), min_size=1, max_size=100),
)
def test_bucket_never_yields_more_than_burst_plus_refill(
    per_minute: float, burst: int, pauses: list[float]
) -> None:
    bucket = TokenBucket(per_minute, burst, now=0)
    now, given_out = 0.0, 0
    for pause in pauses:
        now += pause
        given_out += bucket.take(now) == 0
        assert given_out <= burst + now * per_minute / 60 + 1e-6
        assert 0 <= bucket.remaining <= burst


@given(st.floats(1, 6000))
def test_bucket_yields_after_the_seconds_it_reports(per_minute: float) -> None:
    bucket = TokenBucket(per_minute, 1, now=0)
    assert bucket.take(0) == 0
    seconds = bucket.take(0)
    assert seconds > 0
    assert bucket.take(seconds) == 0
