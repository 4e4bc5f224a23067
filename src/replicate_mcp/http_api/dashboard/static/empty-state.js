// The hint shown when there are no batches: a command that starts the first one.

import { getCredentials } from "./api.js";
import { el, icon, setText } from "./dom.js";
import { copyText } from "./toast.js";

const CREDENTIAL_OPTIONS = {
  token: '-H "Authorization: Bearer $REPLICATE_API_TOKEN"',
  admin: '-H "X-Admin-API-Key: $REPLICATE_MCP_ADMIN_API_KEY"',
};

/** Create the hint; `update()` adapts the command to the current credentials. */
export function createEmptyState() {
  const command = el("code");
  const button = el("button", { type: "button" }, icon("copy"), "Copy");
  button.addEventListener("click", () => copyText(command.textContent, "Command"));
  const element = el(
    "div",
    { class: "card empty" },
    el("h3", {}, "No batches in the last 24 hours"),
    el("p", {}, "Start the first one from a terminal; it appears here:"),
    el("div", { class: "command" }, el("pre", { tabindex: 0 }, command), button),
    el("p", { class: "hint" }, "Agents connect over MCP at ", el("code", {}, absoluteUrl("mcp")), "."),
  );
  return { element, update: () => setText(command, curlCommand()) };
}

function curlCommand() {
  const credentials = CREDENTIAL_OPTIONS[getCredentials()?.kind];
  return [
    `curl ${absoluteUrl("generate-batch")}`,
    ...(credentials ? [credentials] : []),
    "-H 'Content-Type: application/json'",
    `-d '{"prompts": ["a red car", "a blue house"]}'`,
  ].join(" \\\n  ");
}

function absoluteUrl(path) {
  return new URL(path, document.baseURI).href;
}
