//! The central document types and their conversion from and to the store's types.
//!
//! Times are BSON dates and counters 64-bit integers. Objects that clients define, and values that
//! are only read as a whole (`meta`, `settings`, `parts`, `usage`, …), are stored as JSON text: no
//! query looks into them, and text comes back byte for byte.

use crate::domain::key::KeyId;
use crate::domain::message::FinishReason;
use crate::domain::quota::UsagePayer;
use crate::domain::session::{ListPlacement, SessionStatus};
use crate::domain::title::TitleSource;
use crate::domain::turn::ActiveTurn;
use crate::domain::{
    Message, MessageId, MessageType, ProjectId, Role, Session, SessionId, Status, Timestamp,
    TurnId, UserId,
};
use crate::error::{Error, Result};
use crate::store::rules::needs_parts;
use crate::store::stored_values::{
    decode_json, decode_name, decode_object, decode_optional_json, decode_parts, encode_json,
    encode_parts, to_i64,
};
use crate::store::transaction::{MessageInsert, MessageLocation, SessionRow};
use crate::store::{HistoryMessage, LeaseHolder, NewMessage, UserMessage};
use mongodb::bson::{DateTime, Document, serialize_to_document};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A projection on the id.
#[derive(Debug, Deserialize)]
pub(super) struct IdDoc {
    #[serde(rename = "_id")]
    pub(super) id: String,
}

/// A session. Apart from these fields the document holds `revision`, `born`, `commits`, `pending`
/// (see `transaction.rs`) and `wordsVersion`, `indexedSeq`,
/// `unindexed` (see `search.rs`).
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SessionDoc {
    #[serde(rename = "_id")]
    pub(super) id: String,
    pub(super) user_id: String,
    /// Includes the owner, who is the first.
    pub(super) participants: Vec<String>,
    pub(super) project_id: Option<String>,
    pub(super) title: String,
    /// The folded title, by which lists are sorted.
    pub(super) title_key: String,
    /// The folded words of the title, by which it is found.
    pub(super) title_words: Vec<String>,
    pub(super) title_source: String,
    pub(super) status: String,
    /// The owner's, as is `pinned`.
    pub(super) archived: bool,
    pub(super) pinned: bool,
    /// Users who are invited. This list and the next two are absent if empty: the index on invited
    /// users is sparse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) invited: Vec<String>,
    /// Other participants who have archived the session.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) archived_by: Vec<String>,
    /// Other participants who have pinned the session.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) pinned_by: Vec<String>,
    pub(super) meta: String,
    pub(super) user_meta: String,
    pub(super) theme: String,
    pub(super) settings: String,
    pub(super) read_marks: Vec<ReadMarkDoc>,
    pub(super) version: i64,
    /// Number of messages, which is also the highest seq.
    pub(super) messages: i64,
    /// Number of nodes, which is also the highest node number.
    pub(super) nodes: i64,
    pub(super) head: Option<LocatedMessageDoc>,
    pub(super) last_message: Option<String>,
    pub(super) last_message_at: Option<DateTime>,
    /// `lastMessageAt`, or `createdAt` while there are no messages.
    pub(super) activity_at: DateTime,
    pub(super) last_seen: Option<DateTime>,
    pub(super) created_at: DateTime,
    pub(super) updated_at: DateTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) active_turn: Option<ClaimDoc>,
    /// Ids of the queued turns, next one first. Absent if empty: the index on it is sparse.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) queue: Vec<String>,
}

/// The highest seq that a user has read.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReadMarkDoc {
    pub(super) user_id: String,
    pub(super) seq: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct LocatedMessageDoc {
    pub(super) id: String,
    pub(super) node: i64,
    pub(super) seq: i64,
}

/// The claim of a session's running turn.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ClaimDoc {
    pub(super) turn_id: String,
    pub(super) reply_id: String,
    pub(super) question_id: String,
    pub(super) started_at: DateTime,
    pub(super) instance: String,
    pub(super) boot: String,
    payer: String,
    payer_key: Option<String>,
}

