"""The MCP server with its tools, resources and prompts."""
