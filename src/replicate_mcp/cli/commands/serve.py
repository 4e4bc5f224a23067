"""`replicate-mcp serve`: run the MCP server on stdio, or all services over HTTP."""

import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

from replicate_mcp.platform.memory import collection_deferred

if TYPE_CHECKING:
    import argparse

    from replicate_mcp.settings import Settings

HOST, PORT = "127.0.0.1", 8000
"""Default address of the HTTP server."""

NO_ARGUMENTS = SimpleNamespace(env_file=None, http=False, local=False, host=None, port=None)
"""Arguments that the parser returns where none are given."""


def add_arguments(parser: "argparse.ArgumentParser") -> None:
    """Add the transport and the address; everything else is a setting."""
    parser.add_argument(
        "--http",
        action="store_true",
        help="MCP at /mcp and /sse, the service's routes, metrics and a dashboard over HTTP",
    )
    parser.add_argument(
        "--local",
        action="store_true",
        help="with --http: programs of this user on this machine use the server's token without "
        "credentials; as REPLICATE_MCP_LOCAL=1",
    )
    parser.add_argument("--host", help=f"with --http: where to listen ({HOST})")
    parser.add_argument("--port", type=int, help=f"with --http: {PORT}; 0 for any that is free")


def run(arguments: "argparse.Namespace | SimpleNamespace") -> int:
    """Serve until the client disconnects or the process is stopped."""
    _check_arguments(arguments)
    with collection_deferred():
        serve = _prepared(arguments)
    serve()
    return 0


def _prepared(arguments: "argparse.Namespace | SimpleNamespace") -> Callable[[], None]:
    """Import the server, and return what serves.

    Raises:
        InvalidInput: it cannot be served with these settings.
    """
    import anyio

    from replicate_mcp.cli.printing import say
    from replicate_mcp.errors import InvalidInput
    from replicate_mcp.platform.terminal import is_terminal
    from replicate_mcp.settings_loader import read_settings

    settings, problems = read_settings(env_file=arguments.env_file)
    error = InvalidInput(" ".join(problems.values())) if problems else None
    if arguments.http:
        if error is not None:
            raise error
        if arguments.local:
            settings = settings.model_copy(update={"local": True})
        host, port = arguments.host or HOST, arguments.port
        return _prepared_http(settings, host, PORT if port is None else port)
    from replicate_mcp.mcp_server.server import serve_stdio

    if error is not None:
        say(f"Every call is answered with this error: {error}")
    if is_terminal(sys.stdin):
        print(
            "Waiting for an MCP host on stdin; `replicate-mcp --help` lists the other commands.",
            file=sys.stderr,
        )
    return partial(anyio.run, serve_stdio, settings, error)


def _check_arguments(arguments: "argparse.Namespace | SimpleNamespace") -> None:
    """Reject options that would have no effect.

    Raises:
        InvalidInput: an option of `--http` was given without it.
    """
    from replicate_mcp.errors import InvalidInput

    if arguments.http:
        return
    if arguments.local:
        raise InvalidInput("--local goes with --http: on stdio only this machine's user calls.")
    for option, value in (("--port", arguments.port), ("--host", arguments.host)):
        if value is not None:
            raise InvalidInput(
                f"{option} goes with --http: without it, MCP is served on stdin and stdout."
            )


def _prepared_http(settings: "Settings", host: str, port: int) -> Callable[[], None]:
    import importlib.util

    import anyio

    from replicate_mcp.addresses import is_loopback
    from replicate_mcp.errors import InvalidInput
    from replicate_mcp.platform.shell import install_command

    if settings.local and not is_loopback(host):
        raise InvalidInput(
            f"--local (REPLICATE_MCP_LOCAL=1) is for programs of this machine, and {host} is "
            "reached from others: leave out --host, or leave out --local and have callers send a "
            "token or the admin key."
        )
    if importlib.util.find_spec("fastapi") is None:
        raise InvalidInput(
            "Serving over HTTP needs some more packages: "
            f"{install_command('fastapi', 'prometheus-client')}"
        )
    from replicate_mcp.http_api.server import serve_http

    def on_listening(url: str) -> None:
        print(
            f"Serving on {url} (MCP at /mcp and /sse, a dashboard for browsers at /).",
            file=sys.stderr,
        )
        print(server_token_users(settings), file=sys.stderr, flush=True)

    serve = partial(serve_http, settings, host=host, port=port, on_listening=on_listening)
    return partial(anyio.run, serve)


def server_token_users(settings: "Settings") -> str:
    """Return a sentence on who may use the server's token over HTTP, and how to change that."""
    from replicate_mcp.addresses import is_loopback
    from replicate_mcp.placeholders import placeholder

    if settings.token is None:
        return "No REPLICATE_API_TOKEN is set: every caller must send a token."
    if (what := placeholder(settings.token)) is not None:
        return f"REPLICATE_API_TOKEN is not a token ({what}): every caller must send one."
    if settings.allow_anonymous:
        return (
            "Any client that can connect uses the server's token, without credentials "
            "(REPLICATE_MCP_ALLOW_ANONYMOUS=1)."
        )
    others = [name for name in settings.allowed_hosts if not is_loopback(name)]
    if settings.local and others:
        return (
            "The server's token is for callers with the admin key alone: --local "
            "(REPLICATE_MCP_LOCAL=1) has no effect beside REPLICATE_MCP_ALLOWED_HOSTS, by which a "
            "proxy is in front of the server."
        )
    if settings.local:
        return (
            "Programs of this user on this machine use the server's token without credentials "
            "(--local); other callers send their own Replicate token, or the admin key."
        )
    return (
        "Callers send their own Replicate token, or the admin key. To let programs of this machine "
        "use the server's token without: replicate-mcp serve --http --local"
    )
