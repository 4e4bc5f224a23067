// A task's place in the gallery: a tile for each image of it, and for each time it is made again.

import { actionsFor, againAction } from "./actions.js";
import { thumbnailsOf } from "./thumbnails.js";
import { Tile } from "./tile.js";

export class Slot {
  #tiles = [];
  #redo;
  hasFailed = false; // once, at least
  timesMade = 1;

  /** `redo`: makes the task again, where the host lets the view do so; gets the slot. */
  constructor(host, asked, redo) {
    this.host = host;
    this.#redo = redo && (() => redo(this));
    this.foresee(asked);
  }

  get elements() {
    return this.#tiles.map((tile) => tile.element);
  }

  get failed() {
    return this.row?.error !== undefined;
  }

  /** What it will be, while nothing has come. */
  foresee(asked) {
    this.asked = asked;
    this.row = undefined;
    this.#fit(asked.outputs);
    for (const tile of this.#tiles) tile.wait(asked);
  }

  /** The task has ended, in that batch. */
  take(row, batchId) {
    this.row = row;
    if (this.failed) {
      this.hasFailed = true;
      this.#fit(1);
      this.#tiles[0].fail(row, this.#again(row.output_filename));
      return;
    }
    this.#fit(row.generated_files.length);
    row.generated_files.forEach((file, number) => {
      const tile = this.#tiles[number];
      const again = this.#again(file.filename);
      const actions = { ...actionsFor(this.host, tile, file), again };
      tile.show(row, file, actions, thumbnailsOf(this.host, batchId));
    });
  }

  /** Move the focus here: what had it is gone. */
  focus() {
    this.#tiles[0].element.focus();
  }

  #again(name) {
    return this.#redo && againAction(this.asked, name, this.#redo);
  }

  /** So many tiles; those that are there stay where they are. */
  #fit(count) {
    while (this.#tiles.length > Math.max(1, count)) this.#tiles.pop().element.remove();
    while (this.#tiles.length < count) {
      const tile = new Tile();
      this.#tiles.at(-1)?.element.after(tile.element);
      this.#tiles.push(tile);
    }
  }
}
