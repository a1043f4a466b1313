-- compatible: older releases may keep running
-- Id of the session that had the key of the row when it came: told of it then, or as its gate opens. Kept when the row
-- moves to the member, so that the same session is not told again, under whatever key it comes back.
ALTER TABLE inbox ADD COLUMN told_session TEXT;
