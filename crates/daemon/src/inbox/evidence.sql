-- compatible: older releases may keep running
-- What an agent's own record shows of a message: the first session's word, and what it stands on.
ALTER TABLE inbox ADD COLUMN context_at INTEGER;
ALTER TABLE inbox ADD COLUMN turn_ended_at INTEGER;
ALTER TABLE inbox ADD COLUMN evidence TEXT;
-- What one session was handed, how it got there the last time, and what its record shows.
CREATE TABLE inbox_evidence (
  inbox_seq     INTEGER NOT NULL REFERENCES inbox(seq) ON DELETE CASCADE,
  session_id    TEXT NOT NULL,
  handed_at     INTEGER NOT NULL,
  handed_path   TEXT NOT NULL,
  handings      INTEGER NOT NULL DEFAULT 1,
  context_at    INTEGER,
  turn_ended_at INTEGER,
  evidence      TEXT,
  PRIMARY KEY (inbox_seq, session_id)
) WITHOUT ROWID;
CREATE INDEX inbox_unproved ON inbox_evidence(session_id, handed_at) WHERE context_at IS NULL;
CREATE INDEX inbox_open_turn ON inbox_evidence(session_id) WHERE context_at IS NOT NULL AND turn_ended_at IS NULL;
-- How far the records of sessions were read: which file, and up to where nothing is left to be learned from it. The anchor
-- is the SHA-256 of what stands before that place.
CREATE TABLE inbox_record (
  session_id  TEXT NOT NULL,
  path        TEXT NOT NULL,
  format      TEXT NOT NULL,
  device      INTEGER NOT NULL,
  inode       INTEGER NOT NULL,
  read_offset INTEGER NOT NULL,
  anchor      BLOB NOT NULL,
  read_at     INTEGER NOT NULL,
  PRIMARY KEY (session_id, path)
) WITHOUT ROWID;
