-- compatible: older releases may keep running
-- The first handing to any session, and the way it took.
ALTER TABLE inbox ADD COLUMN handed_at INTEGER;
ALTER TABLE inbox ADD COLUMN handed_path TEXT;
-- The first reply that names the message. Session: of this daemon; '' for the person; NULL for another device.
ALTER TABLE inbox ADD COLUMN answered_at INTEGER;
ALTER TABLE inbox ADD COLUMN answered_session TEXT;
ALTER TABLE inbox ADD COLUMN answered_by TEXT;
ALTER TABLE inbox ADD COLUMN reply_accepted_at INTEGER;
CREATE INDEX inbox_recipient ON inbox(recipient_pubkey, received_at, id);
CREATE INDEX inbox_broker_id ON inbox(broker_message_id);
CREATE INDEX inbox_client_id ON inbox(client_message_id);
CREATE INDEX inbox_expires   ON inbox(expires_at) WHERE expires_at IS NOT NULL;
