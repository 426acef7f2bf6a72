//! Conversion between rows and values; nothing else depends on the order of columns.

use crate::domain::content::MessageBody;
use crate::domain::key::KeyId;
use crate::domain::message::{FinishReason, MessageParts};
use crate::domain::quota::UsagePayer;
use crate::domain::session::{JsonObject, SessionStatus};
use crate::domain::title::TitleSource;
use crate::domain::turn::ActiveTurn;
use crate::domain::{
    Message, MessageId, MessageType, ProjectId, Role, Session, SessionId, Status, Timestamp,
    TurnId, UserId,
};
use crate::error::{Error, Result};
use crate::store::LeaseHolder;
use crate::store::transaction::{MAX_SEQ, MessageLocation, SessionRow};
use crate::store::{NewMessage, ReplyFields};
use rusqlite::Row;
use serde::de::DeserializeOwned;

/// Key of a message: the key of its session and its seq in one integer. The messages of a session
/// are adjacent and in order, whatever other sessions do.
pub(super) fn message_key(session: i64, seq: u32) -> i64 {
    (session * (i64::from(MAX_SEQ) + 1)) | i64::from(seq)
}

pub(super) fn seq_from_key(key: i64) -> u32 {
    u32::try_from(key & i64::from(MAX_SEQ)).unwrap_or(MAX_SEQ)
}

/// Columns in the order in which [`decode_session`] reads them.
pub(super) const SELECT_SESSION: &str = "SELECT s.key, s.id, s.owner, s.participants, s.project_id, s.title, \
     s.title_source, s.status, s.archived, s.pinned, s.meta, s.user_meta, s.theme, s.settings, s.read_marks, \
     s.version, s.messages, s.nodes, s.head_id, s.head_seq, s.head_node, s.last_message, s.last_message_at, \
     s.last_seen, s.created_at, s.updated_at, t.turn_id, t.reply_id, t.question_id, t.started_at, \
     t.instance, t.boot, t.payer, t.payer_key \
     FROM sessions s LEFT JOIN turns t ON t.session = s.key";

pub(super) fn decode_session(row: &Row<'_>) -> Result<SessionRow> {
    let id = SessionId::new_unchecked(row.get::<_, String>(1)?);
    let owner = UserId::new_unchecked(row.get::<_, String>(2)?);
    let participants: Vec<String> =
        decode_json(row.get_ref(3)?.as_str().map_err(Error::store_unavailable)?)?;
    let created_at = Timestamp::from_millis(row.get(24)?);
    let location = match (row.get::<_, Option<u32>>(19)?, row.get::<_, Option<u32>>(20)?) {
        (Some(seq), Some(node)) => Some(MessageLocation { node, seq }),
        _ => None,
    };
    // The columns of a claim are NULL if no turn is running.
    let active_turn = match row.get::<_, Option<String>>(26)? {
        None => None,
        Some(turn) => Some(ActiveTurn {
            turn_id: TurnId::new_unchecked(turn),
            message_id: MessageId::new_unchecked(row.get::<_, String>(27)?),
            user_message_id: Some(MessageId::new_unchecked(row.get::<_, String>(28)?)),
            started_at: Timestamp::from_millis(row.get(29)?),
        }),
    };
    let session = Session {
        id,
        participants: participants.into_iter().map(UserId::new_unchecked).collect(),
        owner,
        project_id: row.get::<_, Option<String>>(4)?.map(ProjectId::new_unchecked),
        title: row.get(5)?,
        title_source: decode_word(TitleSource::from_name, row, 6)?,
        status: SessionStatus::new_unchecked(row.get(7)?),
        archived: row.get(8)?,
        pinned: row.get(9)?,
        meta: decode_object(row.get(10)?)?,
        user_meta: decode_object(row.get(11)?)?,
        theme: decode_object(row.get(12)?)?,
        settings: decode_json(row.get_ref(13)?.as_str().map_err(Error::store_unavailable)?)?,
        version: row.get(15)?,
        messages_count: row.get(16)?,
        head_id: row.get::<_, Option<String>>(18)?.map(MessageId::new_unchecked),
        active_turn,
        last_message: row.get(21)?,
        last_message_at: row.get::<_, Option<i64>>(22)?.map(Timestamp::from_millis),
        last_seen: row.get::<_, Option<i64>>(23)?.map(Timestamp::from_millis),
        start_time: created_at,
        created_at,
        updated_at: Timestamp::from_millis(row.get(25)?),
        nodes: None,
    };
    Ok(SessionRow {
        key: row.get(0)?,
        session,
        node_count: row.get(17)?,
        head: location,
        lease_holder: match row.get::<_, Option<String>>(30)? {
            None => None,
            Some(instance) => Some(LeaseHolder { instance, boot: row.get(31)? }),
        },
        payer: match row.get::<_, Option<String>>(32)? {
            None => None,
            Some(user) => Some(UsagePayer {
                user: UserId::new_unchecked(user),
                key: row.get::<_, Option<String>>(33)?.map(KeyId::new_unchecked),
            }),
        },
        read_marks: decode_json(row.get_ref(14)?.as_str().map_err(Error::store_unavailable)?)?,
    })
}

