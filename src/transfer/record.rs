//! One session of a file: its fields as clients know them, checked and made ready for a store.

use crate::domain::message::{Body, FinishReason, MessageError, Parts};
use crate::domain::session::{JsonObject, SessionStatus, Settings};
use crate::domain::text::without_nul;
use crate::domain::title::{Title, TitleSource};
use crate::domain::{
    MessageId, MessageType, Principal, ProjectId, Role, SessionId, Status, Timestamp, Usage, UserId,
};
use crate::error::{Error, Result};
use crate::json::{Object, object, optional_object, present};
use crate::memory::tokens;
use crate::store::{ImportSession, NewMessage, NewSession, Parent, ReplyFields};
use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use utoipa::ToSchema;

/// One session of a file.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionRecord {
    /// If another user has a session of this id, the imported one gets a new id.
    session_id: Option<String>,
    #[serde(alias = "name")]
    title: Option<String>,
    title_source: Option<TitleSource>,
    project_id: Option<String>,
    status: Option<String>,
    #[serde(default)]
    archived: bool,
    #[serde(default)]
    pinned: bool,
    #[schema(value_type = Object)]
    meta: Option<Box<RawValue>>,
    #[schema(value_type = Object)]
    user_meta: Option<Box<RawValue>>,
    #[schema(value_type = Object)]
    theme: Option<Box<RawValue>>,
    #[serde(default, deserialize_with = "object")]
    settings: Settings,
    participants: Option<Vec<String>>,
    #[schema(value_type = Option<String>, format = DateTime)]
    created_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    last_seen: Option<Timestamp>,
    head_id: Option<String>,
    #[serde(default)]
    #[schema(value_type = Vec<MessageRecord>)]
    messages: Vec<Object<MessageRecord>>,
}

/// One message of a file.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageRecord {
    /// Unique within the session; a message that the session has already is passed over.
    id: Option<String>,
    role: Role,
    sender_id: Option<String>,
    #[serde(default)]
    content: String,
    #[serde(default, rename = "type")]
    kind: MessageType,
    #[schema(value_type = Option<Vec<Object>>)]
    parts: Option<Box<RawValue>>,
    /// An earlier message of the file or the session; left out, the message before it.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    parent_id: Option<Option<String>>,
    #[schema(value_type = Option<String>, format = DateTime)]
    created_at: Option<Timestamp>,
    client_message_id: Option<String>,
    #[serde(default)]
    status: Status,
    model: Option<String>,
    finish_reason: Option<FinishReason>,
    #[serde(default, deserialize_with = "optional_object")]
    error: Option<MessageError>,
    #[serde(default, deserialize_with = "optional_object")]
    usage: Option<Usage>,
}

