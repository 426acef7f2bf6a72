//! One session of a file: its fields as clients know them, checked and made ready for a store.

use super::import::ImportOptions;
use crate::domain::message::{
    FinishReason, MAX_PARTS_BYTES, MessageBody, MessageError, MessageParts,
};
use crate::domain::session::{JsonObject, MAX_PARTICIPANTS, SessionSettings, SessionStatus};
use crate::domain::text::reject_nul;
use crate::domain::title::{SessionTitle, TitleSource};
use crate::domain::{
    MessageId, MessageType, Principal, ProjectId, Role, SessionId, Status, Timestamp, Usage, UserId,
};
use crate::error::{Error, Result};
use crate::json::{
    StrictObject, deserialize_object, deserialize_optional_object, deserialize_present,
};
use crate::memory::tokens;
use crate::store::{ImportSession, MessageParent, NewMessage, NewSession, ReplyFields};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use utoipa::ToSchema;

/// One session of a file.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionRecord {
    /// If another user has a session of this id, the imported one gets a new id.
    pub(super) session_id: Option<String>,
    #[serde(alias = "name")]
    pub(super) title: Option<String>,
    pub(super) title_source: Option<TitleSource>,
    pub(super) project_id: Option<String>,
    pub(super) status: Option<String>,
    #[serde(default)]
    pub(super) archived: bool,
    #[serde(default)]
    pub(super) pinned: bool,
    #[schema(value_type = Object)]
    pub(super) meta: Option<Box<RawValue>>,
    #[schema(value_type = Object)]
    pub(super) user_meta: Option<Box<RawValue>>,
    #[schema(value_type = Object)]
    pub(super) theme: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "deserialize_object")]
    pub(super) settings: SessionSettings,
    pub(super) participants: Option<Vec<String>>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) created_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) last_seen: Option<Timestamp>,
    pub(super) head_id: Option<String>,
    /// Each user's last message read, by its id.
    #[serde(default)]
    pub(super) read_marks: HashMap<String, String>,
    #[serde(default)]
    #[schema(value_type = Vec<MessageRecord>)]
    pub(super) messages: Vec<StrictObject<MessageRecord>>,
}

/// One message of a file.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageRecord {
    /// Unique within the session; a message that the session has already is passed over.
    pub(super) id: Option<String>,
    pub(super) role: Role,
    pub(super) sender_id: Option<String>,
    #[serde(default)]
    pub(super) content: String,
    #[serde(default, rename = "type")]
    pub(super) kind: MessageType,
    #[schema(value_type = Option<Vec<Object>>)]
    pub(super) parts: Option<Box<RawValue>>,
    /// An earlier message of the file or the session; left out, the message before it.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schema(value_type = Option<String>)]
    pub(super) parent_id: Option<Option<String>>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) created_at: Option<Timestamp>,
    pub(super) client_message_id: Option<String>,
    #[serde(default)]
    pub(super) status: Status,
    pub(super) model: Option<String>,
    pub(super) finish_reason: Option<FinishReason>,
    #[serde(default, deserialize_with = "deserialize_optional_object")]
    pub(super) error: Option<MessageError>,
    #[serde(default, deserialize_with = "deserialize_optional_object")]
    pub(super) usage: Option<Usage>,
    /// Where a complaint says that it stands, if not in `messages`.
    #[serde(skip)]
    pub(super) error_path: Option<String>,
}

