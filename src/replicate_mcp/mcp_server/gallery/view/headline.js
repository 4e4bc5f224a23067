// The lines above the grid: how far the batch is, what failed, and until when the URLs work.

import { byId, counted, el, icon, write } from "./dom.js";
import { everySecond, inWords, secondsLeft } from "./lifetime.js";
import { StopButton } from "./stop-button.js";

const SPOKEN_SECONDS = 5;

export class Headline {
  #spokenAt = 0;
  #lifetime = () => "";
  #counts = "";
  #stop;
  #failedOnly = el("button", { type: "button", class: "chip", "aria-pressed": "false" });
  #expand = el("button", { type: "button", class: "action", hidden: true }, icon("expand"));

  /** `onFailedOnly` is told whether only failures are to be seen; the others are pressed. */
  constructor({ onFailedOnly, onExpand, onStop }) {
    this.#stop = new StopButton(onStop);
    this.#failedOnly.hidden = true;
    this.#failedOnly.addEventListener("click", () => {
      const pressed = this.#failedOnly.getAttribute("aria-pressed") !== "true";
      this.#failedOnly.setAttribute("aria-pressed", String(pressed));
      onFailedOnly(pressed);
    });
    this.#expand.addEventListener("click", onExpand);
    byId("tools").append(this.#failedOnly, this.#stop.element, this.#expand);
    everySecond(() => this.#detail());
  }

  /** Offer more room, or the way back. */
  offerRoom(modes, mode) {
    const full = mode === "fullscreen";
    const name = full ? "Back into the conversation" : "Show in full size";
    this.#expand.hidden = !modes.includes(full ? "inline" : "fullscreen");
    this.#expand.title = name;
    this.#expand.setAttribute("aria-label", name);
  }

  /** Before anything is known of a batch. */
  await(tasks) {
    write(byId("headline"), tasks ? counted(tasks, "task") : "Images");
    write(byId("detail"), tasks ? "Waiting for the first …" : "Looking for the batch …");
    this.#bar(0, tasks);
  }

  /** How far it is. */
  show({ total, made, failed, status, rows }, canStop) {
    const pending = total - made - failed;
    const running = status === "running";
    write(byId("headline"), running ? `${made} of ${total} made` : summary(made, total, status));
    const parts = [
      running && pending && `${counted(pending, "task")} to come`,
      failed === total && failed > 0 && `${failed} failed`,
    ];
    this.#counts = parts.filter(Boolean).join(" · ");
    this.#lifetime = () => (running ? "" : lifetimeOf(rows));
    this.#detail();
    this.#stop.offer(running && canStop);
    this.#bar(made + failed, total, running);
    this.#failedOnly.hidden = !failed || failed === total;
    write(this.#failedOnly, `${failed} failed`);
    this.#speak(`${made} of ${total} made${failed ? `, ${failed} failed` : ""}.`, running);
  }

  /** The batch was to be stopped, and was not. */
  notStopped(reason) {
    this.#stop.again();
    this.problem(`The batch is not stopped: ${reason}`);
  }

  /** A sentence that a person has to see; none takes it away. */
  problem(text = "", retry = undefined) {
    const place = byId("problem");
    place.replaceChildren(text);
    if (retry) place.append(" ", el("button", { type: "button", onclick: retry }, "Try again"));
    place.hidden = !text;
  }

  /** There is no batch, or none that is known. */
  halt(title) {
    write(byId("headline"), title);
    write(byId("detail"), (this.#counts = ""));
    this.#lifetime = () => "";
    this.#bar(0, 0, false);
  }

  #detail() {
    const text = [this.#counts, this.#lifetime()].filter(Boolean).join(" · ");
    if (text) write(byId("detail"), text);
  }

  #bar(done, total, running = true) {
    const bar = byId("progress");
    bar.setAttribute("aria-valuemax", String(total));
    bar.setAttribute("aria-valuenow", String(done));
    bar.firstElementChild.style.inlineSize = total ? `${(100 * done) / total}%` : "0";
    bar.toggleAttribute("data-ended", !running);
    byId("grid").setAttribute("aria-busy", String(running)); // What is busy stays unspoken.
  }

  #speak(text, running) {
    const now = performance.now();
    if (running && now - this.#spokenAt < SPOKEN_SECONDS * 1_000) return;
    this.#spokenAt = now;
    write(byId("status"), text);
  }
}

function summary(made, total, status) {
  const canceled = status === "canceled" ? " · stopped" : "";
  return (made === total ? counted(made, "task") + " done" : `${made} of ${total} made`) + canceled;
}

function lifetimeOf(rows) {
  const files = [...rows.values()].flatMap((row) => row.generated_files ?? []);
  const left = files.map(secondsLeft).filter((seconds) => seconds > 0);
  if (!files.length) return "";
  return left.length ? `links work for ${inWords(Math.min(...left))}` : "all links have expired";
}
