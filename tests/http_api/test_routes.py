"""The REST routes and their documented behaviour."""

import sqlite3
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from http_api.conftest import ADMIN_KEY, Serve, Server
from replicate_mcp.simulator import Simulator
from replicate_mcp.tasks.model_name import ALIASES
from replicate_mcp.tasks.recommended_models import CATALOGUE

OWN = {"x_replicate_api_key": "r8_other_1"}


def test_service_endpoints_describe_the_server(server: Server) -> None:
    health = server.get("/health").json()
    assert health["status"] == "healthy"
    assert health.keys() >= {"service", "version", "supported_models", "concurrency_status"}
    models = server.get("/models").json()
    names = models["supported_models"]
    assert names[:3] == ["flux-dev", "flux-kontext-max", "qwen-image"]
    assert {ALIASES.get(name, name) for name in names} == {each.name for each in CATALOGUE}
    assert models["model_count"] == len(names) == len(CATALOGUE)
    status = server.get("/status").json()
    assert status["admin_api_configured"] is True
    assert status["default_replicate_key_configured"] is True
    assert status["concurrency"]["concurrent_limit"] == 60
    assert ADMIN_KEY not in server.get("/status").text
    assert server.get("/openapi.json").json()["paths"].keys() >= {"/generate", "/generate-batch"}


@pytest.mark.parametrize("model", ["flux-dev", "flux-kontext-max", "qwen-image"])
def test_single_image_response_has_url_and_filename(server: Server, model: str) -> None:
    body = {"model_name": model, "prompt": "a red car", "output_filename": "red_car.jpg"}
    answer = server.post("/generate", body | {"output_dir": "out", "seed": 7})
    assert answer.status_code == 200
    made = answer.json()
    assert (made["success"], made["model_name"], made["prompt"]) == (True, model, "a red car")
    assert (made["output_filename"], made["count"], made["seed"]) == ("red_car.jpg", 1, 7)
    (file,) = made["generated_files"]
    assert file["filename"] == "red_car.jpg"
    assert file["url"].endswith(".jpg")
    assert (made["external_semaphore_used"], made["semaphore_id"]) == (False, None)


def test_batch_with_failures_returns_200(server: Server) -> None:
    tasks = [
        {"prompt": "a", "output_filename": "a.png"},
        {"prompt": "b [fail]"},
        {"prompt": "c", "aspect_ratio": "1:1", "output_dir": "x"},
    ]
    body = {"model_name": "qwen-image", "tasks": tasks, "aspect_ratio": "16:9", "output_dir": "x"}
    answer = server.post("/generate-batch", body)
    made = answer.json()
    assert (answer.status_code, made["success"]) == (200, True)
    assert (made["model_name"], made["total_tasks"]) == ("qwen-image", 3)
    assert (made["successful_count"], made["failed_count"]) == (2, 1)
    assert [row["task_index"] for row in made["successful_results"]] == [0, 2]
    assert made["failed_results"][0]["error_code"] == "prediction_failed"
    assert (made["external_semaphore_used"], made["semaphore_id"]) == (False, None)


def test_older_form_with_prompts_and_filenames_is_accepted(
    server: Server, simulator: Simulator
) -> None:
    body = {"prompts": ["a", "b"], "custom_filenames": ["a.png", "b.png"], "num_outputs": 2}
    made = server.post("/generate-batch", body).json()
    rows = made["successful_results"]
    names = [file["filename"] for row in rows for file in row["generated_files"]]
    assert names == ["a_1.png", "a_2.png", "b_1.png", "b_2.png"]
    assert {p["input"]["num_outputs"] for p in simulator.predictions()} == {2}


def test_image_only_model_is_used_without_a_prompt(server: Server, simulator: Simulator) -> None:
    content = BytesIO()
    Image.new("RGB", (8, 8), "red").save(content, "PNG")
    image = f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"
    body = {"model": "recraft-ai/recraft-crisp-upscale", "image": image}
    made = server.post("/generate", body)
    assert made.status_code == 200, made.text
    assert "prompt" not in made.json()
    refused = server.post("/generate", body | {"prompt": "larger"})
    assert refused.json()["problems"][0]["field"] == "prompt"
    (prediction,) = simulator.predictions("acme")
    assert prediction["input"].keys() == {"image"}