/// Checks a session and makes of it what a store takes; `index` is its place in the file. Errors name
/// the field. Counts tokens, so call it where blocking is allowed.
pub fn to_import_session(
    who: &Principal,
    record: SessionRecord,
    index: usize,
    terms: ImportOptions,
    now: Timestamp,
) -> Result<ImportSession> {
    let object = |field, raw: Option<Box<RawValue>>| {
        raw.map(|raw| JsonObject::parse(field, &raw)).transpose()
    };
    let keeps_title = record.title_source.is_some();
    let mut title = SessionTitle::from_user(record.title.as_deref())?;
    if title.source == TitleSource::User {
        title.source = record.title_source.unwrap_or(title.source);
    }
    let id = match &record.session_id {
        Some(id) => SessionId::parse("sessionId", id)?,
        None => derive_session_id(who, &record, index),
    };
    let other_id = to_hex_id(Sha256::new_with_prefix(format!("{}\0{id}", who.user)));
    let participants = parse_participants(record.participants.unwrap_or_default())?;
    let created_at =
        record.created_at.or_else(|| record.messages.first()?.0.created_at).unwrap_or(now);
    let messages = parse_messages(who, &id, record.messages, terms.max_message, now)?;
    Ok(ImportSession {
        read_marks: parse_read_marks(record.read_marks, &messages)?,
        messages,
        id,
        keep_title: keeps_title,
        fallback_id: SessionId::new_unchecked(other_id),
        fields: NewSession {
            id: None,
            title,
            project_id: record
                .project_id
                .map(|id| ProjectId::parse("projectId", &id))
                .transpose()?,
            participants: if terms.trusts_participants { participants } else { Vec::new() },
            meta: object("meta", record.meta)?.unwrap_or_default(),
            user_meta: object("userMeta", record.user_meta)?.unwrap_or_default(),
            theme: object("theme", record.theme)?.unwrap_or_default(),
            settings: record
                .settings
                .validate(terms.max_message)
                .map_err(|invalid| invalid.within("settings"))?,
        },
        status: record
            .status
            .map_or(Ok(SessionStatus::default()), |status| SessionStatus::parse(&status))?,
        archived: record.archived,
        pinned: record.pinned,
        created_at,
        last_seen: record.last_seen,
        head_id: record.head_id.map(|id| MessageId::parse("headId", &id)).transpose()?,
    })
}

fn parse_participants(users: Vec<String>) -> Result<Vec<UserId>> {
    if users.len() > MAX_PARTICIPANTS {
        return Err(Error::invalid_field("participants", "must be at most 100 users"));
    }
    users.iter().map(|user| Ok(UserId::parse("participants", user)?)).collect()
}

fn parse_messages(
    who: &Principal,
    session: &SessionId,
    records: Vec<StrictObject<MessageRecord>>,
    max_message: usize,
    now: Timestamp,
) -> Result<Vec<(NewMessage, MessageParent)>> {
    let named: HashSet<String> =
        records.iter().filter_map(|StrictObject(record)| record.id.clone()).collect();
    let mut seen = HashSet::with_capacity(records.len());
    let mut messages = Vec::with_capacity(records.len());
    for (index, StrictObject(mut record)) in records.into_iter().enumerate() {
        let place = record.error_path.take().unwrap_or_else(|| format!("messages[{index}]"));
        let place = |error: Error| error.within(&place);
        let message =
            self::parse_message(who, session, record, index, max_message, now).map_err(place)?;
        if let MessageParent::Message(parent) = &message.1
            && named.contains(parent.as_str())
            && !seen.contains(parent)
        {
            // So there is no way round in a circle, either.
            let wants = format!("must name a message that stands before it, {parent} does not");
            return Err(place(Error::invalid_field("parentId", wants)));
        }
        if !seen.insert(message.0.id.clone()) {
            return Err(place(Error::invalid_field("id", "must not stand twice in a session")));
        }
        messages.push(message);
    }
    Ok(messages)
}

/// The places of the messages that users have read up to.
fn parse_read_marks(
    marks: HashMap<String, String>,
    messages: &[(NewMessage, MessageParent)],
) -> Result<HashMap<String, u32>> {
    if marks.len() > MAX_PARTICIPANTS {
        return Err(Error::invalid_field("readMarks", "must be of at most 100 users"));
    }
    let place = |(user, id): (String, String)| {
        let user = UserId::parse("readMarks", &user)?;
        let index = messages.iter().position(|(message, _)| message.id.as_str() == id);
        let seq = index.and_then(|index| u32::try_from(index + 1).ok()).ok_or_else(|| {
            let wants = format!("must name a message of the session, {id} does not");
            Error::invalid_field(format!("readMarks.{user}"), wants)
        })?;
        Ok((user.to_string(), seq))
    };
    marks.into_iter().map(place).collect()
}

