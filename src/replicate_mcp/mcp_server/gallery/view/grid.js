// The grid of tiles, which shows the first slots and more on request, or only those that failed,
// each with the retries of its task.

import { pluralize, setText } from "./dom.js";
import { commonRatio } from "./requested-task.js";

const INITIAL_SLOTS = 24;
const PAGE_SIZE = 72; // Slots.
const MAX_LARGE_TILES = 4; // Up to this number of tiles, they are larger.

export class Grid {
  #slots = [];
  #visibleCount = INITIAL_SLOTS;
  #failedOnly = false;

  constructor(element, moreButton) {
    this.element = element;
    this.moreButton = moreButton;
    moreButton.addEventListener("click", () => this.#showMore());
    element.addEventListener("keydown", (event) => this.#moveFocus(event));
  }

  get failedOnly() {
    return this.#failedOnly;
  }

  /** Show only the failed slots, or all. */
  set failedOnly(failedOnly) {
    this.#failedOnly = failedOnly;
    this.render();
  }

  /** Replace all slots. */
  setSlots(slots) {
    this.#slots = slots;
    this.element.style.setProperty("--ratio", commonRatio(slots.map((slot) => slot.task)));
    this.render();
  }

  /** Update the DOM from the slots, changing only what differs. */
  render() {
    for (const slot of this.#slots) slot.numberVersions();
    const isSelected = (slot) => !this.#failedOnly || slot.hasFailed;
    const selected = this.#slots.filter((slot) => slot.family.some(isSelected));
    const shown = selected.slice(0, this.#visibleCount).flatMap((slot) => slot.shown);
    const elements = shown.filter(isSelected).flatMap((slot) => slot.elements);
    const kept = new Set(elements);
    for (const element of [...this.element.children]) if (!kept.has(element)) element.remove();
    elements.forEach((element, position) => {
      const current = this.element.children[position];
      if (current !== element) this.element.insertBefore(element, current ?? null);
    });
    const isLarge = elements.length <= MAX_LARGE_TILES && selected.length === this.#slots.length;
    this.element.dataset.size = isLarge ? String(elements.length) : "many";
    const hidden = Math.max(0, selected.length - this.#visibleCount);
    const rest = hidden > PAGE_SIZE ? ` of ${pluralize(hidden, "more task")}` : " more";
    setText(this.moreButton, `Show ${Math.min(hidden, PAGE_SIZE)}${rest}`);
    this.moreButton.hidden = hidden === 0;
  }

  #showMore() {
    const firstNew = this.element.children.length;
    this.#visibleCount += PAGE_SIZE;
    this.render();
    this.element.children[firstNew]?.focus();
  }

  /** Move the focus between images with the arrow keys; Tab also stops at the actions of each. */
  #moveFocus(event) {
    const tiles = [...this.element.children];
    const position = tiles.findIndex((tile) => tile.contains(document.activeElement));
    const columns = getComputedStyle(this.element).gridTemplateColumns.split(" ").length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    const ends = { Home: 0, End: tiles.length - 1 };
    const next = ends[event.key] ?? position + (steps[event.key] ?? NaN);
    if (event.target.matches("input") || !tiles[next]) return;
    event.preventDefault();
    (tiles[next].querySelector("a.picture, button") ?? tiles[next]).focus();
  }
}
