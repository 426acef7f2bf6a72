-- One row per session: its own fields, and the counters that each message updates.
CREATE TABLE sessions (
    key             INTEGER PRIMARY KEY,
    id              TEXT NOT NULL UNIQUE,
    owner           TEXT NOT NULL,
    participants    TEXT NOT NULL,              -- JSON list of users, the owner first
    project_id      TEXT,
    title           TEXT NOT NULL,
    title_words     TEXT NOT NULL,              -- the folded title, by which lists are sorted and searched
    title_source    TEXT NOT NULL,
    status          TEXT NOT NULL,
    archived        INTEGER NOT NULL,
    pinned          INTEGER NOT NULL,
    meta            TEXT NOT NULL,              -- JSON objects
    user_meta       TEXT NOT NULL,
    theme           TEXT NOT NULL,
    settings        TEXT NOT NULL,
    read_marks      TEXT NOT NULL DEFAULT '{}', -- JSON: user to the seq up to which they have read
    version         INTEGER NOT NULL,
    messages        INTEGER NOT NULL,           -- number of messages; also the highest seq
    kept            INTEGER NOT NULL DEFAULT 0, -- seq of the last message in the search index
    nodes           INTEGER NOT NULL,           -- number of nodes; also the highest number
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

-- Full-text index of titles; rowid is the session's key.
CREATE VIRTUAL TABLE session_titles USING fts5 (
    words, content = '', contentless_delete = 1, tokenize = 'unicode61 remove_diacritics 0'
);

-- Bounded runs of one path each. prev_* is the parent of the first message; 0 marks a root.
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

-- key is session * 2^24 + seq, so that the messages of a session are adjacent and in order.
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
    parts             TEXT,                     -- JSON list; NULL if empty
    status            TEXT NOT NULL,
    model             TEXT,
    finish_reason     TEXT,
    client_message_id TEXT,
    error             TEXT,                     -- JSON
    usage             TEXT,                     -- JSON
    tokens            INTEGER NOT NULL,         -- of content, in o200k_base
    created_at        INTEGER NOT NULL,
    path_tokens       INTEGER NOT NULL          -- of the path up to this message, with the overhead of each
);
CREATE UNIQUE INDEX messages_by_id ON messages (session, id);
CREATE INDEX messages_of_node ON messages (session, node);
CREATE INDEX messages_by_client_id ON messages (session, client_message_id)
    WHERE client_message_id IS NOT NULL;

-- Full-text index of messages. Each word has a prefix for the session's owner; rowid is the
-- message's key.
CREATE VIRTUAL TABLE message_words USING fts5 (
    words, content = '', contentless_delete = 1, detail = none, tokenize = 'ascii'
);
-- The messages in that index, with the columns that a search filters and sorts by.
CREATE TABLE kept_words (
    key  INTEGER PRIMARY KEY,
    at   INTEGER NOT NULL,
    role TEXT NOT NULL
);

-- Embeddings of messages: one vector per passage, one byte per component. Missing ones are computed
-- again. key is the message's.
CREATE TABLE embeddings (
    key     INTEGER PRIMARY KEY,
    model   TEXT NOT NULL,
    vectors BLOB NOT NULL
);

-- Summaries of the beginning of a path up to a message. Missing ones are generated again.
CREATE TABLE summaries (
    session       INTEGER NOT NULL,
    last_seq      INTEGER NOT NULL,
    last_node     INTEGER NOT NULL,
    first_id      TEXT NOT NULL,
    last_id       TEXT NOT NULL,
    tokens_before INTEGER NOT NULL,             -- of the path before the first message
    path_tokens   INTEGER NOT NULL,             -- of the path up to the last message
    text          TEXT NOT NULL,
    model         TEXT NOT NULL,
    PRIMARY KEY (session, last_seq)
) WITHOUT ROWID;

-- Requests of OpenAI-style responses. Columns are written by their order.
CREATE TABLE responses (
    turn_id     TEXT PRIMARY KEY,
    session     INTEGER NOT NULL,
    reply_id    TEXT NOT NULL,
    question_id TEXT NOT NULL,
    asker       TEXT NOT NULL,
    created_at  INTEGER NOT NULL,
    request     TEXT NOT NULL,                  -- JSON: the fields that the response object repeats
    tape        TEXT                            -- JSON: the recorded events of the reply
) WITHOUT ROWID;
CREATE UNIQUE INDEX responses_of_session ON responses (session, reply_id);
CREATE INDEX responses_of_reply ON responses (reply_id);

