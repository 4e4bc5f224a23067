// The tiles of one task: one for each of its images. A retry of the task has a slot of its own.

import { createActions, regenerateAction } from "./actions.js";
import { nextFilename } from "./requested-task.js";
import { canRetry, needsNewSeed } from "./retry-rules.js";
import { thumbnailLoader } from "./thumbnails.js";
import { Tile } from "./tile.js";

export class Slot {
  #tiles = [];
  #onRetry;
  #retries = []; // The slots that make this task again, oldest first.
  #version = 1; // Numbers the filenames of the images that were made of one task.
  original; // The slot whose task this one makes again.

  /** `onRetry(slot)` makes the task again; undefined if the host does not allow it. */
  constructor(host, task, onRetry, original) {
    this.host = host;
    this.#onRetry = onRetry;
    this.original = original;
    this.showPending(task);
  }

  /** Add a slot that makes this task again. */
  addRetry() {
    const retry = new Slot(this.host, this.task, this.#onRetry, this);
    this.#retries.push(retry);
    this.#root.family.push(retry);
    return retry;
  }

  /** Remove this slot from the one whose task it makes again. */
  remove() {
    for (const slots of [this.original.#retries, this.#root.family]) {
      slots.splice(slots.indexOf(this), 1);
    }
  }

  get elements() {
    return this.#tiles.map((tile) => tile.element);
  }

  /** "pending", "succeeded", "failed" or "stopped". */
  get state() {
    if (this.row === undefined) return "pending";
    if (this.row.error === undefined) return "succeeded";
    return this.row.error_code === "canceled" ? "stopped" : "failed";
  }

  /** Whether this task or one that it makes again has failed. */
  get hasFailed() {
    return this.state === "failed" || Boolean(this.original?.hasFailed);
  }

  /** Whether making the task again can help, and cannot be billed twice. */
  get isRetryable() {
    return this.row?.retryable === true;
  }

  /** The slots of this task and its retries that are shown: without failures that were retried. */
  get shown() {
    return this.family.filter((slot) => !slot.#isReplaced);
  }

  /** Show the tiles of a task that has not finished. */
  showPending(task) {
    this.task = task;
    this.row = undefined;
    this.family = [this]; // Of a task that is no retry: itself and all retries, oldest first.
    this.#retries = [];
    this.#setTileCount(task.outputCount);
    this.#showPendingTiles();
  }

  /** Show the task's result row, which belongs to the batch `batchId`. */
  showRow(row, batchId) {
    this.row = row;
    this.batchId = batchId;
    if (row.error !== undefined) {
      this.#setTileCount(1);
      const regenerate = this.#createRegenerateAction(row.output_filename);
      this.#tiles[0].showFailure(row, this.state, regenerate);
      return;
    }
    this.#setTileCount(row.generated_files.length);
    this.files.forEach((file, number) => {
      const tile = this.#tiles[number];
      const regenerate = this.#createRegenerateAction(file.filename);
      const actions = { ...createActions(this.host, tile, file), regenerate };
      tile.showImage(row, file, actions, thumbnailLoader(this.host, batchId));
    });
  }

  /** The images, under names that differ from those of the task's other images. */
  get files() {
    const files = this.row?.generated_files ?? [];
    return files.map((file) => ({ ...file, filename: this.#numbered(file.filename) }));
  }

  /** Number the images of this task and of its retries; a replaced failure has no number. */
  numberVersions() {
    let version = 1;
    for (const slot of this.family.slice(1)) {
      slot.#setVersion(slot.original.row?.error ? slot.original.#version : (version += 1));
    }
  }

  get hasFocus() {
    return this.elements.some((element) => element.contains(document.activeElement));
  }

  /** Move the focus to the first tile, after the focused element was removed. */
  focus() {
    this.#tiles[0].element.focus();
  }

  get #root() {
    return this.original === undefined ? this : this.original.#root;
  }

  /** Whether this task has no image, and a later retry is shown in its place. */
  get #isReplaced() {
    if (this.row?.error === undefined) return false;
    const siblings = this.original?.row?.error === undefined ? [] : this.original.#retries;
    return this.#retries.length > 0 || (siblings.length > 0 && siblings.at(-1) !== this);
  }

  #setVersion(version) {
    if (version === this.#version) return;
    this.#version = version;
    if (this.state === "succeeded") this.showRow(this.row, this.batchId);
    if (this.state === "pending") this.#showPendingTiles();
  }

  #showPendingTiles() {
    const filename = this.#numbered(this.task.filename);
    for (const tile of this.#tiles) tile.showPending(filename, this.task.prompt);
  }

  #numbered(filename) {
    return this.#version === 1 ? filename : nextFilename(filename, this.#version);
  }

  #createRegenerateAction(name) {
    if (this.#onRetry === undefined || !canRetry(this.row)) return undefined;
    return regenerateAction(name, needsNewSeed(this.row), () => this.#onRetry(this));
  }

  /** Add or remove tiles at the end. */
  #setTileCount(count) {
    while (this.#tiles.length > Math.max(1, count)) this.#tiles.pop().element.remove();
    while (this.#tiles.length < count) {
      const tile = new Tile();
      this.#tiles.at(-1)?.element.after(tile.element);
      this.#tiles.push(tile);
    }
  }
}
