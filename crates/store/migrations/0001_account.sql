-- Accounts, their command-line tokens, and the broker's own secrets.
CREATE TABLE "user" (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    email TEXT,
    role TEXT NOT NULL,
    banned BIGINT NOT NULL DEFAULT 0,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX user_email ON "user" (lower(email)) WHERE email IS NOT NULL;

-- One row once the first account exists; its key makes "create the first" atomic on both engines.
CREATE TABLE first_account (
    only_row BIGINT PRIMARY KEY CHECK (only_row = 1),
    user_id TEXT NOT NULL REFERENCES "user" (id)
);

CREATE TABLE cli_session (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL REFERENCES "user" (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    client_version TEXT,
    token_hash TEXT NOT NULL UNIQUE,
    token_prefix TEXT NOT NULL,
    hostname TEXT,
    platform TEXT,
    arch TEXT,
    expires_at BIGINT,
    last_seen_at BIGINT,
    revoked_at BIGINT,
    created_at BIGINT NOT NULL
);
CREATE INDEX cli_session_user ON cli_session (user_id);

CREATE TABLE broker_secret (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
