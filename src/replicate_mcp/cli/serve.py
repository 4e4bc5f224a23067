"""`replicate-mcp serve`: the MCP server on stdio, or everything over HTTP."""

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replicate_mcp.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to serve; the rest are settings."""
    parser.add_argument(
        "--http",
        action="store_true",
        help="MCP at /mcp and /sse, the service's routes, metrics and a dashboard over HTTP",
    )
    parser.add_argument("--host", default="127.0.0.1", help="where to listen (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="8000; 0 for any that is free")


def run(arguments: argparse.Namespace) -> int:
    """Serve until the client is gone."""
    import anyio

    from replicate_mcp.settings import load_settings

    settings = load_settings(env_file=arguments.env_file)
    if arguments.http:
        return _serve_http(settings, arguments.host, arguments.port)
    from replicate_mcp.mcp_server.server import serve_stdio

    if sys.stdin.isatty():
        print(
            "Waiting for an MCP host on stdin; `replicate-mcp --help` tells of the rest.",
            file=sys.stderr,
        )
    anyio.run(serve_stdio, settings)
    return 0


def _serve_http(settings: "Settings", host: str, port: int) -> int:
    import importlib.util
    from functools import partial

    import anyio

    from replicate_mcp.errors import InvalidInput

    if importlib.util.find_spec("fastapi") is None:
        raise InvalidInput(
            f"Serving over HTTP needs some more packages: {sys.executable} -m pip install fastapi "
            "prometheus-client"
        )
    from replicate_mcp.http_api.server import serve_http

    def tell(url: str) -> None:
        print(f"Serving on {url} (MCP at /mcp and /sse).", file=sys.stderr, flush=True)
        if settings.token is None:
            print(
                "No REPLICATE_API_TOKEN is set: every caller has to bring a token.",
                file=sys.stderr,
                flush=True,
            )

    anyio.run(partial(serve_http, settings, host=host, port=port, on_listening=tell))
    return 0
