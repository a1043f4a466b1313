-- compatible: older releases may keep running
-- What a presence says about itself and counts survives the broker's end with its row; and statuses reported for
-- programs that have not connected yet.
ALTER TABLE presence ADD COLUMN profile TEXT;
ALTER TABLE presence ADD COLUMN stats TEXT;

-- Without a pid a row is for the session it names. A row is deleted when it is applied or its time is over.
CREATE TABLE pending_status (
    id TEXT PRIMARY KEY,
    pid BIGINT,
    cwd TEXT NOT NULL,
    session_id TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX pending_status_place ON pending_status (cwd, pid);
CREATE INDEX pending_status_age ON pending_status (created_at);
