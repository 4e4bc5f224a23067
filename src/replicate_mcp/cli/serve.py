"""`replicate-mcp serve`: the MCP server on stdio."""

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None of its own: settings come from the environment."""


def run(arguments: argparse.Namespace) -> int:
    """Serve until the client is gone."""
    import anyio

    from replicate_mcp.mcp_server.server import serve_stdio
    from replicate_mcp.settings import load_settings

    if sys.stdin.isatty():
        print(
            "Waiting for an MCP host on stdin; `replicate-mcp --help` tells of the rest.",
            file=sys.stderr,
        )
    anyio.run(serve_stdio, load_settings(env_file=arguments.env_file))
    return 0
