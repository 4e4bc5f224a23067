// What failed, and why: tasks that failed for one reason stand under it once.

import { counted, el, show, write } from "./dom.js";

const AT_ONCE = 5;

export class Failures {
  #groups = new Map();
  element = el("section", { class: "failures", hidden: true, "aria-label": "Failed tasks" });

  /** How many of them were cancelled. */
  get cancelled() {
    return [...this.#groups.values()].reduce((sum, group) => sum + group.cancelled, 0);
  }

  add(row) {
    const key = `${row.error_code}\n${row.error}`;
    if (!this.#groups.has(key)) {
      const group = new Failure(row);
      this.#groups.set(key, group);
      this.element.append(group.element);
    }
    this.#groups.get(key).add(row);
    show(this.element, true);
  }
}

class Failure {
  #tasks = [];
  #count = el("span", { class: "count" });
  #list = el("ul");
  #all = el("button", { type: "button", class: "link", hidden: true });
  #open = false;

  constructor(row) {
    const again = row.retryable ? el("span", {}, "can be sent again") : undefined;
    this.element = el(
      "div",
      { class: "failure", "data-code": row.error_code },
      el("p", { class: "why" }, el("code", {}, row.error_code), this.#count, again),
      el("p", { class: "sentence" }, row.error),
      this.#list,
      this.#all,
    );
    this.#all.addEventListener("click", () => {
      this.#open = true;
      this.#draw();
    });
  }

  add(row) {
    this.#tasks.push(row);
    this.#tasks.sort((a, b) => a.task_index - b.task_index);
    this.#draw();
  }

  get cancelled() {
    return this.#tasks.filter((row) => row.error_code === "canceled").length;
  }

  #draw() {
    const tasks = this.#open ? this.#tasks : this.#tasks.slice(0, AT_ONCE);
    write(this.#count, counted(this.#tasks.length, "task"));
    write(this.#all, `Show all ${this.#tasks.length}`);
    show(this.#all, tasks.length < this.#tasks.length);
    this.#list.replaceChildren(
      ...tasks.map((row) =>
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