def test_model_is_given_as_model_or_model_name(server: Server, simulator: Simulator) -> None:
    for named in (
        {"model": "qwen-image"},
        {"model": "qwen/qwen-image", "model_name": "qwen-image"},
        {"model": "", "model_name": "qwen-image", "external_semaphore_id": ""},
    ):
        made = server.post("/generate", {"prompt": "x", **named})
        assert made.status_code == 200, made.text
    assert (
        server.post("/generate-batch", {"tasks": ["x"], "model": "qwen-image"}).status_code == 200
    )
    assert {made["model"] for made in simulator.predictions()} == {"qwen/qwen-image"}


def test_lists_and_objects_may_be_given_as_json_text(server: Server, simulator: Simulator) -> None:
    inputs = '{"aspect_ratio": "16:9", "num_outputs": 2}'
    for body in (
        {"tasks": '[{"prompt": "a red car"}]', "input": inputs},
        {"prompts": '["a red car"]', "input": inputs},
        {"tasks": ['{"prompt": "a red car"}'], "aspect_ratio": "16:9", "num_outputs": 2},
    ):
        answer = server.post("/generate-batch", body)
        assert answer.status_code == 200, answer.text
    sent = [each["input"] for each in simulator.predictions()]
    assert {each["prompt"] for each in sent} == {"a red car"}
    assert {(each["aspect_ratio"], each["num_outputs"]) for each in sent} == {("16:9", 2)}


def test_each_request_error_is_listed_as_its_own_problem(server: Server) -> None:
    tasks = [{"prompt": "x"}, {"prompt": "x", "seed": "y"}, {"prompt": ""}]
    error_body = server.post("/generate-batch", {"tasks": tasks}).json()
    found = [(problem["task_index"], problem["field"]) for problem in error_body["problems"]]
    assert found == [(1, "seed"), (2, "prompt")]
    body = {"tasks": ["x"], "skip_invalid": "maybe", "concurrency_limit": "many"}
    error_body = server.post("/generate-batch", body).json()
    assert {problem["field"] for problem in error_body["problems"]} == {
        "skip_invalid",
        "concurrency_limit",
    }


def test_valid_tasks_run_with_skip_invalid(server: Server, simulator: Simulator) -> None:
    tasks = [{"prompt": "a red car"}, {"prompt": "x", "aspect_ratio": "16x9"}]
    made = server.post("/generate-batch", {"tasks": tasks, "skip_invalid": True}).json()
    assert [row["task_index"] for row in made["successful_results"]] == [0]
    (failed,) = made["failed_results"]
    assert (failed["task_index"], failed["error_code"]) == (1, "invalid_input")
    assert simulator.account("acme")["created"] == 1


