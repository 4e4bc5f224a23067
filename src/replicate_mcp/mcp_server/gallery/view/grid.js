// The grid of slots: the first ones, more when asked for, or only those that failed.

import { commonRatio } from "./asked.js";
import { counted, write } from "./dom.js";

const FIRST = 24; // slots
const AT_ONCE = 72;
const FEW = 4;

export class Grid {
  #slots = [];
  #shown = FIRST;
  #onlyFailed = false;

  constructor(element, more) {
    this.element = element;
    this.more = more;
    more.addEventListener("click", () => this.#showMore());
    element.addEventListener("keydown", (event) => this.#walk(event));
  }

  get onlyFailed() {
    return this.#onlyFailed;
  }

  /** Show only what failed, or all. */
  set onlyFailed(only) {
    this.#onlyFailed = only;
    this.arrange();
  }

  /** These slots and no others, in this order. */
  hold(slots) {
    this.#slots = [...slots]; // What is put between them is the grid's alone.
    this.element.style.setProperty("--ratio", commonRatio(slots.map((slot) => slot.asked)));
    this.arrange();
  }

  /** Put another slot behind one that is there. */
  putAfter(slot, another) {
    this.#slots.splice(this.#slots.indexOf(slot) + 1, 0, another);
    this.#shown += 1;
    this.arrange();
  }

  /** Bring the view in line with the slots, touching only what differs. */
  arrange() {
    const chosen = this.#slots.filter((slot) => !this.#onlyFailed || slot.hasFailed);
    const elements = chosen.slice(0, this.#shown).flatMap((slot) => slot.elements);
    const wanted = new Set(elements);
    for (const element of [...this.element.children]) if (!wanted.has(element)) element.remove();
    elements.forEach((element, place) => {
      const there = this.element.children[place];
      if (there !== element) this.element.insertBefore(element, there ?? null);
    });
    const few = elements.length <= FEW && chosen.length === this.#slots.length;
    this.element.dataset.size = few ? String(elements.length) : "many";
    const hidden = Math.max(0, chosen.length - this.#shown);
    const all = hidden > AT_ONCE ? ` of ${counted(hidden, "more task")}` : " more";
    write(this.more, `Show ${Math.min(hidden, AT_ONCE)}${all}`);
    this.more.hidden = hidden === 0;
  }

  #showMore() {
    const next = this.element.children.length;
    this.#shown += AT_ONCE;
    this.arrange();
    this.element.children[next]?.focus();
  }

  /** Arrow keys go from picture to picture; Tab also stops at what can be done with each. */
  #walk(event) {
    const tiles = [...this.element.children];
    const place = tiles.findIndex((tile) => tile.contains(document.activeElement));
    const columns = getComputedStyle(this.element).gridTemplateColumns.split(" ").length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    const ends = { Home: 0, End: tiles.length - 1 };
    const next = ends[event.key] ?? place + (steps[event.key] ?? NaN);
    if (event.target.matches("input") || !tiles[next]) return;
    event.preventDefault();
    (tiles[next].querySelector("a.picture, button") ?? tiles[next]).focus();
  }
}
