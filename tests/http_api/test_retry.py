"""`POST /batches/{batch_id}/retry`: its body, its responses, keys, and who may call it."""

from typing import Any

from http_api.conftest import ADMIN_KEY, Serve
from replicate_mcp.simulator import Simulator


def test_failed_tasks_are_retried_without_a_body(serve: Serve, simulator: Simulator) -> None:
    with serve() as server:
        simulator.configure(failing=1)
        first = server.post("/generate-batch", {"tasks": ["a", {"prompt": "[nsfw] b"}]}).json()
        simulator.configure(failing=0)
        assert "retry_of" not in first
        path = f"/batches/{first['batch_id']}/retry"
        answer = server.client.post(path, headers={"Content-Type": "application/json"})
        assert answer.status_code == 200, answer.text
        again = answer.json()
        assert again["success"] is True
        assert (again["retry_of"], again["total_tasks"]) == (first["batch_id"], 1)
        (row,) = again["successful_results"]
        assert (row["task_index"], row["retried_task_index"], row["prompt"]) == (0, 0, "a")
        found = server.get(f"/batches/{again['batch_id']}").json()
        assert (found["retry_of"], found["successful_results"]) == (first["batch_id"], [row])
        assert "retries" not in found
        whole = f"/batches/{first['batch_id']}"
        retries = [
            {"batch_id": again["batch_id"], "retry_of": first["batch_id"], "task_indexes": [0]}
        ]
        assert server.get(f"{whole}?limit=1").json()["retries"] == retries
        for rest in ("?after=1", "?limit=0"):
            assert "retries" not in server.get(whole + rest).json()
        batches = server.get("/batches").json()["batches"]
        listed = {each["batch_id"]: each.get("retry_of") for each in batches}
        assert listed == {first["batch_id"]: None, again["batch_id"]: first["batch_id"]}
        assert "retry_of" not in server.delete(f"/batches/{first['batch_id']}").json()
        nothing = server.post(f"/batches/{again['batch_id']}/retry", {})
        assert nothing.status_code == 400
        assert "nothing to retry" in nothing.json()["error"]
        assert nothing.json()["error_code"] == "invalid_input"


def test_chosen_tasks_with_a_key_and_without_waiting(serve: Serve, simulator: Simulator) -> None:
    with serve() as server:
        first = server.post("/generate-batch", {"prompts": ["a", "b", "c"]}).json()
        path, body = f"/batches/{first['batch_id']}/retry", {"task_indexes": [2], "new_seed": True}
        headers = {"Idempotency-Key": "k", "Prefer": "respond-async"}
        answers = [server.post(path, body, **headers) for _ in range(2)]
        assert [each.status_code for each in answers] == [202, 202]
        (location,) = {each.headers["Location"] for each in answers}
        assert answers[0].headers["Preference-Applied"] == "respond-async"
        made = server.get(f"{location}?wait_seconds=20").json()
        (row,) = made["successful_results"]
        assert row["retried_task_index"] == 2
        assert row["seed"] != first["successful_results"][2]["seed"]
        assert len(simulator.predictions()) == 4
        other = server.post(path, {"task_indexes": [1]}, Idempotency_Key="k")
        assert other.status_code == 422
        of_another = server.post(f"/batches/{made['batch_id']}/retry", body, Idempotency_Key="k")
        assert of_another.status_code == 422


def test_wrong_bodies_are_refused(serve: Serve, simulator: Simulator) -> None:
    with serve() as server:
        first = server.post("/generate-batch", {"prompts": ["a"]}).json()
        path = f"/batches/{first['batch_id']}/retry"
        wrong: list[dict[str, Any]] = [
            {"task_indexes": []},
            {"task_indexes": [-1]},
            {"task_indexes": [1.5]},
            {"task_indexes": ["0"]},
            {"task_indexes": [True]},
            {"task_indexes": [0] * 1_001},
            {"tasks": ["a"]},
            {"new_seed": "perhaps"},
        ]
        for body in wrong:
            answer = server.post(path, body)
            assert answer.status_code in (400, 422), (body, answer.text)
            assert answer.json()["error_code"] == "invalid_input"
        beyond = server.post(path, {"task_indexes": [1]})
        assert beyond.json()["problems"] == [
            {"task_index": 1, "error": "there is no such task: its only task is 0."}
        ]
        assert len(simulator.predictions()) == 1


def test_only_the_caller_of_a_batch_retries_it(serve: Serve, simulator: Simulator) -> None:
    with serve() as server:
        alice = {"replicate_api_token": "r8_alice_1"}
        first = server.post("/generate-batch", {"prompts": ["a"], "credentials": alice}).json()
        path, body = f"/batches/{first['batch_id']}/retry", {"task_indexes": [0]}
        bob = {"replicate_api_token": "r8_bob_1"}
        for answer in (
            server.post(path, body),
            server.post(path, body | {"credentials": bob}),
            server.post(path, body, X_Admin_API_Key=ADMIN_KEY),
        ):
            assert answer.status_code == 404
            assert "only their own caller sees them" in answer.json()["error"]
        assert server.post(path, body | {"credentials": alice}).status_code == 200
        own = server.post("/generate-batch", {"prompts": ["b"]}).json()
        again = server.post(
            f"/batches/{own['batch_id']}/retry", body, X_Admin_API_Key=ADMIN_KEY
        ).json()
        assert again["retry_of"] == own["batch_id"]
        assert simulator.account("alice")["created"] == 2
    with serve(REPLICATE_MCP_LOCAL="0") as server:
        assert server.post(path, body).status_code == 401
