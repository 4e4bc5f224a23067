// The failed tasks of a batch, grouped by error.

import { el, pluralize, setText, setVisible } from "./dom.js";
import { anchorOf } from "./retries.js";
import { BILLING_URL, NO_CREDIT } from "./retry-rules.js";

const MAX_COLLAPSED_TASKS = 5;
const CREDIT_LINK = { href: BILLING_URL, target: "_blank", rel: "noopener noreferrer" };

export class Failures {
  #groups = new Map();
  #retries;
  #onRetry;
  /** `onRetry(rows)` makes tasks again; `retries` are those that were made again already. */
  constructor(batchId, retries, onRetry) {
    const label = `Failed tasks of batch ${batchId}`;
    this.element = el("section", { class: "failures", hidden: true, "aria-label": label });
    this.#retries = retries;
    this.#onRetry = onRetry;
  }

  /** The rows of the tasks that can be retried. */
  get retryable() {
    return [...this.#groups.values()].flatMap((group) => group.retryable);
  }

  /** The number of cancelled tasks among them. */
  get cancelled() {
    return [...this.#groups.values()].reduce((sum, group) => sum + group.cancelled, 0);
  }

  add(row) {
    const key = `${row.error_code}\n${row.error}`;
    if (!this.#groups.has(key)) {
      const group = new FailureGroup(row, this.#retries, this.#onRetry);
      this.#groups.set(key, group);
      this.element.append(group.element);
    }
    this.#groups.get(key).add(row);
    setVisible(this.element, true);
  }

  /** Update the buttons after retries. */
  renderRetries() {
    for (const group of this.#groups.values()) group.renderRetries();
  }
}

class FailureGroup {
  #rows = [];
  #count = el("span", { class: "count" });
  #list = el("ul");
  #showAll = el("button", { type: "button", class: "link", hidden: true });
  #expanded = false;
  #retries;
  #retry = el("button", { type: "button", hidden: true });
  #retriedIn = el("span", { class: "retried-in", hidden: true });

  constructor(row, retries, onRetry) {
    this.#retries = retries;
    this.#retry.addEventListener("click", () => onRetry(this.retryable));
    const addCredit = row.error_code === NO_CREDIT && el("a", CREDIT_LINK, "Add credit");
    this.element = el(
      "div",
      { class: "failure", "data-code": row.error_code },
      el(
        "div",
        { class: "failure-head" },
        el("code", {}, row.error_code),
        this.#count,
        this.#retriedIn,
        addCredit || undefined,
        this.#retry,
      ),
      el("p", { class: "error-message" }, row.error),
      this.#list,
      this.#showAll,
    );
    this.#showAll.addEventListener("click", () => {
      this.#expanded = true;
      this.#render();
    });
  }

  add(row) {
    this.#rows.push(row);
    this.#rows.sort((a, b) => a.task_index - b.task_index);
    this.#render();
    this.renderRetries();
  }

  get retryable() {
    return this.#retries.select(this.#rows);
  }

  renderRetries() {
    const count = this.retryable.length;
    setVisible(this.#retry, count > 0);
    const label = `Retry ${pluralize(count, "task")}`;
    setText(this.#retry, label);
    const ids = this.#rows.map((row) => this.#retries.retryOf(row.task_index));
    const batches = [...new Set(ids.filter((id) => id !== undefined))];
    const shown = batches.join(" ");
    if (shown === (this.#retriedIn.dataset.batches ?? "")) return; // A link keeps the focus.
    this.#retriedIn.dataset.batches = shown;
    const links = batches.map((id) => el("a", { href: `#${anchorOf(id)}` }, id));
    this.#retriedIn.replaceChildren("retried in ", ...links.flatMap((link) => [link, " "]));
    setVisible(this.#retriedIn, true);
  }

  get cancelled() {
    return this.#rows.filter((row) => row.error_code === "canceled").length;
  }

  #render() {
    const shown = this.#expanded ? this.#rows : this.#rows.slice(0, MAX_COLLAPSED_TASKS);
    setText(this.#count, pluralize(this.#rows.length, "task"));
    setText(this.#showAll, `Show all ${this.#rows.length}`);
    setVisible(this.#showAll, shown.length < this.#rows.length);
    this.#list.replaceChildren(
      ...shown.map((row) =>
        el(
          "li",
          { "data-task": row.task_index },
          el("span", { class: "filename" }, row.output_filename),
          row.prompt && el("span", { class: "prompt", title: row.prompt }, row.prompt),
        ),
      ),
    );
  }
}
