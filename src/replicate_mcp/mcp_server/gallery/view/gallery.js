// The gallery: what the host tells of a call of generate_images or get_batch, shown as it happens.

import { Asked, askedByRow } from "./asked.js";
import { Batch } from "./batch.js";
import { Host, readToolResult } from "./bridge.js";
import { byId } from "./dom.js";
import { Following } from "./following.js";
import { Grid } from "./grid.js";
import { Headline } from "./headline.js";
import { applyHostContext, reportSize } from "./host-style.js";
import { Remaking } from "./remaking.js";
import { Slot } from "./slot.js";

class Gallery {
  #host;
  #grid = new Grid(byId("grid"), byId("more"));
  #headline = new Headline({
    onFailedOnly: (only) => (this.#grid.onlyFailed = only),
    onExpand: () => this.#toggleRoom(),
    onStop: () => this.#stop(),
  });
  #given = {};
  #asked = [];
  #slots = []; // of the batch, by place
  #placeOf = new Map(); // task_index to place, where only a part of a batch is shown
  #batch = new Batch();
  #following;
  #remaking;

  constructor(host) {
    this.#host = host;
    this.#remaking = new Remaking(host, this.#grid, (asked) => this.#slot(asked));
  }

  /** The call's arguments, whole or as far as they have been written. */
  foresee(given = {}) {
    this.#given = given;
    const tasks = Array.isArray(given.tasks) ? given.tasks : [];
    this.#asked = tasks.map((task, index) => new Asked(task, index, given.model));
    this.#hold(this.#asked);
    this.#headline.await(this.#asked.length);
  }

  /** The call runs: its batch can be found and followed while the model waits for the answer. */
  begin(given) {
    this.foresee(given);
    this.#batch = new Batch(this.#isPart ? given.after : 0);
    if (this.#asked.length > 1 && this.#host.canCallTools) this.#find();
  }

  /** The call's answer. */
  answer(result) {
    const { page, refusal } = readToolResult(result);
    if (refusal !== undefined) {
      this.#endWithoutResult("No images", refusal);
      return;
    }
    this.#following?.stop();
    if (this.#batch.id !== page.batch_id) this.#startOver(page);
    this.#take(page);
    this.#follow();
  }

  /** The call was stopped before it had an answer. */
  cancel(reason) {
    this.#endWithoutResult("Stopped", `The call was stopped${reasonOf(reason)}.`);
  }

  /** The host's looks, or what changed in them. */
  adapt(context) {
    applyHostContext(context);
    const { availableDisplayModes, displayMode } = this.#host.context;
    this.#headline.offerRoom(availableDisplayModes ?? [], displayMode);
  }

  leave() {
    this.#following?.stop();
    this.#remaking.stop();
  }

  /** Whether only what finished after a cursor is shown: other views have the rest. */
  get #isPart() {
    return this.#given.after > 0;
  }

  async #find() {
    this.#following = new Following(this.#host);
    const page = await this.#following.find(this.#asked);
    if (page === undefined) return;
    this.#take(page);
    this.#follow();
  }

  #follow() {
    if (this.#batch.ended && !this.#batch.hasMore) return;
    if (!this.#host.canCallTools) {
      this.#headline.problem("Ask in the conversation for the rest: this host does not let the gallery look.");
      return;
    }
    this.#headline.problem();
    this.#following = new Following(
      this.#host,
      (page) => this.#take(page),
      (why) => this.#headline.problem(`The rest is not known: ${why}`, () => this.#follow()),
    );
    this.#following.follow(this.#batch);
  }

  /** Stop the batch, at Replicate too; following it goes on, to its end. */
  async #stop() {
    const { refusal } = await this.#host
      .callTool("cancel_batch", { batch_id: this.#batch.id })
      .catch((error) => ({ refusal: error.message }));
    if (refusal) this.#headline.notStopped(refusal);
  }

  /** The call is over; a batch that was found goes on, or tells itself how it ended. */
  #endWithoutResult(title, reason) {
    if (this.#batch.id !== undefined) return;
    this.#following?.stop();
    this.#headline.problem(reason);
    this.#headline.halt(title);
    this.#hold([]);
  }

  /** A batch other than the one that was expected, or the first that is heard of. */
  #startOver(page) {
    this.#batch = new Batch(this.#isPart ? this.#given.after : 0);
    if (this.#asked.length === page.total_tasks) return this.#hold(this.#asked);
    const count = this.#isPart ? page.total_tasks - this.#given.after : page.total_tasks;
    const blanks = Array.from({ length: Math.max(0, count) }, (_, place) => unknown(place));
    return this.#hold(blanks);
  }

  #hold(asked) {
    this.#placeOf.clear();
    if (asked.length < this.#slots.length) this.#slots = [];
    this.#slots = asked.map((each, place) => {
      const slot = this.#slots[place];
      if (slot === undefined) return this.#slot(each);
      slot.foresee(each);
      return slot;
    });
    this.#grid.hold(this.#slots);
  }

  #slot(asked) {
    const again = (slot) => this.#remaking.again(slot, this.#given);
    return new Slot(this.#host, asked, this.#host.canCallTools ? again : undefined);
  }

  #take(page) {
    for (const row of this.#batch.take(page)) {
      const slot = this.#slots[this.#place(row.task_index)];
      if (slot === undefined) continue;
      if (!this.#asked.length) slot.asked = askedByRow(row);
      slot.take(row, page.batch_id);
    }
    this.#grid.arrange();
    this.#headline.show(this.#batch, this.#host.canCallTools);
  }

  #place(index) {
    if (!this.#isPart) return index;
    if (!this.#placeOf.has(index)) this.#placeOf.set(index, this.#placeOf.size);
    return this.#placeOf.get(index);
  }

  async #toggleRoom() {
    const full = this.#host.context.displayMode === "fullscreen";
    try {
      const displayMode = await this.#host.requestDisplayMode(full ? "inline" : "fullscreen");
      Object.assign(this.#host.context, { displayMode });
      this.adapt({ displayMode });
    } catch {
      this.#headline.offerRoom([], undefined);
    }
  }
}

function unknown(place) {
  const blank = new Asked({}, place);
  blank.filename = "…";
  return blank;
}

function reasonOf(reason) {
  return reason ? ` (${reason})` : "";
}

async function start() {
  const host = new Host();
  const gallery = new Gallery(host);
  host.on("tool-input-partial", (said) => gallery.foresee(said.arguments));
  host.on("tool-input", (said) => gallery.begin(said.arguments ?? {}));
  host.on("tool-result", (result) => gallery.answer(result));
  host.on("tool-cancelled", ({ reason }) => gallery.cancel(reason));
  host.on("host-context-changed", (changed) => {
    Object.assign(host.context, changed);
    gallery.adapt(changed);
  });
  host.onTeardown(() => gallery.leave());
  await host.connect();
  gallery.adapt(host.context);
  reportSize(byId("gallery"), host);
}

start();
