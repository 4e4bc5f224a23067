// Polls a batch through the host until the batch has ended.

import { matchesRequest, rowsOf } from "./batch.js";

const MIN_WAIT_SECONDS = 1; // `wait_seconds` of a poll.
const MAX_WAIT_SECONDS = 3;
const WAIT_STEP_SECONDS = 0.5;
const FIND_INTERVAL_SECONDS = 1;
const CALL_HEAD_START_SECONDS = 5; // A host may send the call before it has loaded the view.
const RETRY_DELAYS_SECONDS = [1, 2, 4, 8];

/** Poll one batch: `onPage(page)` receives each page, `onFailure(message)` the final error. */
export class BatchPoller {
  #stopped = false;

  constructor(host, onPage, onFailure) {
    this.host = host;
    this.onPage = onPage;
    this.onFailure = onFailure;
  }

  stop() {
    this.#stopped = true;
  }

  /** Poll a batch from its cursor until it has ended and all its rows are fetched. */
  async poll(batch) {
    let wait = MIN_WAIT_SECONDS;
    while (!this.#stopped && (!batch.ended || batch.hasMore)) {
      await whenVisible();
      const startedAt = performance.now();
      const cursor = batch.cursor;
      const page = await this.#getBatch({
        batch_id: batch.id,
        after: cursor,
        wait_seconds: batch.hasMore ? 0 : wait,
      });
      if (this.#stopped || page === undefined) return;
      this.onPage(page);
      wait =
        batch.cursor > cursor
          ? MIN_WAIT_SECONDS
          : Math.min(MAX_WAIT_SECONDS, wait + WAIT_STEP_SECONDS);
      if (!batch.ended && !batch.hasMore) {
        await sleep(MIN_WAIT_SECONDS - secondsSince(startedAt));
      }
    }
  }

  /**
   * Find the batch of a call that has started and has no result yet. An ended batch is never it: the
   * result of the call arrives when its batch ends.
   */
  async find(tasks) {
    const startedAt = performance.now();
    while (!this.#stopped) {
      await sleep(FIND_INTERVAL_SECONDS);
      await whenVisible();
      if (this.#stopped) break;
      const page = await this.#findOnlyMatch(tasks, startedAt).catch(() => undefined);
      if (!this.#stopped && page?.status === "running" && rowsOf(page).length) return page;
    }
    return undefined;
  }

  /** Return the only recent batch that matches the tasks; undefined if none or several match. */
  async #findOnlyMatch(tasks, startedAt) {
    const { page: newest, recentBatches } = await this.host.callTool("get_batch", {});
    const maxAge = secondsSince(startedAt) + CALL_HEAD_START_SECONDS;
    const pages = recentBatches
      .filter(({ seconds, total_tasks }) => seconds < maxAge && total_tasks === tasks.length)
      .map(async ({ batch_id }) =>
        batch_id === newest.batch_id
          ? newest
          : (await this.host.callTool("get_batch", { batch_id })).page,
      );
    const matches = (await Promise.all(pages)).filter((page) => matchesRequest(page, tasks));
    return matches.length === 1 ? matches[0] : undefined;
  }

  async #getBatch(toolArguments) {
    for (let attempt = 0; ; attempt += 1) {
      let failure;
      try {
        const { page, error } = await this.host.callTool("get_batch", toolArguments);
        if (page) return page;
        failure = error;
      } catch (error) {
        failure = error.message;
      }
      if (this.#stopped) return undefined;
      if (attempt === RETRY_DELAYS_SECONDS.length) {
        this.onFailure(failure);
        return undefined;
      }
      await sleep(RETRY_DELAYS_SECONDS[attempt]);
    }
  }
}

function secondsSince(time) {
  return (performance.now() - time) / 1_000;
}

function sleep(seconds) {
  return new Promise((resolve) => setTimeout(resolve, Math.max(0, seconds) * 1_000));
}

/** Wait until the view's tab is visible, so that hidden views send no requests. */
function whenVisible() {
  if (!document.hidden) return undefined;
  return new Promise((resolve) =>
    document.addEventListener("visibilitychange", resolve, { once: true }),
  );
}