/// Checks a session and makes of it what a store takes; `index` is its place in the file. Errors name
/// the field. Counts tokens, so call it where blocking is allowed.
pub fn session(
    who: &Principal,
    record: SessionRecord,
    index: usize,
    max_message: usize,
    now: Timestamp,
) -> Result<ImportSession> {
    let object = |field, raw: Option<Box<RawValue>>| {
        raw.map(|raw| JsonObject::parse(field, &raw)).transpose()
    };
    let mut title = Title::given(record.title.as_deref())?;
    title.source = record.title_source.unwrap_or(title.source);
    let id = match &record.session_id {
        Some(id) => SessionId::parse("sessionId", id)?,
        None => derived_session_id(who, &record, index),
    };
    let other_id = hex_id(Sha256::new_with_prefix(format!("{}\0{id}", who.user)));
    let participants = record.participants.unwrap_or_default();
    let participants = participants.iter().map(|user| UserId::parse("participants", user));
    let created_at =
        record.created_at.or_else(|| record.messages.first()?.0.created_at).unwrap_or(now);
    Ok(ImportSession {
        messages: messages(who, &id, record.messages, max_message, now)?,
        id,
        other_id: SessionId::trusted(other_id),
        new: NewSession {
            id: None,
            title,
            project_id: record
                .project_id
                .map(|id| ProjectId::parse("projectId", &id))
                .transpose()?,
            participants: participants.collect::<Result<_, _>>()?,
            meta: object("meta", record.meta)?.unwrap_or_default(),
            user_meta: object("userMeta", record.user_meta)?.unwrap_or_default(),
            theme: object("theme", record.theme)?.unwrap_or_default(),
            settings: record.settings.checked(max_message)?,
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

fn messages(
    who: &Principal,
    session: &SessionId,
    records: Vec<Object<MessageRecord>>,
    max_message: usize,
    now: Timestamp,
) -> Result<Vec<(NewMessage, Parent)>> {
    let mut seen = HashSet::with_capacity(records.len());
    let mut messages = Vec::with_capacity(records.len());
    for (index, Object(record)) in records.into_iter().enumerate() {
        let place = |error: Error| error.at(&format!("messages[{index}]"));
        let message =
            self::message(who, session, record, index, max_message, now).map_err(place)?;
        if !seen.insert(message.0.id.clone()) {
            return Err(place(Error::invalid("id", "must not stand twice in a session")));
        }
        messages.push(message);
    }
    Ok(messages)
}

fn message(
    who: &Principal,
    session: &SessionId,
    record: MessageRecord,
    index: usize,
    max_message: usize,
    now: Timestamp,
) -> Result<(NewMessage, Parent)> {
    let id = match &record.id {
        Some(id) => MessageId::parse("id", id)?,
        None => derived_message_id(session, &record, index),
    };
    let sender_id = match (&record.sender_id, record.role) {
        (Some(sender), _) => UserId::parse("senderId", sender)?,
        (None, Role::Assistant) => UserId::assistant(),
        (None, _) => who.user.clone(),
    };
    let parts =
        record.parts.map(|parts| Parts::parse("parts", &parts)).transpose()?.unwrap_or_default();
    let error = record.error.as_ref();
    for (field, text) in [
        ("model", record.model.as_deref()),
        ("error.code", error.map(|error| error.code.as_str())),
        ("error.message", error.map(|error| error.message.as_str())),
    ] {
        without_nul(field, text.unwrap_or_default())?;
    }
    // An empty reply that was cut off or failed is a message, too.
    let is_empty_reply =
        record.status != Status::Complete && record.content.is_empty() && parts.is_empty();
    let body = if is_empty_reply {
        Body { content: String::new(), parts, kind: record.kind }
    } else {
        Body::parse("content", record.content, parts, record.kind, max_message)?
    };
    let message = NewMessage {
        id,
        client_message_id: record
            .client_message_id
            .map(|id| MessageId::parse("clientMessageId", &id))
            .transpose()?,
        role: record.role,
        sender_id,
        tokens: tokens::count(&body.content),
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
    Ok((message, parent(record.parent_id)?))
}

/// A session without an id gets one from what it says, so that importing it twice finds it again.
fn derived_session_id(who: &Principal, record: &SessionRecord, index: usize) -> SessionId {
    let mut digest = Sha256::new();
    digest.update(format!("{}\0{index}\0{:?}\0{:?}", who.user, record.title, record.created_at));
    for Object(message) in &record.messages {
        digest.update(format!("\0{:?}\0{:?}\0{}", message.id, message.role, message.content));
    }
    SessionId::trusted(hex_id(digest))
}

fn derived_message_id(session: &SessionId, record: &MessageRecord, index: usize) -> MessageId {
    let mut digest = Sha256::new();
    let MessageRecord { role, content, created_at, .. } = record;
    digest.update(format!("{session}\0{index}\0{role:?}\0{created_at:?}\0{content}"));
    MessageId::trusted(hex_id(digest))
}

fn hex_id(digest: Sha256) -> String {
    digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn parent(parent_id: Option<Option<String>>) -> Result<Parent> {
    Ok(match parent_id {
        None => Parent::Head,
        Some(None) => Parent::Root,
        Some(Some(id)) => Parent::Message(MessageId::parse("parentId", &id)?),
    })
}
