// The view's side of MCP Apps: JSON-RPC with the host, as messages to the parent window.

const PROTOCOL_VERSION = "2026-01-26";
const TOOL_CALL_TIMEOUT_SECONDS = 90; // Longer than a host's own timeout.
const METHOD_NOT_FOUND = -32601;
const RECENT_BATCHES_KEY = "replicate-mcp/recent-batches";
const RETRIES_KEY = "replicate-mcp/retries";

export class Host {
  #pending = new Map();
  #listeners = new Map();
  #lastId = 0;
  #onTeardown = () => {};
  capabilities = {};
  context = {};

  constructor() {
    window.addEventListener("message", (event) => {
      if (event.source === window.parent && event.data?.jsonrpc === "2.0") {
        this.#receive(event.data);
      }
    });
  }

  /** Initialize the view; the host sends notifications afterwards. */
  async connect() {
    const result = await this.#request("ui/initialize", {
      protocolVersion: PROTOCOL_VERSION,
      appInfo: { name: "replicate-mcp-gallery", version: "1.0.0" },
      appCapabilities: { availableDisplayModes: ["inline", "fullscreen"] },
    });
    this.capabilities = result.hostCapabilities ?? {};
    this.context = result.hostContext ?? {};
    this.notify("ui/notifications/initialized");
  }

  /** Set the listener of `ui/notifications/{name}`. */
  on(name, listener) {
    this.#listeners.set(`ui/notifications/${name}`, listener);
  }

  /** Set the listener that runs before the host removes the view. */
  onTeardown(listener) {
    this.#onTeardown = listener;
  }

  notify(method, params = {}) {
    this.#post({ method, params });
  }

  get canCallTools() {
    return this.capabilities.serverTools !== undefined;
  }

  /** Call a tool of the view's own server; return the result of `readToolResult`. */
  async callTool(name, toolArguments) {
    const params = { name, arguments: toolArguments };
    return readToolResult(await this.#request("tools/call", params, TOOL_CALL_TIMEOUT_SECONDS));
  }

  /** Open a URL in the user's browser; return false if the host cannot or declines. */
  async openLink(url) {
    if (this.capabilities.openLinks === undefined) return false;
    return this.#requestSucceeded("ui/open-link", { url });
  }

  /** Save a file under its name; return false if the host cannot or declines. */
  async downloadFile(url, name) {
    if (this.capabilities.downloadFile === undefined) return false;
    const link = { type: "resource_link", uri: url, name };
    return this.#requestSucceeded("ui/download-file", { contents: [link] });
  }

  /** Request a display mode; return the one that the host has set. */
  async requestDisplayMode(mode) {
    return (await this.#request("ui/request-display-mode", { mode })).mode;
  }

  /** Replace the view's part of the model's context, if the host supports it. */
  async updateModelContext(text) {
    if (this.capabilities.updateModelContext === undefined) return;
    await this.#requestSucceeded("ui/update-model-context", { content: [{ type: "text", text }] });
  }

  async #requestSucceeded(method, params) {
    try {
      return !(await this.#request(method, params)).isError;
    } catch {
      return false;
    }
  }

  #request(method, params, timeoutSeconds) {
    const id = (this.#lastId += 1);
    return new Promise((resolve, reject) => {
      const onTimeout = () => {
        const message = `The host did not respond within ${timeoutSeconds} s.`;
        this.#removePending(id)?.reject(new Error(message));
      };
      const timer = timeoutSeconds && setTimeout(onTimeout, timeoutSeconds * 1_000);
      this.#pending.set(id, { resolve, reject, timer });
      this.#post({ id, method, params });
    });
  }

  #removePending(id) {
    const request = this.#pending.get(id);
    this.#pending.delete(id);
    clearTimeout(request?.timer);
    return request;
  }

  #post(message) {
    // A sandboxed view does not know the host's origin.
    window.parent.postMessage({ jsonrpc: "2.0", ...message }, "*");
  }

  #receive(message) {
    const { id, method, params } = message;
    if (method === undefined) {
      const request = this.#removePending(id);
      if (message.error) request?.reject(new Error(message.error.message));
      else request?.resolve(message.result ?? {});
    } else if (id === undefined) {
      this.#listeners.get(method)?.(params ?? {});
    } else {
      this.#respond(id, method);
    }
  }

  #respond(id, method) {
    if (method === "ui/resource-teardown") this.#onTeardown();
    if (method === "ui/resource-teardown" || method === "ping") this.#post({ id, result: {} });
    else {
      this.#post({ id, error: { code: METHOD_NOT_FOUND, message: `Method not found: ${method}` } });
    }
  }
}

/**
 * Read a tool's result: return its structured `page`, its `images`, the `recentBatches` and the
 * batch's `retries`, or, if the call failed, an `error` message.
 */
export function readToolResult(result) {
  const content = result.content ?? [];
  const text = content
    .filter((block) => block.type === "text")
    .map((block) => block.text)
    .join("\n");
  if (result.isError) return { error: text || "The server returned an error without a message." };
  if (!result.structuredContent) return { error: text || "The response contains no results." };
  return {
    page: result.structuredContent,
    images: content.filter(({ type }) => type === "image"),
    recentBatches: result._meta?.[RECENT_BATCHES_KEY] ?? [],
    retries: result._meta?.[RETRIES_KEY] ?? [],
  };
}
