// The failed tasks of a batch, grouped by error.

import { el, pluralize, setText, setVisible } from "./dom.js";

const MAX_COLLAPSED_TASKS = 5;

export class Failures {
  #groups = new Map();
  element = el("section", { class: "failures", hidden: true, "aria-label": "Failed tasks" });

  /** The number of cancelled tasks among them. */
  get cancelled() {
    return [...this.#groups.values()].reduce((sum, group) => sum + group.cancelled, 0);
  }

  add(row) {
    const key = `${row.error_code}\n${row.error}`;
    if (!this.#groups.has(key)) {
      const group = new FailureGroup(row);
      this.#groups.set(key, group);
      this.element.append(group.element);
    }
    this.#groups.get(key).add(row);
    setVisible(this.element, true);
  }
}

class FailureGroup {
  #rows = [];
  #count = el("span", { class: "count" });
  #list = el("ul");
  #showAll = el("button", { type: "button", class: "link", hidden: true });
  #expanded = false;

  constructor(row) {
    const retryable = row.retryable ? el("span", {}, "retryable") : undefined;
    this.element = el(
      "div",
      { class: "failure", "data-code": row.error_code },
      el("p", { class: "failure-head" }, el("code", {}, row.error_code), this.#count, retryable),
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
