// One batch: its progress, and, when open, its failures and images.

import { callApi } from "./api.js";
import { el, icon, pluralize, setText, setVisible } from "./dom.js";
import { Failures } from "./failures.js";
import { ImageGrid } from "./images.js";
import { Retries, anchorOf } from "./retries.js";
import { formatTime, formatTimeAgo } from "./time.js";
import { copyText, showToast } from "./toast.js";

const PAGE_SIZE = 250; // Finished tasks in one response.
const MAX_PROMPTS = 3; // Prompts that identify a collapsed batch.
const MAX_PROMPT_LENGTH = 48; // Characters.

const ENDINGS = { completed: "completed", canceled: "cancelled" };

export class BatchPanel {
  #batch;
  #cursor = 0;
  #prompts = new Map(); // The prompts of the first finished tasks, by task index.
  #runningCount; // Only the server process that runs the batch reports it.
  #retries;
  #retryIds = ""; // Of the retries that are listed, and when #retries was fetched.
  #fetchedRetryIds = "";
  #failures;
  #images = new ImageGrid((row) => this.#retry([row], `Making ${row.output_filename} again.`));
  #counts = el("span", { class: "counts" });
  #detail = el("span", { class: "detail" });
  #promptList = el("span", { class: "detail prompt" });
  #createdAt = el("time", { class: "created-at" });
  #status = el("span", { class: "status" });
  #barSegments = ["succeeded", "failed", "running"].map((name) => el("i", { class: name }));
  #bar;
  #toggle;
  #cancel = el("button", { type: "button", class: "quiet", hidden: true }, "Cancel");
  #retryAll = el("button", { type: "button", class: "quiet retry", hidden: true });
  #confirmation;
  #isRetrying = false;
  #copyAll = el("button", { type: "button", class: "link", hidden: true }, "Copy all URLs");
  #body;

