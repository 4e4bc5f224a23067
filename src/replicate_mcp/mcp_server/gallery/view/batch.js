// A batch as far as it is known: its counts, and a row for each task that has ended.

export class Batch {
  id;
  total = 0;
  made = 0;
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

  /** Whether rows that are ready have not been fetched. */
  get hasMore() {
    return this.cursor < this.made + this.failed;
  }

  /** Take in an answer of `get_batch` or `generate_images`: gives the rows that are new. */
  take(page) {
    this.id = page.batch_id;
    this.total = page.total_tasks;
    this.made = page.successful_count;
    this.failed = page.failed_count;
    this.status = page.status;
    this.cursor = Math.max(this.cursor, page.cursor);
    const fresh = rowsOf(page).filter((row) => !this.rows.has(row.task_index));
    for (const row of fresh) this.rows.set(row.task_index, row);
    return fresh;
  }
}

/** The rows of a page, made and failed ones. */
export function rowsOf(page) {
  return [...page.successful_results, ...page.failed_results];
}

/** Whether a page can be of a batch of these tasks, as far as its rows tell. */
export function canBeOf(page, asked) {
  return (
    page.total_tasks === asked.length && rowsOf(page).every((row) => asked[row.task_index]?.canBe(row))
  );
}
