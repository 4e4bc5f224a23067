// The actions of an image: open it, copy its URL, download it, make it again.

import { el, icon } from "./dom.js";
import { allowedImageUrl } from "./image-url.js";

const CHECK_MARK_SECONDS = 1.5;

/** Create the actions of a file in a tile, except regeneration. */
export function createActions(host, tile, file) {
  const url = allowedImageUrl(file.url);
  const name = file.filename;
  const open = async () => (await host.openLink(url)) || openInBrowser(url, tile);
  const download = async () => {
    if (host.capabilities.downloadFile === undefined) return open();
    return (await host.downloadFile(url, name)) || showError("The download failed.", tile);
  };
  return {
    open: {
      button: actionButton("open", `Open ${name}`, open),
      onLinkClick: (event) => openThroughHost(event, host, url),
    },
    copy: { button: actionButton("copy", `Copy URL of ${name}`, () => copyUrl(url, tile)) },
    download: { button: actionButton("download", `Download ${name}`, download) },
  };
}

/** Create the action that makes a task again. */
export function regenerateAction(name, newSeed, onRetry) {
  const seed = newSeed ? "a new seed" : "the same seed";
  const retry = () => onRetry() ?? true;
  return { button: actionButton("regenerate", `Regenerate ${name} with ${seed}`, retry) };
}

/** Let the host open a clicked link; without that capability, the browser opens it. */
export function openThroughHost(event, host, url) {
  if (host.capabilities.openLinks === undefined) return;
  event.preventDefault();
  host.openLink(url);
}

function openInBrowser(url, tile) {
  if (window.open(url, "_blank", "noopener,noreferrer") !== null) return true;
  // With noopener, null is returned for an opened window too, so show the URL in either case.
  tile.showMessage(urlField(url));
  return false;
}

async function copyUrl(url, tile) {
  try {
    await navigator.clipboard.writeText(url);
    return true;
  } catch {
    const field = urlField(url);
    tile.showMessage(field);
    field.select();
    return document.execCommand("copy");
  }
}

function urlField(url) {
  return el("input", { class: "url", readonly: true, value: url, "aria-label": "URL" });
}

function showError(text, tile) {
  tile.showMessage(text);
  return false;
}

/** Create a button that shows a check mark for a moment when `action()` has succeeded. */
function actionButton(iconName, label, action) {
  const button = el("button", {
    type: "button",
    class: "action",
    title: label,
    "aria-label": label,
  });
  button.append(icon(iconName));
  button.addEventListener("click", async () => {
    if (button.getAttribute("aria-busy") === "true") return;
    button.setAttribute("aria-busy", "true");
    const succeeded = await action();
    button.removeAttribute("aria-busy");
    if (!succeeded) return;
    button.replaceChildren(icon("check"));
    setTimeout(() => button.replaceChildren(icon(iconName)), CHECK_MARK_SECONDS * 1_000);
  });
  return button;
}
