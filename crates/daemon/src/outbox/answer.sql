-- compatible: older releases may keep running
-- What the broker said beside its ids when it took the message, as JSON (daemon spec §11.4).
ALTER TABLE outbox ADD COLUMN answer TEXT;
-- Rows that still carry their text, by age, for compaction.
CREATE INDEX outbox_texts ON outbox(delivered_at) WHERE status='done' AND ciphertext<>'';
