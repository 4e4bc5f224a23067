// Retries of tasks: each call makes them in a batch of its own, which is polled like any other.

import { Batch } from "./batch.js";
import { BatchPoller } from "./batch-poller.js";
import { groupBySeed } from "./retry-rules.js";

export class Retries {
  #host;
  #findSlot;
  #onChange;
  #onFailure;
  #batchId;
  #followed = new Map(); // By batch ID: the batch of a retry, its poller, and its slots in task order.
  #contextLines = []; // One line for the model for each file that was made again here.

  /**
   * `findSlot(batchId, taskIndex)` returns the slot of a task of the batch whose tasks are retried.
   * `onChange()` is called when slots have changed, `onFailure(message, tryAgain)` with errors.
   */
  constructor(host, { findSlot, onChange, onFailure }) {
    this.#host = host;
    this.#findSlot = findSlot;
    this.#onChange = onChange;
    this.#onFailure = onFailure;
  }

  /** The IDs of the retries that run. */
  get running() {
    const batches = [...this.#followed.values()].map(({ batch }) => batch);
    return batches.filter((batch) => !batch.ended).map((batch) => batch.id);
  }

  stop() {
    for (const { poller } of this.#followed.values()) poller.stop();
  }

  /** Make the tasks of slots again, those of one batch in one call; return the new slots. */
  start(slots) {
    const batchIds = [...new Set(slots.map((slot) => slot.batchId))];
    const ofBatch = (batchId) => slots.filter((slot) => slot.batchId === batchId);
    const groups = batchIds.flatMap((batchId) => groupBySeed(ofBatch(batchId), ({ row }) => row));
    return groups.flatMap(([newSeed, originals]) => {
      originals.sort((a, b) => a.row.task_index - b.row.task_index);
      const added = originals.map((slot) => slot.addRetry());
      void this.#call(originals, added, newSeed);
      return added;
    });
  }

  /** Show the retries of a batch that the server knows, and the retries of these. */
  async load(batchId = this.#batchId) {
    this.#batchId = batchId;
    const toolArguments = { batch_id: batchId, limit: 1 };
    const call = this.#host.callTool("get_batch", toolArguments);
    const { retries = [] } = await call.catch(() => ({}));
    for (const { batch_id, retry_of, task_indexes } of retries) {
      if (this.#followed.has(batch_id)) continue;
      const slots = task_indexes.map((index) => this.#slotOf(retry_of, index)?.addRetry());
      this.#follow(batch_id, slots);
    }
    if (retries.length) this.#onChange();
  }

  async #call(originals, slots, newSeed) {
    const toolArguments = {
      batch_id: originals[0].batchId,
      task_indexes: originals.map((slot) => slot.row.task_index),
      new_seed: newSeed,
      wait_seconds: 0,
    };
    const call = this.#host.callTool("retry_tasks", toolArguments);
    const { page, error } = await call.catch((failure) => ({ error: failure.message }));
    if (page !== undefined && !this.#followed.has(page.batch_id)) {
      this.#follow(page.batch_id, slots, true);
      this.#onChange();
      return;
    }
    const hadFocus = slots.some((slot) => slot.hasFocus);
    for (const slot of slots) slot.remove();
    this.#onChange();
    if (hadFocus) originals[0].focus();
    if (error === undefined) return;
    this.#onFailure(`Could not retry: ${error}`);
    await this.load(); // A call without a response may have begun a batch.
  }

  #follow(batchId, slots, isOwn = false) {
    const batch = new Batch();
    batch.id = batchId;
    const onPage = (page) => {
      const rows = batch.addPage(page).filter((row) => slots[row.task_index] !== undefined);
      for (const row of rows) slots[row.task_index].showRow(row, batchId);
      this.#onChange();
      if (isOwn) this.#addToContext(rows.map((row) => slots[row.task_index]));
    };
    const onFailure = (reason) =>
      this.#onFailure(`Could not load the results of a retry: ${reason}`, () => poller.poll(batch));
    const poller = new BatchPoller(this.#host, onPage, onFailure);
    this.#followed.set(batchId, { batch, poller, slots });
    void poller.poll(batch);
  }

  #slotOf(batchId, taskIndex) {
    const retry = this.#followed.get(batchId);
    return retry === undefined ? this.#findSlot(batchId, taskIndex) : retry.slots[taskIndex];
  }

  #addToContext(slots) {
    const lines = slots.flatMap(({ task, files }) =>
      files.map(({ filename, url }) => `task ${task.index} regenerated: ${filename} ${url}`),
    );
    if (!lines.length) return;
    this.#contextLines.push(...lines);
    this.#host.updateModelContext(`Regenerated in the gallery:\n${this.#contextLines.join("\n")}`);
  }
}
