// A small line of how much was in use lately; it knows only what this page has seen.

import { el, svg, write } from "./dom.js";

const SPAN = 120_000; // ms
const WIDTH = 112;
const HEIGHT = 36;

export class Sparkline {
  #seen = [];
  #area = svg("path", { class: "spark-area" });
  #line = svg("path", { class: "spark-line" });
  #caption = el("figcaption", { class: "unseen" });
  element = el(
    "figure",
    { class: "spark" },
    svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
      this.#area,
      this.#line,
    ),
    this.#caption,
  );

  add(value) {
    const at = performance.now();
    this.#seen.push({ at, value });
    // The last one before the span still says what held at its beginning.
    while (this.#seen.length > 1 && this.#seen[1].at < at - SPAN) this.#seen.shift();
    this.#draw(at);
  }

  #draw(at) {
    const peak = Math.max(...this.#seen.map((each) => each.value));
    const x = (time) => (Math.max(0, 1 - (at - time) / SPAN) * WIDTH).toFixed(1);
    const y = (value) => (HEIGHT - 2 - (value / Math.max(1, peak)) * (HEIGHT - 5)).toFixed(1);
    const [first, ...rest] = this.#seen;
    let path = `M${x(first.at)} ${y(first.value)}`;
    for (const each of rest) path += `H${x(each.at)}V${y(each.value)}`;
    path += `H${WIDTH}`;
    this.#line.setAttribute("d", path);
    this.#area.setAttribute("d", `${path}V${HEIGHT}H${x(first.at)}Z`);
    write(this.#caption, peak ? `at most ${peak} in the last 2 min` : "unused in the last 2 min");
    this.element.title = this.#caption.textContent;
  }
}
