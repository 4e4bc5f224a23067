// The header above the grid: the progress of the batch, its failures, and when its URLs expire.

import { byId, el, icon, pluralize, setText } from "./dom.js";
import { everySecond, formatDuration, secondsUntilExpiry } from "./expiry.js";
import { BILLING_URL, NO_CREDIT } from "./retry-rules.js";
import { StopButton } from "./stop-button.js";

const ANNOUNCEMENT_INTERVAL_SECONDS = 5;

export class Header {
  #announcedAt = 0;
  #formatExpiry = () => "";
  #counts = "";
  #stopButton;
  #failedOnly = el("button", { type: "button", class: "chip", "aria-pressed": "false" });
  #retry = el("button", { type: "button", class: "quiet", hidden: true });
  #retrySlots = [];
  #creditLink;
  #fullscreen = el("button", { type: "button", class: "action", hidden: true }, icon("expand"));

  /**
   * `onFailedOnly(pressed)` shows only the failed tasks or all, `onRetry(slots)` makes their tasks
   * again, `onLinkClick(event, url)` opens a link; the others are click handlers.
   */
  constructor({ onFailedOnly, onFullscreen, onLinkClick, onRetry, onStop }) {
    this.#stopButton = new StopButton(onStop);
    this.#failedOnly.hidden = true;
    this.#failedOnly.addEventListener("click", () => {
      const pressed = this.#failedOnly.getAttribute("aria-pressed") !== "true";
      this.#failedOnly.setAttribute("aria-pressed", String(pressed));
      onFailedOnly(pressed);
    });
    this.#retry.addEventListener("click", () => onRetry(this.#retrySlots));
    this.#fullscreen.addEventListener("click", onFullscreen);
    byId("tools").append(
      this.#failedOnly,
      this.#retry,
      this.#stopButton.element,
      this.#fullscreen,
    );
    this.#creditLink = el(
      "a",
      {
        href: BILLING_URL,
        target: "_blank",
        rel: "noopener noreferrer",
        onclick: (event) => onLinkClick(event, BILLING_URL),
      },
      "Add credit",
      el("span", { class: "visually-hidden" }, " (opens in a new window)"),
    );
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

  /** Show the `counts` of the tasks in the `slots`, with the buttons that apply. */
  update(counts, slots, { running, canStop, canRetry }) {
    const { total, succeeded, failed, stopped, pending } = counts;
    const progress = `${succeeded} of ${total} made`;
    setText(byId("title"), running ? progress : formatSummary(counts));
    const parts = [
      running && pending && `${pluralize(pending, "task")} remaining`,
      failed === total && failed > 0 && `${failed} failed`,
      stopped && `${stopped} stopped`,
    ];
    this.#counts = parts.filter(Boolean).join(" · ");
    this.#formatExpiry = () => (running ? "" : formatExpiry(slots));
    this.#renderDetail();
    this.#stopButton.setVisible(canStop);
    this.#renderProgress(total - pending, total, running);
    // A pressed button stays, so that it can be released.
    const isPressed = this.#failedOnly.getAttribute("aria-pressed") === "true";
    this.#failedOnly.hidden = !isPressed && (!failed || failed === total);
    setText(this.#failedOnly, `${failed} failed`);
    this.#renderRetry(canRetry ? slots.filter((slot) => slot.isRetryable) : []);
    this.#renderNotice(slots.some((slot) => slot.row?.error_code === NO_CREDIT));
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
    const retry = () => {
      this.showError();
      onRetry();
    };
    if (onRetry) error.append(" ", el("button", { type: "button", onclick: retry }, "Try again"));
    error.hidden = !text;
  }

  /** Show that the call has ended without a batch. */
  showEnded(title) {
    setText(byId("title"), title);
    setText(byId("detail"), (this.#counts = ""));
    this.#formatExpiry = () => "";
    this.#renderProgress(0, 0, false);
  }

  /** Offer to make the failed tasks again, or else the stopped ones. */
  #renderRetry(slots) {
    const failed = slots.filter((slot) => slot.state === "failed");
    this.#retrySlots = failed.length ? failed : slots;
    const count = this.#retrySlots.length;
    this.#retry.hidden = !count;
    const text = failed.length ? `Retry ${count}` : `Make the other ${count > 1 ? count : "one"}`;
    setText(this.#retry, text);
    const label = failed.length
      ? `Retry ${pluralize(count, "task")} that failed`
      : `${text}, which ${count > 1 ? "were" : "was"} stopped`;
    this.#retry.setAttribute("aria-label", label);
  }

  #renderNotice(lacksCredit) {
    const notice = byId("notice");
    if (lacksCredit !== notice.hidden) return;
    notice.hidden = !lacksCredit;
    const text = "The Replicate account has no credit left. ";
    notice.replaceChildren(...(lacksCredit ? [text, this.#creditLink] : []));
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

function formatSummary({ total, succeeded, stopped }) {
  const counts =
    succeeded === total ? `${pluralize(total, "task")} completed` : `${succeeded} of ${total} made`;
  return stopped ? `${counts} · stopped` : counts;
}

function formatExpiry(slots) {
  const files = slots.flatMap((slot) => slot.files);
  if (!files.length) return "";
  const seconds = files.map(secondsUntilExpiry).filter((left) => left > 0);
  if (!seconds.length) return "all URLs have expired";
  return `URLs expire in ${formatDuration(Math.min(...seconds))}`;
}
