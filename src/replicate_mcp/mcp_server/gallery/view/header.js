// The header above the grid: the progress of the batch, its failures, and when its URLs expire.

import { byId, el, icon, pluralize, setText } from "./dom.js";
import { everySecond, formatDuration, secondsUntilExpiry } from "./expiry.js";
import { StopButton } from "./stop-button.js";

const ANNOUNCEMENT_INTERVAL_SECONDS = 5;

export class Header {
  #announcedAt = 0;
  #formatExpiry = () => "";
  #counts = "";
  #stopButton;
  #failedOnly = el("button", { type: "button", class: "chip", "aria-pressed": "false" });
  #fullscreen = el("button", { type: "button", class: "action", hidden: true }, icon("expand"));

  /** `onFailedOnly(pressed)` shows only the failed tasks or all; the others are click handlers. */
  constructor({ onFailedOnly, onFullscreen, onStop }) {
    this.#stopButton = new StopButton(onStop);
    this.#failedOnly.hidden = true;
    this.#failedOnly.addEventListener("click", () => {
      const pressed = this.#failedOnly.getAttribute("aria-pressed") !== "true";
      this.#failedOnly.setAttribute("aria-pressed", String(pressed));
      onFailedOnly(pressed);
    });
    this.#fullscreen.addEventListener("click", onFullscreen);
    byId("tools").append(this.#failedOnly, this.#stopButton.element, this.#fullscreen);
    everySecond(() => this.#renderDetail());
  }

  /** Show the full-screen button if the host has the other display mode. */
  setDisplayModes(availableModes, mode) {
    const isFullscreen = mode === "fullscreen";
    const label = isFullscreen ? "Exit full screen" : "Full screen";
    this.#fullscreen.hidden = !availableModes.includes(isFullscreen ? "inline" : "fullscreen");
    this.#fullscreen.title = label;
    this.#fullscreen.setAttribute("aria-label", label);
  }

  /** Show the number of requested tasks, before the batch is known. */
  showPending(taskCount) {
    setText(byId("title"), taskCount ? pluralize(taskCount, "task") : "Images");
    setText(byId("detail"), taskCount ? "Waiting for the first result …" : "Loading the batch …");
    this.#renderProgress(0, taskCount);
  }

  /** Show the state of a batch. */
  update({ total, succeeded, failed, status, rows }, canStop) {
    const pending = total - succeeded - failed;
    const running = status === "running";
    const progress = `${succeeded} of ${total} made`;
    setText(byId("title"), running ? progress : formatSummary(succeeded, total, status));
    const parts = [
      running && pending && `${pluralize(pending, "task")} remaining`,
      failed === total && failed > 0 && `${failed} failed`,
    ];
    this.#counts = parts.filter(Boolean).join(" · ");
    this.#formatExpiry = () => (running ? "" : formatExpiry(rows));
    this.#renderDetail();
    this.#stopButton.setVisible(running && canStop);
    this.#renderProgress(succeeded + failed, total, running);
    this.#failedOnly.hidden = !failed || failed === total;
    setText(this.#failedOnly, `${failed} failed`);
    this.#announce(`${progress}${failed ? `, ${failed} failed` : ""}.`, running);
  }

  /** Show why the batch could not be stopped. */
  showStopError(reason) {
    this.#stopButton.enable();
    this.showError(`Could not stop the batch: ${reason}`);
  }

  /** Show an error, with a button if `onRetry` is given; an empty text hides it. */
  showError(text = "", onRetry = undefined) {
    const error = byId("error");
    error.replaceChildren(text);
    if (onRetry) error.append(" ", el("button", { type: "button", onclick: onRetry }, "Try again"));
    error.hidden = !text;
  }

  /** Show that the call has ended without a batch. */
  showEnded(title) {
    setText(byId("title"), title);
    setText(byId("detail"), (this.#counts = ""));
    this.#formatExpiry = () => "";
    this.#renderProgress(0, 0, false);
  }

  #renderDetail() {
    const text = [this.#counts, this.#formatExpiry()].filter(Boolean).join(" · ");
    if (text) setText(byId("detail"), text);
  }

  #renderProgress(finished, total, running = true) {
    const bar = byId("progress");
    bar.setAttribute("aria-valuemax", String(total));
    bar.setAttribute("aria-valuenow", String(finished));
    bar.firstElementChild.style.inlineSize = total ? `${(100 * finished) / total}%` : "0";
    bar.toggleAttribute("data-ended", !running);
    // Screen readers do not announce changes inside a busy element.
    byId("grid").setAttribute("aria-busy", String(running));
  }

  #announce(text, running) {
    const now = performance.now();
    if (running && now - this.#announcedAt < ANNOUNCEMENT_INTERVAL_SECONDS * 1_000) return;
    this.#announcedAt = now;
    setText(byId("status"), text);
  }
}

function formatSummary(succeeded, total, status) {
  const counts =
    succeeded === total ? `${pluralize(total, "task")} completed` : `${succeeded} of ${total} made`;
  return status === "canceled" ? `${counts} · stopped` : counts;
}

function formatExpiry(rows) {
  const files = [...rows.values()].flatMap((row) => row.generated_files ?? []);
  if (!files.length) return "";
  const seconds = files.map(secondsUntilExpiry).filter((left) => left > 0);
  if (!seconds.length) return "all URLs have expired";
  return `URLs expire in ${formatDuration(Math.min(...seconds))}`;
}
