// The TypeScript SDK, second generation: node v2.mjs legacy|auto ADDRESS
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { tryBatch } from "./batch.mjs";

const [mode, address] = process.argv.slice(2);
const client = new Client({ name: "v2", version: "1.0.0" }, { versionNegotiation: { mode } });
await client.connect(new StreamableHTTPClientTransport(new URL(address)));
await tryBatch(client, (params, options) => client.callTool(params, options));
