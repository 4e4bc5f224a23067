// The countdown to the expiry of a file's URL, updated every second.

import { setText } from "./dom.js";

const EXPIRY_WARNING_SECONDS = 600;

const tickListeners = new Set();

setInterval(() => {
  if (!document.hidden) for (const listener of tickListeners) listener();
}, 1_000);

/** Call `listener` every second while the view is visible. */
export function everySecond(listener) {
  tickListeners.add(listener);
}

/** Show the remaining time in `label`, and call `onExpire` at the end. */
export class ExpiryCountdown {
  #label;
  #file;
  #onExpire;
  #listener = () => this.tick();

  constructor(label, file, onExpire) {
    this.#label = label;
    this.#file = file;
    this.#onExpire = onExpire;
    tickListeners.add(this.#listener);
  }

  stop() {
    tickListeners.delete(this.#listener);
  }

  tick() {
    const seconds = secondsUntilExpiry(this.#file);
    if (seconds > 0) {
      setText(this.#label, formatDuration(seconds));
      this.#label.title = "Time until the URL expires";
      this.#label.dataset.left = seconds < EXPIRY_WARNING_SECONDS ? "soon" : "";
      return;
    }
    this.stop();
    this.#onExpire();
  }
}

/** Return the whole seconds until a file's URL expires. */
export function secondsUntilExpiry(file) {
  return file.expired ? 0 : Math.ceil((Date.parse(file.expires_at) - Date.now()) / 1_000);
}

/** Format a duration: "43 min", "34 s". */
export function formatDuration(seconds) {
  return seconds < 60 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
}
