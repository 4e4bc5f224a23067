// The TypeScript SDK, first generation: node v1.mjs streamable|sse ADDRESS
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { tryBatch } from "./batch.mjs";

const [way, address] = process.argv.slice(2);
const Transport = way === "sse" ? SSEClientTransport : StreamableHTTPClientTransport;
const client = new Client({ name: "v1", version: "1.0.0" });
await client.connect(new Transport(new URL(address)));
await tryBatch(client, (params, options) => client.callTool(params, undefined, options));
