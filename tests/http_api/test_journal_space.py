"""An account that exceeds its journal quota is rejected, and no other account is."""

from typing import Any

from http_api.conftest import Serve
from replicate_mcp.simulator import Simulator

HALF_A_MEBIBYTE = [{"prompt": "x" * 20_000}] * 30


def test_account_with_a_full_journal_quota_is_rejected_until_batches_end(
    serve: Serve, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=60)
    with serve(REPLICATE_MCP_JOURNAL_MB="1") as server:

        def start(tasks: Any, account: str) -> Any:
            headers = {"authorization": f"Bearer r8_{account}_1", "prefer": "respond-async"}
            return server.post("/generate-batch", {"tasks": tasks}, **headers)

        begun = start(HALF_A_MEBIBYTE, "acme")
        assert begun.status_code == 202
        refused = start(HALF_A_MEBIBYTE, "acme")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
        error_body = refused.json()
        assert (error_body["error_code"], error_body["retryable"]) == ("too_many_requests", True)
        assert "The journal of your account has no room" in error_body["error"]
        assert "of 1 MiB" in error_body["error"]
        assert start(HALF_A_MEBIBYTE, "other").status_code == 202

        too_large = start(HALF_A_MEBIBYTE * 2, "third")
        assert too_large.status_code == 400
        assert (too_large.json()["error_code"], too_large.json()["retryable"]) == (
            "invalid_input",
            False,
        )
        assert "REPLICATE_MCP_JOURNAL_MB" in too_large.json()["error"]

        place, own = f"/batches/{begun.json()['batch_id']}", {"authorization": "Bearer r8_acme_1"}
        server.client.delete(place, headers=own)
        assert server.get(f"{place}?wait_seconds=20", headers=own).json()["status"] == "canceled"
        again = start(HALF_A_MEBIBYTE, "acme")
        for _ in range(200):  # The predictions at Replicate end a moment later.
            if again.status_code == 202:
                break
            again = start(HALF_A_MEBIBYTE, "acme")
        assert again.status_code == 202
        assert server.get(place, headers=own).status_code == 404
