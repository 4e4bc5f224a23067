// The toast at the top of the page: one line about the latest event, also announced by screen
// readers.

import { byId } from "./dom.js";

const MIN_DISPLAY_MS = 4_000;
const DISPLAY_MS_PER_CHARACTER = 40;

let timer;

/** Show a message for a few seconds. */
export function showToast(message) {
  const toast = byId("toast");
  toast.textContent = message;
  toast.dataset.shown = "";
  clearTimeout(timer);
  timer = setTimeout(
    () => delete toast.dataset.shown,
    MIN_DISPLAY_MS + DISPLAY_MS_PER_CHARACTER * message.length,
  );
}

/** Remove the message, for example when another view opens. */
export function hideToast() {
  clearTimeout(timer);
  byId("toast").textContent = "";
  delete byId("toast").dataset.shown;
}

/** Copy text to the clipboard, also on a page without TLS; `label` names the text in the toast. */
export async function copyText(text, label) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    if (!copyWithCommand(text)) {
      showToast("The browser does not allow this page to copy.");
      return false;
    }
  }
  showToast(`${label} copied.`);
  return true;
}

function copyWithCommand(text) {
  const focused = document.activeElement;
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "visually-hidden";
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return copied;
}
