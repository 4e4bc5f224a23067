// One line at the head of the page that says what just happened, also to those who listen.

import { byId } from "./dom.js";

let timer;

/** Say a sentence for some seconds. */
export function say(sentence) {
  const toast = byId("toast");
  toast.textContent = sentence;
  toast.dataset.shown = "";
  clearTimeout(timer);
  timer = setTimeout(() => delete toast.dataset.shown, 4_000 + 40 * sentence.length);
}

/** Take back what was said: the page is about something else now. */
export function hush() {
  clearTimeout(timer);
  byId("toast").textContent = "";
  delete byId("toast").dataset.shown;
}

/** Put text on the clipboard, also where the page came without TLS. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    if (!copiedByHand(text)) return say("The browser does not let this page copy.");
  }
  say(`${what} copied.`);
  return true;
}

function copiedByHand(text) {
  const before = document.activeElement;
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "unseen";
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  before?.focus();
  return done;
}
