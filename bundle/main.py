"""Where a host starts the bundle: the MCP server on stdin and stdout."""

from replicate_mcp.cli.main import main

raise SystemExit(main(["serve"]))
