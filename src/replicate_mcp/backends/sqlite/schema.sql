-- Semaphores, permits, rates and the journal. Times are seconds since the epoch.

-- A process that uses this file. It is alive while it holds the lock named after it.
CREATE TABLE IF NOT EXISTS holder (
  id      TEXT PRIMARY KEY,
  port    INTEGER NOT NULL,            -- a datagram to it is a wake-up
  label   TEXT NOT NULL DEFAULT '',    -- name of the process for people
  stalled INTEGER NOT NULL DEFAULT 0   -- let offers expire: gets none until its next transaction
);

-- A limit that was set: at registration, or by hand.
CREATE TABLE IF NOT EXISTS semaphore (
  name     TEXT PRIMARY KEY,
  units    INTEGER NOT NULL,
  by_admin INTEGER NOT NULL DEFAULT 0   -- kept when no process declares the name any more
);

-- The declarations of living processes: an account's limit is the lowest of them.
CREATE TABLE IF NOT EXISTS declaration (
  holder TEXT NOT NULL,
  name   TEXT NOT NULL,
  units  INTEGER NOT NULL,
  PRIMARY KEY (holder, name)
);

CREATE TABLE IF NOT EXISTS rate (
  account TEXT PRIMARY KEY,
  state   TEXT NOT NULL
);

-- Requested images, by day of UTC.
CREATE TABLE IF NOT EXISTS usage (
  account TEXT NOT NULL,
  day     INTEGER NOT NULL,
  images  INTEGER NOT NULL,
  PRIMARY KEY (account, day)
) WITHOUT ROWID;

