-- Presences, what they leave behind, session keys, and the memory against repeated hellos.
CREATE TABLE presence (
    id TEXT PRIMARY KEY,
    mesh_id TEXT NOT NULL REFERENCES mesh (id) ON DELETE CASCADE,
    member_id TEXT NOT NULL REFERENCES member (id) ON DELETE CASCADE,
    session_id TEXT NOT NULL,
    session_pubkey TEXT,
    display_name TEXT NOT NULL,
    role TEXT NOT NULL,
    pid BIGINT NOT NULL,
    cwd TEXT,
    hostname TEXT,
    host_fingerprint TEXT,
    peer_type TEXT,
    channel TEXT,
    model TEXT,
    capabilities TEXT NOT NULL,
    attestation TEXT,
    status TEXT NOT NULL,
    status_source TEXT NOT NULL,
    status_updated_at BIGINT NOT NULL,
    summary TEXT,
    groups_json TEXT NOT NULL,
    visible BIGINT NOT NULL,
    node_id TEXT NOT NULL,
    connected_at BIGINT NOT NULL,
    last_ping_at BIGINT NOT NULL,
    lease_until BIGINT,
    disconnected_at BIGINT
);
-- Both indexes are partial, so that closed connections cost the live ones nothing.
CREATE INDEX presence_live ON presence (node_id) WHERE disconnected_at IS NULL;
CREATE INDEX presence_ended ON presence (disconnected_at) WHERE disconnected_at IS NOT NULL;

CREATE TABLE hello_seen (
    pubkey TEXT NOT NULL,
    timestamp_ms BIGINT NOT NULL,
    signature_hash TEXT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (pubkey, timestamp_ms, signature_hash)
);
CREATE INDEX hello_seen_end ON hello_seen (expires_at);

CREATE TABLE session_key_seen (
    mesh_id TEXT NOT NULL REFERENCES mesh (id) ON DELETE CASCADE,
    session_pubkey TEXT NOT NULL,
    member_id TEXT NOT NULL REFERENCES member (id) ON DELETE CASCADE,
    attestation TEXT,
    last_seen_at BIGINT NOT NULL,
    PRIMARY KEY (mesh_id, session_pubkey)
);
CREATE INDEX session_key_seen_age ON session_key_seen (last_seen_at);

-- An empty session_pubkey is the member's own connection.
CREATE TABLE peer_state (
    mesh_id TEXT NOT NULL REFERENCES mesh (id) ON DELETE CASCADE,
    member_id TEXT NOT NULL REFERENCES member (id) ON DELETE CASCADE,
    session_pubkey TEXT NOT NULL,
    groups_json TEXT NOT NULL,
    profile TEXT NOT NULL,
    visible BIGINT NOT NULL,
    last_summary TEXT,
    last_display_name TEXT,
    cumulative_stats TEXT NOT NULL,
    last_seen_at BIGINT NOT NULL,
    PRIMARY KEY (mesh_id, member_id, session_pubkey)
);
CREATE INDEX peer_state_age ON peer_state (last_seen_at) WHERE session_pubkey <> '';
