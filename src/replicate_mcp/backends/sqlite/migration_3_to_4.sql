-- Version 3 to 4: batches can be resumed by another process, until their deadline.
-- What began before is not.

ALTER TABLE batch ADD COLUMN deadline REAL NOT NULL DEFAULT 0;
ALTER TABLE batch ADD COLUMN resumable INTEGER NOT NULL DEFAULT 0;
ALTER TABLE batch ADD COLUMN resumed INTEGER NOT NULL DEFAULT 0;
