"""Write the server's entry into the configuration of MCP hosts."""
