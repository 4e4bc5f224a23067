// The tiles of one task: one for each of its images.

import { createActions, regenerateAction } from "./actions.js";
import { thumbnailLoader } from "./thumbnails.js";
import { Tile } from "./tile.js";

export class Slot {
  #tiles = [];
  #onRegenerate;
  hasFailed = false; // Stays true when a failed task is regenerated.
  versions = 1;

  /** `onRegenerate(slot)` regenerates the task; undefined if the host does not allow it. */
  constructor(host, task, onRegenerate) {
    this.host = host;
    this.#onRegenerate = onRegenerate && (() => onRegenerate(this));
    this.showPending(task);
  }

  get elements() {
    return this.#tiles.map((tile) => tile.element);
  }

  get failed() {
    return this.row?.error !== undefined;
  }

  /** Show the tiles of a task that has not finished. */
  showPending(task) {
    this.task = task;
    this.row = undefined;
    this.#setTileCount(task.outputCount);
    for (const tile of this.#tiles) tile.showPending(task);
  }

  /** Show the task's result row, which belongs to the batch `batchId`. */
  showRow(row, batchId) {
    this.row = row;
    if (this.failed) {
      this.hasFailed = true;
      this.#setTileCount(1);
      this.#tiles[0].showFailure(row, this.#createRegenerateAction(row.output_filename));
      return;
    }
    this.#setTileCount(row.generated_files.length);
    row.generated_files.forEach((file, number) => {
      const tile = this.#tiles[number];
      const regenerate = this.#createRegenerateAction(file.filename);
      const actions = { ...createActions(this.host, tile, file), regenerate };
      tile.showImage(row, file, actions, thumbnailLoader(this.host, batchId));
    });
  }

  /** Move the focus to the first tile, after the focused element was removed. */
  focus() {
    this.#tiles[0].element.focus();
  }

  #createRegenerateAction(name) {
    return this.#onRegenerate && regenerateAction(this.task, name, this.#onRegenerate);
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
