-- Version 1 to 2: batches get their size in bytes, and their tasks move to a table of their own.
-- schema.sql creates the new tables.

ALTER TABLE batch ADD COLUMN state TEXT NOT NULL DEFAULT 'running';
ALTER TABLE batch ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;
UPDATE batch SET
  state = CASE WHEN ended_at IS NULL THEN 'running' ELSE 'ended' END,
  bytes = 2048 + length(CAST(tasks AS BLOB)) + (
    SELECT coalesce(sum(length(CAST(result.row AS BLOB))), 0)
    FROM result WHERE result.batch = batch.id
  );
DROP INDEX batch_caller;
CREATE TABLE task_list (
  batch TEXT PRIMARY KEY REFERENCES batch (id) ON DELETE CASCADE,
  tasks TEXT NOT NULL
);
INSERT INTO task_list (batch, tasks) SELECT id, tasks FROM batch;
ALTER TABLE batch DROP COLUMN tasks;

-- Cached responses are requested again.
DROP TABLE memo;
