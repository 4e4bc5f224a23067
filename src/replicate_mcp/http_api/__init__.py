"""HTTP: the service's routes, MCP, metrics and the dashboard, from one process."""