# The request, its path, the status, and part of the message.
REFUSED: list[tuple[str, Any, int, str]] = [
    ("/generate", {}, 400, "prompt is required by black-forest-labs/flux-schnell"),
    ("/generate", {"prompt": ""}, 400, "prompt is empty"),
    ("/generate", {"prompt": "x", "filename": "x.png"}, 400, "did you mean 'output_filename'?"),
    ("/generate", {"prompt": 7}, 400, "prompt must be text"),
    ("/generate", [], 400, "must be a JSON object"),
    ("/generate", {"prompt": "x", "model_name": "nobody/none"}, 404, "knows no model"),
    ("/generate", {"prompt": "x", "aspect_ratio": "16x9"}, 400, "aspect_ratio '16x9'"),
    ("/generate", {"prompt": "x", "external_semaphore_id": "none"}, 400, "not registered"),
    ("/generate", {"prompt": "x", "concurrency_limit": 3}, 400, "token of your own"),
    ("/generate", {"prompt": "x [fail]"}, 502, "The model failed"),
    ("/generate", {"prompt": "x [nsfw]"}, 422, "refused the content"),
    ("/generate-batch", {}, 400, "Either tasks or prompts is required"),
    ("/generate-batch", {"tasks": 7}, 400, "tasks must be a list of objects"),
    (
        "/generate-batch",
        {"tasks": '[{"prompt": "x"}, {"pro'},
        400,
        "tasks is JSON text that is cut",
    ),
    ("/generate-batch", {"prompts": "['x', 'y"}, 400, "prompts is JSON text that is cut off"),
    ("/generate-batch", {"prompts": {"a": 1}}, 400, "prompts must be a list of text"),
    ("/generate", {"prompt": "x", "input": 7}, 400, "input must be an object of model inputs"),
    ("/generate", {"prompt": "x", "input": '{"seed": '}, 400, "input is JSON text that is cut off"),
    (
        "/generate",
        {"prompt": "x", "model": "flux-dev", "model_name": "qwen-image"},
        400,
        "model and model_name name different models",
    ),
    ("/generate-batch", {"tasks": ["x"], "skip_invalid": "maybe"}, 400, "skip_invalid: "),
    (
        "/generate-batch",
        {"tasks": [{"prompt": "x"}, {"promt": "y"}]},
        400,
        "did you mean 'prompt'?",
    ),
    ("/generate-batch", {"prompts": ["a"], "custom_filenames": ["a", "b"]}, 400, "one for each"),
    (
        "/generate-batch",
        {"prompts": ["a"], "tasks": [{"prompt": "b"}]},
        400,
        "tasks and prompts cannot both be given",
    ),
    (
        "/generate-batch",
        {"tasks": '[{"prompt": "b"}]', "custom_filenames": ["z.png"]},
        400,
        "tasks and custom_filenames cannot both be given",
    ),
    ("/generate", {"tasks": [{"prompt": "b"}]}, 400, "tasks goes to POST /generate-batch"),
    ("/generate", {"prompts": ["b"]}, 400, "prompts goes to POST /generate-batch"),
    ("/generate", {"prompt": "x", "input": {"model": "flux-dev"}}, 400, "goes beside input"),
    ("/generate", {"prompt": "x", "wait_seconds": 5}, 400, "Prefer: respond-async"),
    ("/generate", {"prompt": "x", "semaphor": "s"}, 400, "did you mean 'semaphore'?"),
    ("/generate-batch", {"tasks": ["x"], "skip_invald": True}, 400, "mean 'skip_invalid'?"),
    ("/generate", {"prompt": "x", "concurrency_limit": True}, 400, "must be a number, not true"),
    ("/generate", {"prompt": "x", "credentials": ""}, 400, 'object like {"replicate_api_token'),
    ("/generate-batch", {"tasks": [{"prompt": "x"}] * 1001}, 400, "1001 tasks"),
    ("/batches/b_none", None, 404, "There is no batch"),
    ("/batches/x?limit=no", None, 400, "limit"),
    ("/batches/x?after=99999999999999999999", None, 400, "after"),
    ("/nothing", None, 404, "Not Found"),
]


@pytest.mark.parametrize(("path", "body", "status", "sentence"), REFUSED)
def test_rejected_requests_state_the_reason(
    shared_server: Server, path: str, body: Any, status: int, sentence: str
) -> None:
    server = shared_server
    answer = server.get(path) if body is None else server.post(path, body)
    assert answer.status_code == status, answer.text
    assert sentence in answer.json()["error"]
    assert answer.json()["error_code"]


@pytest.mark.parametrize(
    "credentials",
    [{}, {"token": "r8_other_1"}, {"replicate_api_token": ""}, {"replicate_api_token": None}, "r8"],
)
def test_invalid_credentials_do_not_fall_back_to_the_server_token(
    server: Server, simulator: Simulator, credentials: Any
) -> None:
    answer = server.post("/generate", {"prompt": "x", "credentials": credentials})
    assert answer.status_code in (400, 401), answer.text
    assert server.post("/generate", {"prompt": "x"}, x_replicate_api_key="").status_code == 401
    assert simulator.account("acme")["created"] == 0


