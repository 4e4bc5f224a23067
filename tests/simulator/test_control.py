"""The simulator's control API: recorded requests, behaviour, and how it is run."""

import argparse
import email.utils
import http.client
import json
import subprocess
import sys
import time
from datetime import datetime

import httpx
import pytest
from pydantic import ValidationError

from replicate_mcp.simulator import (
    Simulator,
    SimulatorSettings,
    running_simulator,
    running_simulator_process,
)
from replicate_mcp.simulator.__main__ import add_arguments, main
from replicate_mcp.simulator.engine.durations import sampler
from simulator.calls import create


async def test_stats_count_events(simulator: Simulator, client: httpx.AsyncClient) -> None:
    simulator.configure(predict_seconds=0.1)
    await create(client)
    await create(client, "[fail]")
    await client.get("/v1/account")
    stats = simulator.stats(limit=2)
    account = stats["accounts"]["acme"]
    assert (account["created"], account["succeeded"], account["failed"]) == (2, 1, 1)
    assert (account["in_flight"], account["max_in_flight"]) == (0, 1)
    assert (account["creations_seen"], account["other_calls"]) == (2, 1)
    assert 0.2 <= account["busy_seconds"] < 2
    assert 0 < account["utilisation"] <= 0.5
    assert account["first_creation"] < account["last_creation"] < account["last_end"]
    assert stats["requests"] == {
        "POST /v1/models/{owner}/{name}/predictions": 2,
        "GET /v1/account": 1,
    }
    assert [count for _, count in simulator.timeline("acme")] == [1, 0, 1, 0]


async def test_control_api_lists_predictions_with_all_fields(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    await create(client, "a cat", seed=3, cancel_after="60")
    await create(client, token="r8_other")
    known, _ = simulator.predictions()
    assert simulator.predictions("acme") == [known]
    assert known["input"] == {"prompt": "a cat", "seed": 3}
    assert known["created"] <= known["started"] <= known["ended"]
    assert known["cancel_after"] == 60
    assert (known["account"], known["status"]) == ("acme", "succeeded")


async def test_settings_change_immediately_and_reset_restores_defaults(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    assert simulator.configure(predict_seconds="1-4")["predict_seconds"] == "1-4"
    simulator.reset()
    assert simulator.settings()["predict_seconds"] == 0
    assert simulator.stats()["accounts"] == {}


@pytest.mark.parametrize(
    "settings",
    [
        {"no_such_thing": 1},
        {"predict_seconds": "soon"},
        {"predict_seconds": -1},
        {"failing": 2},
        {"fault_next": ["nothing"]},
    ],
)
def test_invalid_setting_is_rejected(simulator: Simulator, settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        simulator.configure(**settings)


def test_waiting_for_an_unreached_count_times_out(simulator: Simulator) -> None:
    with pytest.raises(TimeoutError, match="created"):
        simulator.wait_for(created=1, within=0.05)
    with pytest.raises(ValueError, match="Not counted: nonsense"):
        simulator.account("acme") and simulator.wait_for(nonsense=1)


async def test_clock_offset_is_configurable(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(clock_offset_seconds=3600)
    response = await create(client)
    stated = email.utils.parsedate_to_datetime(response.headers["date"]).timestamp()
    created = datetime.fromisoformat(response.json()["created_at"]).timestamp()
    assert stated == pytest.approx(time.time() + 3600, abs=5)
    assert created == pytest.approx(time.time() + 3600, abs=5)
    assert simulator.predictions()[0]["created"] == pytest.approx(time.time(), abs=5)


async def test_public_url_of_predictions_is_configurable(
    simulator: Simulator, client: httpx.AsyncClient
) -> None:
    simulator.configure(public_url="http://simulator:8765/")
    prediction = (await create(client)).json()
    assert prediction["urls"]["get"].startswith("http://simulator:8765/v1/predictions/")


def test_simulator_stops_while_a_creation_is_held() -> None:
    with running_simulator() as simulator:
        host = simulator.url.removeprefix("http://")
        held = http.client.HTTPConnection(host, timeout=5)
        body = json.dumps({"input": {"prompt": "[hang]"}})
        headers = {"authorization": "Bearer r8_acme", "prefer": "wait"}
        path = "/v1/models/black-forest-labs/flux-schnell/predictions"
        held.request("POST", path, body, headers)
        simulator.wait_for(in_flight=1)
        stopped = time.monotonic()
    assert time.monotonic() - stopped < 5
    with pytest.raises(ConnectionError):
        held.getresponse()
    held.close()


def test_simulator_runs_in_its_own_process() -> None:
    with running_simulator_process(predict_seconds="1-4", page_size=7) as simulator:
        assert simulator.settings()["page_size"] == 7
        assert simulator.pid
    with pytest.raises(ConnectionError):
        simulator.stats()


def test_simulator_process_exits_when_stdin_closes() -> None:
    command = [sys.executable, "-m", "replicate_mcp.simulator", "--port=0", "--exit-on-stdin-close"]
    ended = subprocess.run(command, input="", capture_output=True, text=True, timeout=30)
    assert ended.returncode == 0
    assert ended.stdout.startswith("Simulated Replicate at http://127.0.0.1:")
    assert ended.stderr == ""


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(arguments)


def test_every_setting_has_an_option() -> None:
    options = vars(parsed())
    for name, field in SimulatorSettings.model_fields.items():
        if isinstance(field.default, bool):
            options |= vars(parsed(f"--no-{name.replace('_', '-')}"))
        else:
            options |= vars(parsed(f"--{name.replace('_', '-')}", "1"))
    assert set(SimulatorSettings.model_fields) <= set(options)


def test_invalid_option_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(parsed("--failing", "7")) == 2
    assert "failing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "kept", "first_three"),
    [
        ("0.5", 0.5, [0.5, 0.5, 0.5]),
        (2, 2, [2, 2, 2]),
        ("0.1, 0.2", (0.1, 0.2), [0.1, 0.2, 0.1]),
        ([1, 2, 3], (1, 2, 3), [1, 2, 3]),
    ],
)
def test_duration_is_a_number_or_a_list(
    given: object, kept: object, first_three: list[float]
) -> None:
    import random

    settings = SimulatorSettings.model_validate({"predict_seconds": given})
    assert settings.predict_seconds == kept
    draw = sampler(settings.predict_seconds)
    assert [draw(random.Random(0), 9) for _ in range(3)] == first_three


@pytest.mark.parametrize(
    ("given", "low", "high"), [("1-4", 1, 4), ("model", 7.2, 10.8), ("lognormal(2, 0.1)", 1, 4)]
)
def test_duration_range_is_sampled(given: str, low: float, high: float) -> None:
    import random

    settings = SimulatorSettings(predict_seconds=given)
    rng = random.Random(0)
    draw = sampler(settings.predict_seconds)
    drawn = [draw(rng, 9) for _ in range(100)]
    assert low <= min(drawn) < max(drawn) <= high


@pytest.mark.parametrize("given", ["", "x", "1-", -1, [], [-1], True, "1,x", None, {}])
def test_invalid_duration_is_rejected(given: object) -> None:
    with pytest.raises(ValidationError):
        SimulatorSettings.model_validate({"predict_seconds": given})