/// A bounded run of consecutive messages of one path.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NodeDoc {
    /// Public id, `chat_<session>_<number>`.
    #[serde(rename = "_id")]
    pub(super) id: String,
    pub(super) session_id: String,
    pub(super) number: i64,
    /// First revision of its session; distinguishes it from nodes of a deleted session with the
    /// same id.
    #[serde(rename = "born", default)]
    pub(super) created_revision: i64,
    /// Parent of the first message; all zero means no parent.
    pub(super) prev: MessageLocationDoc,
    pub(super) first_id: String,
    pub(super) first_seq: i64,
    pub(super) last_seq: i64,
    pub(super) count: i64,
    pub(super) bytes: i64,
    /// Tokens of the path up to and including the last message.
    pub(super) path_tokens: i64,
    pub(super) created_at: DateTime,
    pub(super) messages: Vec<MessageDoc>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct MessageLocationDoc {
    pub(super) node: i64,
    pub(super) seq: i64,
}

/// A message inside its node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct MessageDoc {
    pub(super) id: String,
    pub(super) seq: i64,
    pub(super) parent: Option<LocatedMessageDoc>,
    pub(super) role: String,
    pub(super) sender_id: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) content: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parts: Option<String>,
    pub(super) status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) finish_reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) client_message_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) usage: Option<String>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) imported: bool,
    pub(super) tokens: i64,
    /// Tokens of the path up to and including this message, with the overhead of each message.
    pub(super) path_tokens: i64,
    pub(super) created_at: DateTime,
}

/// The fields of a message that a prompt is assembled from.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HistoryMessageDoc {
    id: String,
    client_message_id: Option<String>,
    pub(super) seq: i64,
    parent: Option<LocatedMessageDoc>,
    role: String,
    sender_id: String,
    pub(super) content: String,
    /// Left out by the projection if the reader has no use for them.
    parts: Option<String>,
    finish_reason: Option<String>,
    tokens: i64,
    path_tokens: i64,
    created_at: DateTime,
}

impl SessionDoc {
    pub(super) fn into_row(self) -> Result<SessionRow> {
        let placements = self.placements();
        let created_at = to_timestamp(self.created_at);
        let at = self.head.as_ref().map(LocatedMessageDoc::location);
        let (active_turn, lease_holder, payer) = match self.active_turn {
            None => (None, None, None),
            Some(claim) => {
                (Some(claim.active_turn()), Some(claim.lease_holder()), Some(claim.payer()))
            }
        };
        let session = Session {
            id: SessionId::new_unchecked(self.id),
            owner: UserId::new_unchecked(self.user_id),
            project_id: self.project_id.map(ProjectId::new_unchecked),
            title: self.title,
            title_source: decode_name(TitleSource::from_name, &self.title_source)?,
            participants: self.participants.into_iter().map(UserId::new_unchecked).collect(),
            invited: self.invited.into_iter().map(UserId::new_unchecked).collect(),
            status: SessionStatus::new_unchecked(self.status),
            archived: self.archived,
            pinned: self.pinned,
            meta: decode_object(self.meta)?,
            user_meta: decode_object(self.user_meta)?,
            theme: decode_object(self.theme)?,
            settings: decode_json(&self.settings)?,
            version: to_u32(self.version),
            messages_count: to_u32(self.messages),
            head_id: self.head.map(|head| MessageId::new_unchecked(head.id)),
            active_turn,
            last_message: self.last_message,
            last_message_at: self.last_message_at.map(to_timestamp),
            last_seen: self.last_seen.map(to_timestamp),
            start_time: created_at,
            created_at,
            updated_at: to_timestamp(self.updated_at),
            nodes: None,
        };
        let marks = self.read_marks.into_iter();
        Ok(SessionRow {
            session,
            node_count: to_u32(self.nodes),
            head: at,
            lease_holder,
            payer,
            read_marks: marks.map(|mark| (mark.user_id, to_u32(mark.seq))).collect(),
            placements,
        })
    }

