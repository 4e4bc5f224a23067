"""OpenAI's Agents SDK with strict schemas: the model has to fill in every property.

The SDK does not make a schema with an open object strict; other clients do, so the call in this
script uses the strict schema.
"""

import asyncio
import copy
import json
import sys

from agents import Agent, RunContextWrapper
from agents.mcp import MCPServerStdio, MCPUtil
from agents.strict_schema import ensure_strict_json_schema
from agents.tool_context import ToolContext

given = json.loads(sys.argv[1])


def filled(schema, value):
    """Return a value with all properties that the schema requires, as a model would give it."""
    if schema.get("type") == "object":
        value = value or {}
        return {
            name: filled(schema["properties"][name], value.get(name))
            for name in schema.get("required", [])
        }
    if schema.get("type") == "array":
        return [filled(schema["items"], each) for each in value or []]
    nothing = {"string": "", "boolean": False}
    number = schema.get("maximum", 0)
    return nothing.get(schema["type"], number) if value is None else value


async def main():
    command, *words = given["command"]
    params = {"command": command, "args": words, "env": given["environment"]}
    async with MCPServerStdio(params=params, client_session_timeout_seconds=60) as server:
        agent = Agent(name="x", mcp_servers=[server])
        tools = await MCPUtil.get_all_function_tools([server], True, RunContextWrapper(None), agent)
        tools = {tool.name: tool for tool in tools}
        tool = tools["generate_images"]
        strict = ensure_strict_json_schema(copy.deepcopy(tool.params_json_schema))
        arguments = filled(strict, given["arguments"])
        text = json.dumps(arguments)
        context = ToolContext(None, tool_name=tool.name, tool_call_id="1", tool_arguments=text)
        result = await tool.on_invoke_tool(context, text)
    schemas = {name: tool.params_json_schema for name, tool in tools.items()}
    print(json.dumps({"tools": schemas, "told": str(result), "sent": arguments}))


asyncio.run(main())