fn parse_message(
    who: &Principal,
    session: &SessionId,
    record: MessageRecord,
    index: usize,
    max_message: usize,
    now: Timestamp,
) -> Result<(NewMessage, MessageParent)> {
    let id = match &record.id {
        Some(id) => MessageId::parse("id", id)?,
        None => derive_message_id(session, &record, index),
    };
    let sender_id = match (&record.sender_id, record.role) {
        (Some(sender), _) => UserId::parse("senderId", sender)?,
        (None, Role::Assistant) => UserId::assistant(),
        (None, _) => who.user.clone(),
    };
    let parts = record
        .parts
        .map(|parts| MessageParts::parse("parts", &parts))
        .transpose()?
        .unwrap_or_default();
    let error = record.error.as_ref();
    for (field, text) in [
        ("model", record.model.as_deref()),
        ("error.code", error.map(|error| error.code.as_str())),
        ("error.message", error.map(|error| error.message.as_str())),
    ] {
        reject_nul(field, text.unwrap_or_default())?;
    }
    let body = if record.role == Role::Assistant {
        parse_reply_body(record.content, parts, record.kind)?
    } else {
        MessageBody::parse("content", record.content, parts, record.kind, max_message)?
    };
    let message = NewMessage {
        id,
        client_message_id: record
            .client_message_id
            .map(|id| MessageId::parse("clientMessageId", &id))
            .transpose()?,
        role: record.role,
        sender_id,
        tokens: tokens::count_tokens(&body.countable_text()),
        body,
        created_at: record.created_at.unwrap_or(now),
        reply: ReplyFields {
            status: record.status,
            model: record.model,
            finish_reason: record.finish_reason,
            error: record.error,
            usage: record.usage,
        },
    };
    Ok((message, parse_parent(record.parent_id)?))
}

/// What a model said: it may be nothing, and was never bound to the limit of what users say.
fn parse_reply_body(
    content: String,
    parts: MessageParts,
    kind: MessageType,
) -> Result<MessageBody> {
    reject_nul("content", &content)?;
    for (field, size) in [("content", content.len()), ("parts", parts.as_json().len())] {
        if size > MAX_PARTS_BYTES {
            return Err(Error::too_large(field, MAX_PARTS_BYTES));
        }
    }
    Ok(MessageBody { content, parts, kind })
}

/// A session without an id gets one from what it says, so that importing it twice finds it again.
fn derive_session_id(who: &Principal, record: &SessionRecord, index: usize) -> SessionId {
    let mut digest = Sha256::new();
    digest.update(format!("{}\0{index}\0{:?}\0{:?}", who.user, record.title, record.created_at));
    for StrictObject(message) in &record.messages {
        digest.update(format!("\0{:?}\0{:?}\0{}", message.id, message.role, message.content));
    }
    SessionId::new_unchecked(to_hex_id(digest))
}

fn derive_message_id(session: &SessionId, record: &MessageRecord, index: usize) -> MessageId {
    let mut digest = Sha256::new();
    let MessageRecord { role, content, created_at, .. } = record;
    digest.update(format!("{session}\0{index}\0{role:?}\0{created_at:?}\0{content}"));
    MessageId::new_unchecked(to_hex_id(digest))
}

fn to_hex_id(digest: Sha256) -> String {
    digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn parse_parent(parent_id: Option<Option<String>>) -> Result<MessageParent> {
    Ok(match parent_id {
        None => MessageParent::Head,
        Some(None) => MessageParent::Root,
        Some(Some(id)) => MessageParent::Message(MessageId::parse("parentId", &id)?),
    })
}