    fn placements(&self) -> BTreeMap<String, ListPlacement> {
        let mut placements: BTreeMap<String, ListPlacement> = BTreeMap::new();
        let owner = Some(&self.user_id);
        for user in owner.filter(|_| self.archived).into_iter().chain(&self.archived_by) {
            placements.entry(user.clone()).or_default().archived = true;
        }
        for user in owner.filter(|_| self.pinned).into_iter().chain(&self.pinned_by) {
            placements.entry(user.clone()).or_default().pinned = true;
        }
        placements
    }
}

impl ClaimDoc {
    pub(super) fn new(turn: &ActiveTurn, lease_holder: &LeaseHolder, payer: &UsagePayer) -> Self {
        Self {
            turn_id: turn.turn_id.to_string(),
            reply_id: turn.message_id.to_string(),
            question_id: turn.user_message_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            started_at: to_bson_date(turn.started_at),
            instance: lease_holder.instance.clone(),
            boot: lease_holder.boot.clone(),
            payer: payer.user.to_string(),
            payer_key: payer.key.as_ref().map(ToString::to_string),
        }
    }

    fn payer(&self) -> UsagePayer {
        let key = self.payer_key.as_deref().map(KeyId::new_unchecked);
        UsagePayer { user: UserId::new_unchecked(self.payer.as_str()), key }
    }

    pub(super) fn active_turn(&self) -> ActiveTurn {
        ActiveTurn {
            turn_id: TurnId::new_unchecked(self.turn_id.as_str()),
            message_id: MessageId::new_unchecked(self.reply_id.as_str()),
            user_message_id: Some(MessageId::new_unchecked(self.question_id.as_str())),
            started_at: to_timestamp(self.started_at),
        }
    }

    pub(super) fn lease_holder(&self) -> LeaseHolder {
        LeaseHolder { instance: self.instance.clone(), boot: self.boot.clone() }
    }
}

impl LocatedMessageDoc {
    pub(super) fn new(id: &MessageId, at: MessageLocation) -> Self {
        Self { id: id.to_string(), node: at.node.into(), seq: at.seq.into() }
    }

    pub(super) fn location(&self) -> MessageLocation {
        MessageLocation { node: to_u32(self.node), seq: to_u32(self.seq) }
    }
}

impl MessageLocationDoc {
    /// `None` for the all-zero location.
    pub(super) fn location(self) -> Option<MessageLocation> {
        let at = MessageLocation { node: to_u32(self.node), seq: to_u32(self.seq) };
        (at.seq > 0).then_some(at)
    }
}

impl MessageDoc {
    pub(super) fn new(insert: MessageInsert<'_>) -> Result<Self> {
        let MessageInsert { message, location: at, parent, path_tokens, .. } = insert;
        let (body, reply) = (&message.body, &message.reply);
        Ok(Self {
            id: message.id.to_string(),
            seq: at.seq.into(),
            parent: parent.map(|parent| LocatedMessageDoc::new(&parent.id, parent.location)),
            role: message.role.as_str().to_owned(),
            sender_id: message.sender_id.to_string(),
            kind: body.kind.as_str().to_owned(),
            content: body.content.clone(),
            parts: encode_parts(&body.parts).map(str::to_owned),
            status: reply.status.as_str().to_owned(),
            model: reply.model.clone(),
            finish_reason: reply.finish_reason.map(|reason| reason.as_str().to_owned()),
            client_message_id: message.client_message_id.as_ref().map(ToString::to_string),
            error: reply.error.as_ref().map(encode_json).transpose()?,
            usage: reply.usage.as_ref().map(encode_json).transpose()?,
            imported: reply.imported,
            tokens: message.tokens.into(),
            path_tokens: to_i64(path_tokens),
            created_at: to_bson_date(message.created_at),
        })
    }

