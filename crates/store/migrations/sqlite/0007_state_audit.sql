-- compatible: older releases may keep running
-- The shared state of a mesh, and its audit log.
--
-- value: compact JSON, never `null`. version: counts the writes of a key from 1; a removed key has no row and starts
-- again. bytes: what the entry costs in a list, so that one that is too long is refused before it is read.
CREATE TABLE mesh_state (
    mesh_id TEXT NOT NULL REFERENCES mesh (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    version INTEGER NOT NULL,
    updated_by TEXT NOT NULL,
    updated_by_name TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (mesh_id, key)
) WITHOUT ROWID;

-- Append-only: rows are never changed, and go only when their mesh is purged, after an export. No reference to the mesh
-- for that reason. payload: the canonical text that was hashed. AUTOINCREMENT: a number is never given twice, also not
-- when somebody deletes the newest row.
CREATE TABLE audit_log (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    mesh_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    actor_member_id TEXT,
    payload TEXT NOT NULL,
    prev_hash TEXT NOT NULL,
    hash TEXT NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE INDEX audit_log_mesh ON audit_log (mesh_id, id);
CREATE INDEX audit_log_event ON audit_log (mesh_id, event_type, id);
