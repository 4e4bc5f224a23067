// The retries of one batch: which tasks were made again, and in which batch.

import { callApi } from "./api.js";
import { groupBySeed } from "./retry-rules.js";

export class Retries {
  #batchId;
  #retriedIn = new Map(); // From task index to the ID of its latest retry.

  constructor(batchId) {
    this.#batchId = batchId;
  }

  /** Add the retries that a page of the batch lists. */
  add(retries = []) {
    const own = retries.filter(({ retry_of }) => retry_of === this.#batchId);
    for (const { batch_id, task_indexes } of own) {
      for (const index of task_indexes) this.#retriedIn.set(index, batch_id);
    }
  }

  /** Return the ID of the latest retry of a task; undefined if there is none. */
  retryOf(taskIndex) {
    return this.#retriedIn.get(taskIndex);
  }

  /** Return the rows that were not retried and that a retry can help, without billing twice. */
  select(rows) {
    return rows.filter((row) => row.retryable && !this.#retriedIn.has(row.task_index));
  }

  /** Make the tasks of result rows again, with new seeds where these can help. */
  async start(rows) {
    for (const [newSeed, group] of groupBySeed(rows)) {
      const indexes = group.map((row) => row.task_index);
      const path = `batches/${encodeURIComponent(this.#batchId)}/retry`;
      const { batch_id } = await callApi("POST", path, {
        body: { task_indexes: indexes, new_seed: newSeed },
        headers: { Prefer: "respond-async" },
      });
      this.add([{ batch_id, retry_of: this.#batchId, task_indexes: indexes }]);
    }
  }
}

/** Return the ID of the element that the links to a batch lead to. */
export function anchorOf(batchId) {
  return `batch-${batchId}`;
}
