"""MCP over HTTP: the routes of Streamable HTTP and of HTTP+SSE, for an HTTP server."""

from collections.abc import Sequence

from mcp.server.transport_security import TransportSecuritySettings
from sse_starlette.sse import AppStatus
from starlette.routing import BaseRoute

from replicate_mcp.mcp_server.server import ReplicateMcpServer


def http_routes(server: ReplicateMcpServer, names: Sequence[str] | None) -> list[BaseRoute]:
    """Return the routes `/mcp`, `/sse` and `/messages/`; they need a running `session_manager`.

    Args:
        server: the MCP server, whose `session_manager` has to run while the routes are in use.
        names: the server's host names: requests with another `Host`, or with the `Origin` of
            another page, are refused. None for any, if every caller has to send a token or a key.
    """
    hosts = [each for name in names or () for each in (name, f"{name}:*")]
    security = TransportSecuritySettings(
        enable_dns_rebinding_protection=names is not None,
        allowed_hosts=hosts,
        allowed_origins=[f"{scheme}://{each}" for each in hosts for scheme in ("http", "https")],
    )
    streamable = server.streamable_http_app(transport_security=security)
    sse = server.sse_app(transport_security=security)
    return [*streamable.routes, *sse.routes]


def keep_streams_after_a_signal() -> None:
    """Leave event streams open when the process receives a signal, until `end_streams`.

    Otherwise they end within half a second, even those whose response is still to come.
    """
    AppStatus.enable_automatic_graceful_drain = False


def end_streams() -> None:
    """End all event streams of the process within half a second; later ones end at once."""
    AppStatus.should_exit = True
