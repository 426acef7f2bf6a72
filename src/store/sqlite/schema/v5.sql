-- Messages that came with an import: their texts, senders and times are what a file says.
ALTER TABLE messages ADD COLUMN imported INTEGER NOT NULL DEFAULT 0;
