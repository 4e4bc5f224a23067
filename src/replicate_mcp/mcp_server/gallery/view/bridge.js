// The view's side of MCP Apps: JSON-RPC with the host, in messages to the window around this one.

const PROTOCOL_VERSION = "2026-01-26";
const TOOL_CALL_SECONDS = 90; // A host gives up on a tool before that.
const METHOD_NOT_FOUND = -32601;
const LATELY_KEY = "replicate-mcp/lately";

export class Host {
  #calls = new Map();
  #listeners = new Map();
  #lastId = 0;
  #leaving = () => {};
  capabilities = {};
  context = {};

  constructor() {
    window.addEventListener("message", (event) => {
      if (event.source === window.parent && event.data?.jsonrpc === "2.0") this.#hear(event.data);
    });
  }

  /** Introduce the view; notifications come from then on. */
  async connect() {
    const answer = await this.#request("ui/initialize", {
      protocolVersion: PROTOCOL_VERSION,
      appInfo: { name: "replicate-mcp-gallery", version: "1.0.0" },
      appCapabilities: { availableDisplayModes: ["inline", "fullscreen"] },
    });
    this.capabilities = answer.hostCapabilities ?? {};
    this.context = answer.hostContext ?? {};
    this.notify("ui/notifications/initialized");
  }

  /** Listen to `ui/notifications/{name}`. */
  on(name, listener) {
    this.#listeners.set(`ui/notifications/${name}`, listener);
  }

  /** Be told before the host takes the view away. */
  onTeardown(listener) {
    this.#leaving = listener;
  }

  notify(method, params = {}) {
    this.#post({ method, params });
  }

  get canCallTools() {
    return this.capabilities.serverTools !== undefined;
  }

  /** Call a tool of the view's own server: gives what `readToolResult` does. */
  async callTool(name, given) {
    const params = { name, arguments: given };
    return readToolResult(await this.#request("tools/call", params, TOOL_CALL_SECONDS));
  }

  /** Open an address outside; false where the host offers no way, or would not. */
  async openLink(url) {
    if (this.capabilities.openLinks === undefined) return false;
    return this.#agreed("ui/open-link", { url });
  }

  /** Save a file under its name; false where the host offers no way, or would not. */
  async downloadFile(url, name) {
    if (this.capabilities.downloadFile === undefined) return false;
    const link = { type: "resource_link", uri: url, name };
    return this.#agreed("ui/download-file", { contents: [link] });
  }

  /** Ask for more or less room; gives the mode that it is. */
  async requestDisplayMode(mode) {
    return (await this.#request("ui/request-display-mode", { mode })).mode;
  }

  /** Let the model know, where the host has a place for that; each time all there is to know. */
  async tellModel(text) {
    if (this.capabilities.updateModelContext === undefined) return;
    await this.#agreed("ui/update-model-context", { content: [{ type: "text", text }] });
  }

  async #agreed(method, params) {
    try {
      return !(await this.#request(method, params)).isError;
    } catch {
      return false;
    }
  }

  #request(method, params, seconds) {
    const id = (this.#lastId += 1);
    return new Promise((resolve, reject) => {
      const late = new Error(`The host did not answer in ${seconds} s.`);
      const timer = seconds && setTimeout(() => this.#settle(id)?.reject(late), seconds * 1_000);
      this.#calls.set(id, { resolve, reject, timer });
      this.#post({ id, method, params });
    });
  }

  #settle(id) {
    const call = this.#calls.get(id);
    this.#calls.delete(id);
    clearTimeout(call?.timer);
    return call;
  }

  #post(message) {
    // The host's origin is not told to a view, which lives in a sandbox.
    window.parent.postMessage({ jsonrpc: "2.0", ...message }, "*");
  }

  #hear(message) {
    const { id, method, params } = message;
    if (method === undefined) {
      const call = this.#settle(id);
      if (message.error) call?.reject(new Error(message.error.message));
      else call?.resolve(message.result ?? {});
    } else if (id === undefined) {
      this.#listeners.get(method)?.(params ?? {});
    } else {
      this.#answer(id, method);
    }
  }

  #answer(id, method) {
    if (method === "ui/resource-teardown") this.#leaving();
    if (method === "ui/resource-teardown" || method === "ping") this.#post({ id, result: {} });
    else this.#post({ id, error: { code: METHOD_NOT_FOUND, message: `no ${method} here` } });
  }
}

/**
 * A tool's answer: its structured `page`, its `images` and the batches that began `lately`, or,
 * refused, the `refusal` in words.
 */
export function readToolResult(result) {
  const content = result.content ?? [];
  const text = content
    .filter((block) => block.type === "text")
    .map((block) => block.text)
    .join("\n");
  if (result.isError) return { refusal: text || "The server refused, without a reason." };
  if (!result.structuredContent) return { refusal: text || "The answer has no results in it." };
  return {
    page: result.structuredContent,
    images: content.filter(({ type }) => type === "image"),
    lately: result._meta?.[LATELY_KEY] ?? [],
  };
}