  /** Call `onChange()` when the user's action requires new data from the server. */
  constructor(batch, onChange) {
    this.id = batch.batch_id;
    this.onChange = onChange;
    this.#retries = new Retries(this.id);
    this.#failures = new Failures(this.id, this.#retries, (rows) => this.#retryFailed(rows));
    this.#createdAt.dateTime = batch.created_at;
    this.#createdAt.title = `Started at ${formatTime(batch.created_at)}`;
    this.#bar = el(
      "div",
      { class: "bar", role: "progressbar", "aria-label": "Finished tasks", "aria-valuemin": 0 },
      ...this.#barSegments,
    );
    const bodyId = `body-${this.id}`;
    this.#toggle = el(
      "button",
      {
        type: "button",
        class: "toggle",
        id: anchorOf(this.id),
        "aria-expanded": "false",
        "aria-controls": bodyId,
      },
      icon("chevron"),
      el(
        "span",
        { class: "lines" },
        this.#counts,
        batch.retry_of && el("span", { class: "detail" }, `Retry of ${batch.retry_of}`),
        this.#detail,
        this.#promptList,
      ),
    );
    this.#toggle.addEventListener("click", () => this.#onToggle());
    this.#retryAll.addEventListener("click", () => this.#retryFailed(this.#failures.retryable));
    this.#cancel.append(el("span", { class: "visually-hidden" }, ` batch ${this.id}`));
    this.#cancel.addEventListener("click", () => this.#showConfirmation());
    this.#confirmation = this.#createConfirmation();
    this.#copyAll.addEventListener("click", () => {
      const urls = this.#images.urls;
      void copyText(urls.join("\n"), pluralize(urls.length, "URL"));
    });
    this.#body = el(
      "div",
      { class: "batch-body", id: bodyId, hidden: true },
      el("p", { class: "batch-info" }, ...this.#createInfo(batch), this.#copyAll),
      this.#failures.element,
      this.#images.element,
    );
    this.element = el(
      "article",
      { class: "card batch", "data-batch": this.id },
      el(
        "div",
        { class: "batch-head" },
        el("h3", {}, this.#toggle),
        this.#createdAt,
        this.#status,
        this.#retryAll,
        this.#cancel,
      ),
      this.#confirmation,
      this.#bar,
      this.#body,
    );
  }

  get isRunning() {
    return this.#batch.status === "running";
  }

  get isOpen() {
    return !this.#body.hidden;
  }

  /** Whether all rows are fetched and some finished tasks are missing. */
  get needsRows() {
    return this.#needsAllRows && this.#cursor < this.#finished;
  }

  /** Whether only the prompts are fetched and some of them are missing. */
  get needsPrompts() {
    return !this.#needsAllRows && this.#prompts.size < Math.min(MAX_PROMPTS, this.#finished);
  }

  /** Whether a retry of this batch was listed after its retries were fetched. */
  get needsRetries() {
    return this.#needsAllRows && this.#retryIds !== this.#fetchedRetryIds;
  }

  /** Whether all rows are fetched; failed ones are needed to count the cancelled and retryable. */
  get #needsAllRows() {
    return this.isOpen || this.#batch.failed_count > 0;
  }

  get #finished() {
    return this.#batch.successful_count + this.#batch.failed_count;
  }

  open() {
    setVisible(this.#body, true);
    this.#toggle.setAttribute("aria-expanded", "true");
    this.#images.setTotal(this.#batch.total_tasks, !this.isRunning);
  }

  close() {
    setVisible(this.#body, false);
    this.#toggle.setAttribute("aria-expanded", "false");
  }

  /** Set the IDs of the batches that are listed as retries of this one. */
  setRetries(batchIds) {
    this.#retryIds = batchIds.join(" ");
  }

  update(batch) {
    const wasRunning = this.#batch?.status === "running";
    this.#batch = batch;
    if (!this.isRunning) this.#runningCount = undefined;
    this.#render();
    if (wasRunning && !this.isRunning) {
      showToast(`Batch ${ENDINGS[batch.status]}: ${this.#formatCounts()}.`);
    }
  }

  /** Fetch the rows that finished since the last call, and the number of running tasks. */
  async fetchResults(signal) {
    do {
      const allRows = this.#needsAllRows;
      // The first page lists the retries.
      const onlyRetries = this.needsRetries && this.#cursor > 0;
      const limit = onlyRetries ? 1 : allRows ? PAGE_SIZE : this.needsPrompts ? MAX_PROMPTS : 0;
      const after = allRows && !onlyRetries ? this.#cursor : 0;
      const retryIds = this.#retryIds;
      const path = `batches/${encodeURIComponent(this.id)}?after=${after}&limit=${limit}`;
      const page = await callApi("GET", path, { signal });
      this.#runningCount = page.running_count ?? this.#runningCount;
      this.#addPrompts([...page.successful_results, ...page.failed_results]);
      if (allRows && after === 0) {
        this.#retries.add(page.retries);
        this.#fetchedRetryIds = retryIds;
      }
      if (allRows && !onlyRetries) this.#addRows(page);
      this.update(page);
    } while (this.needsRows);
  }

  tick() {
    setText(this.#createdAt, formatTimeAgo(this.#createdAt.dateTime));
    if (this.isOpen) this.#images.tick();
  }

  #addRows(page) {
    this.#cursor = page.cursor;
    this.#images.add([
      ...page.successful_results.map((row) => [row.task_index, row]),
      ...page.failed_results.map((row) => [row.task_index, null]),
    ]);
    for (const row of page.failed_results) this.#failures.add(row);
    setVisible(this.#copyAll, this.#images.urls.length > 1);
  }

  #addPrompts(rows) {
    for (const row of rows) {
      this.#prompts.set(row.task_index, truncate(row.prompt ?? row.output_filename));
    }
    const first = [...this.#prompts].sort(([a], [b]) => a - b).slice(0, MAX_PROMPTS);
    this.#prompts = new Map(first);
  }

  #onToggle() {
    if (this.isOpen) return this.close();
    this.open();
    this.onChange();
  }

  #render() {
    const { total_tasks: total, successful_count, failed_count, pending_count } = this.#batch;
    const running = Math.min(this.#runningCount ?? 0, pending_count);
    this.element.dataset.status = this.#batch.status;
    setText(this.#counts, this.#formatCounts());
    setText(this.#detail, this.#formatPending());
    const prompts = [...new Set(this.#prompts.values())];
    if (prompts.length && prompts.length < total) prompts.push("…");
    setText(this.#promptList, prompts.join(", "));
    setText(this.#createdAt, formatTimeAgo(this.#createdAt.dateTime));
    this.#renderStatus();
    this.#renderRetries();
    [successful_count, failed_count, running].forEach((count, segment) => {
      this.#barSegments[segment].style.setProperty("inline-size", `${(count / total) * 100}%`);
    });
    setVisible(this.#bar, this.isRunning);
    this.#bar.setAttribute("aria-valuemax", total);
    this.#bar.setAttribute("aria-valuenow", this.#finished);
    this.#bar.setAttribute("aria-valuetext", `${this.#formatCounts()}, ${this.#formatPending()}`);
    setVisible(this.#cancel, this.isRunning && this.#confirmation.hidden);
    if (!this.isRunning) setVisible(this.#confirmation, false);
    if (this.isOpen) this.#images.setTotal(total, !this.isRunning);
  }

  #renderStatus() {
    const { status, total_tasks: total, successful_count: made } = this.#batch;
    const [tone, text] =
      status === "running"
        ? ["running", "Running"]
        : status === "canceled"
          ? ["canceled", "Cancelled"]
          : made === total
            ? ["done", "Done"]
            : made === 0
              ? ["failed", "Failed"]
              : ["partial", `${formatNumber(made)} of ${formatNumber(total)}`];
    this.#status.dataset.tone = tone;
    setText(this.#status, text);
  }

  #renderRetries() {
    const count = this.#failures.retryable.length;
    setVisible(this.#retryAll, count > 0);
    setText(this.#retryAll, `Retry ${formatNumber(count)}`);
    const label = `Retry ${pluralize(count, "task")} of batch ${this.id}`;
    this.#retryAll.setAttribute("aria-label", label);
    this.#failures.renderRetries();
  }

  async #retryFailed(rows) {
    await this.#retry(rows, `Making ${pluralize(rows.length, "task")} again.`);
    // The pressed button is gone.
    if (document.activeElement === document.body) this.#toggle.focus();
  }

  /** Make tasks again in a new batch; return whether it has begun. */
  async #retry(rows, message) {
    if (this.#isRetrying) return false;
    this.#isRetrying = true;
    try {
      await this.#retries.start(rows);
      showToast(message);
      return true;
    } catch (error) {
      showToast(error.message);
      return false;
    } finally {
      this.#isRetrying = false;
      this.#render();
      this.onChange();
    }
  }

  #formatCounts() {
    const { total_tasks: total, successful_count: made, failed_count, status } = this.#batch;
    const parts = [`${formatNumber(made)} of ${formatNumber(total)} made`];
    const hasAllRows = status !== "canceled" || this.#cursor >= this.#finished;
    const cancelled = status === "canceled" ? this.#failures.cancelled : 0;
    const failed = failed_count - cancelled;
    if (hasAllRows && failed) parts.push(`${formatNumber(failed)} failed`);
    if (hasAllRows && cancelled) parts.push(`${formatNumber(cancelled)} cancelled`);
    return parts.join(", ");
  }

  #formatPending() {
    const { pending_count: pending } = this.#batch;
    if (!pending) return "";
    if (this.#runningCount === undefined) return `${formatNumber(pending)} remaining`;
    const running = Math.min(this.#runningCount, pending);
    const parts = [];
    if (running) parts.push(`${formatNumber(running)} running`);
    if (pending > running) parts.push(`${formatNumber(pending - running)} waiting`);
    return parts.join(" · ");
  }

  #createInfo(batch) {
    const id = el("button", { type: "button", class: "id", title: "Copy the batch ID" }, this.id);
    id.addEventListener("click", () => copyText(this.id, "Batch ID"));
    const retryOf =
      batch.retry_of &&
      el("span", {}, "retry of ", el("a", { href: `#${anchorOf(batch.retry_of)}` }, batch.retry_of));
    return [id, el("span", {}, `semaphore: ${batch.semaphore}`), retryOf];
  }

  #createConfirmation() {
    const confirm = el("button", { type: "button", class: "danger" }, "Cancel this batch");
    const dismiss = el("button", { type: "button" }, "Keep running");
    const confirmation = el(
      "div",
      { class: "confirmation", hidden: true, role: "group", "aria-label": "Cancel this batch?" },
      el(
        "p",
        {},
        "This cannot be undone. Running predictions are cancelled on Replicate too; finished images are kept.",
      ),
      el("div", { class: "row" }, confirm, dismiss),
    );
    const hide = () => {
      setVisible(confirmation, false);
      setVisible(this.#cancel, this.isRunning);
      this.#cancel.focus();
    };
    dismiss.addEventListener("click", hide);
    confirmation.addEventListener("keydown", (event) => event.key === "Escape" && hide());
    confirm.addEventListener("click", async () => {
      confirm.disabled = true;
      try {
        await callApi("DELETE", `batches/${encodeURIComponent(this.id)}`);
        setVisible(confirmation, false);
        this.#toggle.focus();
      } catch (error) {
        showToast(error.message);
      } finally {
        confirm.disabled = false;
        this.onChange();
      }
    });
    return confirmation;
  }

  #showConfirmation() {
    setVisible(this.#confirmation, true);
    setVisible(this.#cancel, false);
    this.#confirmation.querySelector("button").focus();
  }
}

function formatNumber(number) {
  return number.toLocaleString("en");
}

function truncate(prompt) {
  const characters = [...prompt];
  if (characters.length <= MAX_PROMPT_LENGTH) return prompt;
  return `${characters.slice(0, MAX_PROMPT_LENGTH - 1).join("").trim()}…`;
}
