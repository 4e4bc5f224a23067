"""MCP over HTTP: the routes of Streamable HTTP and of HTTP+SSE, for an HTTP server to serve."""

from collections.abc import Sequence

from mcp.server.transport_security import TransportSecuritySettings
from starlette.routing import BaseRoute

from replicate_mcp.mcp_server.server import ReplicateMcpServer


def http_routes(server: ReplicateMcpServer, names: Sequence[str] | None) -> list[BaseRoute]:
    """`/mcp`, `/sse` and `/messages/`; the server's `session_manager` has to run beside them.

    Args:
        names: the names under which the server is reached: requests with another `Host` or a page's
            `Origin` are refused. None where any name will do, because every caller brings a token
            or a key.
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
