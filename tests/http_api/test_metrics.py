"""Metrics and traces of the real server."""

import os
import re

import pytest

from http_api.conftest import ADMIN_KEY, Serve, Server, Traced
from replicate_mcp.simulator import Fault, Simulator

TRACE = "0af7651916cd43dd8448eb211c80319c"


def value(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, f"{name} is not in {text}"
    return float(found[1])


def test_events_are_counted_in_metrics(server: Server, simulator: Simulator) -> None:
    simulator.configure(predict_seconds=0.05)
    simulator.fault_next(Fault("429"))
    simulator.fault_next(Fault("502_after"))
    prompts = ["a", "b", "c [nsfw]", "d"]
    server.post("/generate-batch", {"prompts": prompts})
    hanging = server.post("/generate-batch", {"prompts": ["x [hang]"] * 2}, prefer="respond-async")
    assert hanging.status_code == 202
    simulator.wait_for(account="acme", in_flight=2)
    text = server.get("/metrics").text
    assert value(text, "replicate_mcp_creations_total") == 7
    assert value(text, "replicate_mcp_throttled_total") == 1
    assert value(text, "replicate_mcp_responses_lost_total") == 1
    assert value(text, 'replicate_mcp_tasks_total{outcome="succeeded"}') == 3
    assert value(text, 'replicate_mcp_tasks_total{outcome="content_flagged"}') == 1
    assert value(text, "replicate_mcp_waiting_seconds_count") == 7
    assert value(text, "replicate_mcp_replicate_seconds_count") == 4
    own = '{semaphore="replicate-global"}'
    assert value(text, f"replicate_mcp_permits_in_use{own}") == 2
    assert value(text, f"replicate_mcp_semaphore_limit{own}") == 60
    assert value(text, f"replicate_mcp_semaphore_utilisation{own}") == pytest.approx(2 / 60)


def test_metrics_endpoint_follows_the_auth_tiers(serve: Serve) -> None:
    with serve("--host", "0.0.0.0") as server:
        server.client.base_url = server.url.replace("0.0.0.0", "127.0.0.1")
        assert server.get("/metrics").status_code == 401
        own = server.get("/metrics", headers={"x-replicate-api-key": "r8_other_1"}).text
        assert "replicate_mcp_permits_in_use" in own
        assert "replicate_mcp_creations_total" not in own
        admin = server.get("/metrics", headers={"x-admin-api-key": ADMIN_KEY}).text
        assert "replicate_mcp_creations_total" in admin


def test_each_attempt_is_a_span_in_the_caller_trace_without_prompt_or_token(
    serve: Serve, traced: Traced
) -> None:
    with serve(program=traced.program) as server:
        headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
        body = {"prompts": ["a secret car", "b [fail]"]}
        server.client.post("/generate-batch", json=body, headers=headers)
    written = traced.spans.read_text()
    assert written.count('"name": "prediction black-forest-labs/flux-schnell"') == 2
    assert written.count(f'"trace_id": "0x{TRACE}"') >= 2
    assert '"error.type": "prediction_failed"' in written
    assert "secret car" not in written
    assert os.environ.get("REPLICATE_API_TOKEN", "r8_acme_1") not in written
