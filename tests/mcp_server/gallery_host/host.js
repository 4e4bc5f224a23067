// A host's page: the official bridge over the official client, and a view in a sandbox that has no
// more rights than the resource asks for. Tests look at `host`.

import {
  AppBridge,
  PostMessageTransport,
  buildAllowAttribute,
  getToolUiResourceUri,
} from "@modelcontextprotocol/ext-apps/app-bridge";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const INFO = { name: "test-host", version: "1.0.0" };

const EVERYTHING = {
  openLinks: {},
  downloadFile: {},
  serverTools: {},
  updateModelContext: { text: {} },
};

const host = (window.host = {
  opened: [],
  downloaded: [],
  modelContexts: [],
  heights: [],
  answers: [],
  show,
  change: (context) => bridge.setHostContext(context),
  cancel: (reason) => bridge.sendToolCancelled({ reason }),
  refuse: (text) => bridge.sendToolResult({ isError: true, content: [{ type: "text", text }] }),
  leave: () => bridge.teardownResource({}),
});

let bridge;

/**
 * Call a tool and show its view, as a host does that renders Apps; `written` are its arguments while
 * the model still writes them, and without `given` it gets no further. Without `calls` it gets as far
 * as the call, which a person may still have to allow.
 */
async function show({
  tool,
  given,
  written = [],
  capabilities = EVERYTHING,
  context = {},
  calls = true,
  waits = true,
}) {
  const client = new Client(INFO);
  await client.connect(new StreamableHTTPClientTransport(new URL("/mcp", location.href)));
  const { tools } = await client.listTools();
  const uri = getToolUiResourceUri(tools.find(({ name }) => name === tool));
  const { contents } = await client.readResource({ uri });
  const frame = sandboxFor(contents[0]._meta.ui);

  bridge = new AppBridge(client, INFO, capabilities, { hostContext: context });
  bridge.onopenlink = async ({ url }) => (host.opened.push(url), {});
  bridge.ondownloadfile = async ({ contents: files }) => (host.downloaded.push(...files), {});
  bridge.onupdatemodelcontext = async ({ content }) => (host.modelContexts.push(content[0].text), {});
  bridge.onrequestdisplaymode = async ({ mode }) => ({ mode });
  bridge.addEventListener("sizechange", ({ height }) => {
    host.heights.push(height);
    frame.style.height = `${height}px`;
  });
  const ready = new Promise((resolve) => bridge.addEventListener("initialized", resolve));
  await bridge.connect(new PostMessageTransport(frame.contentWindow, frame.contentWindow));
  frame.srcdoc = withPolicy(contents[0]);
  await ready;

  for (const each of written) bridge.sendToolInputPartial({ arguments: each });
  if (!given) return;
  bridge.sendToolInput({ arguments: given });
  if (!calls) return;
  const answered = client
    .callTool({ name: tool, arguments: given })
    .then((answer) => (host.answers.push(answer), bridge.sendToolResult(answer)));
  if (waits) await answered;
}

function sandboxFor(ui) {
  document.querySelector("iframe")?.remove();
  const frame = document.createElement("iframe");
  frame.setAttribute("sandbox", "allow-scripts");
  frame.setAttribute("allow", buildAllowAttribute(ui.permissions));
  document.body.append(frame);
  return frame;
}

/** The policy that a host makes of what the resource declares, and nothing beyond it. */
function withPolicy({ text, _meta }) {
  const { resourceDomains = [], connectDomains = [] } = _meta.ui.csp;
  const from = resourceDomains.join(" ");
  const policy = [
    "default-src 'none'",
    `script-src 'unsafe-inline' ${from}`,
    `style-src 'unsafe-inline' ${from}`,
    `img-src data: ${from}`,
    `connect-src ${connectDomains.join(" ") || "'none'"}`,
    "base-uri 'none'",
  ].join("; ");
  const meta = `<meta http-equiv="Content-Security-Policy" content="${policy}">`;
  return text.replace("<head>", `<head>${meta}`);
}