def test_malformed_server_token_is_reported_without_stopping_the_server(serve: Serve) -> None:
    with serve(REPLICATE_API_TOKEN="r8_abc…") as server:
        assert (
            "whitespace or invalid characters"
            in server.post("/generate", {"prompt": "x"}).json()["error"]
        )
        assert server.post("/generate", {"prompt": "x"}, **OWN).status_code == 200
        assert server.get("/health").status_code == 200


def test_openapi_describes_security_schemes_and_responses_of_every_route(server: Server) -> None:
    described = server.get("/openapi.json").json()
    keys = described["components"]["securitySchemes"]
    headers = {each.get("name", "Authorization") for each in keys.values()}
    assert headers == {"X-Admin-API-Key", "X-Replicate-API-Key", "Authorization"}
    paths = described["paths"]
    assert paths["/configure"]["post"]["security"] == [{"adminKey": []}]
    for path, methods in paths.items():
        for operation in methods.values():
            if path not in ("/health", "/models"):
                assert {"adminKey": []} in operation["security"]
            answers = operation["responses"]
            assert answers.keys() >= {"200", "408", "413", "429", "431", "500", "503"}
            for answer in answers.values():
                (content,) = answer["content"].values()
                assert content["schema"]
    codes = described["components"]["schemas"]["ErrorBody"]["properties"]["error_code"]["enum"]
    assert {"internal_error", "too_many_requests", "invalid_input"} <= set(codes)


def test_admin_registers_semaphores_on_a_server_without_a_token(serve: Serve) -> None:
    with serve(REPLICATE_API_TOKEN="") as server:
        body = {"semaphore_id": "team", "limit": 3}
        answer = server.post("/global-semaphores", body, x_admin_api_key=ADMIN_KEY)
        assert (answer.status_code, answer.json().get("limit")) == (200, 3)


def test_health_reports_unresponsive_state_file(server: Server, tmp_path: Path) -> None:
    assert server.get("/health").status_code == 200
    with closing(sqlite3.connect(tmp_path / "state.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        answer = server.get("/health")
        assert answer.status_code == 503
        assert "did not answer" in answer.json()["concurrency_status"]["backend"]
        other.execute("ROLLBACK")


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/configure", {"concurrent_limit": True}, "concurrent_limit"),
        ("/configure", {"requests_per_minute": True}, "requests_per_minute"),
        ("/global-semaphores", {"semaphore_id": "t", "limit": True}, "limit"),
    ],
)
def test_boolean_is_rejected_as_a_limit(server: Server, path: str, body: Any, field: str) -> None:
    answer = server.post(path, body, x_admin_api_key=ADMIN_KEY)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"] == f"{field}: must be a number, not true or false."


def test_empty_string_leaves_a_limit_unchanged(server: Server) -> None:
    body = {"concurrent_limit": "", "requests_per_minute": 300}
    answer = server.post("/configure", body, x_admin_api_key=ADMIN_KEY)
    assert answer.status_code == 200, answer.text


def test_admin_rate_persists_when_other_servers_start(serve: Serve) -> None:
    admin = {"x_admin_api_key": ADMIN_KEY}
    with serve() as first, serve() as second:
        first.post("/configure", {"requests_per_minute": 30}, **admin)
        assert second.get("/status").json()["concurrency"]["requests_per_minute"] == 30


def test_lone_surrogate_is_rejected_with_a_clear_message(server: Server) -> None:
    body = b'{"prompt": "x", "model_name": "a\\ud800/b"}'
    headers = {"content-type": "application/json"}
    answer = server.client.post("/generate", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "invalid_input")


