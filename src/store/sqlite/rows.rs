//! Messages as rows: their keys, and how they are decoded. Nothing else depends on the order of
//! columns.

use crate::domain::message::FinishReason;
use crate::domain::{Message, MessageId, MessageType, Role, Status, Timestamp, UserId};
use crate::error::{Error, Result};
use crate::store::NewMessage;
use crate::store::stored_values::{decode_name, decode_optional_json, decode_parts};
use crate::store::transaction::{MAX_SEQ, SessionRow};
use rusqlite::Row;

/// Bits of a message key that hold the seq.
pub(super) const SEQ_BITS: u32 = 24;
/// The seq within a message key, and the highest one that fits.
pub(super) const SEQ_MASK: u32 = (1 << SEQ_BITS) - 1;
const _: () = assert!(MAX_SEQ <= SEQ_MASK);

/// Key of a message: the key of its session and its seq in one integer. The messages of a session
/// are adjacent and in order, whatever other sessions do.
pub(super) fn message_key(session: i64, seq: u32) -> i64 {
    (session << SEQ_BITS) | i64::from(seq)
}

pub(super) fn seq_from_key(key: i64) -> u32 {
    u32::try_from(key & i64::from(SEQ_MASK)).unwrap_or(SEQ_MASK)
}

/// Columns in the order in which [`decode_message`] and [`decode_new_message`] read them.
pub(super) const SELECT_MESSAGE: &str = "SELECT key, node, id, parent_id, role, sender_id, type, content, parts, \
     status, model, finish_reason, client_message_id, error, usage, created_at, tokens, \
     path_tokens, imported FROM messages";

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
        sibling_count: 0,
        sibling_index: 0,
        role: decode_word(Role::from_name, row, 4)?,
        kind: decode_word(MessageType::from_name, row, 6)?,
        content: row.get(7)?,
        parts: decode_parts(row.get(8)?)?,
        status: decode_word(Status::from_name, row, 9)?,
        seen: session.is_seen(seq, &sender_id),
        model: row.get(10)?,
        finish_reason: row
            .get::<_, Option<String>>(11)?
            .map(|name| decode_name(FinishReason::from_name, &name))
            .transpose()?,
        client_message_id: row.get::<_, Option<String>>(12)?.map(MessageId::new_unchecked),
        error: decode_optional_json(
            row.get_ref(13)?.as_str_or_null().map_err(Error::store_unavailable)?,
        )?,
        usage: decode_optional_json(
            row.get_ref(14)?.as_str_or_null().map_err(Error::store_unavailable)?,
        )?,
        created_at: Timestamp::from_millis(row.get(15)?),
        imported: row.get(18)?,
        sender_id,
    })
}

/// Decodes a message into exactly what was inserted.
pub(super) fn decode_new_message(row: &Row<'_>, session: &SessionRow) -> Result<NewMessage> {
    Ok(NewMessage::from_stored(decode_message(row, session)?, row.get(16)?))
}

/// Decodes the stored name of an enum's variant.
pub(super) fn decode_word<T>(
    from_name: impl Fn(&str) -> Option<T>,
    row: &Row<'_>,
    column: usize,
) -> Result<T> {
    decode_name(from_name, row.get_ref(column)?.as_str().map_err(Error::store_unavailable)?)
}
