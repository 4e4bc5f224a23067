"""LlamaIndex: converts each tool's schema to a pydantic model, which describes it to the model."""

import asyncio
import json
import sys

from llama_index.tools.mcp import BasicMCPClient, McpToolSpec

given = json.loads(sys.argv[1])


async def main():
    command, *words = given["command"]
    client = BasicMCPClient(command, args=words, env=given["environment"])
    tools = {tool.metadata.name: tool for tool in await McpToolSpec(client).to_tool_list_async()}
    schemas = {name: tool.metadata.fn_schema.model_json_schema() for name, tool in tools.items()}
    checked = tools["generate_images"].metadata.fn_schema(**given["arguments"])
    arguments = checked.model_dump(exclude_unset=True)
    result = await tools["generate_images"].acall(**arguments)
    print(json.dumps({"tools": schemas, "told": str(result), "sent": arguments}))


asyncio.run(main())
