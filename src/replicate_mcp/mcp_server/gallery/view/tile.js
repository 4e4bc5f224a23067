// A tile shows one image, or why there is none. Its size is the same in every state: pending,
// succeeded, expired, failed or stopped.

import { el, icon, setText } from "./dom.js";
import { ExpiryCountdown, secondsUntilExpiry } from "./expiry.js";
import { allowedImageUrl } from "./image-url.js";
import { NO_CREDIT } from "./retry-rules.js";

const MESSAGE_DISPLAY_MS = 8_000;

export class Tile {
  #frame = el("div", { class: "frame" });
  #name = el("strong", { class: "name" });
  #note = el("p", { class: "note" });
  #status = el("span", { class: "status" });
  #actions = el("span", { class: "actions" });
  #countdown;
  #noteText = "";
  element = el(
    "li",
    { class: "tile", tabindex: "-1" },
    this.#frame,
    el(
      "div",
      { class: "caption" },
      this.#name,
      this.#note,
      el("div", { class: "foot" }, this.#status, this.#actions),
    ),
  );

  /** Show a task that has not finished. */
  showPending(filename, prompt) {
    const wasPending = this.element.dataset.state === "pending";
    this.#setState("pending", filename, prompt);
    // Updates are frequent while the model writes the tasks: do not restart the animation.
    if (!wasPending) this.#frame.replaceChildren(shimmer());
    setText(this.#status, "pending");
  }

  /**
   * Show an image with the buttons of its `actions`. `loadThumbnail` returns a replacement for an
   * image that the view cannot load.
   */
  showImage(row, file, actions, loadThumbnail) {
    this.#setState("succeeded", file.filename, row.prompt ?? "");
    const url = allowedImageUrl(file.url);
    if (url === undefined) {
      this.#frame.replaceChildren(frameMessage("file", "The URL is not on a Replicate host."));
      return;
    }
    const { regenerate, ...untilExpiry } = actions;
    if (secondsUntilExpiry(file) > 0) {
      this.#frame.replaceChildren(this.#createLink(url, row, file, actions.open, loadThumbnail));
      this.#actions.append(...Object.values(untilExpiry).map((each) => each.button));
      this.#countdown = new ExpiryCountdown(this.#status, file, () => this.#expire(regenerate));
      this.#countdown.tick();
    } else {
      this.#expire(regenerate);
    }
    if (regenerate && !this.#actions.contains(regenerate.button)) {
      this.#actions.append(regenerate.button);
    }
  }

  /** Show why the task has no image: it has failed, or was stopped. */
  showFailure(row, state, regenerate) {
    this.#setState(state, row.output_filename, row.prompt ?? "");
    const message = frameMessage(state === "stopped" ? "stop" : "alert", reasonOf(row));
    message.title = row.error;
    this.#frame.replaceChildren(message);
    setText(this.#status, state === "stopped" ? state : row.error_code.replaceAll("_", " "));
    if (regenerate) this.#actions.append(regenerate.button);
  }

  /** Show a text or an input field in place of the prompt for a few seconds. */
  showMessage(content) {
    this.#note.replaceChildren(content);
    setTimeout(() => {
      if (this.#note.contains(content) || this.#note.textContent === content) {
        setText(this.#note, this.#noteText);
      }
    }, MESSAGE_DISPLAY_MS);
  }

  #setState(state, name, note) {
    this.#countdown?.stop();
    this.element.dataset.state = state;
    setText(this.#name, name);
    this.#name.title = name;
    this.#noteText = note;
    setText(this.#note, note);
    this.#note.title = note;
    setText(this.#status, "");
    this.#status.removeAttribute("data-left");
    this.#actions.replaceChildren();
  }

  #createLink(url, row, file, open, loadThumbnail) {
    const image = el("img", {
      alt: [file.filename, row.prompt].filter(Boolean).join(": "),
      decoding: "async",
      loading: "lazy",
      referrerpolicy: "no-referrer",
    });
    const link = el(
      "a",
      { class: "picture", href: url, target: "_blank", rel: "noopener noreferrer" },
      shimmer(),
      image,
      el("span", { class: "visually-hidden" }, " (opens in a new window)"),
    );
    link.addEventListener("click", open.onLinkClick);
    image.addEventListener("load", () => (link.dataset.loaded = ""));
    image.addEventListener("error", async () => {
      const thumbnail = image.src === url && (await loadThumbnail(file.url));
      if (thumbnail) {
        image.src = thumbnail;
        return;
      }
      link.dataset.loaded = "";
      link.replaceChildren(frameMessage("file", "Cannot be shown here. Open it instead."));
    });
    image.src = url;
    return link;
  }

  #expire(regenerate) {
    this.element.dataset.state = "expired";
    setText(this.#status, "expired");
    this.#status.removeAttribute("data-left");
    this.#actions.replaceChildren(...(regenerate ? [regenerate.button] : []));
    const loadedImage = this.#frame.querySelector("a[data-loaded] img");
    const message = frameMessage("clock", "Replicate deletes images after an hour.");
    this.#frame.replaceChildren(loadedImage ?? message);
  }
}

/** Return why a task has no image; the header explains what to do about missing credit. */
function reasonOf({ error, error_code }) {
  return error_code === NO_CREDIT ? "No credit left" : error;
}

function shimmer() {
  return el("span", { class: "shimmer", "aria-hidden": "true" });
}

function frameMessage(iconName, text) {
  return el("div", { class: "message" }, icon(iconName), el("span", { class: "message-text" }, text));
}
