// A tile: the place of one image. It waits, shows what was made, or says why there is nothing; it
// has the same size in all of these.

import { imageAddress } from "./addresses.js";
import { el, icon, write } from "./dom.js";
import { Lifetime, secondsLeft } from "./lifetime.js";

export class Tile {
  #frame = el("div", { class: "frame" });
  #name = el("strong", { class: "name" });
  #note = el("p", { class: "note" });
  #life = el("span", { class: "life" });
  #actions = el("span", { class: "actions" });
  #lifetime;
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
      el("div", { class: "foot" }, this.#life, this.#actions),
    ),
  );

  /** Nothing yet: what will be here. */
  wait(asked) {
    const waits = this.element.dataset.state === "waiting";
    this.#become("waiting", asked.filename, asked.prompt);
    // What the model still writes comes often: the light that sweeps over it goes on.
    if (!waits) this.#frame.replaceChildren(el("span", { class: "shimmer", "aria-hidden": "true" }));
    write(this.#life, "to come");
  }

  /**
   * An image that was made. `actions` are the buttons for it; `thumbnail` gives what is shown of it
   * where it cannot be fetched from here.
   */
  show(row, file, actions, thumbnail) {
    this.#become("made", file.filename, row.prompt ?? "");
    const address = imageAddress(file.url);
    if (address === undefined) {
      this.#frame.replaceChildren(said("file", "Its address is not one of Replicate’s."));
      return;
    }
    const { again, ...whileItLasts } = actions;
    if (secondsLeft(file) > 0) {
      this.#frame.replaceChildren(this.#picture(address, row, file, actions.open, thumbnail));
      this.#actions.append(...Object.values(whileItLasts).map((each) => each.button));
      this.#lifetime = new Lifetime(this.#life, file, () => this.#expire(again));
      this.#lifetime.tick();
    } else {
      this.#expire(again);
    }
    if (again && !this.#actions.contains(again.button)) this.#actions.append(again.button);
  }

  /** Nothing was made, and why. */
  fail(row, again) {
    this.#become("failed", row.output_filename, row.prompt ?? "");
    const reason = said("alert", row.error);
    reason.title = row.error;
    this.#frame.replaceChildren(reason);
    write(this.#life, row.error_code.replaceAll("_", " "));
    if (again) this.#actions.append(again.button);
  }

  /** Say something in place of the prompt, for a while: a text, or a field to copy from. */
  say(content) {
    this.#note.replaceChildren(content);
    setTimeout(() => {
      if (this.#note.contains(content) || this.#note.textContent === content) {
        write(this.#note, this.#noteText);
      }
    }, 8_000);
  }

  #become(state, name, note) {
    this.#lifetime?.stop();
    this.element.dataset.state = state;
    write(this.#name, name);
    this.#name.title = name;
    this.#noteText = note;
    write(this.#note, note);
    this.#note.title = note;
    write(this.#life, "");
    this.#life.removeAttribute("data-left");
    this.#actions.replaceChildren();
  }

  #picture(address, row, file, open, thumbnail) {
    const image = el("img", {
      alt: [file.filename, row.prompt].filter(Boolean).join(": "),
      decoding: "async",
      loading: "lazy",
      referrerpolicy: "no-referrer",
    });
    const link = el(
      "a",
      { class: "picture", href: address, target: "_blank", rel: "noopener noreferrer" },
      el("span", { class: "shimmer", "aria-hidden": "true" }),
      image,
      el("span", { class: "unseen" }, " (opens outside)"),
    );
    link.addEventListener("click", (event) => open.click(event));
    image.addEventListener("load", () => (link.dataset.loaded = ""));
    image.addEventListener("error", async () => {
      const instead = image.src === address && (await thumbnail(file.url));
      if (instead) {
        image.src = instead;
        return;
      }
      link.dataset.loaded = "";
      link.replaceChildren(said("file", "It cannot be shown here: open it."));
    });
    image.src = address;
    return link;
  }

  #expire(again) {
    this.element.dataset.state = "expired";
    write(this.#life, "expired");
    this.#life.removeAttribute("data-left");
    this.#actions.replaceChildren(...(again ? [again.button] : []));
    const seen = this.#frame.querySelector("a[data-loaded] img");
    const gone = said("clock", "Replicate deletes images after an hour.");
    this.#frame.replaceChildren(seen ?? gone);
  }
}

function said(picture, text) {
  return el("div", { class: "said" }, icon(picture), el("span", { class: "reason" }, text));
}
