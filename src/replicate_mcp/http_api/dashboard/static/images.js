// The images of a batch: a tile for each image in task order, a placeholder for each pending task,
// and a button that shows more tasks. The browser loads an image from its delivery host when the
// tile scrolls into view.

import { el, icon, pluralize, setText, setVisible } from "./dom.js";
import { allowedImageUrl } from "./image-url.js";
import { formatDuration, secondsUntil } from "./time.js";
import { copyText, showToast } from "./toast.js";

const INITIAL_TASKS = 24;
const PAGE_SIZE = 60; // Tasks.
const EXPIRY_WARNING_SECONDS = 600;
const CONFIRMATION_MS = 1_500;
const REVOKE_DELAY_MS = 60_000;

export class ImageGrid {
  #slots = [];
  #rows = new Map();
  #tiles = new Set();
  #visibleCount = INITIAL_TASKS;
  #total = 0;
  #ended = false;
  #more = el("button", { type: "button", class: "more", hidden: true });
  element = el("div", { class: "grid" }, this.#more);

  #onRetry;

  /** `onRetry(row)` makes the task of a row again, and returns whether it has begun. */
  constructor(onRetry) {
    this.#onRetry = onRetry;
    this.#more.addEventListener("click", () => {
      this.#visibleCount += PAGE_SIZE;
      this.#render();
    });
  }

  /** Set the batch's number of tasks, and whether it has ended. */
  setTotal(total, ended) {
    if (total === this.#total && ended === this.#ended) return;
    this.#total = total;
    this.#ended = ended;
    this.#render();
  }

  /** Add finished tasks: by task index the result row, or null if the task failed. */
  add(rows) {
    for (const [index, row] of rows) {
      this.#rows.set(index, row);
      if (this.#slots[index]) this.#fill(index);
    }
    this.#renderMore();
  }

  /** The URLs that have not expired, in task order. */
  get urls() {
    const rows = [...this.#rows].sort(([a], [b]) => a - b).map(([, row]) => row);
    const files = rows.flatMap((row) => row?.generated_files ?? []);
    const available = files.filter((file) => secondsUntil(file.expires_at) > 0);
    return available.map((file) => allowedImageUrl(file.url)).filter((url) => url !== undefined);
  }

  tick() {
    for (const tile of this.#tiles) tile.tick();
  }

  #render() {
    const end = Math.min(this.#visibleCount, this.#total);
    for (let index = this.#slots.length; index < end; index++) {
      this.#slots[index] = el("div", { class: "slot" });
      this.#more.before(this.#slots[index]);
      this.#fill(index);
    }
    this.#slots.forEach((slot, index) => {
      if (!this.#rows.has(index)) setVisible(slot, !this.#ended);
    });
    this.#renderMore();
  }

  #renderMore() {
    const hidden = this.#hiddenCount;
    setText(this.#more, `+ ${hidden.toLocaleString("en")} more`);
    this.#more.title = `Show the next ${pluralize(Math.min(hidden, PAGE_SIZE), "task")}`;
    setVisible(this.#more, hidden > 0);
  }

  /** The number of tasks that have no slot yet; of an ended batch, of those with images. */
  get #hiddenCount() {
    const count = Math.max(0, this.#total - this.#slots.length);
    const isFailed = ([index, row]) => index >= this.#slots.length && row === null;
    return this.#ended ? count - [...this.#rows].filter(isFailed).length : count;
  }

  #fill(index) {
    const slot = this.#slots[index];
    const row = this.#rows.get(index);
    if (slot.dataset.done !== undefined) return;
    if (row === undefined) {
      slot.append(el("div", { class: "pending", "aria-hidden": "true" }));
      return;
    }
    setVisible(slot, true);
    slot.dataset.done = "";
    const tiles = (row?.generated_files ?? []).map((file) => new ImageTile(row, file, this.#onRetry));
    tiles.forEach((tile) => this.#tiles.add(tile));
    slot.replaceChildren(...tiles.map((tile) => tile.element));
  }
}

class ImageTile {
  #file;
  #thumbnail;
  #expiry = el("span", { class: "expiry" });
  #actions;
  #again;
  #expired = false;

  constructor(row, file, onRetry) {
    this.#file = file;
    this.#thumbnail = thumbnail(row, file);
    const details = detailsList(row);
    const label = `Make ${file.filename} again with a new seed`;
    this.#again = actionButton("again", "Make again", label, () => onRetry(row));
    this.#actions = el(
      "span",
      { class: "actions" },
      actionButton("copy", "Copy URL", `Copy URL of ${file.filename}`, () => copyUrl(file)),
      actionButton("download", "Download", `Download ${file.filename}`, () => download(file)),
      this.#again,
    );
    const seed = row.seed === undefined ? undefined : el("span", {}, `seed ${row.seed}`);
    this.element = el(
      "figure",
      { class: "tile", "data-task": row.task_index },
      this.#thumbnail,
      el(
        "figcaption",
        {},
        el("strong", { class: "filename", title: file.filename }, file.filename),
        row.prompt && el("span", { class: "prompt", title: row.prompt }, row.prompt),
        el(
          "span",
          { class: "metadata" },
          el("span", { title: row.model }, shortModelName(row.model)),
          seed,
          this.#expiry,
        ),
        el("div", { class: "tile-foot" }, detailsButton(details, file.filename), this.#actions),
        details,
      ),
    );
    this.tick();
  }

  tick() {
    if (this.#expired) return;
    const seconds = secondsUntil(this.#file.expires_at);
    if (this.#file.expired || seconds <= 0) return this.#expire();
    setText(this.#expiry, `expires in ${formatDuration(seconds)}`);
    this.#expiry.toggleAttribute("data-soon", seconds < EXPIRY_WARNING_SECONDS);
  }

  #expire() {
    this.#expired = true;
    this.element.dataset.expired = "";
    setText(this.#expiry, "expired");
    this.#expiry.removeAttribute("data-soon");
    this.#actions.replaceChildren(this.#again);
    this.#thumbnail.replaceWith(missingThumbnail("expired", "Deleted by Replicate"));
  }
}

function thumbnail(row, file) {
  const url = allowedImageUrl(file.url);
  if (!url) return missingThumbnail("file", "No link");
  const image = el("img", {
    alt: [file.filename, row.prompt].filter(Boolean).join(": "),
    loading: "lazy",
    decoding: "async",
    referrerpolicy: "no-referrer",
  });
  const link = el(
    "a",
    { class: "thumbnail", href: url, target: "_blank", rel: "noopener noreferrer" },
    image,
  );
  image.addEventListener("load", () => (link.dataset.loaded = ""));
  image.addEventListener("error", () => {
    const extension = file.filename.split(".").pop();
    const text = `${extension}, no preview`;
    image.replaceWith(el("span", { class: "no-preview" }, icon("file"), text));
    link.dataset.loaded = "";
  });
  image.src = url;
  link.append(el("span", { class: "visually-hidden" }, " (opens in a new tab)"));
  return link;
}

function missingThumbnail(iconName, text) {
  return el("span", { class: "thumbnail" }, icon(iconName), text);
}

/** Return `name` of `owner/name:version`. */
function shortModelName(model) {
  return model.split(":")[0].split("/").pop();
}

function detailsList(row) {
  const details = [
    ["Output filename", row.output_filename],
    ["Prompt", row.prompt],
    ["Model", row.model],
    ["Seed", row.seed],
    ["Seconds", row.predict_seconds?.toFixed(1)],
    ["Prediction", row.prediction_id],
  ];
  const present = details.filter(([, value]) => value !== undefined);
  return el(
    "dl",
    { hidden: true },
    ...present.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]),
  );
}

function detailsButton(details, filename) {
  const button = el(
    "button",
    { type: "button", class: "link", "aria-expanded": "false" },
    "Details",
    el("span", { class: "visually-hidden" }, ` of ${filename}`),
  );
  button.addEventListener("click", () => {
    setVisible(details, details.hidden);
    button.setAttribute("aria-expanded", String(!details.hidden));
  });
  return button;
}

/** Create a button that shows a check mark for a moment when `action()` has succeeded. */
function actionButton(iconName, title, label, action) {
  const button = el(
    "button",
    { type: "button", class: "action", title },
    icon(iconName),
    el("span", { class: "visually-hidden" }, label),
  );
  button.addEventListener("click", async () => {
    button.setAttribute("aria-busy", "true");
    const succeeded = await action();
    button.removeAttribute("aria-busy");
    if (!succeeded) return;
    button.firstChild.replaceWith(icon("check"));
    setTimeout(() => button.firstChild.replaceWith(icon(iconName)), CONFIRMATION_MS);
  });
  return button;
}

async function copyUrl(file) {
  const url = allowedImageUrl(file.url);
  if (url !== undefined) return copyText(url, "URL");
  showToast(`${file.filename} has no valid URL.`);
  return false;
}

/**
 * Save a file under its own name. Browsers ignore the name in a link to another origin, so the page
 * fetches the file and links to the blob.
 */
async function download(file) {
  try {
    const url = allowedImageUrl(file.url);
    if (!url) throw new Error("not on a delivery host");
    const response = await fetch(url, { credentials: "omit", referrerPolicy: "no-referrer" });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    const blobUrl = URL.createObjectURL(await response.blob());
    el("a", { href: blobUrl, download: file.filename }).click();
    setTimeout(() => URL.revokeObjectURL(blobUrl), REVOKE_DELAY_MS);
    showToast(`${file.filename} downloaded.`);
    return true;
  } catch {
    showToast(`This page cannot download ${file.filename}. Open the image and save it there.`);
    return false;
  }
}
