// The batches: one panel each, the newest first; what is open is kept up to date.

import { call, Refused, signedInWith } from "./api.js";
import { byId, counted, el, icon, show, write } from "./dom.js";
import { Failures } from "./failures.js";
import { ImageGrid } from "./images.js";
import { ago, everySecond, hour } from "./time.js";
import { copy, say } from "./toast.js";

const A_PAGE = 20; // batches
const ROWS = 250; // finished tasks a call
const OPENED = 2; // running batches that open by themselves
const COUNTED = 6; // closed ones whose running tasks are asked for
const NAMED = 3; // tasks that a batch is told by
const A_NAME = 48; // characters of each

export class Batches {
  #panels = new Map();
  #place = byId("batches");
  #older = byId("older");
  #empty = emptyState();
  #first = true;
  shown = A_PAGE;

  /** `changed()` is called when a person did something that the server should be asked about. */
  constructor(changed) {
    this.changed = changed;
    this.#older.addEventListener("click", () => {
      this.shown += A_PAGE;
      changed();
    });
    everySecond(() => this.#panels.forEach((panel) => panel.tick()));
  }

  get running() {
    return [...this.#panels.values()].filter((panel) => panel.isRunning);
  }

  update(batches) {
    const shown = batches.slice(0, this.shown);
    const ids = new Set(shown.map((each) => each.batch_id));
    for (const [id, panel] of this.#panels) {
      if (!ids.has(id)) {
        panel.element.remove();
        this.#panels.delete(id);
      }
    }
    for (const each of shown) {
      const known = this.#panels.get(each.batch_id);
      const panel = known ?? new BatchPanel(each, this.changed);
      this.#panels.set(each.batch_id, panel);
      panel.update(each);
      const opens = panel.isRunning || (this.#first && each === shown[0]);
      if (!known && opens && this.#numberOpen() < OPENED) panel.open();
    }
    this.#first &&= shown.length === 0;
    this.#arrange(shown);
    this.#summarise(shown);
    show(this.#older, batches.length > shown.length);
  }

  /** Ask for what has finished since in the open ones, and for what runs. */
  async follow(signal) {
    let asked = 0;
    const wanting = [...this.#panels.values()].filter(
      (panel) =>
        panel.wantsRows ||
        panel.wantsNames ||
        (panel.isRunning && (panel.isOpen || asked++ < COUNTED)),
    );
    await Promise.all(wanting.map((panel) => panel.follow(signal).catch(unlessGone)));
  }

  clear() {
    this.#panels.clear();
    this.#place.replaceChildren();
    this.#first = true;
    this.shown = A_PAGE;
    this.#summarise([]);
  }

  #numberOpen() {
    return [...this.#panels.values()].filter((panel) => panel.isOpen).length;
  }

  #arrange(batches) {
    const wanted = batches.map((each) => this.#panels.get(each.batch_id).element);
    if (!wanted.length) {
      if (!this.#empty.element.isConnected) {
        this.#empty.update();
        this.#place.append(this.#empty.element);
      }
      return;
    }
    this.#empty.element.remove();
    wanted.forEach((element, position) => {
      const there = this.#place.children[position];
      if (there !== element) this.#place.insertBefore(element, there ?? null);
    });
  }

  #summarise(batches) {
    const running = batches.filter((each) => each.status === "running");
    const total = running.reduce((sum, each) => sum + each.total_tasks, 0);
    const done = total - running.reduce((sum, each) => sum + each.pending_count, 0);
    write(byId("batches-summary"), running.length ? `${running.length} running` : "");
    document.title = running.length ? `${done}/${total} · replicate-mcp` : "replicate-mcp";
  }
}

class BatchPanel {
  #batch;
  #cursor = 0;
  #names = new Map(); // The prompts of its first tasks, of those that have ended.
  #running; // As the process that runs the batch told it last; others do not know.
  #failures = new Failures();
  #images = new ImageGrid();
  #headline = el("span", { class: "headline" });
  #detail = el("span", { class: "detail" });
  #prompts = el("span", { class: "detail prompt" });
  #when = el("time", { class: "when" });
  #state = el("span", { class: "state" });
  #parts = ["done", "failed", "at-work"].map((name) => el("i", { class: name }));
  #bar;
  #toggle;
  #cancel = el("button", { type: "button", class: "quiet", hidden: true }, "Cancel");
  #confirm;
  #copyAll = el("button", { type: "button", class: "link", hidden: true }, "Copy all URLs");
  #body;

  constructor(batch, changed) {
    this.id = batch.batch_id;
    this.changed = changed;
    this.#when.dateTime = batch.created_at;
    this.#when.title = `Began at ${hour(batch.created_at)}`;
    this.#bar = el(
      "div",
      { class: "bar", role: "progressbar", "aria-label": "Finished tasks", "aria-valuemin": 0 },
      ...this.#parts,
    );
    const place = `body-${this.id}`;
    this.#toggle = el(
      "button",
      { type: "button", class: "toggle", "aria-expanded": "false", "aria-controls": place },
      icon("chevron"),
      el("span", { class: "lines" }, this.#headline, this.#detail, this.#prompts),
    );
    this.#toggle.addEventListener("click", () => (this.isOpen ? this.close() : this.#opened()));
    this.#cancel.append(el("span", { class: "unseen" }, ` batch ${this.id}`));
    this.#cancel.addEventListener("click", () => this.#ask());
    this.#confirm = this.#confirmation();
    this.#copyAll.addEventListener("click", () => {
      const urls = this.#images.urls;
      void copy(urls.join("\n"), counted(urls.length, "URL"));
    });
    this.#body = el(
      "div",
      { class: "batch-body", id: place, hidden: true },
      el("p", { class: "about" }, ...this.#about(batch), this.#copyAll),
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
        this.#when,
        this.#state,
        this.#cancel,
      ),
      this.#confirm,
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

  /** Whether it has finished tasks that are not on the page yet, and they matter. */
  get wantsRows() {
    return this.#isFollowed && this.#cursor < this.#finished;
  }

  /** Only the rows tell what was cancelled from what had failed before. */
  get #isFollowed() {
    return this.isOpen || this.#batch.status === "canceled";
  }

  /** Whether it is closed and cannot be told from others yet. */
  get wantsNames() {
    return !this.#isFollowed && this.#names.size < Math.min(NAMED, this.#finished);
  }

  get #finished() {
    return this.#batch.successful_count + this.#batch.failed_count;
  }

  open() {
    show(this.#body, true);
    this.#toggle.setAttribute("aria-expanded", "true");
    this.#images.size(this.#batch.total_tasks, !this.isRunning);
  }

  close() {
    show(this.#body, false);
    this.#toggle.setAttribute("aria-expanded", "false");
  }

  update(batch) {
    const ranBefore = this.#batch?.status === "running";
    this.#batch = batch;
    if (!this.isRunning) this.#running = undefined;
    this.#draw();
    if (ranBefore && !this.isRunning) say(`${ENDED[batch.status]}: ${this.#made()}.`);
  }

  /** Take what has finished since the last time, and how many run. */
  async follow(signal) {
    do {
      const whole = this.#isFollowed;
      const limit = whole ? ROWS : this.wantsNames ? NAMED : 0;
      const after = whole ? this.#cursor : 0;
      const path = `batches/${encodeURIComponent(this.id)}?after=${after}&limit=${limit}`;
      const page = await call("GET", path, { signal });
      this.#running = page.running_count ?? this.#running;
      this.#name([...page.successful_results, ...page.failed_results]);
      if (whole) this.#take(page);
      this.update(page);
    } while (this.wantsRows);
  }

  #take(page) {
    this.#cursor = page.cursor;
    for (const row of page.successful_results) this.#images.add(row.task_index, row);
    for (const row of page.failed_results) {
      this.#images.add(row.task_index, null);
      this.#failures.add(row);
    }
    show(this.#copyAll, this.#images.urls.length > 1);
  }

  #name(rows) {
    for (const row of rows) {
      this.#names.set(row.task_index, shortened(row.prompt ?? row.output_filename));
    }
    const first = [...this.#names].sort(([a], [b]) => a - b).slice(0, NAMED);
    this.#names = new Map(first);
  }

  tick() {
    write(this.#when, ago(this.#when.dateTime));
    if (this.isOpen) this.#images.tick();
  }

  #opened() {
    this.open();
    this.changed();
  }

  #draw() {
    const { total_tasks: total, successful_count: made, failed_count: failed } = this.#batch;
    const running = Math.min(this.#running ?? 0, this.#batch.pending_count);
    this.element.dataset.status = this.#batch.status;
    write(this.#headline, this.#made());
    write(this.#detail, this.#inWords());
    const names = [...new Set(this.#names.values())];
    if (names.length && names.length < total) names.push("…");
    write(this.#prompts, names.join(", "));
    write(this.#when, ago(this.#when.dateTime));
    write(this.#state, { running: "Running", completed: "Completed", canceled: "Cancelled" }[
      this.#batch.status
    ]);
    [made, failed, running].forEach((number, part) => {
      this.#parts[part].style.setProperty("inline-size", `${(number / total) * 100}%`);
    });
    show(this.#bar, this.isRunning);
    this.#bar.setAttribute("aria-valuemax", total);
    this.#bar.setAttribute("aria-valuenow", this.#finished);
    this.#bar.setAttribute("aria-valuetext", `${this.#made()}, ${this.#inWords()}`);
    show(this.#cancel, this.isRunning && this.#confirm.hidden);
    if (!this.isRunning) show(this.#confirm, false);
    if (this.isOpen) this.#images.size(total, !this.isRunning);
  }

  #made() {
    const { total_tasks: total, successful_count: made, failed_count, status } = this.#batch;
    const parts = [`${made.toLocaleString("en")} of ${total.toLocaleString("en")} made`];
    const isKnown = status !== "canceled" || this.#cursor >= this.#finished;
    const cancelled = status === "canceled" ? this.#failures.cancelled : 0;
    const failed = failed_count - cancelled;
    if (isKnown && failed) parts.push(`${failed.toLocaleString("en")} failed`);
    if (isKnown && cancelled) parts.push(`${cancelled.toLocaleString("en")} cancelled`);
    return parts.join(", ");
  }

  #inWords() {
    const { pending_count: pending } = this.#batch;
    const parts = [];
    if (pending && this.#running === undefined) parts.push(`${pending.toLocaleString("en")} to go`);
    else if (pending) {
      const running = Math.min(this.#running, pending);
      if (running) parts.push(`${running.toLocaleString("en")} running`);
      if (pending > running) parts.push(`${(pending - running).toLocaleString("en")} waiting`);
    }
    return parts.join(" · ");
  }

  #about(batch) {
    const id = el("button", { type: "button", class: "id", title: "Copy the id" }, this.id);
    id.addEventListener("click", () => copy(this.id, "Id"));
    return [id, el("span", {}, `limit: ${batch.semaphore}`)];
  }

  #confirmation() {
    const yes = el("button", { type: "button", class: "danger" }, "Cancel the batch");
    const no = el("button", { type: "button" }, "Let it run");
    const row = el(
      "div",
      { class: "confirm", hidden: true, role: "group", "aria-label": "Cancel the batch?" },
      el("p", {}, "Cancel for good? What runs is stopped at Replicate too; what is done stays."),
      el("div", { class: "row" }, yes, no),
    );
    const leave = () => {
      show(row, false);
      show(this.#cancel, this.isRunning);
      this.#cancel.focus();
    };
    no.addEventListener("click", leave);
    row.addEventListener("keydown", (event) => event.key === "Escape" && leave());
    yes.addEventListener("click", async () => {
      yes.disabled = true;
      try {
        await call("DELETE", `batches/${encodeURIComponent(this.id)}`);
        show(row, false);
        this.#toggle.focus();
      } catch (error) {
        say(error.message);
      } finally {
        yes.disabled = false;
        this.changed();
      }
    });
    return row;
  }

  #ask() {
    show(this.#confirm, true);
    show(this.#cancel, false);
    this.#confirm.querySelector("button").focus();
  }
}

/** A batch may be forgotten between the list and the question: the next list is without it. */
function unlessGone(error) {
  if (!(error instanceof Refused) || error.status !== 404) throw error;
}

function shortened(prompt) {
  const characters = [...prompt];
  return characters.length > A_NAME ? `${characters.slice(0, A_NAME - 1).join("").trim()}…` : prompt;
}

const ENDED = { completed: "A batch has ended", canceled: "A batch was cancelled" };

/** How to make the first batch. */
function emptyState() {
  const command = el("code");
  const button = el("button", { type: "button" }, icon("copy"), "Copy");
  button.addEventListener("click", () => copy(command.textContent, "Command"));
  const element = el(
    "div",
    { class: "card empty" },
    el("h3", {}, "No batches in the last 24 hours"),
    el("p", {}, "Make the first one from a terminal, and watch it arrive here:"),
    el("div", { class: "command" }, el("pre", { tabindex: 0 }, command), button),
    el("p", { class: "hint" }, "Agents connect over MCP at ", el("code", {}, address("mcp")), "."),
  );
  return { element, update: () => write(command, curl()) };
}

function curl() {
  const who = {
    token: ' \\\n  -H "Authorization: Bearer $REPLICATE_API_TOKEN"',
    admin: ' \\\n  -H "X-Admin-API-Key: $REPLICATE_MCP_ADMIN_API_KEY"',
  };
  return (
    `curl ${address("generate-batch")}${who[signedInWith()?.kind] ?? ""} \\\n` +
    "  -H 'Content-Type: application/json' \\\n" +
    `  -d '{"prompts": ["a red car", "a blue house"]}'`
  );
}

function address(path) {
  return new URL(path, document.baseURI).href;
}
