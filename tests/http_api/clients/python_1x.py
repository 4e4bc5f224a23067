# mypy: ignore-errors
# Client with the Python SDK 1.x: python python_1x.py streamable|sse ADDRESS
import asyncio
import json
import sys

from mcp import ClientSession, McpError
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

TASKS = [
    {"prompt": "a red car", "output_filename": "red_car.jpg"},
    {"prompt": "a blue house", "output_filename": "blue_house.png"},
]


async def main(way, address):
    connect = sse_client if way == "sse" else streamable_http_client
    async with connect(address) as (read, write, *_), ClientSession(read, write) as session:
        print(json.dumps(await run_batch(session)))


async def run_batch(session):
    """Run a batch as a host does, like batch.mjs."""
    await session.initialize()
    reported = []

    async def on_progress(progress, total, message):
        reported.append(progress)

    async def call(name, arguments, **more):
        result = await session.call_tool(name, arguments, **more)
        return result.model_dump(mode="json", by_alias=True, exclude_none=True)

    listed = await session.list_tools()
    made = await call("generate_images", {"tasks": TASKS}, progress_callback=on_progress)
    refused = await call(
        "generate_images", {"tasks": [{"prompt": "a red car", "aspect_ratio": "16x9"}]}
    )
    again = await call("get_batch", {"batch_id": made["structuredContent"]["batch_id"]})
    try:
        unknown = await call("draw", {})
    except McpError as error:
        unknown = {"code": error.error.code, "message": error.error.message}
    return {
        "tools": [tool.name for tool in listed.tools],
        "reported": reported,
        "made": made,
        "refused": refused,
        "again": again,
        "unknown": unknown,
    }


asyncio.run(main(*sys.argv[1:]))
