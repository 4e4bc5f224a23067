// What can be done with an image: open it, copy its URL, save it, make it again.

import { imageAddress } from "./addresses.js";
import { el, icon } from "./dom.js";

const DONE_SECONDS = 1.5;

/** The actions for one file in one tile, beside that of making it again. */
export function actionsFor(host, tile, file) {
  const address = imageAddress(file.url);
  const name = file.filename;
  const opens = async () => (await host.openLink(address)) || openHere(address, tile);
  return {
    open: {
      button: action("open", `Open ${name}`, opens),
      click: (event) => openByLink(event, host, address),
    },
    copy: { button: action("copy", `Copy URL of ${name}`, () => copy(address, tile)) },
    download: {
      button: action("download", `Download ${name}`, async () =>
        host.capabilities.downloadFile === undefined
          ? opens()
          : (await host.downloadFile(address, name)) || sayNot("It was not downloaded.", tile),
      ),
    },
  };
}

/** A button that makes a task once more: as it was asked for, or by what is known of it. */
export function againAction(asked, name, again) {
  const how = asked.isWhole ? "with another seed" : "from its prompt alone";
  return { button: action("again", `Make ${name} again ${how}`, again) };
}

/** Where the host opens links it is asked to; elsewhere a link does what links do. */
function openByLink(event, host, address) {
  if (host.capabilities.openLinks === undefined) return;
  event.preventDefault();
  host.openLink(address);
}

function openHere(address, tile) {
  if (window.open(address, "_blank", "noopener,noreferrer") !== null) return true;
  // With noopener, null says nothing of whether it opened: the address is there for either case.
  tile.say(addressField(address));
  return false;
}

async function copy(address, tile) {
  try {
    await navigator.clipboard.writeText(address);
    return true;
  } catch {
    const field = addressField(address);
    tile.say(field);
    field.select();
    return document.execCommand("copy");
  }
}

function addressField(address) {
  return el("input", { class: "address", readonly: true, value: address, "aria-label": "URL" });
}

function sayNot(text, tile) {
  tile.say(text);
  return false;
}

function action(picture, name, act) {
  const button = el("button", { type: "button", class: "action", title: name, "aria-label": name });
  button.append(icon(picture));
  button.addEventListener("click", async () => {
    if (button.getAttribute("aria-busy") === "true") return;
    button.setAttribute("aria-busy", "true");
    const done = await act();
    button.removeAttribute("aria-busy");
    if (!done) return;
    button.replaceChildren(icon("check"));
    setTimeout(() => button.replaceChildren(icon(picture)), DONE_SECONDS * 1_000);
  });
  return button;
}
