CREATE TABLE inbox (
  seq                  INTEGER PRIMARY KEY,
  id                   TEXT NOT NULL UNIQUE,
  client_message_id    TEXT NOT NULL,
  broker_message_id    TEXT,
  mesh                 TEXT NOT NULL,
  recipient_pubkey     TEXT NOT NULL,
  recipient_kind       TEXT NOT NULL CHECK(recipient_kind IN ('session','member')),
  channel              TEXT NOT NULL,
  topic                TEXT,
  topic_id             TEXT,
  sender_pubkey        TEXT NOT NULL,
  sender_member_pubkey TEXT NOT NULL DEFAULT '',
  sender_name          TEXT NOT NULL,
  priority             TEXT NOT NULL DEFAULT 'next',
  subtype              TEXT,
  body                 TEXT,
  meta                 TEXT,
  mentions             TEXT,
  body_version         INTEGER NOT NULL,
  decrypt              TEXT NOT NULL CHECK(decrypt IN ('ok','archived_key','plain','failed','no_key')),
  raw                  TEXT,
  reply_to_id          TEXT,
  created_at           INTEGER,
  received_at          INTEGER NOT NULL,
  expires_at           INTEGER,
  transport            TEXT NOT NULL DEFAULT 'broker',
  hops                 INTEGER NOT NULL DEFAULT 0,
  sender_verified      INTEGER NOT NULL DEFAULT 0,
  addressed_to         TEXT,
  digest               INTEGER NOT NULL DEFAULT 0,
  pushed_at            INTEGER,
  seen_at              INTEGER,
  -- By the key on the wire: which member it belongs to may be learned only when the message comes again.
  UNIQUE (mesh, recipient_pubkey, sender_pubkey, client_message_id)
);
CREATE UNIQUE INDEX inbox_broker ON inbox(mesh, recipient_pubkey, sender_pubkey, broker_message_id)
  WHERE broker_message_id IS NOT NULL;
CREATE INDEX inbox_received ON inbox(received_at, id);
CREATE INDEX inbox_unseen   ON inbox(recipient_pubkey, received_at) WHERE seen_at IS NULL;
CREATE INDEX inbox_topic    ON inbox(mesh, topic);
CREATE INDEX inbox_sender   ON inbox(sender_pubkey);
-- What one session was handed or has read of a message to its member: the row itself is one message.
CREATE TABLE inbox_session (
  inbox_seq  INTEGER NOT NULL REFERENCES inbox(seq) ON DELETE CASCADE,
  session_id TEXT NOT NULL,
  handed_at  INTEGER,
  seen_at    INTEGER,
  PRIMARY KEY (inbox_seq, session_id)
) WITHOUT ROWID;
