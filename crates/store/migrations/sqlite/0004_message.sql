-- The message path. Narrow rows, integer keys, small numbers for closed vocabularies; indexes on open rows only, so
-- that what is delivered costs nothing more. No foreign keys: a cleanup removes messages with their deliveries, and a
-- check per inserted row would be paid by every message.
--
-- priority: 0 now, 1 next, 2 low. sender_kind: 0 member, 1 session, 2 service, 3 api, 4 system, 5 webhook, 6 connector.
CREATE TABLE message (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    mesh_id TEXT NOT NULL,
    sender_member_id TEXT,
    sender_session_pubkey TEXT,
    sender_kind INTEGER NOT NULL,
    target_spec TEXT NOT NULL,
    priority INTEGER NOT NULL,
    nonce TEXT NOT NULL,
    ciphertext TEXT NOT NULL,
    body_version INTEGER NOT NULL,
    reply_to TEXT,
    mentions TEXT,
    hops INTEGER NOT NULL,
    key_epoch INTEGER,
    client_message_id TEXT,
    -- Only when the sender gave one; the one compared stands in client_message_dedupe.
    request_fingerprint BLOB,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
);
CREATE INDEX message_age ON message (created_at);

-- state: 0 held, 1 claimed, 2 delivered, 3 dropped, 4 expired. recipient_kind: 0 member, 1 session, 2 service.
-- due_at: end of the claim while claimed, expiry while held.
CREATE TABLE delivery (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    message_seq INTEGER NOT NULL,
    mesh_id TEXT NOT NULL,
    recipient_key TEXT NOT NULL,
    recipient_member_id TEXT NOT NULL,
    recipient_kind INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    state INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    claim_id TEXT,
    due_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    delivered_at INTEGER,
    rerouted_from TEXT,
    drop_reason TEXT,
    wrapped_key TEXT
);
CREATE UNIQUE INDEX delivery_of_message ON delivery (message_seq, recipient_key);
CREATE INDEX delivery_open ON delivery (mesh_id, recipient_key, priority, seq) WHERE state IN (0, 1);
CREATE INDEX delivery_due ON delivery (due_at) WHERE state IN (0, 1);

CREATE TABLE client_message_dedupe (
    mesh_id TEXT NOT NULL,
    client_message_id TEXT NOT NULL,
    sender_member_id TEXT,
    broker_message_id TEXT NOT NULL,
    request_fingerprint BLOB NOT NULL,
    destination_kind INTEGER NOT NULL,
    destination_ref TEXT NOT NULL,
    first_seen_at INTEGER NOT NULL,
    expires_at INTEGER,
    history_available INTEGER NOT NULL,
    PRIMARY KEY (mesh_id, client_message_id)
) WITHOUT ROWID;
CREATE INDEX client_message_dedupe_end ON client_message_dedupe (expires_at) WHERE expires_at IS NOT NULL;
