// The list of batches, newest first: one panel each.

import { ApiError } from "./api.js";
import { BatchPanel } from "./batch-panel.js";
import { byId, setText, setVisible } from "./dom.js";
import { createEmptyState } from "./empty-state.js";
import { everySecond } from "./time.js";

const PAGE_SIZE = 20; // Batches.
const MAX_AUTO_OPENED = 2; // Running batches that are opened automatically.
const MAX_COLLAPSED_FETCHES = 6; // Collapsed batches whose running tasks are fetched.

export class Batches {
  #panels = new Map();
  #container = byId("batches");
  #older = byId("older");
  #emptyState = createEmptyState();
  #isFirstUpdate = true;
  visibleCount = PAGE_SIZE;

  /** Call `onChange()` when the user's action requires new data from the server. */
  constructor(onChange) {
    this.onChange = onChange;
    this.#older.addEventListener("click", () => {
      this.visibleCount += PAGE_SIZE;
      onChange();
    });
    everySecond(() => this.#panels.forEach((panel) => panel.tick()));
  }

  get running() {
    return [...this.#panels.values()].filter((panel) => panel.isRunning);
  }

  update(batches) {
    const visible = batches.slice(0, this.visibleCount);
    const ids = new Set(visible.map((each) => each.batch_id));
    for (const [id, panel] of this.#panels) {
      if (!ids.has(id)) {
        panel.element.remove();
        this.#panels.delete(id);
      }
    }
    for (const batch of visible) {
      const existing = this.#panels.get(batch.batch_id);
      const panel = existing ?? new BatchPanel(batch, this.onChange);
      this.#panels.set(batch.batch_id, panel);
      const retries = batches.filter(({ retry_of }) => retry_of === batch.batch_id);
      panel.setRetries(retries.map(({ batch_id }) => batch_id));
      panel.update(batch);
      const opens = panel.isRunning || (this.#isFirstUpdate && batch === visible[0]);
      if (!existing && opens && this.#openCount() < MAX_AUTO_OPENED) panel.open();
    }
    this.#isFirstUpdate &&= visible.length === 0;
    this.#render(visible);
    this.#renderSummary(visible);
    setVisible(this.#older, batches.length > visible.length);
  }

  /** Fetch the new results of the open batches, and the running tasks of the others. */
  async fetchResults(signal) {
    let collapsed = 0;
    const panels = [...this.#panels.values()].filter(
      (panel) =>
        panel.needsRows ||
        panel.needsRetries ||
        panel.needsPrompts ||
        (panel.isRunning && (panel.isOpen || collapsed++ < MAX_COLLAPSED_FETCHES)),
    );
    await Promise.all(panels.map((panel) => panel.fetchResults(signal).catch(ignoreNotFound)));
  }

  clear() {
    this.#panels.clear();
    this.#container.replaceChildren();
    this.#isFirstUpdate = true;
    this.visibleCount = PAGE_SIZE;
    this.#renderSummary([]);
  }

  #openCount() {
    return [...this.#panels.values()].filter((panel) => panel.isOpen).length;
  }

  #render(batches) {
    const { element: emptyElement, update: updateEmptyState } = this.#emptyState;
    if (!batches.length) {
      if (!emptyElement.isConnected) {
        updateEmptyState();
        this.#container.append(emptyElement);
      }
      return;
    }
    emptyElement.remove();
    batches.forEach((batch, position) => {
      const { element } = this.#panels.get(batch.batch_id);
      const current = this.#container.children[position];
      if (current !== element) this.#container.insertBefore(element, current ?? null);
    });
  }

  #renderSummary(batches) {
    const running = batches.filter((each) => each.status === "running");
    const total = running.reduce((sum, each) => sum + each.total_tasks, 0);
    const finished = total - running.reduce((sum, each) => sum + each.pending_count, 0);
    setText(byId("batches-summary"), running.length ? `${running.length} running` : "");
    document.title = running.length ? `${finished}/${total} · replicate-mcp` : "replicate-mcp";
  }
}

/** Ignore a 404: the batch was deleted after it was listed, and the next list omits it. */
function ignoreNotFound(error) {
  if (!(error instanceof ApiError) || error.status !== 404) throw error;
}
