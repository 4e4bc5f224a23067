"""Helpers that read tool results."""

from typing import Any

from jsonschema import Draft202012Validator
from mcp import Client
from mcp_types import CallToolResult, TextContent

from replicate_mcp.mcp_server.tools import TOOLS


def text(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


def structured(result: CallToolResult) -> dict[str, Any]:
    assert not result.is_error, text(result)
    found = result.structured_content
    assert isinstance(found, dict)
    return found


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Return a call's structured result, checked against the tool's output schema."""
    answer = structured(await client.call_tool(tool, arguments))
    Draft202012Validator(TOOLS[tool].tool.output_schema or {}).validate(answer)
    return answer
