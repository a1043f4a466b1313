-- Meshes, members and invites.
CREATE TABLE mesh (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    slug TEXT NOT NULL,
    owner_user_id TEXT NOT NULL REFERENCES "user" (id),
    owner_pubkey TEXT NOT NULL,
    owner_secret_key TEXT,
    root_key TEXT NOT NULL,
    self_editable TEXT NOT NULL,
    clone_policy TEXT NOT NULL,
    dedupe_days BIGINT,
    group_encryption TEXT NOT NULL,
    open_data BIGINT NOT NULL,
    show_paths BIGINT NOT NULL,
    retention_days BIGINT,
    max_peers BIGINT,
    key_epoch BIGINT NOT NULL DEFAULT 1,
    created_at BIGINT NOT NULL,
    archived_at BIGINT
);
CREATE UNIQUE INDEX mesh_live_slug ON mesh (lower(slug)) WHERE archived_at IS NULL;
CREATE INDEX mesh_owner ON mesh (owner_user_id);

CREATE TABLE invite (
    id TEXT PRIMARY KEY,
    mesh_id TEXT NOT NULL REFERENCES mesh (id) ON DELETE CASCADE,
    code TEXT UNIQUE,
    token TEXT UNIQUE,
    capability_v2 TEXT,
    role TEXT NOT NULL,
    preset TEXT NOT NULL,
    max_uses BIGINT NOT NULL,
    used_count BIGINT NOT NULL DEFAULT 0,
    expires_at BIGINT NOT NULL,
    created_by TEXT NOT NULL REFERENCES "user" (id),
    created_at BIGINT NOT NULL,
    revoked_at BIGINT,
    CHECK ((code IS NULL) <> (token IS NULL)),
    CHECK (used_count BETWEEN 0 AND max_uses)
);
CREATE INDEX invite_mesh ON invite (mesh_id);

CREATE TABLE member (
    id TEXT PRIMARY KEY,
    mesh_id TEXT NOT NULL REFERENCES mesh (id) ON DELETE CASCADE,
    user_id TEXT REFERENCES "user" (id),
    peer_pubkey TEXT,
    bind_until BIGINT,
    -- The invite whose use an unbound row gives back when its time is over.
    unbound_invite_id TEXT REFERENCES invite (id),
    display_name TEXT NOT NULL,
    role TEXT NOT NULL,
    role_tag TEXT,
    default_groups TEXT NOT NULL,
    message_mode TEXT NOT NULL,
    peer_grants TEXT NOT NULL,
    joined_at BIGINT NOT NULL,
    last_seen_at BIGINT,
    revoked_at BIGINT,
    revoked_by TEXT,
    revoke_kind TEXT,
    CHECK ((peer_pubkey IS NULL) = (bind_until IS NOT NULL)),
    CHECK ((revoked_at IS NULL) = (revoke_kind IS NULL)),
    UNIQUE (mesh_id, peer_pubkey)
);
CREATE INDEX member_user ON member (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX member_unbound ON member (bind_until) WHERE bind_until IS NOT NULL;

CREATE TABLE invite_claim (
    invite_id TEXT NOT NULL REFERENCES invite (id) ON DELETE CASCADE,
    peer_pubkey TEXT NOT NULL,
    member_id TEXT NOT NULL REFERENCES member (id) ON DELETE CASCADE,
    claimed_at BIGINT NOT NULL,
    PRIMARY KEY (invite_id, peer_pubkey)
);

-- What one member may do differently from its role: a JSON object from permission to true or false.
CREATE TABLE permission (
    member_id TEXT PRIMARY KEY REFERENCES member (id) ON DELETE CASCADE,
    overrides TEXT NOT NULL,
    updated_at BIGINT NOT NULL,
    updated_by TEXT
);

CREATE TABLE revocation (
    mesh_id TEXT NOT NULL REFERENCES mesh (id) ON DELETE CASCADE,
    revoked_pubkey TEXT NOT NULL,
    kind TEXT NOT NULL,
    revoked_at BIGINT NOT NULL,
    revoked_by TEXT,
    PRIMARY KEY (mesh_id, revoked_pubkey)
);
