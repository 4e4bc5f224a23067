"""The HTTP server: REST routes, MCP, metrics and the dashboard, in one process."""
