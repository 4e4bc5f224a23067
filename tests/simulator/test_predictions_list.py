"""The account's predictions, newest first."""

from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from replicate_mcp.simulator import Simulator
from simulator.calls import create


async def pages(client: httpx.AsyncClient, path: str = "/v1/predictions") -> list[list[str]]:
    found, url = [], path
    while url:
        page: dict[str, Any] = (await client.get(url)).json()
        found.append([prediction["input"]["prompt"] for prediction in page["results"]])
        url = page["next"]
    return found


async def test_list_is_newest_first(client: httpx.AsyncClient) -> None:
    for number in range(3):
        await create(client, str(number))
    assert await pages(client) == [["2", "1", "0"]]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
async def test_each_prediction_is_on_exactly_one_page(
    simulator: Simulator, client: httpx.AsyncClient, count: int
) -> None:
    simulator.configure(page_size=2)
    for number in range(count):
        await create(client, str(number))
    found = await pages(client)
    assert all(len(page) <= 2 for page in found)
    assert [prompt for page in found for prompt in page] == [
        str(number) for number in reversed(range(count))
    ]


async def test_previous_link_leads_back(simulator: Simulator, client: httpx.AsyncClient) -> None:
    simulator.configure(page_size=2)
    for number in range(5):
        await create(client, str(number))
    first = (await client.get("/v1/predictions")).json()
    assert first["previous"] is None
    second = (await client.get(first["next"])).json()
    assert (await client.get(second["previous"])).json() == first


async def test_pages_are_stable_while_predictions_are_added(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(page_size=2)
    for number in range(4):
        await create(client, str(number))
    first = (await client.get("/v1/predictions")).json()
    await create(client, "new")
    second = (await client.get(first["next"])).json()
    assert [prediction["input"]["prompt"] for prediction in second["results"]] == ["1", "0"]


async def test_created_after_and_created_before_filter_the_list(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(page_size=1)
    for number in range(3):
        await create(client, str(number))
    created = [known["created"] for known in simulator.predictions()]
    middle = datetime.fromtimestamp((created[1] + created[0]) / 2).astimezone()
    after = {"created_after": middle.isoformat()}
    before = {"created_before": middle.isoformat()}
    assert await pages(client, str(httpx.URL("/v1/predictions", params=after))) == [["2"], ["1"]]
    assert await pages(client, str(httpx.URL("/v1/predictions", params=before))) == [["0"]]


async def test_invalid_time_is_rejected(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/predictions", params={"created_after": "yesterday"})
    assert response.status_code == 400


async def test_list_lag_is_configurable(simulator: Simulator, client: httpx.AsyncClient) -> None:
    simulator.configure(list_lag_seconds=60)
    prediction = (await create(client)).json()
    assert await pages(client) == [[]]
    assert (await client.get(f"/v1/predictions/{prediction['id']}")).status_code == 200
    simulator.configure(list_lag_seconds=0)
    assert await pages(client) == [["a red car"]]


async def test_list_includes_deadlines_unless_disabled(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    prediction = (await create(client, cancel_after="90")).json()
    created = datetime.fromisoformat(prediction["created_at"])
    deadline = datetime.fromisoformat(prediction["deadline"])
    assert abs(deadline - created - timedelta(seconds=90)) < timedelta(milliseconds=1)
    (listed,) = (await client.get("/v1/predictions")).json()["results"]
    assert listed["deadline"] == prediction["deadline"]
    simulator.configure(list_deadlines=False)
    (listed,) = (await client.get("/v1/predictions")).json()["results"]
    assert "deadline" not in listed


async def test_account_sees_only_its_own_predictions(client: httpx.AsyncClient) -> None:
    prediction = (await create(client, token="r8_other")).json()
    assert await pages(client) == [[]]
    assert (await client.get(f"/v1/predictions/{prediction['id']}")).status_code == 404
