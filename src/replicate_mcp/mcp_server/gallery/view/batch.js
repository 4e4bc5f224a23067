// The known state of a batch: its counts, and a row for each finished task.

export class Batch {
  id;
  total = 0;
  succeeded = 0;
  failed = 0;
  status = "running";
  cursor = 0;
  rows = new Map();

  constructor(after = 0) {
    this.cursor = after;
  }

  get ended() {
    return this.id !== undefined && this.status !== "running";
  }

  /** Whether some finished tasks have not been fetched. */
  get hasMore() {
    return this.cursor < this.succeeded + this.failed;
  }

  /** Update the batch from a page of `get_batch` or `generate_images`; return its new rows. */
  addPage(page) {
    this.id = page.batch_id;
    this.total = page.total_tasks;
    this.succeeded = page.successful_count;
    this.failed = page.failed_count;
    this.status = page.status;
    this.cursor = Math.max(this.cursor, page.cursor);
    const newRows = rowsOf(page).filter((row) => !this.rows.has(row.task_index));
    for (const row of newRows) this.rows.set(row.task_index, row);
    return newRows;
  }
}

/** Return the rows of a page, successful and failed. */
export function rowsOf(page) {
  return [...page.successful_results, ...page.failed_results];
}

/** Whether a page can belong to a batch of these tasks, judging by its rows. */
export function matchesRequest(page, tasks) {
  return (
    page.total_tasks === tasks.length &&
    rowsOf(page).every((row) => tasks[row.task_index]?.matches(row))
  );
}