def test_only_admin_registers_resizes_and_configures(server: Server) -> None:
    body = {"semaphore_id": "team", "limit": 3}
    for headers in ({}, OWN, {"x_admin_api_key": "wrong"}):
        assert server.post("/global-semaphores", body, **headers).status_code == 401
        assert server.post("/configure", {"concurrent_limit": 1}, **headers).status_code == 401
        assert server.delete("/global-semaphores/team", **headers).status_code == 401
    admin = {"x_admin_api_key": ADMIN_KEY}
    registered = server.post("/global-semaphores", body, **admin).json()
    assert registered["success"] is True
    assert (registered["semaphore_id"], registered["limit"]) == ("team", 3)
    assert registered["all_semaphores"] == ["replicate-global", "team"]
    assert server.post("/global-semaphores", body | {"limit": 5}, **admin).json()["limit"] == 5
    answer = server.post("/configure", {"concurrent_limit": 9, "requests_per_minute": 300}, **admin)
    assert answer.json()["new_settings"]["concurrent_limit"] == 9
    listed = server.get("/global-semaphores").json()
    assert (listed["global_semaphores"], listed["count"]) == (["replicate-global", "team"], 2)
    own = listed["semaphores"][0]
    assert (own["limit"], own["requests_per_minute"], own["scope"]) == (9, 300, "machine")
    made = server.post("/generate", {"prompt": "x", "external_semaphore_id": "team"}).json()
    assert (made["external_semaphore_used"], made["semaphore_id"]) == (True, "team")
    removed = server.delete("/global-semaphores/team", **admin).json()
    assert (removed["success"], removed["all_semaphores"]) == (True, ["replicate-global"])
    again = server.delete("/global-semaphores/team", **admin)
    assert (again.status_code, again.json()["error_code"]) == (400, "invalid_input")
    own = server.delete("/global-semaphores/replicate-global", **admin)
    assert "cannot be removed" in own.json()["error"]


def test_own_token_and_limit_of_a_caller_apply_to_its_batch(
    server: Server, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=0.1)
    credentials = {"replicate_api_token": "r8_other_1"}
    body = {"prompts": ["a"] * 8, "credentials": credentials, "concurrency_limit": 2}
    made = server.post("/generate-batch", body).json()
    assert made["successful_count"] == 8
    other = simulator.account("other")
    assert (other["created"], other["max_in_flight"]) == (8, 2)
    assert simulator.account("acme")["created"] == 0
    # No other caller sees it, not even the admin.
    batch = f"/batches/{made['batch_id']}"
    assert server.get(batch, headers={"x-replicate-api-key": "r8_other_1"}).status_code == 200
    for headers in ({}, {"x-admin-api-key": ADMIN_KEY}, {"x-replicate-api-key": "r8_third_1"}):
        assert server.get(batch, headers=headers).status_code == 404
        assert server.client.delete(batch, headers=headers).status_code == 404


def test_respond_async_request_gets_the_batch_location(
    server: Server, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=1)
    answer = server.post("/generate-batch", {"prompts": ["a", "b"]}, prefer="respond-async")
    assert (answer.status_code, answer.json()["status"]) == (202, "running")
    place = answer.headers["location"]
    simulator.wait_for(account="acme", in_flight=2)
    assert server.get(place).json()["running_count"] == 2
    ended = server.get(place, params={"wait_seconds": 20}).json()
    assert (ended["status"], ended["successful_count"], ended["cursor"]) == ("completed", 2, 2)
    later = server.get(place, params={"after": 1}).json()
    assert (len(later["successful_results"]), later["cursor"]) == (1, 2)
    assert server.get("/batches").json()["batches"][0]["batch_id"] == ended["batch_id"]


def test_location_header_includes_the_public_url_path(serve: Serve) -> None:
    with serve(REPLICATE_MCP_PUBLIC_URL="http://127.0.0.1:9/images/") as server:
        answer = server.post("/generate", {"prompt": "a"}, prefer="respond-async")
        assert answer.headers["location"] == f"/images/batches/{answer.json()['batch_id']}"


