"""LangChain's adapter, and its conversion of the tools for Gemini."""

import asyncio
import json
import sys

from langchain_google_genai._function_utils import convert_to_genai_function_declarations
from langchain_mcp_adapters.client import MultiServerMCPClient

given = json.loads(sys.argv[1])


async def main():
    command, *words = given["command"]
    server = {
        "transport": "stdio",
        "command": command,
        "args": words,
        "env": given["environment"],
    }
    tools = {tool.name: tool for tool in await MultiServerMCPClient({"x": server}).get_tools()}
    converted = convert_to_genai_function_declarations(list(tools.values()))
    declared = [one for tool in converted for one in tool.function_declarations]
    schemas = {one.name: one.model_dump(mode="json", exclude_none=True) for one in declared}
    task = schemas["generate_images"]["parameters"]["properties"]["tasks"]["items"]
    arguments = given["arguments"]
    if task["properties"]["input"]["type"] == "STRING":  # Gemini then sends JSON text.
        *_, last = arguments["tasks"]
        inputs = {name: last.pop(name) for name in list(last) if name != "prompt"}
        last["input"] = json.dumps(inputs)
    result = await tools["generate_images"].ainvoke(arguments)
    print(json.dumps({"tools": schemas, "told": str(result), "sent": arguments}))


asyncio.run(main())