/// Columns in the order in which [`decode_message`] and [`decode_new_message`] read them.
pub(super) const SELECT_MESSAGE: &str = "SELECT key, node, id, parent_id, role, sender_id, type, content, parts, \
     status, model, finish_reason, client_message_id, error, usage, created_at, tokens, \
     path_tokens FROM messages";

/// Decodes a message, without its siblings.
pub(super) fn decode_message(row: &Row<'_>, session: &SessionRow) -> Result<Message> {
    let seq = seq_from_key(row.get(0)?);
    let sender_id = UserId::new_unchecked(row.get::<_, String>(5)?);
    Ok(Message {
        id: MessageId::new_unchecked(row.get::<_, String>(2)?),
        session_id: session.session.id.clone(),
        seq,
        parent_id: row.get::<_, Option<String>>(3)?.map(MessageId::new_unchecked),
        sibling_ids: Vec::new(),
        role: decode_word(Role::from_name, row, 4)?,
        kind: decode_word(MessageType::from_name, row, 6)?,
        content: row.get(7)?,
        parts: decode_parts(row.get(8)?)?,
        status: decode_word(Status::from_name, row, 9)?,
        seen: session.is_seen(seq, &sender_id),
        model: row.get(10)?,
        finish_reason: row
            .get::<_, Option<String>>(11)?
            .as_deref()
            .and_then(FinishReason::from_name),
        client_message_id: row.get::<_, Option<String>>(12)?.map(MessageId::new_unchecked),
        error: decode_optional_json(row.get(13)?)?,
        usage: decode_optional_json(row.get(14)?)?,
        created_at: Timestamp::from_millis(row.get(15)?),
        sender_id,
    })
}

/// Decodes a message into exactly what was inserted.
pub(super) fn decode_new_message(row: &Row<'_>, session: &SessionRow) -> Result<NewMessage> {
    let message = decode_message(row, session)?;
    Ok(NewMessage {
        id: message.id,
        client_message_id: message.client_message_id,
        role: message.role,
        sender_id: message.sender_id,
        body: MessageBody { content: message.content, parts: message.parts, kind: message.kind },
        tokens: row.get(16)?,
        created_at: message.created_at,
        reply: ReplyFields {
            status: message.status,
            model: message.model,
            finish_reason: message.finish_reason,
            error: message.error,
            usage: message.usage,
        },
    })
}

/// Decodes the stored name of an enum's variant.
pub(super) fn decode_word<T>(
    read: impl Fn(&str) -> Option<T>,
    row: &Row<'_>,
    column: usize,
) -> Result<T> {
    let text = row.get_ref(column)?.as_str().map_err(Error::store_unavailable)?;
    read(text).ok_or_else(|| unreadable_value(text))
}

/// `None` is an empty list.
pub(super) fn decode_parts(stored: Option<String>) -> Result<MessageParts> {
    match stored {
        None => Ok(MessageParts::default()),
        Some(text) => MessageParts::from_stored(text).ok_or_else(|| unreadable_value("parts")),
    }
}

pub(super) fn encode_json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(Error::internal)
}

fn decode_object(text: String) -> Result<JsonObject> {
    JsonObject::from_stored(text).ok_or_else(|| unreadable_value("an object"))
}

fn decode_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(Error::store_unavailable)
}

fn decode_optional_json<T: DeserializeOwned>(text: Option<String>) -> Result<Option<T>> {
    text.as_deref().map(decode_json).transpose()
}

fn unreadable_value(what: &str) -> Error {
    Error::store_unavailable(format!("stored value cannot be read: {what}"))
}
