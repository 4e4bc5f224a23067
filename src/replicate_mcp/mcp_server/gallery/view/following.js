// Asking the server what has finished, through the host, until a batch has ended.

import { isOf } from "./batch.js";

const SHORTEST_WAIT = 1; // s; how long the server may take to answer, in case the batch ends
const LONGEST_WAIT = 3;
const FIND_SECONDS = 1;
const TROUBLE_SECONDS = [1, 2, 4, 8, 15];

/** Follows one batch, and tells of each page; `onTrouble` is told why, where it gave up. */
export class Following {
  #stopped = false;

  constructor(host, onPage, onTrouble) {
    this.host = host;
    this.onPage = onPage;
    this.onTrouble = onTrouble;
  }

  stop() {
    this.#stopped = true;
  }

  /** Follow a batch from what is known of it. */
  async follow(batch) {
    let wait = SHORTEST_WAIT;
    while (!this.#stopped && (!batch.ended || batch.hasMore)) {
      await untilSeen();
      const began = performance.now();
      const known = batch.cursor;
      const page = await this.#ask({
        batch_id: batch.id,
        after: known,
        wait_seconds: batch.hasMore ? 0 : wait,
      });
      if (this.#stopped || page === undefined) return;
      this.onPage(page);
      wait = batch.cursor > known ? SHORTEST_WAIT : Math.min(LONGEST_WAIT, wait + 0.5);
      const early = SHORTEST_WAIT - (performance.now() - began) / 1_000;
      if (!batch.ended && !batch.hasMore) await pause(early);
    }
  }

  /**
   * Find the batch of a call that has not been answered: the newest one, if it is of these tasks.
   * One that has ended is an older one: this one's end comes with its call's answer.
   */
  async find(asked) {
    while (!this.#stopped) {
      await pause(FIND_SECONDS);
      await untilSeen();
      if (this.#stopped) break;
      const { page } = await this.host.callTool("get_batch", {}).catch(() => ({}));
      if (!this.#stopped && page?.status === "running" && isOf(page, asked)) return page;
    }
    return undefined;
  }

  async #ask(given) {
    for (const seconds of TROUBLE_SECONDS) {
      let refusal;
      try {
        const answer = await this.host.callTool("get_batch", given);
        if (answer.page) return answer.page;
        refusal = answer.refusal;
      } catch (error) {
        refusal = error.message;
      }
      if (this.#stopped) return undefined;
      if (seconds === TROUBLE_SECONDS.at(-1)) this.onTrouble(refusal);
      else await pause(seconds);
    }
    return undefined;
  }
}

function pause(seconds) {
  return new Promise((resolve) => setTimeout(resolve, Math.max(0, seconds) * 1_000));
}

/** A view in a tab that nobody sees asks for nothing. */
function untilSeen() {
  if (!document.hidden) return undefined;
  return new Promise((resolve) =>
    document.addEventListener("visibilitychange", resolve, { once: true }),
  );
}
