// The button that stops a batch. It takes a second press to confirm.

import { el, setText } from "./dom.js";

const CONFIRM_TIMEOUT_SECONDS = 5;

export class StopButton {
  #timer;
  element = el("button", { type: "button", class: "quiet", hidden: true }, "Stop");

  /** Call `onStop()` on the second press. */
  constructor(onStop) {
    this.element.addEventListener("click", () => {
      const confirmed = this.#timer !== undefined;
      this.#reset();
      if (confirmed) {
        this.element.disabled = true;
        onStop();
      } else {
        setText(this.element, "Stop the rest?");
        this.element.toggleAttribute("data-confirming", true);
        this.#timer = setTimeout(() => this.#reset(), CONFIRM_TIMEOUT_SECONDS * 1_000);
      }
    });
  }

  setVisible(visible) {
    this.element.hidden = !visible;
    if (!visible) this.enable();
  }

  /** Enable the button again, after the batch could not be stopped. */
  enable() {
    this.element.disabled = false;
  }

  #reset() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    setText(this.element, "Stop");
    this.element.toggleAttribute("data-confirming", false);
  }
}
