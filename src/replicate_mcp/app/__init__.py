"""Operations offered to MCP, HTTP, the command line and Python programs."""
