-- One row per session: its own fields and the counters that each message moves.
CREATE TABLE sessions (
    key             INTEGER PRIMARY KEY,
    id              TEXT NOT NULL UNIQUE,
    owner           TEXT NOT NULL,
    participants    TEXT NOT NULL,              -- JSON list of users, the owner first
    project_id      TEXT,
    title           TEXT NOT NULL,
    title_words     TEXT NOT NULL,              -- the title folded: what lists sort and search by
    title_source    TEXT NOT NULL,
    status          TEXT NOT NULL,
    archived        INTEGER NOT NULL,
    pinned          INTEGER NOT NULL,
    meta            TEXT NOT NULL,              -- JSON objects
    user_meta       TEXT NOT NULL,
    theme           TEXT NOT NULL,
    settings        TEXT NOT NULL,
    read_marks      TEXT NOT NULL DEFAULT '{}', -- JSON: user to the seq they have read up to
    version         INTEGER NOT NULL,
    messages        INTEGER NOT NULL,           -- how many; also the highest seq
    kept            INTEGER NOT NULL DEFAULT 0, -- the seq up to which its words are kept for searching
    nodes           INTEGER NOT NULL,           -- how many; also the highest number
    head_id         TEXT,
    head_seq        INTEGER,
    head_node       INTEGER,
    last_message    TEXT,
    last_message_at INTEGER,                    -- times are milliseconds since 1970
    activity_at     INTEGER NOT NULL,           -- last_message_at, or created_at without messages
    last_seen       INTEGER,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL
);
CREATE INDEX sessions_of_owner ON sessions (owner, archived, pinned, activity_at, id);
CREATE INDEX sessions_of_project ON sessions (project_id, activity_at) WHERE project_id IS NOT NULL;
CREATE INDEX sessions_with_unkept_words ON sessions (key) WHERE messages > kept;

-- Participants other than the owner.
CREATE TABLE participants (
    user_id TEXT NOT NULL,
    session INTEGER NOT NULL,
    PRIMARY KEY (user_id, session)
) WITHOUT ROWID;
CREATE INDEX participants_of_session ON participants (session);

-- Title words by prefix; rowid is the session's key.
CREATE VIRTUAL TABLE session_titles USING fts5 (
    words, content = '', contentless_delete = 1, tokenize = 'unicode61 remove_diacritics 0'
);

-- Bounded runs of one path each. prev_* name the message that the first one follows; 0 is none.
CREATE TABLE nodes (
    session    INTEGER NOT NULL,
    number     INTEGER NOT NULL,
    prev_node  INTEGER NOT NULL,
    prev_seq   INTEGER NOT NULL,
    first_seq  INTEGER NOT NULL,
    first_id   TEXT NOT NULL,
    last_seq   INTEGER NOT NULL,
    messages   INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (session, number)
) WITHOUT ROWID;
CREATE INDEX nodes_by_prev ON nodes (session, prev_seq);

-- key is session * 2^24 + seq, so that a session's messages lie side by side in their order.
CREATE TABLE messages (
    key               INTEGER PRIMARY KEY,
    session           INTEGER NOT NULL,
    node              INTEGER NOT NULL,
    id                TEXT NOT NULL,
    parent_id         TEXT,
    role              TEXT NOT NULL,
    sender_id         TEXT NOT NULL,
    type              TEXT NOT NULL,
    content           TEXT NOT NULL,
    parts             TEXT,                     -- JSON list; NULL is an empty one
    status            TEXT NOT NULL,
    model             TEXT,
    finish_reason     TEXT,
    client_message_id TEXT,
    error             TEXT,                     -- JSON
    usage             TEXT,                     -- JSON
    tokens            INTEGER NOT NULL,         -- of content, by o200k_base
    created_at        INTEGER NOT NULL,
    path_tokens       INTEGER NOT NULL          -- of the path up to this one, what each takes beside its text included
);
CREATE UNIQUE INDEX messages_by_id ON messages (session, id);
CREATE INDEX messages_of_node ON messages (session, node);
CREATE INDEX messages_by_client_id ON messages (session, client_message_id)
    WHERE client_message_id IS NOT NULL;

-- Words of messages for searching, behind a sign of the session's owner; rowid is the message's key.
CREATE VIRTUAL TABLE message_words USING fts5 (
    words, content = '', contentless_delete = 1, detail = none, tokenize = 'ascii'
);
-- The messages in it, and what a search wants to know of each.
CREATE TABLE kept_words (
    key  INTEGER PRIMARY KEY,
    at   INTEGER NOT NULL,
    role TEXT NOT NULL
);

-- What messages mean, as vectors of a byte for each number, one for each passage; made anew where
-- they are missing. key is the message's.
CREATE TABLE embeddings (
    key     INTEGER PRIMARY KEY,
    model   TEXT NOT NULL,
    vectors BLOB NOT NULL
);

-- Texts that stand for the beginning of a path up to a message; made anew where they are missing.
CREATE TABLE summaries (
    session       INTEGER NOT NULL,
    last_seq      INTEGER NOT NULL,
    last_node     INTEGER NOT NULL,
    first_id      TEXT NOT NULL,
    last_id       TEXT NOT NULL,
    tokens_before INTEGER NOT NULL,             -- of the path before the first message
    path_tokens   INTEGER NOT NULL,             -- and up to the last
    text          TEXT NOT NULL,
    model         TEXT NOT NULL,
    PRIMARY KEY (session, last_seq)
) WITHOUT ROWID;

