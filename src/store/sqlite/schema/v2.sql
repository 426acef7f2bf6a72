-- The version of a session's words in the search index. Sessions with an older one are indexed
-- again in the background; new ones have the current version from the start.
ALTER TABLE sessions ADD COLUMN words_version INTEGER NOT NULL DEFAULT 1;
CREATE INDEX sessions_by_words_version ON sessions (words_version);

-- The index of titles, with a tokenizer that splits at spaces only: the former one dropped emoji
-- and vowel signs. It has the words of version 1 until the session is indexed again.
DROP TABLE session_titles;
CREATE VIRTUAL TABLE session_titles USING fts5 (
    words, content = '', contentless_delete = 1, detail = none, tokenize = 'ascii'
);
INSERT INTO session_titles (rowid, words) SELECT key, title_words FROM sessions;
