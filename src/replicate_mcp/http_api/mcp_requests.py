"""Check MCP requests before the SDK does, whose refusals say little or nothing."""

from collections.abc import Collection
from functools import partial

from mcp.server.streamable_http import check_accept_headers
from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from replicate_mcp.access import host_name
from replicate_mcp.cpu_bound import run_cpu_bound
from replicate_mcp.http_api.refusals import (
    MCP_ACCEPT,
    NotAcceptable,
    NotJson,
    UnknownHost,
    UnknownOrigin,
    UnreadableMessage,
)


def check_mcp_headers(scope: Scope, hosts: Collection[str] | None) -> Scope:
    """Return the scope of a request to MCP; without `Accept`, it accepts what MCP answers.

    Args:
        hosts: names under which the server is reached; None for any.

    Raises:
        UnknownHost: its `Host` is none of these.
        UnknownOrigin: its `Origin` is none of these.
        NotJson: it posts something else.
        NotAcceptable: it posts to `/mcp` and accepts only one of the two types.
    """
    request = Request(scope)
    if hosts is not None:
        if host_name(request.headers.get("host", "")) not in hosts:
            raise UnknownHost
        origin = request.headers.get("origin", "").lower()
        if origin and not _is_origin_of(origin, hosts):
            raise UnknownOrigin
        # The SDK compares letter by letter.
        scope = {
            **scope,
            "headers": [
                (name, value.lower() if name.lower() in (b"host", b"origin") else value)
                for name, value in scope["headers"]
            ],
        }
    if scope["method"] == "POST" and scope["path"] != "/sse":
        content_type = request.headers.get("content-type", "").lower()
        if not content_type.startswith("application/json"):
            raise NotJson
    if scope["path"] != "/mcp":
        return scope
    if not request.headers.get("accept", "").strip():
        others = [each for each in scope["headers"] if each[0].lower() != b"accept"]
        return {**scope, "headers": [*others, (b"accept", MCP_ACCEPT.encode())]}
    if scope["method"] == "POST" and not all(check_accept_headers(request)):
        raise NotAcceptable
    return scope


async def receive_message(receive: Receive) -> Receive:
    """Receive the body of a request, and return what gives it to the SDK.

    Raises:
        UnreadableMessage: the body is no message of JSON-RPC.
    """
    from replicate_mcp.mcp_server.jsonrpc_lines import UnreadableLine, check_body

    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return _first(message, receive)
        body += message.get("body", b"")
        more = message.get("more_body", False)
    try:
        readable = await run_cpu_bound(partial(check_body, bytes(body)), size_bytes=len(body))
    except UnreadableLine as error:
        raise UnreadableMessage(str(error), error.code, error.request_id) from None
    return _first({"type": "http.request", "body": readable, "more_body": False}, receive)


def _first(message: Message, receive: Receive) -> Receive:
    """Return a `receive` that gives `message` first."""
    waiting = [message]

    async def first() -> Message:
        return waiting.pop() if waiting else await receive()

    return first


def _is_origin_of(origin: str, hosts: Collection[str]) -> bool:
    scheme, _, rest = origin.partition("://")
    return scheme in ("http", "https") and host_name(rest) in hosts
