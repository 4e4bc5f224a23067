// Until when a URL works, in words that are renewed every second.

import { write } from "./dom.js";

const SOON = 600; // seconds

const listeners = new Set();

setInterval(() => {
  if (!document.hidden) for (const listener of listeners) listener();
}, 1_000);

/** Be called every second while the view is seen. */
export function everySecond(listener) {
  listeners.add(listener);
}

/** Counts down to a file's end in `label`, and calls `onEnd` then. */
export class Lifetime {
  #label;
  #file;
  #onEnd;
  #listener = () => this.tick();

  constructor(label, file, onEnd) {
    this.#label = label;
    this.#file = file;
    this.#onEnd = onEnd;
    listeners.add(this.#listener);
  }

  stop() {
    listeners.delete(this.#listener);
  }

  tick() {
    const left = secondsLeft(this.#file);
    if (left > 0) {
      write(this.#label, inWords(left));
      this.#label.title = "How long its URL still works";
      this.#label.dataset.left = left < SOON ? "soon" : "";
      return;
    }
    this.stop();
    this.#onEnd();
  }
}

/** Whole seconds for which a file's URL still works. */
export function secondsLeft(file) {
  return file.expired ? 0 : Math.ceil((Date.parse(file.expires_at) - Date.now()) / 1_000);
}

/** "43 min", "34 s". */
export function inWords(seconds) {
  return seconds < 60 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
}
