"""Google's Gen AI SDK with the MCP session as a tool, and a stand-in for Gemini."""

import asyncio
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from google import genai
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

given = json.loads(sys.argv[1])
requests = []


class Gemini(BaseHTTPRequestHandler):
    """Stand-in for Gemini: calls the tool in its first response and reports it in the next."""

    def do_POST(self):
        requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        call = {"name": "generate_images", "args": given["arguments"]}
        part = {"functionCall": call} if len(requests) == 1 else {"text": "Done."}
        content = {"role": "model", "parts": [part]}
        body = json.dumps({"candidates": [{"content": content, "finishReason": "STOP"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


async def main():
    gemini = ThreadingHTTPServer(("127.0.0.1", 0), Gemini)
    Thread(target=gemini.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{gemini.server_port}"
    client = genai.Client(api_key="none", http_options={"base_url": address})
    command, *words = given["command"]
    server = StdioServerParameters(command=command, args=words, env=given["environment"])
    async with stdio_client(server) as streams, ClientSession(*streams) as session:
        await session.initialize()
        answer = await client.aio.models.generate_content(
            model="gemini-2.5-flash",
            contents="A red car in 16:9, twice.",
            config={"tools": [session]},
        )
    declared = [one for tool in requests[0]["tools"] for one in tool["functionDeclarations"]]
    result = json.dumps(requests[1]["contents"][-1])
    print(json.dumps({"tools": {one["name"]: one for one in declared}, "told": result}))
    assert answer.text == "Done."


asyncio.run(main())