def test_trailing_slash_is_served_without_redirect(server: Server) -> None:
    routes = {
        (method.upper(), path)
        for path, methods in server.get("/openapi.json").json()["paths"].items()
        for method in methods
    }
    assert len(routes) > 10
    files = {("GET", path) for path in ("/openapi.json", "/dashboard/dashboard.js", "/nothing")}
    for method, path in routes | files | {("POST", "/mcp"), ("DELETE", "/mcp")}:
        plain, slashed = (
            server.client.request(method, each, content=b"{}") for each in (path, f"{path}/")
        )
        assert (slashed.status_code, slashed.history) == (plain.status_code, [])
        assert not 300 <= slashed.status_code < 400
    with server.client.stream("GET", "/sse/") as stream:
        assert stream.status_code == 200
        assert next(stream.iter_lines()) == "event: endpoint"
    messages = server.client.post("/messages", content=b"{}")
    assert messages.status_code == 404


def test_cancelled_batch_is_cancelled_at_replicate(server: Server, simulator: Simulator) -> None:
    answer = server.post("/generate-batch", {"prompts": ["a [hang]"] * 3}, prefer="respond-async")
    simulator.wait_for(account="acme", in_flight=3)
    assert server.client.delete(answer.headers["location"]).status_code == 200
    simulator.wait_for(account="acme", in_flight=0)
    ended = server.get(answer.headers["location"], params={"wait_seconds": 20}).json()
    assert (ended["status"], ended["failed_count"]) == ("canceled", 3)


def test_disconnected_client_loses_nothing(server: Server, simulator: Simulator) -> None:
    simulator.configure(predict_seconds=5)
    with pytest.raises(Exception, match="timed out"):
        server.client.post("/generate-batch", json={"prompts": ["a", "b"]}, timeout=3)
    batch = server.get("/batches").json()["batches"][0]
    ended = server.get(f"/batches/{batch['batch_id']}", params={"wait_seconds": 20}).json()
    assert (ended["status"], ended["successful_count"]) == ("completed", 2)


def test_repeated_request_with_same_idempotency_key_gets_the_same_batch(
    server: Server, simulator: Simulator
) -> None:
    simulator.configure(predict_seconds=1)
    body = {"prompts": ["a", "b"]}

    def send(_: int) -> Any:
        return server.post("/generate-batch", body, idempotency_key="k1").json()

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(send, range(4)))
    assert len({answer["batch_id"] for answer in answers}) == 1
    assert all(answer["successful_count"] == 2 for answer in answers)
    assert server.post("/generate-batch", body, idempotency_key="k1").json() == answers[0]
    other = server.post("/generate-batch", {"prompts": ["c"]}, idempotency_key="k1")
    assert other.status_code == 422
    assert simulator.account("acme")["created"] == 2
    # Idempotency keys are separate for each caller.
    mine = server.post("/generate-batch", body, idempotency_key="k1", **OWN).json()
    assert mine["batch_id"] != answers[0]["batch_id"]


def test_failed_request_needs_a_new_idempotency_key_and_rejected_request_keeps_its_key(
    server: Server, simulator: Simulator
) -> None:
    body = {"prompt": "a red car"}
    simulator.change_account("acme", out_of_credit=True)
    failed = server.post("/generate", body, idempotency_key="k1")
    assert (failed.status_code, failed.json()["retryable"]) == (402, True)
    simulator.change_account("acme", out_of_credit=False)
    assert server.post("/generate", body, idempotency_key="k1").json() == failed.json()
    assert server.post("/generate", body, idempotency_key="k2").status_code == 200

    body["external_semaphore_id"] = "team"
    refused = server.post("/generate", body, idempotency_key="k3")
    assert refused.status_code == 400
    assert "batch_id" in failed.json().keys() - refused.json().keys()
    limit = {"semaphore_id": "team", "limit": 3}
    server.post("/global-semaphores", limit, x_admin_api_key=ADMIN_KEY)
    assert server.post("/generate", body, idempotency_key="k3").status_code == 200


def test_too_deeply_nested_body_is_rejected_with_or_without_a_key(server: Server) -> None:
    body = f'{{"prompt": "a red car", "tree": {"[" * 300}{"]" * 300}}}'
    json = {"content-type": "application/json"}
    for key in ({"idempotency-key": "k1"}, {}):
        answer = server.client.post("/generate", content=body, headers=json | key)
        assert answer.status_code == 400
        assert "nested" in answer.json()["error"]