    /// Converts to a message with an empty list of siblings; the caller adds them.
    pub(super) fn into_message(self, row: &SessionRow) -> Result<Message> {
        let seq = to_u32(self.seq);
        let sender_id = UserId::new_unchecked(self.sender_id);
        Ok(Message {
            id: MessageId::new_unchecked(self.id),
            session_id: row.session.id.clone(),
            seq,
            parent_id: self.parent.map(|parent| MessageId::new_unchecked(parent.id)),
            sibling_ids: Vec::new(),
            sibling_count: 0,
            sibling_index: 0,
            role: decode_name(Role::from_name, &self.role)?,
            kind: decode_name(MessageType::from_name, &self.kind)?,
            content: self.content,
            parts: decode_parts(self.parts)?,
            status: decode_name(Status::from_name, &self.status)?,
            seen: row.is_seen(seq, &sender_id),
            sender_id,
            model: self.model,
            finish_reason: self
                .finish_reason
                .map(|name| decode_name(FinishReason::from_name, &name))
                .transpose()?,
            client_message_id: self.client_message_id.map(MessageId::new_unchecked),
            error: decode_optional_json(self.error.as_deref())?,
            usage: decode_optional_json(self.usage.as_deref())?,
            created_at: to_timestamp(self.created_at),
            imported: self.imported,
        })
    }

    /// Converts back to the value that was stored.
    pub(super) fn into_new_message(self, row: &SessionRow) -> Result<NewMessage> {
        let tokens = to_u32(self.tokens);
        Ok(NewMessage::from_stored(self.into_message(row)?, tokens))
    }

    pub(super) fn into_user_message(self) -> Result<UserMessage> {
        Ok(UserMessage {
            parts: decode_parts(self.parts)?,
            id: MessageId::new_unchecked(self.id),
            parent_id: self.parent.map(|parent| MessageId::new_unchecked(parent.id)),
            role: decode_name(Role::from_name, &self.role)?,
            content: self.content,
            tokens: to_u32(self.tokens),
        })
    }

    /// Bytes of text and parts, for the size limit of a page. An empty list of parts is two.
    pub(super) fn byte_size(&self) -> usize {
        self.content.len() + self.parts.as_ref().map_or("[]".len(), String::len)
    }
}

impl HistoryMessageDoc {
    /// Matches the message's id as well as its client id.
    pub(super) fn has_id(&self, id: &MessageId) -> bool {
        self.id == id.as_str() || self.client_message_id.as_deref() == Some(id.as_str())
    }

    pub(super) fn tokens(&self) -> u32 {
        to_u32(self.tokens)
    }

    /// Bytes of the parts that a prompt needs; 0 without any.
    pub(super) fn needed_part_bytes(&self) -> Result<usize> {
        let Some(parts) = &self.parts else { return Ok(0) };
        let role = decode_name(Role::from_name, &self.role)?;
        let finish_reason = self.finish_reason.as_deref();
        let finish_reason =
            finish_reason.map(|name| decode_name(FinishReason::from_name, name)).transpose()?;
        Ok(if needs_parts(role, finish_reason) { parts.len() } else { 0 })
    }

    pub(super) fn into_history_message(self, with_parts: bool) -> Result<HistoryMessage> {
        Ok(HistoryMessage {
            parts: decode_parts(self.parts.filter(|_| with_parts))?,
            tokens: to_u32(self.tokens),
            id: MessageId::new_unchecked(self.id),
            role: decode_name(Role::from_name, &self.role)?,
            sender_id: UserId::new_unchecked(self.sender_id),
            content: self.content,
            path_tokens: self.path_tokens.unsigned_abs(),
            created_at: to_timestamp(self.created_at),
            parent_id: self.parent.map(|parent| MessageId::new_unchecked(parent.id)),
        })
    }
}

pub(super) fn to_bson_date(time: Timestamp) -> DateTime {
    DateTime::from_millis(time.as_millis())
}

pub(super) fn to_timestamp(date: DateTime) -> Timestamp {
    Timestamp::from_millis(date.timestamp_millis())
}

/// Converts a number that was a `u32` when it was stored.
pub(super) fn to_u32(stored: i64) -> u32 {
    u32::try_from(stored).unwrap_or_default()
}

pub(super) fn to_document(value: &impl Serialize) -> Result<Document> {
    serialize_to_document(value).map_err(Error::internal)
}
