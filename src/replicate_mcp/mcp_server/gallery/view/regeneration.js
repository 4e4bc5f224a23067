// Regeneration of single tasks: each in a batch of its own, polled like any other batch.

import { Batch, rowsOf } from "./batch.js";
import { BatchPoller } from "./batch-poller.js";
import { RequestedTask, nextFilename } from "./requested-task.js";

const CALL_WAIT_SECONDS = 20;

export class Regeneration {
  #host;
  #grid;
  #createSlot;
  #pollers = new Set();
  #contextLines = []; // One line for the model for each regenerated file.

  constructor(host, grid, createSlot) {
    this.#host = host;
    this.#grid = grid;
    this.#createSlot = createSlot;
  }

  stop() {
    for (const poller of this.#pollers) poller.stop();
  }

  /**
   * Regenerate a slot's task: in the same slot if the task failed, otherwise in a new slot after it.
   * `toolArguments` are those of the call that first generated the task.
   */
  regenerate(slot, toolArguments) {
    if (slot.failed) {
      slot.showPending(slot.task);
      slot.focus();
      this.#grid.render();
      this.#generate(slot, slot.task.withNewSeed(slot.task.filename), toolArguments);
    } else {
      slot.versions += 1;
      const task = slot.task.withNewSeed(nextFilename(firstFilenameOf(slot), slot.versions));
      const newSlot = this.#createSlot(new RequestedTask(task, slot.task.index));
      this.#grid.insertAfter(slot, newSlot);
      this.#generate(newSlot, task, toolArguments);
    }
    return true;
  }

  async #generate(slot, task, { semaphore }) {
    const toolArguments = { tasks: [task], wait_seconds: CALL_WAIT_SECONDS };
    if (semaphore !== undefined) toolArguments.semaphore = semaphore;
    const onFailure = (message) => this.#showRow(slot, failedRow(slot.task, message));
    try {
      const { page, error } = await this.#host.callTool("generate_images", toolArguments);
      if (error !== undefined) onFailure(error);
      else await this.#poll(slot, page, onFailure);
    } catch (error) {
      onFailure(error.message);
    }
  }

  async #poll(slot, firstPage, onFailure) {
    const batch = new Batch();
    const onPage = (page) => {
      batch.addPage(page);
      for (const row of rowsOf(page)) this.#showRow(slot, row, page.batch_id);
    };
    onPage(firstPage);
    const poller = new BatchPoller(this.#host, onPage, onFailure);
    this.#pollers.add(poller);
    await poller.poll(batch);
    this.#pollers.delete(poller);
  }

  #showRow(slot, row, batchId) {
    slot.showRow({ ...row, task_index: slot.task.index }, batchId);
    this.#grid.render();
    if (row.generated_files === undefined) return;
    for (const { filename, url } of row.generated_files) {
      this.#contextLines.push(`task ${slot.task.index} regenerated: ${filename} ${url}`);
    }
    this.#host.updateModelContext(`Regenerated in the gallery:\n${this.#contextLines.join("\n")}`);
  }
}

function firstFilenameOf(slot) {
  return slot.row.generated_files[0].filename;
}

/** Create a row for a task whose call was rejected or whose result is unknown. */
function failedRow({ prompt, filename }, error) {
  return { prompt, output_filename: filename, error, error_code: "request_failed" };
}