@pytest.mark.parametrize("resume", ["service", "never"])
def test_repeated_request_after_sigterm_gets_existing_images_and_creates_none_twice(
    serve: Serve, simulator: Simulator, resume: str
) -> None:
    simulator.configure(predict_seconds=2)
    body = {"prompts": [f"car {n}" for n in range(6)]}
    limit = {"REPLICATE_CONCURRENT_LIMIT": "2", "REPLICATE_MCP_RESUME": resume}
    with serve(**limit) as first:
        headers = {"idempotency_key": "k1", "prefer": "respond-async"}
        begun = first.post("/generate-batch", body, **headers).json()
        simulator.wait_for(account="acme", in_flight=2)
        first.terminate()
    assert simulator.account("acme")["canceled"] == 0
    with serve(**limit) as second:
        ended = second.post("/generate-batch", body, idempotency_key="k1").json()
    assert ended["batch_id"] == begun["batch_id"]
    made = 6 if resume == "service" else 2
    assert ended["successful_count"] == simulator.account("acme")["created"] == made
    assert [row["error_code"] for row in ended["failed_results"]] == ["interrupted"] * (6 - made)


def test_non_loopback_server_requires_credentials(serve: Serve) -> None:
    with serve("--host", "0.0.0.0") as server:
        local = server.url.replace("0.0.0.0", "127.0.0.1")
        server.client.base_url = local
        assert server.post("/generate", {"prompt": "x"}).status_code == 401
        assert server.get("/batches").status_code == 401
        assert server.get("/health").status_code == 200
        assert server.post("/generate", {"prompt": "x"}, **OWN).status_code == 200
        admin = {"x_admin_api_key": ADMIN_KEY}
        assert server.post("/generate", {"prompt": "x"}, **admin).status_code == 200
        bearer = {"authorization": "Bearer r8_other_1"}
        assert server.post("/generate", {"prompt": "x"}, **bearer).status_code == 200


def test_cross_site_page_cannot_use_the_server_token(server: Server, simulator: Simulator) -> None:
    evil = {"origin": "https://evil.example.com"}
    assert server.post("/generate", {"prompt": "x"}, **evil).status_code == 401
    form = server.client.post(
        "/generate", content=b'{"prompt": "x"}', headers={"content-type": "text/plain"}
    )
    assert form.status_code == 400
    for headers in ({"host": "evil.example.com"}, {"x-forwarded-for": "1.2.3.4"}):
        answer = server.client.post("/generate", json={"prompt": "x"}, headers=headers)
        assert answer.status_code == 401
    assert server.get("/batches", headers=evil).status_code == 401
    assert simulator.account("acme")["created"] == 0


def test_too_large_request_is_rejected(server: Server) -> None:
    assert server.post("/generate", {"prompt": "x" * 17_000_000}).status_code == 413
    many = server.get("/health", headers={"x-long": "x" * 100_000})
    assert many.status_code == 431

    def chunks() -> Any:
        yield b'{"prompt": "'
        for _ in range(300):
            yield b"x" * 65_536

    headers = {"content-type": "application/json"}
    endless = server.client.post("/generate", content=chunks(), headers=headers)
    assert endless.status_code == 413


@pytest.mark.parametrize("callers", [80, pytest.param(200, marks=pytest.mark.soak)])
def test_many_concurrent_callers_stay_within_one_limit(
    server: Server, simulator: Simulator, callers: int
) -> None:
    simulator.configure(predict_seconds=1)

    def call(number: int) -> int:
        answer = httpx.post(
            f"{server.url}/generate-batch",
            json={"prompts": ["a"] * 5},
            headers={"authorization": f"Bearer r8_acme_{number}"},
            timeout=120,
        )
        return int(answer.json()["successful_count"])

    with ThreadPoolExecutor(callers) as threads:
        assert sum(threads.map(call, range(callers))) == 5 * callers
    account = simulator.account("acme")
    assert (account["created"], account["max_in_flight"]) == (5 * callers, 60)
