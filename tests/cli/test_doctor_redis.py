"""`replicate-mcp doctor` checks the settings of a Redis server."""

import re

import pytest

from backends.servers import KINDS, running_server
from cli.conftest import CommandLine


@pytest.mark.parametrize("kind", KINDS)
def test_doctor_reports_unsuitable_redis_settings_and_hides_the_password(
    replicate_mcp: CommandLine, kind: str
) -> None:
    with running_server(kind) as server:
        url = server.url("doctor", lease=1)
        result = replicate_mcp("doctor", REPLICATE_MCP_BACKEND=url)
        assert "! state: it keeps no append-only file" in result.stdout
        assert "✓ token: it belongs to the account acme." in result.stdout
        assert result.returncode == 0
        server.configure(maxmemory_policy="allkeys-lru", maxmemory=100_000_000, appendonly="yes")
        result = replicate_mcp("doctor", REPLICATE_MCP_BACKEND=url)
        assert "its maxmemory-policy is allkeys-lru" in result.stdout
        assert "append-only" not in result.stdout
        server.configure(maxmemory_policy="noeviction", requirepass="a-secret")
        result = replicate_mcp("doctor", REPLICATE_MCP_BACKEND=url)
        assert "refuses the user or the password" in result.stdout
        assert "✓ token: it belongs to the account acme." in result.stdout
        assert result.returncode == 1
        with_password = re.sub("redis://", "redis://:a-secret@", url)
        result = replicate_mcp("doctor", REPLICATE_MCP_BACKEND=with_password)
        assert "✓ state: redis, opened." in result.stdout
        assert "a-secret" not in result.stdout + result.stderr
        wrong = re.sub("redis://", "redis://:another-secret@", url)
        result = replicate_mcp("doctor", REPLICATE_MCP_BACKEND=wrong)
        assert "refuses the user or the password" in result.stdout
        assert "another-secret" not in result.stdout + result.stderr
