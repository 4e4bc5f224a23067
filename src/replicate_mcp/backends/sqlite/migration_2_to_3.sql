-- Version 2 to 3: batches keep their tasks' inputs, and which tasks of another batch they repeat.
-- What began before has no inputs, so it cannot be retried.

ALTER TABLE batch ADD COLUMN retry_of TEXT;
ALTER TABLE batch ADD COLUMN retried TEXT;
ALTER TABLE task_list ADD COLUMN inputs TEXT;
