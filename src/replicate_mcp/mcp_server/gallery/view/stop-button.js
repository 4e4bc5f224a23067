// Stopping a batch, after a second thought.

import { el, write } from "./dom.js";

const THINK_SECONDS = 5;

export class StopButton {
  #timer;
  element = el("button", { type: "button", class: "quiet", hidden: true }, "Stop");

  /** `stop` is called with the second press. */
  constructor(stop) {
    this.element.addEventListener("click", () => {
      const sure = this.#timer !== undefined;
      this.#reset();
      if (sure) {
        this.element.disabled = true;
        stop();
      } else {
        write(this.element, "Stop the rest?");
        this.element.toggleAttribute("data-asks", true);
        this.#timer = setTimeout(() => this.#reset(), THINK_SECONDS * 1_000);
      }
    });
  }

  offer(possible) {
    this.element.hidden = !possible;
    if (!possible) this.element.disabled = false;
  }

  /** It could not be stopped: it may be tried again. */
  again() {
    this.element.disabled = false;
  }

  #reset() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    write(this.element, "Stop");
    this.element.toggleAttribute("data-asks", false);
  }
}
