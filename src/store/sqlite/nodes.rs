//! Nodes in SQLite, and the messages that are inserted into them.

use super::paths::walk_node;
use super::rows::{SELECT_MESSAGE, decode_new_message, message_key, seq_from_key};
use super::transaction::SqliteTransaction;
use crate::domain::node::NodeFill;
use crate::error::{Error, Result};
use crate::store::NewMessage;
use crate::store::stored_values::{encode_json, encode_parts, to_i64};
use crate::store::transaction::{
    MessageInsert, MessageLocation, NodeHeader, NodeTransaction, SessionRow, object_id_conflict,
};
use rusqlite::{Connection, params};
use std::ops::ControlFlow;

impl NodeTransaction for SqliteTransaction<'_> {
    async fn node_fill(&mut self, row: &SessionRow, at: MessageLocation) -> Result<NodeFill> {
        let session = self.session_key(row)?;
        let sql = "SELECT messages, bytes, last_seq FROM nodes WHERE session = ?1 AND number = ?2";
        Ok(self.db.prepare_cached(sql)?.query_row((session, at.node), |row| {
            let bytes: i64 = row.get(1)?;
            let ends_with_parent = row.get::<_, u32>(2)? == at.seq;
            Ok(NodeFill { messages: row.get(0)?, bytes: bytes.unsigned_abs(), ends_with_parent })
        })?)
    }

    async fn path_tokens(&mut self, row: &SessionRow, at: MessageLocation) -> Result<u64> {
        let session = self.session_key(row)?;
        let db = self.db;
        let sql = "SELECT path_tokens FROM messages WHERE key = ?1";
        let found: i64 =
            db.prepare_cached(sql)?.query_row([message_key(session, at.seq)], |row| row.get(0))?;
        Ok(found.unsigned_abs())
    }

    async fn list_nodes(&mut self, row: &SessionRow) -> Result<Vec<NodeHeader>> {
        let session = self.session_key(row)?;
        let sql = "SELECT number, prev_node, prev_seq, last_seq FROM nodes WHERE session = ?1 \
                   ORDER BY number";
        let mut statement = self.db.prepare_cached(sql)?;
        let headers = statement.query_map([session], |row| {
            let prev = MessageLocation { node: row.get(1)?, seq: row.get(2)? };
            Ok(NodeHeader {
                number: row.get(0)?,
                // Zeros are stored for a node that starts with a root.
                prev: Some(prev).filter(|prev| prev.seq > 0),
                last_seq: row.get(3)?,
            })
        })?;
        Ok(headers.collect::<Result<_, _>>()?)
    }

    async fn node_messages(
        &mut self,
        row: &SessionRow,
        up_to: MessageLocation,
    ) -> Result<Vec<(MessageLocation, NewMessage)>> {
        let mut found = Vec::new();
        walk_node(self.db, self.session_key(row)?, up_to, SELECT_MESSAGE, |message| {
            let at = MessageLocation { seq: seq_from_key(message.get(0)?), ..up_to };
            found.push((at, decode_new_message(message, row)?));
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(found)
    }

    async fn insert_message(&mut self, row: &SessionRow, insert: MessageInsert<'_>) -> Result<()> {
        let session = self.session_key(row)?;
        let db = self.db;
        let MessageInsert { message, location: at, parent, opens_node, size, .. } = insert;
        let size = to_i64(size);
        if opens_node {
            // Seqs start at 1; zeros mark a node that starts with a root.
            let (prev_node, prev_seq) =
                parent.map_or((0, 0), |parent| (parent.location.node, parent.location.seq));
            db.prepare_cached("INSERT INTO nodes VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?5, 1, ?7, ?8)")?
                .execute(params![
                    session,
                    at.node,
                    prev_node,
                    prev_seq,
                    at.seq,
                    message.id.as_str(),
                    size,
                    message.created_at.as_millis(),
                ])?;
        } else {
            let sql = "UPDATE nodes SET last_seq = ?3, messages = messages + 1, bytes = bytes + ?4 \
                       WHERE session = ?1 AND number = ?2";
            db.prepare_cached(sql)?.execute((session, at.node, at.seq, size))?;
        }
        insert_message_row(db, session, insert)
    }
}

fn insert_message_row(db: &Connection, session: i64, insert: MessageInsert<'_>) -> Result<()> {
    let MessageInsert { message, location: at, parent, path_tokens, .. } = insert;
    let body = &message.body;
    let reply = &message.reply;
    let inserted = db
        .prepare_cached(
            "INSERT INTO messages VALUES \
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, \
             ?20)",
        )?
        .execute(params![
            message_key(session, at.seq),
            session,
            at.node,
            message.id.as_str(),
            parent.map(|parent| parent.id.as_str()),
            message.role.as_str(),
            message.sender_id.as_str(),
            body.kind.as_str(),
            body.content,
            encode_parts(&body.parts),
            reply.status.as_str(),
            reply.model,
            reply.finish_reason.map(|reason| reason.as_str()),
            message.client_message_id.as_ref().map(|id| id.as_str()),
            reply.error.as_ref().map(encode_json).transpose()?,
            reply.usage.as_ref().map(encode_json).transpose()?,
            message.tokens,
            message.created_at.as_millis(),
            to_i64(path_tokens),
            reply.imported,
        ]);
    // The unique index on ids is the only constraint that a new message can violate.
    match inserted {
        Err(error)
            if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) =>
        {
            Err(object_id_conflict())
        }
        other => other.map(|_| ()).map_err(Error::from),
    }
}
