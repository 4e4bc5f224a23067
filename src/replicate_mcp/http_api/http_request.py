"""The parts of an ASGI request that identify its caller: headers, body type and address."""

import ipaddress
from collections.abc import Mapping

from starlette.types import Scope

from replicate_mcp.auth import HTTP_REQUEST, HttpRequest
from replicate_mcp.http_api.peers import PEER, Peer

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def with_http_request(scope: Scope) -> Scope:
    """Return the scope with its `HttpRequest` in the state, for all routes and MCP."""
    state = scope.get("state", {})
    headers = joined_headers(scope)
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    peer: Peer | None = state.get(PEER)
    request = HttpRequest(
        headers,
        # HTML forms cannot send JSON or a DELETE; and a GET creates nothing.
        has_json=kind == "application/json" or scope["method"] in ("GET", "HEAD", "DELETE"),
        source=source_address(scope, headers),
        is_of_own_user=lambda: peer is not None and peer.is_of_own_user,
    )
    return {**scope, "state": {**state, HTTP_REQUEST: request}}


def http_request_of(scope: Scope) -> HttpRequest:
    """Return the `HttpRequest` that `with_http_request` has stored in the scope."""
    found: HttpRequest = scope["state"][HTTP_REQUEST]
    return found


def joined_headers(scope: Scope) -> Mapping[str, str]:
    """Return the headers by name, with all values of a repeated header joined."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def source_address(scope: Scope, headers: Mapping[str, str]) -> str:
    """Return the address that a request is counted under; for IPv6 its /64, one customer's network.

    A client with a private address may be a proxy, which appends the address that it sees to
    `X-Forwarded-For`. That address is trusted for counting only, never for access.
    """
    peer = _parsed(_client(scope))
    if peer is None or peer.is_global:
        return _shown(peer)
    forwarded = _parsed(headers.get("x-forwarded-for", "").rpartition(",")[2].strip())
    return _shown(forwarded or peer)


def peer_address(scope: Scope) -> str:
    """Return the address at the other end of the connection, which may be a proxy's."""
    return _shown(_parsed(_client(scope)))


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""


def _parsed(text: str) -> _Address | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def _shown(address: _Address | None) -> str:
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
