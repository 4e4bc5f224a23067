// Polling with an interval that depends on the activity: short while something runs, longer while
// idle, none in a hidden tab, and with exponential backoff after failures.

const ACTIVE_INTERVAL_MS = 1_000;
const IDLE_INTERVAL_MS = 3_000;
const INITIAL_BACKOFF_MS = 2_000;
const MAX_BACKOFF_MS = 30_000;

/**
 * Run `poll` repeatedly.
 *
 * `poll(signal)` returns whether something is running. `onStateChange` receives `{ state }`, which
 * is "live", "idle", "paused", "failing" (with `error` and `retryAt`) or "unauthorized" (with
 * `error`; polling has stopped).
 */
export class Poller {
  #poll;
  #onStateChange;
  #started = false;
  #failures = 0;
  #timer;
  #controller;

  constructor(poll, onStateChange) {
    this.#poll = poll;
    this.#onStateChange = onStateChange;
    document.addEventListener("visibilitychange", () => this.#onVisibilityChange());
    window.addEventListener("online", () => this.pollNow());
  }

  start() {
    this.#started = true;
    this.#failures = 0;
    this.pollNow();
  }

  stop() {
    this.#started = false;
    this.#abort();
  }

  /** Poll immediately instead of at the next interval. */
  pollNow() {
    if (!this.#started || document.hidden) return;
    this.#abort();
    this.#run();
  }

  #onVisibilityChange() {
    if (!this.#started) return;
    if (!document.hidden) return this.pollNow();
    this.#abort();
    this.#onStateChange({ state: "paused" });
  }

  #abort() {
    clearTimeout(this.#timer);
    this.#controller?.abort();
  }

  async #run() {
    const { signal } = (this.#controller = new AbortController());
    try {
      const active = await this.#poll(signal);
      if (signal.aborted) return;
      this.#failures = 0;
      this.#onStateChange({ state: active ? "live" : "idle" });
      this.#schedule(active ? ACTIVE_INTERVAL_MS : IDLE_INTERVAL_MS);
    } catch (error) {
      if (signal.aborted) return;
      if (error.requiresSignIn) {
        this.stop();
        this.#onStateChange({ state: "unauthorized", error });
        return;
      }
      const delay = Math.min(MAX_BACKOFF_MS, INITIAL_BACKOFF_MS * 2 ** this.#failures++);
      this.#onStateChange({ state: "failing", error, retryAt: Date.now() + delay });
      this.#schedule(delay);
    }
  }

  #schedule(delay) {
    this.#timer = setTimeout(() => this.#run(), delay);
  }
}
