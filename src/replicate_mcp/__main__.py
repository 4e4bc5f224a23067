"""Entry point of `python -m replicate_mcp`."""

from replicate_mcp.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
