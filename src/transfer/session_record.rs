//! The sessions and messages of a file: deserialization, validation and conversion for the store.

use super::import_notes::ImportNotes;
use crate::domain::content::MessageBody;
use crate::domain::message::{FinishReason, MAX_PARTS_BYTES, MessageError, MessageParts};
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

/// Limits and permissions of an import.
#[derive(Debug, Clone, Copy)]
pub struct ImportOptions {
    /// Maximum size of a message's text, in bytes.
    pub max_message: usize,
    /// Whether the participants named in the file are added to the sessions.
    pub trusts_participants: bool,
}

/// A session in an import file.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SessionRecord {
    /// Session id. If it belongs to another user's session, the imported session gets a new id.
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
    /// Id of the last message each user has read.
    #[serde(default)]
    pub(super) read_marks: HashMap<String, String>,
    #[serde(default)]
    #[schema(value_type = Vec<MessageRecord>)]
    pub(super) messages: Vec<StrictObject<MessageRecord>>,
    /// Contents of the conversation that have no place in this record.
    #[serde(skip)]
    pub(super) left_out: ImportNotes,
    /// Values that were changed to fit into this record.
    #[serde(skip)]
    pub(super) mended: ImportNotes,
}

/// A message in an import file.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageRecord {
    /// Message id, unique within the session. Messages that the session already has are skipped.
    pub(super) id: Option<String>,
    pub(super) role: Role,
    pub(super) sender_id: Option<String>,
    #[serde(default)]
    pub(super) content: String,
    #[serde(default, rename = "type")]
    pub(super) kind: MessageType,
    #[schema(value_type = Option<Vec<Object>>)]
    pub(super) parts: Option<Box<RawValue>>,
    /// An earlier message of the file or of the session; by default the preceding one.
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
    /// Path used in error messages, if it is not `messages[i]`.
    #[serde(skip)]
    pub(super) error_path: Option<String>,
}

