// A host page: the official bridge over the official client, and the view in a sandbox with only
// the permissions that the resource requests. Tests read the global `host`.

import {
  AppBridge,
  PostMessageTransport,
  RESOURCE_MIME_TYPE,
  buildAllowAttribute,
  getToolUiResourceUri,
  isToolVisibilityModelOnly,
} from "@modelcontextprotocol/ext-apps/app-bridge";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";

const INFO = { name: "test-host", version: "1.0.0" };

const APPS = { "io.modelcontextprotocol/ui": { mimeTypes: [RESOURCE_MIME_TYPE] } };

const ALL_CAPABILITIES = {
  openLinks: {},
  downloadFile: {},
  serverTools: {},
  updateModelContext: { text: {} },
};

const host = (window.host = {
  opened: [],
  downloaded: [],
  modelContextUpdates: [],
  heights: [],
  results: [],
  show,
  setContext: (context) => bridge.setHostContext(context),
  cancel: (reason) => bridge.sendToolCancelled({ reason }),
  fail: (text) => bridge.sendToolResult({ isError: true, content: [{ type: "text", text }] }),
  teardown: () => bridge.teardownResource({}),
});

let bridge;

/**
 * Call a tool and show its view, like a host that supports MCP Apps.
 *
 * `partialArguments` are sent first, as while the model writes them. `toolArguments` are the
 * complete arguments; without them, nothing follows. If `calls` is false, the call is not sent, as
 * while it waits for the user's approval. If `waits` is true, wait for the call's result. With
 * `result`, nothing is called: the view is opened again with the result of an earlier call.
 */
async function show({
  tool,
  toolArguments,
  partialArguments = [],
  capabilities = ALL_CAPABILITIES,
  context = {},
  calls = true,
  waits = true,
  result = undefined,
}) {
  const client = new Client(INFO, { capabilities: { extensions: APPS } });
  await client.connect(new StreamableHTTPClientTransport(new URL("/mcp", location.href)));
  const { tools } = await client.listTools();
  const uri = getToolUiResourceUri(tools.find(({ name }) => name === tool));
  const { contents } = await client.readResource({ uri });
  const frame = createSandbox(contents[0]._meta.ui);

  bridge = new AppBridge(null, INFO, capabilities, { hostContext: context });
  const callable = tools.filter((each) => !isToolVisibilityModelOnly(each));
  bridge.oncalltool = async (params) => {
    if (!callable.some(({ name }) => name === params.name)) throw new Error(`No ${params.name}`);
    return client.request({ method: "tools/call", params });
  };
  bridge.onopenlink = async ({ url }) => (host.opened.push(url), {});
  bridge.ondownloadfile = async ({ contents: files }) => (host.downloaded.push(...files), {});
  bridge.onupdatemodelcontext = async ({ content }) => (
    host.modelContextUpdates.push(content[0].text), {}
  );
  bridge.onrequestdisplaymode = async ({ mode }) => ({ mode });
  bridge.addEventListener("sizechange", ({ height }) => {
    host.heights.push(height);
    frame.style.height = `${height}px`;
  });
  const ready = new Promise((resolve) => bridge.addEventListener("initialized", resolve));
  await bridge.connect(new PostMessageTransport(frame.contentWindow, frame.contentWindow));
  frame.srcdoc = withPolicy(contents[0]);
  await ready;

  for (const each of partialArguments) bridge.sendToolInputPartial({ arguments: each });
  if (!toolArguments) return;
  bridge.sendToolInput({ arguments: toolArguments });
  if (result) bridge.sendToolResult(result);
  if (result || !calls) return;
  const finished = client
    .callTool({ name: tool, arguments: toolArguments })
    .then((result) => (host.results.push(result), bridge.sendToolResult(result)));
  if (waits) await finished;
}

function createSandbox(ui) {
  document.querySelector("iframe")?.remove();
  const frame = document.createElement("iframe");
  frame.setAttribute("sandbox", "allow-scripts");
  frame.setAttribute("allow", buildAllowAttribute(ui.permissions));
  document.body.append(frame);
  return frame;
}

/** Add the Content-Security-Policy that a host derives from the resource's metadata. */
function withPolicy({ text, _meta }) {
  const { resourceDomains = [], connectDomains = [] } = _meta.ui.csp;
  const sources = resourceDomains.join(" ");
  const policy = [
    "default-src 'none'",
    `script-src 'unsafe-inline' ${sources}`,
    `style-src 'unsafe-inline' ${sources}`,
    `img-src data: ${sources}`,
    `connect-src ${connectDomains.join(" ") || "'none'"}`,
    "base-uri 'none'",
  ].join("; ");
  const meta = `<meta http-equiv="Content-Security-Policy" content="${policy}">`;
  return text.replace("<head>", `<head>${meta}`);
}
