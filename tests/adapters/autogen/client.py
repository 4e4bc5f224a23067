"""AutoGen's adapter: each tool's schema becomes a pydantic model that validates arguments."""

import asyncio
import json
import sys

from autogen_core import CancellationToken
from autogen_ext.tools.mcp import StdioServerParams, mcp_server_tools

given = json.loads(sys.argv[1])


async def main():
    command, *words = given["command"]
    server = StdioServerParams(
        command=command, args=words, env=given["environment"], read_timeout_seconds=60
    )
    tools = {tool.name: tool for tool in await mcp_server_tools(server)}
    result = await tools["generate_images"].run_json(given["arguments"], CancellationToken())
    schemas = {name: tool.schema["parameters"] for name, tool in tools.items()}
    print(json.dumps({"tools": schemas, "told": result[0].text}))


asyncio.run(main())