-- One row for each batch, or for a process's contexts on one semaphore.
CREATE TABLE IF NOT EXISTS queue (
  entry     TEXT PRIMARY KEY,
  holder    TEXT NOT NULL,          -- '' for a batch that waits for a process to take it over
  semaphore TEXT NOT NULL,
  also      TEXT,
  account   TEXT,
  waiting   INTEGER NOT NULL,
  at_most   INTEGER,
  turn      INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS queue_turn ON queue (turn);

-- A permit, or an offer while `taken_at` is null. It stands for a prediction that runs on
-- Replicate, so it outlives its process, until `ends_by`; that is 0 once its units were released,
-- while recovery may still find its outcome.
CREATE TABLE IF NOT EXISTS permit (
  id           INTEGER PRIMARY KEY AUTOINCREMENT,
  entry        TEXT NOT NULL,
  holder       TEXT NOT NULL,
  semaphore    TEXT NOT NULL,
  also         TEXT,
  account      TEXT,
  offered_at   REAL NOT NULL,
  taken_at     REAL,
  task         INTEGER,
  model        TEXT,
  inputs       TEXT,
  cancel_after INTEGER,
  sent_at      REAL,
  ends_by      REAL,
  images       INTEGER
);
CREATE INDEX IF NOT EXISTS permit_units ON permit (semaphore, also);
CREATE INDEX IF NOT EXISTS permit_entry ON permit (entry);
CREATE INDEX IF NOT EXISTS permit_inputs ON permit (inputs) WHERE inputs IS NOT NULL;
CREATE INDEX IF NOT EXISTS permit_offered ON permit (offered_at) WHERE taken_at IS NULL;

CREATE TABLE IF NOT EXISTS batch (
  id         TEXT PRIMARY KEY,
  caller     TEXT NOT NULL,
  account    TEXT NOT NULL,
  holder     TEXT NOT NULL,         -- the process that runs it; '' if that has ended
  semaphore  TEXT NOT NULL,
  total      INTEGER NOT NULL,
  succeeded  INTEGER NOT NULL DEFAULT 0,
  failed     INTEGER NOT NULL DEFAULT 0,
  canceled   INTEGER NOT NULL DEFAULT 0,
  created_at REAL NOT NULL,
  ended_at   REAL,
  key        TEXT,                  -- idempotency key of the request
  digest     TEXT,
  state      TEXT NOT NULL DEFAULT 'running',  -- or 'ended'; 'forgotten' if only its key is left
  bytes      INTEGER NOT NULL DEFAULT 0,       -- size that counts against its account's allowance
  retry_of   TEXT,                  -- the batch whose tasks it repeats
  retried    TEXT,                  -- their indexes, as JSON
  deadline   REAL NOT NULL DEFAULT 0,      -- nothing more of it is created after it
  resumable  INTEGER NOT NULL DEFAULT 0,   -- another process may resume it if its own ends
  resumed    INTEGER NOT NULL DEFAULT 0    -- how often a process has taken it over
);
CREATE UNIQUE INDEX IF NOT EXISTS batch_key ON batch (caller, key) WHERE key IS NOT NULL;
CREATE INDEX IF NOT EXISTS batch_visible ON batch (caller, created_at) WHERE state != 'forgotten';
CREATE INDEX IF NOT EXISTS batch_ended ON batch (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS batch_evictable ON batch (account, ended_at) WHERE state = 'ended';
CREATE INDEX IF NOT EXISTS batch_holder ON batch (holder) WHERE ended_at IS NULL;

-- Total size of each account's batches by state; maintained by the triggers.
CREATE TABLE IF NOT EXISTS journal_bytes (
  account TEXT NOT NULL,
  state   TEXT NOT NULL,
  bytes   INTEGER NOT NULL,
  PRIMARY KEY (account, state)
) WITHOUT ROWID;
INSERT OR IGNORE INTO journal_bytes (account, state, bytes)
  SELECT account, state, sum(bytes) FROM batch GROUP BY account, state;

CREATE TRIGGER IF NOT EXISTS batch_added AFTER INSERT ON batch BEGIN
  INSERT INTO journal_bytes (account, state, bytes) VALUES (NEW.account, NEW.state, NEW.bytes)
    ON CONFLICT (account, state) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER IF NOT EXISTS batch_changed AFTER UPDATE OF state, bytes ON batch BEGIN
  UPDATE journal_bytes SET bytes = bytes - OLD.bytes
    WHERE account = OLD.account AND state = OLD.state;
  INSERT INTO journal_bytes (account, state, bytes) VALUES (NEW.account, NEW.state, NEW.bytes)
    ON CONFLICT (account, state) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER IF NOT EXISTS batch_removed AFTER DELETE ON batch BEGIN
  UPDATE journal_bytes SET bytes = bytes - OLD.bytes
    WHERE account = OLD.account AND state = OLD.state;
  DELETE FROM journal_bytes WHERE account = OLD.account AND bytes <= 0;
END;

-- Separate from `batch`, whose rows are rewritten with each result: tasks may take megabytes.
CREATE TABLE IF NOT EXISTS task_list (
  batch TEXT PRIMARY KEY REFERENCES batch (id) ON DELETE CASCADE,
  tasks TEXT NOT NULL,              -- prompts, filenames and models
  inputs TEXT                       -- what else creates them again; null before version 3
);

CREATE TABLE IF NOT EXISTS result (
  batch         TEXT NOT NULL REFERENCES batch (id) ON DELETE CASCADE,
  finish_number INTEGER NOT NULL,
  task          INTEGER NOT NULL,
  row           TEXT NOT NULL,
  PRIMARY KEY (batch, finish_number),
  UNIQUE (batch, task)
) WITHOUT ROWID;

-- The attempt that a prediction belongs to, permanently.
CREATE TABLE IF NOT EXISTS prediction (
  id         TEXT PRIMARY KEY,
  account    TEXT NOT NULL,
  permit     INTEGER NOT NULL,
  claimed_at REAL NOT NULL
) WITHOUT ROWID;

CREATE INDEX IF NOT EXISTS prediction_permit ON prediction (permit);

-- Cached responses of Replicate's: accounts, models; in order of writing.
CREATE TABLE IF NOT EXISTS memo (
  number     INTEGER PRIMARY KEY,
  key        TEXT NOT NULL UNIQUE,
  value      TEXT NOT NULL,
  expires_at REAL NOT NULL,
  bytes      INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS memo_bytes ON memo (bytes);
CREATE INDEX IF NOT EXISTS memo_expires ON memo (expires_at);
