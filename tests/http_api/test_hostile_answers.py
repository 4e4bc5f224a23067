"""Hostile text in every foreign field: responses stay valid JSON, and lines stay single lines."""

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from batches.playback import Playback, running_playback
from hostile import HOSTILE_TEXTS, LONE_SURROGATE, LONG
from http_api.conftest import Server, running_server
from http_api.entry_points import mcp

OWN = {"authorization": "Bearer r8_acme_1"}

Sent = tuple[str, str, Any, dict[str, str]]
"""Method, path, body and headers of a request."""

Place = Callable[[str], Sent]


class HostileReplicate(Playback):
    """Replicate with models that return one hostile text in every field."""

    def __init__(self) -> None:
        super().__init__()
        self.created = self._with_text
        self.text, self.field = "", ""

    def _with_text(self, made: dict[str, Any]) -> str:
        changes: dict[str, Any] = {
            "error": {"status": "failed", "error": self.text, "output": None},
            "url": {"output": self.text},
            "url's path": {"output": f"https://replicate.delivery/{self.text}.png"},
            "words": {"output": [self.text, {"text": self.text}]},
            "logs": {"status": "failed", "error": None, "logs": self.text, "output": None},
            "model": {"model": self.text, "version": self.text},
            "metrics": {"metrics": {self.text: self.text}},
        }
        return json.dumps(made | changes[self.field])


@pytest.fixture(scope="module")
def hostile_replicate() -> Iterator[HostileReplicate]:
    with running_playback(HostileReplicate()) as playback:
        yield playback


