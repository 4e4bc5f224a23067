// A sparkline of the recent usage, drawn from the samples that this page has received.

import { el, setText, svg } from "./dom.js";

const WINDOW_MS = 120_000;
const WINDOW_LABEL = "in the last 2 min";
const WIDTH = 112;
const HEIGHT = 36;

export class Sparkline {
  #samples = [];
  #area = svg("path", { class: "sparkline-area" });
  #line = svg("path", { class: "sparkline-line" });
  #caption = el("figcaption", { class: "visually-hidden" });
  element = el(
    "figure",
    { class: "sparkline" },
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
    const samples = this.#samples;
    samples.push({ at, value });
    // Keep the last sample before the window: it gives the value at the start of the window.
    while (samples.length > 1 && samples[1].at < at - WINDOW_MS) samples.shift();
    this.#render(at);
  }

  #render(at) {
    const peak = Math.max(...this.#samples.map((sample) => sample.value));
    const x = (time) => (Math.max(0, 1 - (at - time) / WINDOW_MS) * WIDTH).toFixed(1);
    const y = (value) => (HEIGHT - 2 - (value / Math.max(1, peak)) * (HEIGHT - 5)).toFixed(1);
    const [first, ...rest] = this.#samples;
    let path = `M${x(first.at)} ${y(first.value)}`;
    for (const sample of rest) path += `H${x(sample.at)}V${y(sample.value)}`;
    path += `H${WIDTH}`;
    this.#line.setAttribute("d", path);
    this.#area.setAttribute("d", `${path}V${HEIGHT}H${x(first.at)}Z`);
    setText(this.#caption, `${peak ? `Peak of ${peak}` : "Not used"} ${WINDOW_LABEL}`);
    this.element.title = this.#caption.textContent;
  }
}