-- The claim of a running turn on its session, at most one, with the process that runs it.
CREATE TABLE turns (
    session     INTEGER PRIMARY KEY,
    turn_id     TEXT NOT NULL,
    reply_id    TEXT NOT NULL,
    question_id TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    instance    TEXT NOT NULL,
    boot        TEXT NOT NULL,
    payer       TEXT NOT NULL,                  -- the user and the API key that are charged
    payer_key   TEXT
);

-- Last heartbeat of each instance.
CREATE TABLE instances (
    instance TEXT PRIMARY KEY,
    boot     TEXT NOT NULL,
    seen_at  INTEGER NOT NULL
) WITHOUT ROWID;

-- Frames of running turns, and for a minute those of ended ones, one row per flush.
CREATE TABLE turn_log (
    turn_id  TEXT NOT NULL,
    batch    INTEGER NOT NULL,
    session  INTEGER NOT NULL,
    frames   BLOB NOT NULL,
    ended_at INTEGER,                           -- on the last batch only
    PRIMARY KEY (turn_id, batch)
);
CREATE INDEX turn_log_of_session ON turn_log (session);
CREATE INDEX turn_log_by_end ON turn_log (ended_at) WHERE ended_at IS NOT NULL;

-- Turns that are queued after the running one, in the order of their positions.
CREATE TABLE queue (
    session           INTEGER NOT NULL,
    position          INTEGER NOT NULL,
    turn_id           TEXT NOT NULL,
    client_message_id TEXT,
    turn              TEXT NOT NULL,            -- JSON: everything needed to start it
    PRIMARY KEY (session, position)
) WITHOUT ROWID;

-- Projects: what their sessions have in common.
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

-- The content is the last column, so that listing files does not read it.
CREATE TABLE project_files (
    key        INTEGER PRIMARY KEY,
    project    INTEGER NOT NULL,
    path       TEXT NOT NULL,
    language   TEXT,
    size       INTEGER NOT NULL,                -- in bytes
    tokens     INTEGER NOT NULL,                -- in o200k_base
    updated_at INTEGER NOT NULL,
    content    TEXT NOT NULL
);
CREATE UNIQUE INDEX project_files_by_path ON project_files (project, path);

-- API keys.
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

-- Usage of each turn and each background call. The session may be gone.
CREATE TABLE usage (
    turn_id           TEXT PRIMARY KEY,         -- background calls have ids of their own
    kind              TEXT NOT NULL,            -- reply, title, summary or direct
    session_id        TEXT NOT NULL,
    owner             TEXT NOT NULL,            -- of the session
    project_id        TEXT,
    user_id           TEXT NOT NULL,            -- who is charged
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

-- Totals by quota key and day in UTC, counted from 1970-01-01. Quotas are checked against them.
CREATE TABLE spent (
    purse  TEXT NOT NULL,
    day    INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    cost   INTEGER NOT NULL,
    PRIMARY KEY (purse, day)
) WITHOUT ROWID;

-- Users who have deleted their usage: turns and calls with ids lower than now_on leave no row.
CREATE TABLE forgotten (
    user_id TEXT PRIMARY KEY,
    now_on  TEXT NOT NULL
) WITHOUT ROWID;

-- One-time, short-lived substitutes for a caller's credentials.
CREATE TABLE tickets (
    digest     TEXT PRIMARY KEY,                -- SHA-256, in hexadecimal
    holder     TEXT NOT NULL,                   -- JSON
    expires_at INTEGER NOT NULL
) WITHOUT ROWID;

-- Requests recorded under idempotency keys, and their results.
CREATE TABLE idempotency_keys (
    user_id     TEXT NOT NULL,
    route       TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    session     INTEGER NOT NULL,
    message_id  TEXT NOT NULL,                  -- the posted message, or the reply
    turn_id     TEXT,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (user_id, route, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
CREATE INDEX idempotency_keys_of_session ON idempotency_keys (session);
