// What a batch has made: a tile an image, in the order of the tasks, an empty one for each task that is
// still to come, and a last one that shows more. Images are loaded by the browser from where they were delivered, when in sight.

import { imageAddress } from "./addresses.js";
import { counted, el, icon, show, write } from "./dom.js";
import { inWords, secondsUntil } from "./time.js";
import { copy, say } from "./toast.js";

const FIRST = 24; // tasks; more are shown when asked for
const AT_ONCE = 60;
const SOON = 600; // seconds

export class ImageGrid {
  #slots = [];
  #rows = new Map();
  #tiles = new Set();
  #shown = FIRST;
  #total = 0;
  #ended = false;
  #grid = el("div", { class: "grid" });
  #more = el("button", { type: "button", class: "more", hidden: true });
  element = this.#grid;

  constructor() {
    this.#grid.append(this.#more);
    this.#more.addEventListener("click", () => {
      this.#shown += AT_ONCE;
      this.#arrange();
    });
  }

  /** The whole batch's number of tasks, and whether nothing more will come. */
  size(total, ended) {
    if (total === this.#total && ended === this.#ended) return;
    this.#total = total;
    this.#ended = ended;
    this.#arrange();
  }

  /** A task has ended: with a row of the result, or, failed, without an image (null). */
  add(index, row) {
    this.#rows.set(index, row);
    if (this.#slots[index]) this.#fill(index);
  }

  /** URLs of what can still be fetched, in the order of the tasks. */
  get urls() {
    const rows = [...this.#rows].sort(([a], [b]) => a - b).map(([, row]) => row);
    const files = rows.flatMap((row) => row?.generated_files ?? []);
    const living = files.filter((file) => secondsUntil(file.expires_at) > 0);
    return living.map((file) => imageAddress(file.url)).filter((address) => address !== undefined);
  }

  tick() {
    for (const tile of this.#tiles) tile.tick();
  }

  #arrange() {
    for (let index = this.#slots.length; index < Math.min(this.#shown, this.#total); index++) {
      this.#slots[index] = el("div", { class: "slot" });
      this.#more.before(this.#slots[index]);
      this.#fill(index);
    }
    this.#slots.forEach((slot, index) => {
      if (!this.#rows.has(index)) show(slot, !this.#ended);
    });
    const hidden = Math.max(0, this.#total - this.#slots.length);
    write(this.#more, `+ ${hidden.toLocaleString("en")} more`);
    this.#more.title = `Show the next ${counted(Math.min(hidden, AT_ONCE), "task")}`;
    show(this.#more, hidden > 0);
  }

  #fill(index) {
    const slot = this.#slots[index];
    const row = this.#rows.get(index);
    if (slot.dataset.done !== undefined) return;
    if (row === undefined) {
      slot.append(el("div", { class: "coming", "aria-hidden": "true" }));
      return;
    }
    show(slot, true);
    slot.dataset.done = "";
    const tiles = (row?.generated_files ?? []).map((file) => new ImageTile(row, file));
    tiles.forEach((tile) => this.#tiles.add(tile));
    slot.replaceChildren(...tiles.map((tile) => tile.element));
  }
}

class ImageTile {
  #file;
  #thumb;
  #lifetime = el("span", { class: "lifetime" });
  #actions;
  #expired = false;

  constructor(row, file) {
    this.#file = file;
    this.#thumb = thumbnail(row, file);
    const facts = factsOf(row);
    this.#actions = el(
      "span",
      { class: "actions" },
      action("copy", "Copy URL", `Copy URL of ${file.filename}`, () => copyAddress(file)),
      action("download", "Download", `Download ${file.filename}`, () => download(file)),
    );
    const seed = row.seed === undefined ? undefined : el("span", {}, `seed ${row.seed}`);
    this.element = el(
      "figure",
      { class: "tile", "data-task": row.task_index },
      this.#thumb,
      el(
        "figcaption",
        {},
        el("strong", { class: "filename", title: file.filename }, file.filename),
        row.prompt && el("span", { class: "prompt", title: row.prompt }, row.prompt),
        el(
          "span",
          { class: "made" },
          el("span", { title: row.model }, shortName(row.model)),
          seed,
          this.#lifetime,
        ),
        el("div", { class: "tile-foot" }, opener(facts, file.filename), this.#actions),
        facts,
      ),
    );
    this.tick();
  }

  tick() {
    if (this.#expired) return;
    const left = secondsUntil(this.#file.expires_at);
    if (this.#file.expired || left <= 0) return this.#expire();
    write(this.#lifetime, `expires in ${inWords(left)}`);
    this.#lifetime.toggleAttribute("data-soon", left < SOON);
  }

  #expire() {
    this.#expired = true;
    this.element.dataset.expired = "";
    write(this.#lifetime, "expired");
    this.#lifetime.removeAttribute("data-soon");
    this.#actions.remove();
    const gone = el("span", { class: "thumb gone" }, icon("expired"), "Replicate deleted it");
    this.#thumb.replaceWith(gone);
  }
}

function thumbnail(row, file) {
  const name = [file.filename, row.prompt].filter(Boolean).join(": ");
  const address = imageAddress(file.url);
  if (!address) return el("span", { class: "thumb gone" }, icon("file"), "No link");
  const image = el("img", {
    alt: name,
    loading: "lazy",
    decoding: "async",
    referrerpolicy: "no-referrer",
  });
  const link = el(
    "a",
    { class: "thumb", href: address, target: "_blank", rel: "noopener noreferrer" },
    image,
  );
  image.addEventListener("load", () => (link.dataset.loaded = ""));
  image.addEventListener("error", () => {
    const kind = file.filename.split(".").pop();
    image.replaceWith(el("span", { class: "no-preview" }, icon("file"), `${kind}, no preview`));
    link.dataset.loaded = "";
  });
  image.src = address;
  link.append(el("span", { class: "unseen" }, " (opens in a new tab)"));
  return link;
}

/** `owner/name:version` as people call it. */
function shortName(model) {
  return model.split(":")[0].split("/").pop();
}

function factsOf(row) {
  const facts = [
    ["Task", row.output_filename],
    ["Prompt", row.prompt],
    ["Model", row.model],
    ["Seed", row.seed],
    ["Seconds", row.predict_seconds?.toFixed(1)],
    ["Prediction", row.prediction_id],
  ];
  const known = facts.filter(([, value]) => value !== undefined);
  return el(
    "dl",
    { hidden: true },
    ...known.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
  );
}

function opener(facts, filename) {
  const button = el(
    "button",
    { type: "button", class: "link", "aria-expanded": "false" },
    "Details",
    el("span", { class: "unseen" }, ` of ${filename}`),
  );
  button.addEventListener("click", () => {
    show(facts, facts.hidden);
    button.setAttribute("aria-expanded", String(!facts.hidden));
  });
  return button;
}

function action(picture, title, name, act) {
  const button = el(
    "button",
    { type: "button", class: "action", title },
    icon(picture),
    el("span", { class: "unseen" }, name),
  );
  button.addEventListener("click", async () => {
    button.setAttribute("aria-busy", "true");
    const done = await act();
    button.removeAttribute("aria-busy");
    if (!done) return;
    button.firstChild.replaceWith(icon("check"));
    setTimeout(() => button.firstChild.replaceWith(icon(picture)), 1_500);
  });
  return button;
}

/** Save a file under its own name: a browser obeys that only for what the page fetched itself. */
function copyAddress(file) {
  const address = imageAddress(file.url);
  if (address === undefined) return say(`${file.filename} has no URL that can be opened.`);
  return copy(address, "URL");
}

async function download(file) {
  try {
    const address = imageAddress(file.url);
    if (!address) throw new Error("not a delivered file");
    const answer = await fetch(address, { credentials: "omit", referrerPolicy: "no-referrer" });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    const place = URL.createObjectURL(await answer.blob());
    el("a", { href: place, download: file.filename }).click();
    setTimeout(() => URL.revokeObjectURL(place), 60_000);
    say(`${file.filename} saved.`);
    return true;
  } catch {
    say(`${file.filename} cannot be fetched by this page: open it, and save it from there.`);
    return false;
  }
}
