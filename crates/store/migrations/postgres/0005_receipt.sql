-- compatible: older releases may keep running
-- How far each delivery came, as its recipient's daemon or the broker said it. A table of its own, so that the rows every
-- message writes stay narrow; a row appears with the first receipt and goes with its delivery.
--
-- ladder: 1 accepted, 2 on_device, 3 handed, 4 in_context, 5 turn_ended, 6 answered. side: 11 held, 12 deferred,
-- 13 refused, 14 expired, 15 rerouted, 16 session_gone, 17 unreadable. asserted_by: 0 broker, 1 recipient_daemon,
-- 2 agent_record. since, asserted_by, path, evidence and reason belong to the state shown: the side state, else the
-- ladder state. changes: how often the row was written.
CREATE TABLE delivery_receipt (
    delivery_seq BIGINT PRIMARY KEY,
    ladder SMALLINT NOT NULL,
    side SMALLINT,
    since BIGINT NOT NULL,
    asserted_by SMALLINT NOT NULL,
    path TEXT,
    evidence TEXT,
    reason TEXT,
    changes SMALLINT NOT NULL
);
