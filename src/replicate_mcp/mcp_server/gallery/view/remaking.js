// Making tasks again: each in a batch of its own, which is followed like any other.

import { Asked, nameAgain } from "./asked.js";
import { Batch, rowsOf } from "./batch.js";
import { Following } from "./following.js";

const WAIT_SECONDS = 20;

export class Remaking {
  #host;
  #grid;
  #slotFor;
  #followings = new Set();
  #made = []; // lines for the model

  constructor(host, grid, slotFor) {
    this.#host = host;
    this.#grid = grid;
    this.#slotFor = slotFor;
  }

  stop() {
    for (const following of this.#followings) following.stop();
  }

  /**
   * Make a slot's task again: in its place where it failed, else in a slot of its own behind it.
   * `given` are the arguments of the call that it was first made by.
   */
  again(slot, given) {
    if (slot.failed) {
      slot.foresee(slot.asked);
      slot.focus();
      this.#grid.arrange();
      this.#make(slot, slot.asked.again(slot.asked.filename), given);
    } else {
      slot.timesMade += 1;
      const task = slot.asked.again(nameAgain(firstNameOf(slot), slot.timesMade));
      const another = this.#slotFor(new Asked(task, slot.asked.index));
      this.#grid.putAfter(slot, another);
      this.#make(another, task, given);
    }
    return true;
  }

  async #make(slot, task, { semaphore }) {
    const given = { tasks: [task], wait_seconds: WAIT_SECONDS };
    if (semaphore !== undefined) given.semaphore = semaphore;
    const fail = (why) => this.#show(slot, failure(slot.asked, why));
    try {
      const { page, refusal } = await this.#host.callTool("generate_images", given);
      if (refusal !== undefined) fail(refusal);
      else await this.#follow(slot, page, fail);
    } catch (error) {
      fail(error.message);
    }
  }

  async #follow(slot, first, fail) {
    const batch = new Batch();
    const take = (page) => {
      batch.take(page);
      for (const row of rowsOf(page)) this.#show(slot, row, page.batch_id);
    };
    take(first);
    const following = new Following(this.#host, take, fail);
    this.#followings.add(following);
    await following.follow(batch);
    this.#followings.delete(following);
  }

  #show(slot, row, batchId) {
    slot.take({ ...row, task_index: slot.asked.index }, batchId);
    this.#grid.arrange();
    if (row.generated_files === undefined) return;
    for (const { filename, url } of row.generated_files) {
      this.#made.push(`task ${slot.asked.index} again: ${filename} ${url}`);
    }
    this.#host.tellModel(`Made again in the gallery:\n${this.#made.join("\n")}`);
  }
}

function firstNameOf(slot) {
  return slot.row.generated_files[0].filename;
}

/** A row for what was refused, or lost from sight, before it had one. */
function failure({ prompt, filename }, error) {
  return { prompt, output_filename: filename, error, error_code: "not made" };
}
