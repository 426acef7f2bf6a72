-- Keys of sessions that have content but no row in `sessions`: sessions that are being written, and
-- deleted ones whose content is deleted step by step. No new session gets one of these keys.
CREATE TABLE drafts (
    key        INTEGER PRIMARY KEY,
    touched_at INTEGER NOT NULL                 -- when it was last written; 0 if no request writes it
);