-- What turns were asked for in the words of OpenAI's Responses. Columns are read by their order.
CREATE TABLE responses (
    turn_id     TEXT PRIMARY KEY,
    session     INTEGER NOT NULL,
    reply_id    TEXT NOT NULL,
    question_id TEXT NOT NULL,
    asker       TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    request     TEXT NOT NULL,                  -- JSON: what the answer repeats of it
    tape        TEXT                            -- JSON: what was heard of the reply, piece by piece
) WITHOUT ROWID;
CREATE UNIQUE INDEX responses_of_session ON responses (session, reply_id);
CREATE INDEX responses_of_reply ON responses (reply_id);

-- The claim of a running turn on its session: at most one. It names who runs it.
CREATE TABLE turns (
    session     INTEGER PRIMARY KEY,
    turn_id     TEXT NOT NULL,
    reply_id    TEXT NOT NULL,
    question_id TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    instance    TEXT NOT NULL,
    boot        TEXT NOT NULL,
    payer       TEXT NOT NULL,                  -- the user who asked for it, and the key they came with
    payer_key   TEXT
);

-- When each instance was last known to live.
CREATE TABLE instances (
    instance TEXT PRIMARY KEY,
    boot     TEXT NOT NULL,
    seen_at  INTEGER NOT NULL
) WITHOUT ROWID;

-- The frames of running turns, and for a minute those of ended ones, a row per flush.
CREATE TABLE turn_log (
    turn_id  TEXT NOT NULL,
    batch    INTEGER NOT NULL,
    session  INTEGER NOT NULL,
    frames   BLOB NOT NULL,
    ended_at INTEGER,                           -- on the last batch
    PRIMARY KEY (turn_id, batch)
);
CREATE INDEX turn_log_of_session ON turn_log (session);
CREATE INDEX turn_log_by_end ON turn_log (ended_at) WHERE ended_at IS NOT NULL;

-- Messages that wait for the running turn to end, in the order of their positions.
CREATE TABLE queue (
    session           INTEGER NOT NULL,
    position          INTEGER NOT NULL,
    turn_id           TEXT NOT NULL,
    client_message_id TEXT,
    turn              TEXT NOT NULL,            -- JSON: all that its beginning needs
    PRIMARY KEY (session, position)
) WITHOUT ROWID;

-- What sessions of a project have in common.
CREATE TABLE projects (
    key               INTEGER PRIMARY KEY,
    id                TEXT NOT NULL UNIQUE,
    owner             TEXT NOT NULL,
    name              TEXT NOT NULL,
    description       TEXT NOT NULL,
    system_prompt     TEXT,
    generation_status TEXT NOT NULL,
    version           INTEGER NOT NULL,
    created_at        INTEGER NOT NULL,
    updated_at        INTEGER NOT NULL
);
CREATE INDEX projects_of_owner ON projects (owner, updated_at, id);

-- The content stands last: whoever lists files does not touch it.
CREATE TABLE project_files (
    key        INTEGER PRIMARY KEY,
    project    INTEGER NOT NULL,
    path       TEXT NOT NULL,
    language   TEXT,
    size       INTEGER NOT NULL,                -- in bytes
    tokens     INTEGER NOT NULL,                -- by o200k_base
    updated_at INTEGER NOT NULL,
    content    TEXT NOT NULL
);
CREATE UNIQUE INDEX project_files_by_path ON project_files (project, path);

-- Keys of the API.
CREATE TABLE keys (
    id           TEXT PRIMARY KEY,
    digest       BLOB NOT NULL,                 -- SHA-256 of the whole key
    name         TEXT,
    user_id      TEXT NOT NULL,
    scope        TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    last_used_at INTEGER
) WITHOUT ROWID;

-- What each turn used, and each call of a model beside one. Its session may be gone.
CREATE TABLE usage (
    turn_id           TEXT PRIMARY KEY,         -- a call beside the turns has an id of its own
    kind              TEXT NOT NULL,            -- reply, title, summary or direct
    session_id        TEXT NOT NULL,
    owner             TEXT NOT NULL,            -- of the session
    project_id        TEXT,
    user_id           TEXT NOT NULL,            -- who asked
    key_id            TEXT,
    model             TEXT,
    status            TEXT NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    cached_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    reasoning_tokens  INTEGER NOT NULL,
    estimated         INTEGER NOT NULL,
    cost              INTEGER,                  -- in billionths
    at                INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX usage_of_user ON usage (user_id, at);
CREATE INDEX usage_by_time ON usage (at);

-- Sums of it by whose it is and the day in UTC, counted from 1970-01-01: what quotas go by.
CREATE TABLE spent (
    purse  TEXT NOT NULL,
    day    INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    cost   INTEGER NOT NULL,
    PRIMARY KEY (purse, day)
) WITHOUT ROWID;

-- Who had their lines forgotten: turns and calls that began before this one leave none.
CREATE TABLE forgotten (
    user_id TEXT PRIMARY KEY,
    now_on  TEXT NOT NULL
) WITHOUT ROWID;

-- What stands for somebody's credentials, once and not for long.
CREATE TABLE tickets (
    digest     TEXT PRIMARY KEY,                -- SHA-256, in hexadecimal
    holder     TEXT NOT NULL,                   -- JSON
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;

-- Requests that may be repeated, and what they led to.
CREATE TABLE idempotency_keys (
    user_id     TEXT NOT NULL,
    route       TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    session     INTEGER NOT NULL,
    message_id  TEXT NOT NULL,                  -- what was posted, or the reply
    turn_id     TEXT,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (user_id, route, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
CREATE INDEX idempotency_keys_of_session ON idempotency_keys (session);
