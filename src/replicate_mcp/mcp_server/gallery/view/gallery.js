// The gallery: shows the images of a generate_images or get_batch call as they arrive.

import { openThroughHost } from "./actions.js";
import { Batch } from "./batch.js";
import { BatchPoller } from "./batch-poller.js";
import { Host, readToolResult } from "./bridge.js";
import { countTasks } from "./counts.js";
import { byId } from "./dom.js";
import { Grid } from "./grid.js";
import { Header } from "./header.js";
import { applyHostContext, reportSize } from "./host-style.js";
import { RequestedTask, taskFromRow } from "./requested-task.js";
import { Retries } from "./retries.js";
import { Slot } from "./slot.js";

class Gallery {
  #host;
  #grid = new Grid(byId("grid"), byId("more"));
  #header = new Header({
    onFailedOnly: (failedOnly) => (this.#grid.failedOnly = failedOnly),
    onFullscreen: () => this.#toggleFullscreen(),
    onLinkClick: (event, url) => openThroughHost(event, this.#host, url),
    onRetry: (slots) => this.#retry(slots),
    onStop: () => this.#stopBatches(),
  });
  #arguments = {};
  #tasks = [];
  #slots = []; // The slots of the batch, by position.
  #positions = new Map(); // From task index to position, for a partial view.
  #batch = new Batch();
  #poller;
  #retries;

