"""Where a host starts the bundle: the MCP server on stdin and stdout."""

import os

from replicate_mcp.cli.main import main

# What the user left empty comes as its placeholder.
for name, value in list(os.environ.items()):
    if value.startswith("${user_config."):
        del os.environ[name]

raise SystemExit(main(["serve"]))
