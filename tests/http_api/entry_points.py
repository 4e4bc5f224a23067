"""Requests for the same image through each entry point: path, body and headers."""

from collections.abc import Sequence
from typing import Any

ONE = ({"prompt": "a red car"},)


def rest(inside: str | None) -> tuple[str, dict[str, Any], dict[str, str]]:
    """Return a REST request for one image."""
    body: dict[str, Any] = {"prompt": "a red car"}
    if inside is not None:
        body["credentials"] = {"replicate_api_token": inside}
    return "/generate", body, {}


def mcp(
    inside: str | None, tasks: Sequence[dict[str, Any]] = ONE
) -> tuple[str, dict[str, Any], dict[str, str]]:
    """Return an MCP request for one image, or for these tasks."""
    meta: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    if inside is not None:
        meta["replicate-mcp/credentials"] = {"replicate_api_token": inside}
    arguments = {"tasks": list(tasks)}
    params = {"name": "generate_images", "arguments": arguments, "_meta": meta}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "generate_images",
    }
    return "/mcp", body, headers


WAYS = {"rest": rest, "mcp": mcp}
