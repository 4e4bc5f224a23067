// The counts of a batch as its tiles show them: a retry counts in place of the failure it replaces.

/** Count the tasks of a batch by the state of their slots, and those whose rows are not fetched. */
export function countTasks(batch, slots) {
  const shown = slots.flatMap((slot) => slot.shown);
  const inState = (state) => shown.filter((slot) => slot.state === state).length;
  const rows = [...batch.rows.values()];
  const failedRows = rows.filter(({ error }) => error !== undefined).length;
  const counts = {
    total: shown.length + batch.total - slots.length,
    succeeded: inState("succeeded") + batch.succeeded - (rows.length - failedRows),
    failed: inState("failed") + batch.failed - failedRows,
    stopped: inState("stopped"),
  };
  const { total, succeeded, failed, stopped } = counts;
  return { ...counts, pending: total - succeeded - failed - stopped };
}
