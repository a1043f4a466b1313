-- compatible: older releases may keep running
-- The key whose secret sealed a direct message, hexadecimal: a member that has another key by now seals it anew before it is
-- sent (daemon spec §19.1). NULL: not known, or sealed by no key.
ALTER TABLE outbox ADD COLUMN sealed_by TEXT;
