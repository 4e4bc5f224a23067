// Asking the server what has finished, through the host, until a batch has ended.

import { canBeOf, rowsOf } from "./batch.js";

const SHORTEST_WAIT = 1; // s; how long the server may take to answer, in case the batch ends
const LONGEST_WAIT = 3;
const FIND_SECONDS = 1;
const EARLY_SECONDS = 5; // A host may begin the call before it has shown the view.
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
   * Find the batch of a call that has just begun, while that is not answered. What has ended is not
   * it: its end comes with its call's answer.
   */
  async find(asked) {
    const began = performance.now();
    while (!this.#stopped) {
      await pause(FIND_SECONDS);
      await untilSeen();
      if (this.#stopped) break;
      const page = await this.#only(asked, began).catch(() => undefined);
      if (!this.#stopped && page?.status === "running" && rowsOf(page).length) return page;
    }
    return undefined;
  }

  /** The one batch since then that can be of these tasks; nothing where several can. */
  async #only(asked, began) {
    const { page: newest, lately } = await this.host.callTool("get_batch", {});
    const age = (performance.now() - began) / 1_000 + EARLY_SECONDS;
    const pages = lately
      .filter(({ seconds, total_tasks }) => seconds < age && total_tasks === asked.length)
      .map(async ({ batch_id }) =>
        batch_id === newest.batch_id
          ? newest
          : (await this.host.callTool("get_batch", { batch_id })).page,
      );
    const possible = (await Promise.all(pages)).filter((page) => canBeOf(page, asked));
    return possible.length === 1 ? possible[0] : undefined;
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