/// Validates a session and converts it for the store. `index` is its position in the file. Errors
/// name the field. Counts tokens, so call it where blocking is allowed.
pub fn to_import_session(
    principal: &Principal,
    record: SessionRecord,
    index: usize,
    options: ImportOptions,
    now: Timestamp,
) -> Result<ImportSession> {
    let object = |field, raw: Option<Box<RawValue>>| {
        raw.map(|raw| JsonObject::parse(field, &raw)).transpose()
    };
    let keep_title = record.title_source.is_some();
    let mut title = SessionTitle::from_user(record.title.as_deref())?;
    if title.source == TitleSource::User {
        // The source only counts for a title that is not the default.
        title.source = record.title_source.unwrap_or(title.source);
    }
    let id = match &record.session_id {
        Some(id) => SessionId::parse("sessionId", id)?,
        None => derive_session_id(principal, &record, index),
    };
    // Derived from the user and the id rather than generated, so that a second import finds the
    // session again.
    let fallback_id = to_hex_id(Sha256::new_with_prefix(format!("{}\0{id}", principal.user)));
    let participants = parse_participants(record.participants.unwrap_or_default())?;
    // A session without a time is as old as its first message, otherwise new.
    let created_at =
        record.created_at.or_else(|| record.messages.first()?.0.created_at).unwrap_or(now);
    let messages = parse_messages(principal, &id, record.messages, options.max_message, now)?;
    Ok(ImportSession {
        read_marks: parse_read_marks(record.read_marks, &messages)?,
        messages,
        id,
        keep_title,
        fallback_id: SessionId::new_unchecked(fallback_id),
        fields: NewSession {
            id: None,
            title,
            project_id: record
                .project_id
                .map(|id| ProjectId::parse("projectId", &id))
                .transpose()?,
            participants: if options.trusts_participants { participants } else { Vec::new() },
            meta: object("meta", record.meta)?.unwrap_or_default(),
            user_meta: object("userMeta", record.user_meta)?.unwrap_or_default(),
            theme: object("theme", record.theme)?.unwrap_or_default(),
            settings: record
                .settings
                .validate(options.max_message)
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
    principal: &Principal,
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
        let path = record.error_path.take().unwrap_or_else(|| format!("messages[{index}]"));
        let locate = |error: Error| error.within(&path);
        let message = self::parse_message(principal, session, record, index, max_message, now)
            .map_err(locate)?;
        if let MessageParent::Message(parent) = &message.1
            // A parent outside the file may be a message that the session already has. The store
            // checks that.
            && named.contains(parent.as_str())
            && !seen.contains(parent)
        {
            // Parents must come first, which also rules out cycles.
            let message = format!("must name an earlier message; {parent} is not one");
            return Err(locate(Error::invalid_field("parentId", message)));
        }
        if !seen.insert(message.0.id.clone()) {
            return Err(locate(Error::invalid_field("id", "must be unique within the session")));
        }
        messages.push(message);
    }
    Ok(messages)
}

/// The `seq` of each user's last read message.
fn parse_read_marks(
    marks: HashMap<String, String>,
    messages: &[(NewMessage, MessageParent)],
) -> Result<HashMap<String, u32>> {
    if marks.len() > MAX_PARTICIPANTS {
        return Err(Error::invalid_field("readMarks", "must have at most 100 entries"));
    }
    let resolve = |(user, id): (String, String)| {
        let user = UserId::parse("readMarks", &user)?;
        // Imported messages are numbered in file order, starting at 1.
        let index = messages.iter().position(|(message, _)| message.id.as_str() == id);
        let seq = index.and_then(|index| u32::try_from(index + 1).ok()).ok_or_else(|| {
            let problem = format!("must name a message of the session; {id} is not one");
            Error::invalid_field(format!("readMarks.{user}"), problem)
        })?;
        Ok((user.to_string(), seq))
    };
    marks.into_iter().map(resolve).collect()
}

fn parse_message(
    principal: &Principal,
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
        (None, _) => principal.user.clone(),
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

/// Validates a reply. Unlike a user's message it may be empty, and the limit for user messages does
/// not apply.
fn parse_reply_body(
    content: String,
    parts: MessageParts,
    kind: MessageType,
) -> Result<MessageBody> {
    reject_nul("content", &content)?;
    // The bound for parts serves for the text as well: whatever a model wrote should be importable,
    // but not without limit.
    for (field, size) in [("content", content.len()), ("parts", parts.as_json().len())] {
        if size > MAX_PARTS_BYTES {
            return Err(Error::too_large(field, MAX_PARTS_BYTES));
        }
    }
    Ok(MessageBody { content, parts, kind })
}

/// Derives an id from the content of a session without one, so that importing it again finds it.
fn derive_session_id(principal: &Principal, record: &SessionRecord, index: usize) -> SessionId {
    // NUL separates the fields, which do not contain it. With another format, repeating an earlier
    // import would duplicate its sessions.
    let time = format_time(record.created_at);
    let mut digest = Sha256::new();
    digest.update(format!("{}\0{index}\0{:?}\0{time}", principal.user, record.title));
    for StrictObject(message) in &record.messages {
        let role = role_name(message.role);
        digest.update(format!("\0{:?}\0{role}\0{}", message.id, message.content));
    }
    SessionId::new_unchecked(to_hex_id(digest))
}

fn derive_message_id(session: &SessionId, record: &MessageRecord, index: usize) -> MessageId {
    let role = role_name(record.role);
    let time = format_time(record.created_at);
    let content = &record.content;
    let text = format!("{session}\0{index}\0{role}\0{time}\0{content}");
    MessageId::new_unchecked(to_hex_id(Sha256::new_with_prefix(text)))
}

/// The name of a role in derived ids: that of the variant when they were first derived, whatever
/// it is called by now.
fn role_name(role: Role) -> &'static str {
    match role {
        Role::User => "User",
        Role::Assistant => "Assistant",
        Role::System => "System",
        Role::Tool => "Tool",
    }
}

/// A time in derived ids, likewise as it was first written.
fn format_time(time: Option<Timestamp>) -> String {
    match time {
        Some(time) => format!("Some(Timestamp({}))", time.as_millis()),
        None => "None".to_owned(),
    }
}

pub(super) fn to_hex_id(digest: Sha256) -> String {
    hex::encode(&digest.finalize()[..16])
}

fn parse_parent(parent_id: Option<Option<String>>) -> Result<MessageParent> {
    Ok(match parent_id {
        None => MessageParent::Head,
        Some(None) => MessageParent::Root,
        Some(Some(id)) => MessageParent::Message(MessageId::parse("parentId", &id)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change here would make a repeated import store its sessions a second time.
    #[test]
    fn derived_ids_never_change() {
        let principal = Principal { user: UserId::new_unchecked("ada"), is_admin: false };
        let record = |json: &str| serde_json::from_str::<SessionRecord>(json).unwrap();
        let session_id = |json| derive_session_id(&principal, &record(json), 3).to_string();
        let full = r#"{"title": "A \"b\"\n", "createdAt": "2026-01-31T12:00:00.000Z", "messages": [
            {"id": "m1", "role": "user", "content": "hi"},
            {"role": "assistant", "content": "yes", "createdAt": "2026-01-31T12:00:01.000Z"},
            {"role": "system", "content": "s"}, {"role": "tool", "content": "t"}]}"#;
        assert_eq!(session_id("{}"), "89fb10f9148635c96777ef34e88e0bf5");
        assert_eq!(session_id(full), "9716ab01db9250b00b9cb1b3cd028359");
        let session = SessionId::new_unchecked("s");
        let messages = record(full).messages;
        let message_ids: Vec<String> = messages
            .iter()
            .map(|StrictObject(message)| derive_message_id(&session, message, 7).to_string())
            .collect();
        let wanted = [
            "b92a1a82d16d28bf6ec6169745132bfb",
            "055b22a57520cd3572a74ffb2fd5796c",
            "6bfc54384fdfad2a7d99c99eaf586a4a",
            "2ea4aa6044215b2c38deaeba8b7a0909",
        ];
        assert_eq!(message_ids, wanted);
    }
}
