-- compatible: older releases may keep running
-- Signed heads of the audit log: at signed_at the newest entry of the mesh was entry_id with this hash, and there were so
-- many entries. No reference to the mesh and none to the log: that the entry is gone is what a head is there to show.
-- hash, broker_pubkey, signature: lowercase hexadecimal.
CREATE TABLE audit_head (
    mesh_id TEXT NOT NULL,
    entry_id BIGINT NOT NULL,
    entries BIGINT NOT NULL,
    hash TEXT NOT NULL,
    signed_at BIGINT NOT NULL,
    broker_pubkey TEXT NOT NULL,
    signature TEXT NOT NULL,
    PRIMARY KEY (mesh_id, entry_id)
);
