BEGIN TRANSACTION;
CREATE TABLE batch (
  id         TEXT PRIMARY KEY,
  caller     TEXT NOT NULL,
  account    TEXT NOT NULL,
  holder     TEXT NOT NULL,
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
  retried    TEXT                   -- their indexes, as JSON
);
INSERT INTO "batch" VALUES('b_ended','server','acme','50e64563dc88df44','replicate-global',2,1,1,0,1000000.0,1000000.0,'k','digest','ended',2443,NULL,NULL);
INSERT INTO "batch" VALUES('b_runs','server','acme','50e64563dc88df44','replicate-global',3,0,1,0,1000000.0,NULL,NULL,NULL,'running',2276,'b_ended','[1, 0, 1]');
CREATE TABLE declaration (
  holder TEXT NOT NULL,
  name   TEXT NOT NULL,
  units  INTEGER NOT NULL,
  PRIMARY KEY (holder, name)
);
INSERT INTO "declaration" VALUES('50e64563dc88df44','account:acme',5);
CREATE TABLE holder (
  id      TEXT PRIMARY KEY,
  port    INTEGER NOT NULL,            -- a datagram to it is a wake-up
  label   TEXT NOT NULL DEFAULT '',    -- name of the process for people
  stalled INTEGER NOT NULL DEFAULT 0   -- let offers expire: gets none until its next transaction
);
INSERT INTO "holder" VALUES('50e64563dc88df44',41109,'',0);
CREATE TABLE journal_bytes (
  account TEXT NOT NULL,
  state   TEXT NOT NULL,
  bytes   INTEGER NOT NULL,
  PRIMARY KEY (account, state)
) WITHOUT ROWID;
INSERT INTO "journal_bytes" VALUES('acme','ended',2443);
INSERT INTO "journal_bytes" VALUES('acme','running',2276);
CREATE TABLE memo (
  number     INTEGER PRIMARY KEY,
  key        TEXT NOT NULL UNIQUE,
  value      TEXT NOT NULL,
  expires_at REAL NOT NULL,
  bytes      INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE permit (
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
INSERT INTO "permit" VALUES(6,'b_runs','50e64563dc88df44','account:acme',NULL,'acme',1000000.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "permit" VALUES(7,'b_runs','50e64563dc88df44','account:acme',NULL,'acme',1000000.0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE prediction (
  id         TEXT PRIMARY KEY,
  account    TEXT NOT NULL,
  permit     INTEGER NOT NULL,
  claimed_at REAL NOT NULL
) WITHOUT ROWID;
INSERT INTO "prediction" VALUES('p0','acme',1,1000000.0);
CREATE TABLE queue (
  entry     TEXT PRIMARY KEY,
  holder    TEXT NOT NULL,
  semaphore TEXT NOT NULL,
  also      TEXT,
  account   TEXT,
  waiting   INTEGER NOT NULL,
  at_most   INTEGER,
  turn      INTEGER NOT NULL
);
INSERT INTO "queue" VALUES('b_runs','50e64563dc88df44','account:acme',NULL,'acme',0,NULL,7);
CREATE TABLE rate (
  account TEXT PRIMARY KEY,
  state   TEXT NOT NULL
);
INSERT INTO "rate" VALUES('acme','{"full_per_minute": 600, "per_minute": 600, "burst": 595.0, "tokens": 588.0, "at": 1000000.0, "paused_until": 0.0, "episode_at": 0.0, "pauses": 0, "accepted": 5.0, "since": 1000000.0, "last_sent": 1000000.0, "steady": 5, "ceiling": 0.0, "ceiling_until": 0.0, "lowerings": 0, "refused": 0.0, "by_hand": false}');
CREATE TABLE result (
  batch         TEXT NOT NULL REFERENCES batch (id) ON DELETE CASCADE,
  finish_number INTEGER NOT NULL,
  task          INTEGER NOT NULL,
  row           TEXT NOT NULL,
  PRIMARY KEY (batch, finish_number),
  UNIQUE (batch, task)
) WITHOUT ROWID;
INSERT INTO "result" VALUES('b_ended',1,0,'{"task_index":0,"output_filename":"0.png","model":"o/m","prediction_id":"p0","count":1,"generated_files":[{"url":"https://replicate.delivery/0.png","filename":"0.png","expires_at":"2030-01-01T00:00:00Z"}]}');
INSERT INTO "result" VALUES('b_ended',2,1,'{"task_index":1,"output_filename":"1.png","error":"It failed.","error_code":"prediction_failed","retryable":true}');
INSERT INTO "result" VALUES('b_runs',1,0,'{"task_index":0,"output_filename":"0.png","error":"It failed.","error_code":"prediction_failed","retryable":true}');
CREATE TABLE semaphore (
  name     TEXT PRIMARY KEY,
  units    INTEGER NOT NULL,
  by_admin INTEGER NOT NULL DEFAULT 0   -- kept when no process declares the name any more
);
CREATE TABLE task_list (
  batch TEXT PRIMARY KEY REFERENCES batch (id) ON DELETE CASCADE,
  tasks TEXT NOT NULL,              -- prompts, filenames and models
  inputs TEXT                       -- what else creates them again; null before version 3
);
INSERT INTO "task_list" VALUES('b_ended','[["prompt 0", "0.png", "o/m"], ["prompt 1", "1.png", "o/m"]]','inputs of b_ended');
INSERT INTO "task_list" VALUES('b_runs','[["prompt 0", "0.png", "o/m"], ["prompt 1", "1.png", "o/m"], ["prompt 2", "2.png", "o/m"]]','inputs of b_runs');
CREATE TABLE usage (
  account TEXT NOT NULL,
  day     INTEGER NOT NULL,
  images  INTEGER NOT NULL,
  PRIMARY KEY (account, day)
) WITHOUT ROWID;
INSERT INTO "usage" VALUES('acme',11,1);
CREATE INDEX queue_turn ON queue (turn);
CREATE INDEX permit_units ON permit (semaphore, also);
CREATE INDEX permit_entry ON permit (entry);
CREATE INDEX permit_inputs ON permit (inputs) WHERE inputs IS NOT NULL;
CREATE INDEX permit_offered ON permit (offered_at) WHERE taken_at IS NULL;
CREATE UNIQUE INDEX batch_key ON batch (caller, key) WHERE key IS NOT NULL;
CREATE INDEX batch_visible ON batch (caller, created_at) WHERE state != 'forgotten';
CREATE INDEX batch_ended ON batch (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX batch_evictable ON batch (account, ended_at) WHERE state = 'ended';
CREATE INDEX batch_holder ON batch (holder) WHERE ended_at IS NULL;
CREATE TRIGGER batch_added AFTER INSERT ON batch BEGIN
  INSERT INTO journal_bytes (account, state, bytes) VALUES (NEW.account, NEW.state, NEW.bytes)
    ON CONFLICT (account, state) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER batch_changed AFTER UPDATE OF state, bytes ON batch BEGIN
  UPDATE journal_bytes SET bytes = bytes - OLD.bytes
    WHERE account = OLD.account AND state = OLD.state;
  INSERT INTO journal_bytes (account, state, bytes) VALUES (NEW.account, NEW.state, NEW.bytes)
    ON CONFLICT (account, state) DO UPDATE SET bytes = bytes + excluded.bytes;
END;
CREATE TRIGGER batch_removed AFTER DELETE ON batch BEGIN
  UPDATE journal_bytes SET bytes = bytes - OLD.bytes
    WHERE account = OLD.account AND state = OLD.state;
  DELETE FROM journal_bytes WHERE account = OLD.account AND bytes <= 0;
END;
CREATE INDEX prediction_permit ON prediction (permit);
CREATE INDEX memo_bytes ON memo (bytes);
CREATE INDEX memo_expires ON memo (expires_at);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('permit',8);
COMMIT;
PRAGMA user_version = 3;