@pytest.fixture(scope="module")
def attacked(
    hostile_replicate: HostileReplicate, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("hostile")
    variables = {
        "REPLICATE_API_TOKEN": "r8_acme_1",
        "REPLICATE_BASE_URL": hostile_replicate.url,
        "REPLICATE_MCP_BACKEND": f"sqlite:///{folder / 'state.db'}",
        "REPLICATE_REQUESTS_PER_MINUTE": "600000",
    }
    with running_server(variables) as server:
        server.client.event_hooks = {}
        yield server


def send(server: Server, sent: Sent) -> httpx.Response:
    method, path, body, headers = sent
    content = json.dumps(body).encode()
    usual = {"content-type": "application/json", **OWN}
    return server.client.request(method, path, content=content, headers=usual | headers)


def content_of(answer: httpx.Response) -> Any:
    """Parse a response's JSON and check that all its text is valid UTF-8."""
    text = answer.content.decode("utf-8")
    assert answer.status_code < 500, text[:500]
    if answer.headers["content-type"].startswith("text/event-stream"):
        *_, text = (line[6:] for line in text.splitlines() if line.startswith("data: "))
    content = json.loads(text)
    json.dumps(content, ensure_ascii=False).encode("utf-8")
    return content


def called(tool: str, arguments: dict[str, Any]) -> Sent:
    path, body, headers = mcp(None)
    body["params"] |= {"name": tool, "arguments": arguments}
    return "POST", path, body, headers | {"mcp-name": tool}


def generating(tasks: list[Any], **more: Any) -> Sent:
    return "POST", "/generate-batch", {"tasks": tasks, **more}, {}


def in_path(text: str) -> str:
    return quote(text[:2_000], safe="", errors="surrogatepass")


def in_header(text: str) -> str:
    """Return the part of a text that an HTTP header can contain."""
    return "".join(c for c in text[:1_000] if c.isprintable() and ord(c) < 128).strip() or "-"


REST: dict[str, Place] = {
    "prompt": lambda text: generating([{"prompt": text}]),
    "filename": lambda text: generating([{"prompt": "x", "output_filename": text}]),
    "filenames": lambda text: (
        "POST",
        "/generate-batch",
        {"prompts": ["x"], "custom_filenames": [text]},
        {},
    ),
    "model": lambda text: generating([{"prompt": "x"}], model_name=text),
    "model of a task": lambda text: generating([{"prompt": "x", "model": text}]),
    "name of an input": lambda text: generating([{"prompt": "x", text: 1}]),
    "input": lambda text: generating([{"prompt": "x", "seed": text}]),
    "shared input": lambda text: generating([{"prompt": "x"}], **{text: text}),
    "semaphore": lambda text: generating([{"prompt": "x"}], external_semaphore_id=text),
    "tasks": lambda text: generating([text]),
    "tasks as text": lambda text: ("POST", "/generate-batch", {"tasks": text}, {}),
    "token": lambda text: generating([], credentials={"replicate_api_token": text}),
    "one prompt": lambda text: ("POST", "/generate", {"prompt": text}, {}),
    "batch": lambda text: ("GET", f"/batches/{in_path(text)}", None, {}),
    "batch to cancel": lambda text: ("DELETE", f"/batches/{in_path(text)}", None, {}),
    "parameter": lambda text: ("GET", f"/batches?limit={in_path(text)}", None, {}),
    "semaphore's name": lambda text: (
        "POST",
        "/global-semaphores",
        {"semaphore_id": text, "limit": 1},
        {"x-admin-api-key": "the-admins-long-key"},
    ),
    "setting": lambda text: (
        "POST",
        "/configure",
        {"concurrent_limit": text, text: text},
        {"x-admin-api-key": "the-admins-long-key"},
    ),
    "key": lambda text: (*generating([{"prompt": "x"}])[:3], {"idempotency-key": in_header(text)}),
    "preference": lambda text: (*generating([{"prompt": "x"}])[:3], {"prefer": in_header(text)}),
    "bearer": lambda text: ("GET", "/batches", None, {"authorization": in_header(text)}),
    "admin key": lambda text: ("GET", "/status", None, {"x-admin-api-key": in_header(text)}),
    "path": lambda text: ("GET", f"/{in_path(text)}", None, {}),
}


@pytest.mark.parametrize("place", REST)
def test_rest_returns_json_for_any_model_text(
    attacked: Server, hostile_replicate: HostileReplicate, place: str
) -> None:
    hostile_replicate.text, hostile_replicate.field = "fine", "metrics"
    for text in HOSTILE_TEXTS:
        content = content_of(send(attacked, REST[place](text)))
        assert one_line(content.get("error", "")), text


MCP: dict[str, Place] = {
    "prompt": lambda text: called("generate_images", {"tasks": [{"prompt": text}]}),
    "filename": lambda text: called(
        "generate_images", {"tasks": [{"prompt": "x", "output_filename": text}]}
    ),
    "model": lambda text: called("generate_images", {"tasks": [{"prompt": "x"}], "model": text}),
    "input": lambda text: called("generate_images", {"tasks": [{"prompt": "x", text: text}]}),
    "semaphore": lambda text: called(
        "generate_images", {"tasks": [{"prompt": "x"}], "semaphore": text}
    ),
    "task": lambda text: called("generate_images", {"tasks": [text]}),
    "tasks": lambda text: called("generate_images", {"tasks": text}),
    "argument": lambda text: called("get_batch", {text: text}),
    "batch": lambda text: called("get_batch", {"batch_id": text}),
    "batch to cancel": lambda text: called("cancel_batch", {"batch_id": text}),
    "query": lambda text: called("find_models", {"query": text}),
    "model to find": lambda text: called("find_models", {"model": text}),
}


@pytest.mark.parametrize("place", MCP)
def test_mcp_returns_printable_lines_for_any_model_text(
    attacked: Server, hostile_replicate: HostileReplicate, place: str
) -> None:
    hostile_replicate.text, hostile_replicate.field = "fine", "metrics"
    for text in HOSTILE_TEXTS:
        content = content_of(send(attacked, MCP[place](text)))
        if "result" in content:
            lines_of(content["result"])
        else:
            assert text == LONE_SURROGATE
            assert one_line(content["error"]["message"])


def asked(method: str, header: str | None = None, **params: Any) -> Sent:
    path, body, headers = mcp(None)
    content = body | {"method": method, "params": params | {"_meta": body["params"]["_meta"]}}
    named = {"mcp-method": in_header(method)} | ({} if header is None else {"mcp-name": header})
    return "POST", path, content, {k: v for k, v in headers.items() if k != "mcp-name"} | named


PROTOCOL: dict[str, Place] = {
    "method": lambda text: asked(text),
    "tool": lambda text: asked("tools/call", in_header(text), name=text, arguments={}),
    "resource": lambda text: asked("resources/read", in_header(text), uri=text),
    "batch": lambda text: asked(
        "resources/read",
        f"replicate://batches/{in_path(text)}",
        uri=f"replicate://batches/{in_path(text)}",
    ),
    "prompt": lambda text: asked("prompts/get", in_header(text), name=text),
    "argument of a prompt": lambda text: asked(
        "prompts/get", "variations", name="variations", arguments={text: text}
    ),
    "completion": lambda text: asked(
        "completion/complete",
        ref={"type": "ref/prompt", "name": text},
        argument={"name": text, "value": text},
    ),
}


@pytest.mark.parametrize("place", PROTOCOL)
def test_protocol_errors_are_printable_lines(attacked: Server, place: str) -> None:
    for text in HOSTILE_TEXTS:
        content = content_of(send(attacked, PROTOCOL[place](text)))
        if "error" in content:
            assert one_line(content["error"]["message"]), text


FIELDS = ("error", "url", "url's path", "words", "logs", "model", "metrics")


@pytest.mark.parametrize("field", FIELDS)
def test_model_text_stays_within_its_line_and_field(
    attacked: Server, hostile_replicate: HostileReplicate, field: str
) -> None:
    for text in HOSTILE_TEXTS:
        hostile_replicate.text, hostile_replicate.field = text, field
        tasks = [{"prompt": "x", "output_filename": "x.png"}]
        made = content_of(send(attacked, generating(tasks)))
        rows = made["successful_results"] + made["failed_results"]
        assert len(rows) == 1
        for row in rows:
            assert one_line(row.get("error", ""))
            for file in row.get("generated_files", ()):
                assert one_line(file["url"])
                assert one_line(file["filename"])
        result = content_of(send(attacked, called("generate_images", {"tasks": tasks})))["result"]
        counts, *others = lines_of(result)
        assert counts.startswith("Batch b_")
        files = [
            file
            for row in result["structuredContent"]["successful_results"]
            for file in row["generated_files"]
        ]
        failed = result["structuredContent"]["failed_results"]
        hints = [line for line in others if line.startswith("To make failed tasks again: ")]
        assert len(hints) == any(row["retryable"] for row in failed)
        assert len(others) - len(hints) == max(1, len(files)), others
        read = called("get_batch", {"batch_id": result["structuredContent"]["batch_id"]})
        assert lines_of(content_of(send(attacked, read))["result"]) == [counts, *others]


def one_line(text: str) -> bool:
    """Return whether a text is one short printable line."""
    return text.isprintable() and len(text) < len(LONG)


def lines_of(result: dict[str, Any]) -> list[str]:
    """Return the lines of a tool's text, which is its only content."""
    (content,) = result["content"]
    lines = content["text"].split("\n")
    assert all(map(one_line, lines)), lines
    return list(lines)
