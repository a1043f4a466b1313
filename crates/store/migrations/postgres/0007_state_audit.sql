-- compatible: older releases may keep running
-- The shared state of a mesh, and its audit log.
--
-- value: compact JSON, never `null`. version: counts the writes of a key from 1; a removed key has no row and starts
-- again. bytes: what the entry costs in a list, so that one that is too long is refused before it is read. key: in the
-- order of its bytes, as on SQLite.
CREATE TABLE mesh_state (
    mesh_id TEXT NOT NULL REFERENCES mesh (id) ON DELETE CASCADE,
    key TEXT COLLATE "C" NOT NULL,
    value TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    version BIGINT NOT NULL,
    updated_by TEXT NOT NULL,
    updated_by_name TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (mesh_id, key)
);

-- Append-only: rows are never changed, and go only when their mesh is purged, after an export. No reference to the mesh
-- for that reason. payload: the canonical text that was hashed. The role a broker runs under should have no UPDATE and
-- no DELETE here: docs/operations.md.
CREATE TABLE audit_log (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    mesh_id TEXT NOT NULL,
    event_type TEXT NOT NULL,
    actor_member_id TEXT,
    payload TEXT NOT NULL,
    prev_hash TEXT NOT NULL,
    hash TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX audit_log_mesh ON audit_log (mesh_id, id);
CREATE INDEX audit_log_event ON audit_log (mesh_id, event_type, id);
