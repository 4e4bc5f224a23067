// What a retry of a task can change. The dashboard uses this module too.

export const NO_CREDIT = "insufficient_credit";
export const BILLING_URL = "https://replicate.com/account/billing";

const NEW_SEED_ERRORS = ["prediction_failed", "no_output", "content_flagged"]; // The model's.
const DEPENDENT_ERROR = "dependency_failed";
const FINAL_ERRORS = ["invalid_input", "model_not_found"]; // The same inputs would fail again.

/** Whether a retry of a result row needs a new seed: of an image, and where the model failed. */
export function needsNewSeed({ error, error_code }) {
  return error === undefined || NEW_SEED_ERRORS.includes(error_code);
}

/**
 * Group items for one retry each; `rowOf(item)` is an item's result row. Return pairs: whether the
 * retry needs new seeds, and its items. A task that waited for another one is retried with it.
 */
export function groupBySeed(items, rowOf = (item) => item) {
  const anyNew = items.some((item) => needsNewSeed(rowOf(item)));
  const isNew = (item) =>
    needsNewSeed(rowOf(item)) || (anyNew && rowOf(item).error_code === DEPENDENT_ERROR);
  const groups = [false, true].map((newSeed) => [
    newSeed,
    items.filter((item) => isNew(item) === newSeed),
  ]);
  return groups.filter(([, group]) => group.length);
}

/** Whether the task of a result row can be made again with its inputs. */
export function canRetry({ error_code }) {
  return !FINAL_ERRORS.includes(error_code);
}
