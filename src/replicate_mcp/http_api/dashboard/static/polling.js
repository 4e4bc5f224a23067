// When to ask: often while something happens, seldom while nothing does, not at all in a hidden tab,
// and later and later while the server does not answer.

const BUSY = 1_000;
const IDLE = 3_000;
const LONGEST = 30_000;

/**
 * Repeats a round of calls.
 *
 * `round(signal)` says whether something is going on. `told` hears `{ state }`: "live", "idle",
 * "paused", "failing" (with `error` and `retryAt`) and "refused" (with `error`; asking has stopped).
 */
export class Poller {
  #round;
  #told;
  #wanted = false;
  #failures = 0;
  #timer;
  #current;

  constructor(round, told) {
    this.#round = round;
    this.#told = told;
    document.addEventListener("visibilitychange", () => this.#seen(!document.hidden));
    window.addEventListener("online", () => this.now());
  }

  start() {
    this.#wanted = true;
    this.#failures = 0;
    this.now();
  }

  stop() {
    this.#wanted = false;
    this.#drop();
  }

  /** Ask at once instead of later. */
  now() {
    if (!this.#wanted || document.hidden) return;
    this.#drop();
    this.#run();
  }

  #seen(seen) {
    if (!this.#wanted) return;
    if (seen) return this.now();
    this.#drop();
    this.#told({ state: "paused" });
  }

  #drop() {
    clearTimeout(this.#timer);
    this.#current?.abort();
  }

  async #run() {
    const mine = (this.#current = new AbortController());
    try {
      const busy = await this.#round(mine.signal);
      if (mine.signal.aborted) return;
      this.#failures = 0;
      this.#told({ state: busy ? "live" : "idle" });
      this.#again(busy ? BUSY : IDLE);
    } catch (error) {
      if (mine.signal.aborted) return;
      if (error.wantsSignIn) {
        this.stop();
        this.#told({ state: "refused", error });
        return;
      }
      const wait = Math.min(LONGEST, 1_000 * 2 ** ++this.#failures);
      this.#told({ state: "failing", error, retryAt: Date.now() + wait });
      this.#again(wait);
    }
  }

  #again(wait) {
    this.#timer = setTimeout(() => this.#run(), wait);
  }
}
