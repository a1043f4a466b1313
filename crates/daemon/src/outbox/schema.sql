CREATE TABLE outbox (
  seq                   INTEGER PRIMARY KEY,
  id                    TEXT NOT NULL UNIQUE,
  client_message_id     TEXT NOT NULL UNIQUE,
  request_fingerprint   BLOB NOT NULL CHECK(length(request_fingerprint)=32),
  fingerprint_scheme    TEXT NOT NULL DEFAULT 'fp1',
  mesh                  TEXT NOT NULL,
  to_raw                TEXT NOT NULL,
  destination_kind      TEXT NOT NULL CHECK(destination_kind IN ('dm','topic','queue')),
  target_spec           TEXT NOT NULL,
  channel               TEXT NOT NULL DEFAULT 'dm',
  priority              TEXT NOT NULL CHECK(priority IN ('now','next','low')),
  payload               BLOB NOT NULL,
  meta                  TEXT,
  reply_to_id           TEXT,
  mentions              TEXT,
  nonce                 TEXT NOT NULL,
  ciphertext            TEXT NOT NULL,
  body_version          INTEGER NOT NULL,
  content_key           BLOB,
  key_epoch             INTEGER,
  sender_session_pubkey TEXT,
  transport             TEXT,
  hops                  INTEGER NOT NULL DEFAULT 0,
  enqueued_at           INTEGER NOT NULL,
  expires_at            INTEGER NOT NULL,
  attempts              INTEGER NOT NULL DEFAULT 0,
  next_attempt_at       INTEGER NOT NULL,
  status                TEXT NOT NULL CHECK(status IN ('pending','inflight','done','dead','aborted')),
  last_error            TEXT,
  last_error_code       TEXT,
  delivered_at          INTEGER,
  broker_message_id     TEXT,
  history_id            TEXT,
  aborted_at            INTEGER,
  aborted_by            TEXT,
  superseded_by         TEXT,
  receipts              TEXT
);
CREATE INDEX outbox_pending ON outbox(mesh, status, next_attempt_at);
CREATE INDEX outbox_order   ON outbox(mesh, sender_session_pubkey, target_spec, enqueued_at);
CREATE INDEX outbox_aborted ON outbox(status, aborted_at) WHERE status='aborted';
CREATE INDEX outbox_broker  ON outbox(broker_message_id) WHERE broker_message_id IS NOT NULL;
-- Heads of the lines of one sender and target, however many rows are done.
CREATE INDEX outbox_open ON outbox(mesh, sender_session_pubkey, target_spec, seq)
  WHERE status IN ('pending','inflight');
