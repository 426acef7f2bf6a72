//! Dumps of whole sessions from SQLite, for a migration.
//!
//! Not migrated: data that can be derived again (`participants`, `summaries`, `embeddings`,
//! `spent`, the indexes of titles and messages), heartbeats (`instances`), tickets, which are valid
//! for a minute, the markers of deleted usage (`forgotten`), unfinished and deleted sessions
//! (`drafts`), and the logs of ended turns, which are
//! kept for a minute.

use super::SqliteStore;
use super::paths::walk_node;
use super::responses::list_session_responses;
use super::rows::{SELECT_MESSAGE, SEQ_BITS, decode_new_message, seq_from_key};
use super::session_rows::{KeyedSession, find_session, find_session_key};
use super::turn_log::read_whole_log;
use crate::domain::{MessageId, ProjectId, SessionId, Timestamp, TurnId, UserId};
use crate::error::{Error, Result};
use crate::store::Store;
use crate::store::migration::{
    MAX_PAGE_BYTES, MessageDump, MigrationSource, MigrationStore, NodeDump, QueuedTurnDump,
    RequestDump, SessionDump, StoreTotals,
};
use crate::store::transaction::{LocatedMessage, MessageLocation, SessionRow};
use async_trait::async_trait;
use rusqlite::{Connection, Row, params};
use std::ops::ControlFlow;

#[async_trait]
impl MigrationStore for SqliteStore {
    async fn dump_session(&self, id: &SessionId, since: Timestamp) -> Result<Option<SessionDump>> {
        let id = id.clone();
        self.run_read(move |db| {
            let Some(KeyedSession { key, row }) = find_session(db, &id)? else {
                return Ok(None);
            };
            // Logs of ended turns have no further use.
            let log = match &row.session.active_turn {
                Some(turn) => read_whole_log(db, &turn.turn_id)?,
                None => Vec::new(),
            };
            Ok(Some(SessionDump {
                queued_turns: dump_queued_turns(db, key)?,
                requests: dump_requests(db, key, since)?,
                responses: list_session_responses(db, key)?,
                log: log.into_iter().map(Into::into).collect(),
                row,
            }))
        })
        .await
    }

    async fn dump_nodes(&self, session: &SessionRow, first: u32) -> Result<Vec<NodeDump>> {
        let session = session.clone();
        self.run_read(move |db| dump_nodes(db, &session, first)).await
    }

    fn describe_location(&self) -> String {
        self.describe()
    }

    async fn disconnect(&self) {
        self.close().await;
    }
}

