"""Entry point of the bundle: run the MCP server on stdin and stdout."""

import os

from replicate_mcp.cli.main import main

# The host passes the placeholder of each setting that the user left empty.
for name, value in list(os.environ.items()):
    if value.startswith("${user_config."):
        del os.environ[name]

raise SystemExit(main(["serve"]))
