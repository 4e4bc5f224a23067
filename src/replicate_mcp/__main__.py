"""`python -m replicate_mcp`: the command line."""

from replicate_mcp.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
