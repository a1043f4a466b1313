-- compatible: older releases may keep running
-- What administration leaves behind: why a member was banned, former keys, and changes that peers must learn even when
-- they were away.
ALTER TABLE member ADD COLUMN revoke_reason TEXT;
ALTER TABLE member ADD COLUMN key_epoch BIGINT NOT NULL DEFAULT 1;
ALTER TABLE mesh ADD COLUMN event_seq BIGINT NOT NULL DEFAULT 0;
ALTER TABLE mesh ADD COLUMN last_event_at BIGINT;

CREATE TABLE member_key_history (
    mesh_id TEXT NOT NULL REFERENCES mesh (id) ON DELETE CASCADE,
    member_id TEXT NOT NULL REFERENCES member (id) ON DELETE CASCADE,
    old_pubkey TEXT NOT NULL,
    rotated_at BIGINT NOT NULL,
    -- Until then messages to the old key reach the member.
    valid_until BIGINT NOT NULL,
    PRIMARY KEY (mesh_id, old_pubkey)
);

-- data: JSON of the event. seq counts from 1 in each mesh; the newest stands in mesh.event_seq, the oldest are removed.
CREATE TABLE mesh_event (
    mesh_id TEXT NOT NULL REFERENCES mesh (id) ON DELETE CASCADE,
    seq BIGINT NOT NULL,
    event TEXT NOT NULL,
    data TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (mesh_id, seq)
);