  constructor(host) {
    this.#host = host;
    this.#retries = new Retries(host, {
      findSlot: (batchId, taskIndex) => this.#findSlot(batchId, taskIndex),
      onChange: () => this.#render(),
      onFailure: (message, tryAgain) => this.#header.showError(message, tryAgain),
    });
  }

  /** Show the tasks of the call's arguments, which may be incomplete. */
  setArguments(toolArguments = {}) {
    this.#arguments = toolArguments;
    const tasks = Array.isArray(toolArguments.tasks) ? toolArguments.tasks : [];
    this.#tasks = tasks.map((task, index) => new RequestedTask(task, index, toolArguments.model));
    this.#setTasks(this.#tasks);
    this.#header.showPending(this.#tasks.length);
  }

  /** Start to follow a call: find its batch and poll it before the call's result arrives. */
  startCall(toolArguments) {
    this.setArguments(toolArguments);
    this.#batch = this.#createBatch();
    if (this.#tasks.length > 1 && this.#host.canCallTools) this.#findBatch();
  }

  /** Show the call's result. */
  showResult(result) {
    const { page, error } = readToolResult(result);
    if (error !== undefined) {
      this.#endWithoutResult("No images", error);
      return;
    }
    this.#poller?.stop();
    if (this.#batch.id !== page.batch_id) this.#resetTo(page);
    this.#addPage(page);
    this.#pollBatch();
    // Also of a batch that has just ended: this view may have been opened again.
    if (this.#host.canCallTools) void this.#retries.load(page.batch_id);
  }

  /** Show that the call was cancelled before its result arrived. */
  cancelCall(reason) {
    const suffix = reason ? ` (${reason})` : "";
    this.#endWithoutResult("Cancelled", `The call was cancelled${suffix}.`);
  }

  /** Apply the host's context, or the part of it that has changed. */
  applyContext(context) {
    applyHostContext(context);
    const { availableDisplayModes, displayMode } = this.#host.context;
    this.#header.setDisplayModes(availableDisplayModes ?? [], displayMode);
  }

  /** Stop all polling. */
  close() {
    this.#poller?.stop();
    this.#retries.stop();
  }

  /** Whether the view shows only the tasks that finished after the `after` cursor. */
  get #isPartial() {
    return this.#arguments.after > 0;
  }

  #createBatch() {
    return new Batch(this.#isPartial ? this.#arguments.after : 0);
  }

  async #findBatch() {
    this.#poller = new BatchPoller(this.#host);
    const page = await this.#poller.find(this.#tasks);
    if (page === undefined) return;
    this.#addPage(page);
    this.#pollBatch();
  }

  #pollBatch() {
    if (this.#batch.ended && !this.#batch.hasMore) return;
    if (!this.#host.canCallTools) {
      this.#header.showError(
        "This host does not let the gallery load more results. Ask for them in the conversation.",
      );
      return;
    }
    this.#header.showError();
    this.#poller = new BatchPoller(
      this.#host,
      (page) => this.#addPage(page),
      (reason) =>
        this.#header.showError(`Could not load the remaining results: ${reason}`, () =>
          this.#pollBatch(),
        ),
    );
    this.#poller.poll(this.#batch);
  }

  /** Cancel the batch and its retries, also on Replicate; polling continues until they have ended. */
  async #stopBatches() {
    for (const batchId of this.#running) {
      const { error } = await this.#host
        .callTool("cancel_batch", { batch_id: batchId })
        .catch((failure) => ({ error: failure.message }));
      if (error) this.#header.showStopError(error);
    }
  }

  /** The IDs of the batches that run. */
  get #running() {
    const { id, status } = this.#batch;
    return [...(id !== undefined && status === "running" ? [id] : []), ...this.#retries.running];
  }

  /** Make tasks again; the focus moves from a failure to what is shown in its place. */
  #retry(slots) {
    this.#header.showError();
    const hasFailed = slots.some((slot) => slot.state !== "succeeded");
    const [first] = this.#retries.start(slots);
    this.#render();
    if (hasFailed) first?.focus();
  }

  /** End a call that has no result. If its batch was found, polling it continues instead. */
  #endWithoutResult(title, reason) {
    if (this.#batch.id !== undefined) return;
    this.#poller?.stop();
    this.#header.showError(reason);
    this.#header.showEnded(title);
    this.#setTasks([]);
  }

  /** Start over with the batch of a page, if no batch or another one was found before. */
  #resetTo(page) {
    this.#batch = this.#createBatch();
    if (this.#tasks.length === page.total_tasks) return this.#setTasks(this.#tasks);
    const count = this.#isPartial ? page.total_tasks - this.#arguments.after : page.total_tasks;
    const tasks = Array.from({ length: Math.max(0, count) }, (_, index) => unknownTask(index));
    return this.#setTasks(tasks);
  }

  #setTasks(tasks) {
    this.#positions.clear();
    if (tasks.length < this.#slots.length) this.#slots = [];
    this.#slots = tasks.map((task, position) => {
      const slot = this.#slots[position];
      if (slot === undefined) return this.#createSlot(task);
      slot.showPending(task);
      return slot;
    });
    this.#grid.setSlots(this.#slots);
  }

  #createSlot(task) {
    const retry = (slot) => this.#retry([slot]);
    return new Slot(this.#host, task, this.#host.canCallTools ? retry : undefined);
  }

  #findSlot(batchId, taskIndex) {
    if (batchId !== this.#batch.id) return undefined;
    return this.#slots[this.#isPartial ? this.#positions.get(taskIndex) : taskIndex];
  }

  #addPage(page) {
    for (const row of this.#batch.addPage(page)) {
      const slot = this.#slots[this.#positionOf(row.task_index)];
      if (slot === undefined) continue;
      if (!this.#tasks.length) slot.task = taskFromRow(row);
      slot.showRow(row, page.batch_id);
    }
    this.#render();
  }

  #render() {
    this.#grid.render();
    const slots = this.#slots.flatMap((slot) => slot.shown);
    const counts = countTasks(this.#batch, this.#slots);
    const { canCallTools } = this.#host;
    const running = this.#batch.status === "running" || counts.pending > 0;
    this.#header.update(counts, slots, {
      running,
      canStop: canCallTools && this.#running.length > 0,
      canRetry: canCallTools && !running,
    });
  }

  #positionOf(taskIndex) {
    if (!this.#isPartial) return taskIndex;
    if (!this.#positions.has(taskIndex)) this.#positions.set(taskIndex, this.#positions.size);
    return this.#positions.get(taskIndex);
  }

  async #toggleFullscreen() {
    const isFullscreen = this.#host.context.displayMode === "fullscreen";
    const mode = isFullscreen ? "inline" : "fullscreen";
    try {
      const displayMode = await this.#host.requestDisplayMode(mode);
      Object.assign(this.#host.context, { displayMode });
      this.applyContext({ displayMode });
    } catch {
      this.#header.setDisplayModes([], undefined);
    }
  }
}

function unknownTask(index) {
  const task = new RequestedTask({}, index);
  task.filename = "…";
  return task;
}

async function start() {
  const host = new Host();
  const gallery = new Gallery(host);
  host.on("tool-input-partial", (params) => gallery.setArguments(params.arguments));
  host.on("tool-input", (params) => gallery.startCall(params.arguments ?? {}));
  host.on("tool-result", (result) => gallery.showResult(result));
  host.on("tool-cancelled", ({ reason }) => gallery.cancelCall(reason));
  host.on("host-context-changed", (changes) => {
    Object.assign(host.context, changes);
    gallery.applyContext(changes);
  });
  host.onTeardown(() => gallery.close());
  await host.connect();
  gallery.applyContext(host.context);
  reportSize(byId("gallery"), host);
}

start();