#[async_trait]
impl MigrationSource for SqliteStore {
    async fn count_totals(&self) -> Result<StoreTotals> {
        self.run_read(|db| {
            let count = |table: &str| {
                let sql = format!("SELECT count(*) FROM {table}");
                db.query_row(&sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
            };
            // The tables of messages and nodes also hold those of drafts.
            let sql = "SELECT count(*), coalesce(sum(messages), 0), coalesce(sum(nodes), 0) FROM sessions";
            let (sessions, messages, nodes) = db.query_row(sql, [], |row| {
                let count = |column| row.get::<_, i64>(column).map(i64::unsigned_abs);
                Ok((count(0)?, count(1)?, count(2)?))
            })?;
            let projects = count("projects")?;
            let keys = count("keys")?;
            Ok(StoreTotals { keys, usage: count("usage")?, projects, sessions, messages, nodes })
        })
        .await
    }

    async fn list_session_ids(
        &self,
        after: Option<&SessionId>,
        limit: u32,
    ) -> Result<Vec<SessionId>> {
        let after = after.map(ToString::to_string).unwrap_or_default();
        self.run_read(move |db| {
            let sql = "SELECT id FROM sessions WHERE id > ?1 ORDER BY id LIMIT ?2";
            let mut statement = db.prepare_cached(sql)?;
            let ids = statement.query_map(params![after, limit], |row| row.get::<_, String>(0))?;
            ids.map(|id| Ok(SessionId::new_unchecked(id?))).collect()
        })
        .await
    }

    async fn list_project_ids(&self) -> Result<Vec<ProjectId>> {
        self.run_read(|db| {
            let mut statement = db.prepare_cached("SELECT id FROM projects ORDER BY id")?;
            let ids = statement.query_map([], |row| row.get::<_, String>(0))?;
            ids.map(|id| Ok(ProjectId::new_unchecked(id?))).collect()
        })
        .await
    }
}

fn dump_queued_turns(db: &Connection, session: i64) -> Result<Vec<QueuedTurnDump>> {
    let sql = "SELECT turn_id, turn FROM queue WHERE session = ?1 ORDER BY position";
    let mut statement = db.prepare_cached(sql)?;
    let turns = statement.query_map([session], |row| {
        Ok(QueuedTurnDump {
            id: TurnId::new_unchecked(row.get::<_, String>(0)?),
            json: row.get(1)?,
        })
    })?;
    Ok(turns.collect::<Result<_, _>>()?)
}

fn dump_requests(db: &Connection, session: i64, since: Timestamp) -> Result<Vec<RequestDump>> {
    // The order is part of the dump, which is compared with that of the other store.
    let sql = "SELECT user_id, route, key, fingerprint, message_id, turn_id, created_at \
               FROM idempotency_keys WHERE session = ?1 AND created_at > ?2 \
               ORDER BY user_id, route, key";
    let mut statement = db.prepare_cached(sql)?;
    let requests = statement.query_map((session, since.as_millis()), |row| {
        Ok(RequestDump {
            user: UserId::new_unchecked(row.get::<_, String>(0)?),
            route: row.get(1)?,
            key: row.get(2)?,
            fingerprint: row.get(3)?,
            message_id: MessageId::new_unchecked(row.get::<_, String>(4)?),
            turn_id: row.get::<_, Option<String>>(5)?.map(TurnId::new_unchecked),
            created_at: Timestamp::from_millis(row.get(6)?),
        })
    })?;
    Ok(requests.collect::<Result<_, _>>()?)
}

fn dump_nodes(db: &Connection, session: &SessionRow, first: u32) -> Result<Vec<NodeDump>> {
    let sql = format!(
        "SELECT n.number, n.prev_node, n.prev_seq, n.first_seq, n.last_seq, n.messages, n.bytes, \
         n.created_at, m.id FROM nodes n LEFT JOIN messages m \
         ON m.key = (n.session << {SEQ_BITS}) + n.prev_seq AND n.prev_seq > 0 \
         WHERE n.session = ?1 AND n.number >= ?2 ORDER BY n.number"
    );
    let key = find_session_key(db, &session.session.id)?.ok_or_else(Error::session_not_found)?;
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query((key, first))?;
    let mut page = Vec::new();
    let mut bytes = 0;
    // Checked before a node is read, so a page has at least one, however large.
    while bytes < MAX_PAGE_BYTES
        && let Some(row) = rows.next()?
    {
        let node = dump_node(db, key, session, row)?;
        bytes += node.bytes;
        page.push(node);
    }
    Ok(page)
}

/// Reads a node with its messages and checks that each follows its recorded parent.
fn dump_node(db: &Connection, key: i64, session: &SessionRow, row: &Row<'_>) -> Result<NodeDump> {
    let number = row.get(0)?;
    let prev = MessageLocation { node: row.get(1)?, seq: row.get(2)? };
    let prev_id: Option<String> = row.get(8)?;
    let (last_seq, bytes): (u32, i64) = (row.get(4)?, row.get(6)?);
    let mut before =
        prev_id.map(|id| LocatedMessage { id: MessageId::new_unchecked(id), location: prev });
    let mut messages = Vec::new();
    let end = MessageLocation { node: number, seq: last_seq };
    walk_node(db, key, end, SELECT_MESSAGE, |found| {
        let message = decode_new_message(found, session)?;
        let parent_id: Option<String> = found.get(3)?;
        // A node is a contiguous run of one path. Anything else is corruption and
        // must not be copied.
        if parent_id.as_deref() != before.as_ref().map(|before| before.id.as_str()) {
            return Err(inconsistent_node(session, &message.id));
        }
        let seq = seq_from_key(found.get(0)?);
        let located = LocatedMessage {
            id: message.id.clone(),
            location: MessageLocation { node: number, seq },
        };
        let path_tokens: i64 = found.get(17)?;
        let path_tokens = path_tokens.unsigned_abs();
        messages.push(MessageDump { seq, parent: before.replace(located), message, path_tokens });
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(NodeDump {
        number,
        prev: Some(prev).filter(|prev| prev.seq > 0),
        first_seq: row.get(3)?,
        last_seq,
        count: row.get(5)?,
        bytes: bytes.unsigned_abs(),
        created_at: Timestamp::from_millis(row.get(7)?),
        messages,
    })
}

fn inconsistent_node(session: &SessionRow, message: &MessageId) -> Error {
    let id = &session.session.id;
    Error::store_unavailable(format!(
        "message {message} of session {id} does not follow its parent within its node"
    ))
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use rusqlite::Connection;

    /// Every table and column. An addition here says that its migration has been considered.
    const KNOWN_COLUMNS: &[(&str, &str)] = &[
        ("drafts", "key touched_at"),
        ("embeddings", "key model vectors"),
        ("forgotten", "user_id now_on"),
        ("idempotency_keys", "user_id route key fingerprint session message_id turn_id created_at"),
        ("instances", "instance boot seen_at"),
        ("kept_words", "key at role"),
        ("keys", "id digest name user_id scope created_at expires_at last_used_at"),
        (
            "messages",
            "key session node id parent_id role sender_id type content parts status model \
             finish_reason client_message_id error usage tokens created_at path_tokens \
             imported",
        ),
        (
            "nodes",
            "session number prev_node prev_seq first_seq first_id last_seq messages bytes created_at",
        ),
        ("participants", "user_id session invited archived pinned"),
        ("project_files", "key project path language size tokens updated_at content"),
        (
            "projects",
            "key id owner name description system_prompt generation_status version created_at \
             updated_at",
        ),
        ("queue", "session position turn_id client_message_id turn"),
        ("responses", "turn_id session reply_id question_id asker created_at request tape"),
        (
            "sessions",
            "key id owner participants project_id title title_words title_source status archived \
             pinned meta user_meta theme settings read_marks version messages kept nodes head_id \
             head_seq head_node last_message last_message_at activity_at last_seen created_at \
             updated_at words_version invited placements",
        ),
        ("spent", "purse day tokens cost"),
        (
            "summaries",
            "session last_seq last_node first_id last_id tokens_before path_tokens text model",
        ),
        ("tickets", "digest holder expires_at"),
        ("turn_log", "turn_id batch session frames ended_at"),
        ("turns", "session turn_id reply_id question_id started_at instance boot payer payer_key"),
        (
            "usage",
            "turn_id kind session_id owner project_id user_id key_id model status prompt_tokens \
             cached_tokens completion_tokens reasoning_tokens estimated cost at",
        ),
    ];

    #[test]
    fn migration_covers_every_table_and_column() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("echoic.db");
        let mut db = Connection::open(&path).unwrap();
        schema::migrate_schema(&mut db, &path).unwrap();
        let sql = "SELECT t.name, group_concat(c.name, ' ' ORDER BY c.cid) FROM sqlite_schema t \
                   JOIN pragma_table_info(t.name) c WHERE t.type = 'table' \
                   AND t.name NOT LIKE 'session_titles%' AND t.name NOT LIKE 'message_words%' GROUP BY t.name ORDER BY t.name";
        let mut statement = db.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let found: Vec<(String, String)> = rows.map(Result::unwrap).collect();
        let known: Vec<(String, String)> = KNOWN_COLUMNS
            .iter()
            .map(|(table, columns)| (table.to_string(), columns.to_string()))
            .collect();
        assert_eq!(found, known, "`echoic migrate` must move what is new, or not need to");
    }
}
