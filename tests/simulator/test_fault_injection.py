"""Injected faults, and their effects."""

import asyncio

import httpx
import pytest

from replicate_mcp.simulator import Fault, Simulator, SimulatorSettings
from replicate_mcp.simulator.engine.fault_injection import FaultInjector, Faults
from simulator.calls import SCHNELL, create


@pytest.mark.parametrize(
    ("fault", "status", "made"),
    [
        ("500", 500, 0),
        ("502", 502, 0),
        ("503", 503, 0),
        ("504", 504, 0),
        ("500_after", 500, 1),
        ("504_after", 504, 1),
        ("429", 429, 0),
    ],
)
async def test_error_is_returned_before_or_after_the_prediction_is_created(
    simulator: Simulator, client: httpx.AsyncClient, fault: str, status: int, made: int
) -> None:
    simulator.fault_next(fault)
    assert (await create(client)).status_code == status
    assert simulator.account("acme")["created"] == made
    assert (await create(client)).status_code == 201


@pytest.mark.parametrize(("fault", "made"), [("reset", 0), ("reset_after", 1)])
async def test_connection_is_reset(
    simulator: Simulator, client: httpx.AsyncClient, fault: str, made: int
) -> None:
    simulator.fault_next(fault)
    with pytest.raises(httpx.ReadError) as failure:
        await create(client)
    assert "ConnectionResetError" in repr(_causes(failure.value))
    assert simulator.account("acme")["created"] == made


@pytest.mark.parametrize(("fault", "made"), [("silence", 0), ("silence_after", 1)])
async def test_silence_fault_lasts_until_the_client_gives_up(
    simulator: Simulator, client: httpx.AsyncClient, fault: str, made: int
) -> None:
    simulator.fault_next(fault)
    with pytest.raises(httpx.ReadTimeout):
        await client.post(SCHNELL, json={"input": {"prompt": "a"}}, timeout=0.2)
    assert simulator.account("acme")["created"] == made


async def test_truncated_response_is_shorter_than_its_content_length(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.fault_next("truncated")
    with pytest.raises(httpx.RemoteProtocolError):
        await create(client)
    assert simulator.account("acme")["created"] == 1


async def test_malformed_response_is_not_json(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.fault_next("malformed")
    response = await create(client)
    assert response.status_code == 201
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        response.json()


async def test_fault_can_occur_some_time_after_acceptance(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(fault_after_seconds=0.1)
    simulator.fault_next("reset_after")
    lost = asyncio.create_task(create(client, "[hang]"))
    await simulator.reached(in_flight=1)
    assert not lost.done()
    with pytest.raises(httpx.ReadError):
        await lost
    assert simulator.account("acme")["in_flight"] == 1
    assert simulator.predictions()[0]["fault"] == "reset_after"


async def test_gets_and_cancels_have_their_own_faults(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.fault_next("503", on="get")
    simulator.fault_next("502_after", on="cancel")
    prediction = (await create(client, "[hang]", wait=None)).json()
    path = f"/v1/predictions/{prediction['id']}"
    assert (await client.get(path)).status_code == 503
    assert (await client.get(path)).status_code == 200
    assert (await client.post(f"{path}/cancel")).status_code == 502
    assert (await client.get(path)).json()["status"] in ("canceled", "aborted")


async def test_queued_faults_occur_in_order(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.fault_next("500", count=2)
    simulator.configure(fault_next="429 503")
    statuses = [(await create(client)).status_code for _ in range(5)]
    assert statuses == [500, 500, 429, 503, 201]


async def test_empty_fault_list_clears_queued_faults(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.fault_next("500", count=5)
    simulator.configure(fault_next=[])
    assert (await create(client)).status_code == 201


async def test_fault_rate_of_one_always_occurs(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(creation_5xx=True, get_429=1)
    assert (await create(client)).status_code in (500, 502, 503, 504)
    assert (await client.get("/v1/account")).status_code == 429


def test_seed_makes_faults_reproducible() -> None:
    faults = SimulatorSettings(creation_5xx=0.2, creation_reset_after=0.3)

    def drawn(seed: int) -> list[Fault | None]:
        injector = FaultInjector(faults, seed)
        return [injector.next_fault("creation") for _ in range(200)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert 30 < sum(fault is Fault.RESET_AFTER for fault in drawn(1)) < 90


def test_fault_rates_above_one_in_total_are_rejected() -> None:
    with pytest.raises(ValueError, match="more than 1"):
        Faults(creation_reset=0.6, creation_5xx=0.6)


async def test_faults_of_a_get_kind_take_precedence_over_general_get_faults(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.fault_next("403", on="list")
    simulator.fault_next("520", on="get")
    assert (await client.get("/v1/account")).status_code == 520
    assert (await client.get("/v1/predictions")).status_code == 403
    assert (await client.get("/v1/predictions")).status_code == 200


@pytest.mark.parametrize("fault", ["400", "401", "403", "404"])
async def test_call_can_be_rejected_like_replicate_does(
    simulator: Simulator, client: httpx.AsyncClient, fault: str
) -> None:
    simulator.fault_next(fault, on="cancel")
    refused = await client.post("/v1/predictions/any/cancel")
    assert (refused.status_code, refused.json()["status"]) == (int(fault), int(fault))


@pytest.mark.parametrize(("fault", "made"), [("520", 0), ("529_after", 1)])
async def test_gateway_error_is_an_html_page(
    simulator: Simulator, client: httpx.AsyncClient, fault: str, made: int
) -> None:
    simulator.fault_next(fault)
    answer = await create(client)
    assert answer.status_code == int(fault[:3])
    assert answer.headers["content-type"] == "text/html"
    assert simulator.account("acme")["created"] == made


ORDERED_ALONE = {Fault(each) for each in ("400", "401", "403", "404")} | {
    Fault(each) for each in ("520", "529", "520_after", "529_after")
}


def test_every_fault_rate_has_a_fault() -> None:
    struck = {
        fault
        for name in Faults.model_fields
        if not name.startswith("fault_")
        for fault in FaultInjector(Faults(**{name: 1.0}), 0)._rates[name.split("_")[0]][0][0]  # type: ignore[index]
    }
    assert struck == set(Fault) - ORDERED_ALONE


def _causes(error: BaseException | None) -> list[str]:
    causes = []
    while error is not None:
        causes.append(repr(error))
        error = error.__cause__ or error.__context__
    return causes
