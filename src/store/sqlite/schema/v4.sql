-- Invitations, and each participant's own archive and pins. Today's participants are in; `archived`
-- and `pinned` of a session are its owner's from here on.
ALTER TABLE sessions ADD COLUMN invited TEXT NOT NULL DEFAULT '[]';    -- JSON list of users
ALTER TABLE sessions ADD COLUMN placements TEXT NOT NULL DEFAULT '{}'; -- JSON: participant to their archived and pinned

-- The same by user, for lists. Neither participants nor invited users include the owner.
ALTER TABLE participants ADD COLUMN invited  INTEGER NOT NULL DEFAULT 0;
ALTER TABLE participants ADD COLUMN archived INTEGER NOT NULL DEFAULT 0;
ALTER TABLE participants ADD COLUMN pinned   INTEGER NOT NULL DEFAULT 0;
