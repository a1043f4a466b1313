-- The statement by which both keys signed a change: who was away believes the new key, and by it the old one.
-- signed_at: milliseconds; signatures: lowercase hexadecimal. Null in rows of an earlier version.
ALTER TABLE member_key_history ADD COLUMN signed_at BIGINT;
ALTER TABLE member_key_history ADD COLUMN signature_old TEXT;
ALTER TABLE member_key_history ADD COLUMN signature_new TEXT;

-- The member that made an invite. created_by is its account; where it has none, the owner's, whose key signs the invite.
ALTER TABLE invite ADD COLUMN created_by_member TEXT REFERENCES member (id) ON DELETE SET NULL;
