//! The sessions and messages of a file, in the form that all formats are read into, and their
//! conversion for the store.
//!
//! An invalid value is replaced or left out, and noted; it does not reject the session.

use super::import_notes::ImportNotes;
use super::imported_messages::{MessageContext, convert_messages};
use super::lenient_values::{convert_id, to_hex_id};
pub use super::message_record::MessageRecord;
use super::message_record::{format_time, role_name};
use crate::domain::memory::MemoryOptions;
use crate::domain::session::{JsonObject, MAX_PARTICIPANTS, SessionSettings, SessionStatus};
use crate::domain::text::truncate_chars;
use crate::domain::title::{MAX_TITLE_CHARS, SessionTitle, TitleSource};
use crate::domain::{FieldError, MessageId, Principal, ProjectId, SessionId, Timestamp, UserId};
use crate::error::Result;
use crate::json::StrictObject;
use crate::store::{ImportSession, MessageParent, NewMessage, NewSession};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use utoipa::ToSchema;

/// Limits and permissions of an import.
#[derive(Debug, Clone, Copy)]
pub struct ImportOptions {
    /// Maximum size of a system prompt, in bytes.
    pub max_message: usize,
    /// Whether the participants named in the file are added to the sessions.
    pub trusts_participants: bool,
}

/// A session in an import file.
#[derive(Default, ToSchema)]
#[schema(rename_all = "camelCase")]
pub struct SessionRecord {
    /// Session id. If it belongs to another user's session, the imported session gets a new id.
    pub(super) session_id: Option<String>,
    pub(super) title: Option<String>,
    pub(super) title_source: Option<TitleSource>,
    pub(super) project_id: Option<String>,
    pub(super) status: Option<String>,
    #[schema(required = false)]
    pub(super) archived: bool,
    #[schema(required = false)]
    pub(super) pinned: bool,
    #[schema(value_type = Object)]
    pub(super) meta: Option<Box<RawValue>>,
    #[schema(value_type = Object)]
    pub(super) user_meta: Option<Box<RawValue>>,
    #[schema(value_type = Object)]
    pub(super) theme: Option<Box<RawValue>>,
    #[schema(required = false)]
    pub(super) settings: SessionSettings,
    pub(super) participants: Option<Vec<String>>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) created_at: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) last_seen: Option<Timestamp>,
    pub(super) head_id: Option<String>,
    /// Id of the last message each user has read.
    #[schema(required = false)]
    pub(super) read_marks: HashMap<String, String>,
    #[schema(value_type = Vec<MessageRecord>, required = false)]
    pub(super) messages: Vec<StrictObject<MessageRecord>>,
    /// Contents of the conversation that have no place in this record.
    #[schema(ignore)]
    pub(super) left_out: ImportNotes,
    /// Values that were changed to fit into this record.
    #[schema(ignore)]
    pub(super) mended: ImportNotes,
}

/// A session that is ready for the store.
pub struct PreparedSession {
    pub session: ImportSession,
    pub left_out: ImportNotes,
    pub mended: ImportNotes,
}

/// Converts a session for the store. `index` is its position in the file. Invalid values are
/// replaced and noted. Counts tokens, so call it where blocking is allowed.
pub fn to_import_session(
    principal: &Principal,
    mut record: SessionRecord,
    index: usize,
    options: ImportOptions,
    now: Timestamp,
) -> Result<PreparedSession> {
    let mut left_out = std::mem::take(&mut record.left_out);
    let mut mended = std::mem::take(&mut record.mended);
    let keep_title = record.title_source.is_some();
    let title = convert_title(&record, &mut mended)?;
    let id = match &record.session_id {
        Some(id) => SessionId::new_unchecked(note_converted_id(id, "sessionId", &mut mended)),
        None => derive_session_id(principal, &record, index),
    };
    // Derived from the user and the id rather than generated, so that a second import finds the
    // session again.
    let fallback_id = to_hex_id(Sha256::new_with_prefix(format!("{}\0{id}", principal.user)));
    let participants = convert_participants(record.participants.unwrap_or_default(), &mut left_out);
    // A session without a time is as old as its first message, otherwise new.
    let created_at =
        record.created_at.or_else(|| record.messages.first()?.0.created_at).unwrap_or(now);
    let context = MessageContext { principal, session: &id, now };
    let messages = convert_messages(&context, record.messages, &mut left_out, &mut mended);
    let project_id = record.project_id.as_deref().map(|id| ProjectId::parse("projectId", id));
    let status = record.status.as_deref().map(SessionStatus::parse);
    Ok(PreparedSession {
        session: ImportSession {
            read_marks: convert_read_marks(record.read_marks, &messages, &mut left_out),
            messages,
            keep_title,
            fallback_id: SessionId::new_unchecked(fallback_id),
            fields: NewSession {
                id: None,
                title,
                project_id: keep_valid(project_id, "projectId", &mut left_out),
                participants: if options.trusts_participants { participants } else { Vec::new() },
                meta: convert_object("meta", record.meta, &mut left_out),
                user_meta: convert_object("userMeta", record.user_meta, &mut left_out),
                theme: convert_object("theme", record.theme, &mut left_out),
                settings: keep_valid_settings(record.settings, options.max_message, &mut left_out),
            },
            status: keep_valid(status, "status", &mut mended).unwrap_or_default(),
            archived: record.archived,
            pinned: record.pinned,
            created_at,
            last_seen: record.last_seen,
            head_id: record
                .head_id
                .map(|id| MessageId::new_unchecked(note_converted_id(&id, "headId", &mut mended))),
            id,
        },
        left_out,
        mended,
    })
}

/// The value of a field, unless it is invalid. That is noted.
fn keep_valid<T>(
    value: Option<std::result::Result<T, FieldError>>,
    field: &str,
    notes: &mut ImportNotes,
) -> Option<T> {
    match value? {
        Ok(value) => Some(value),
        Err(_) => {
            notes.add(field, field);
            None
        }
    }
}

fn note_converted_id(id: &str, field: &str, mended: &mut ImportNotes) -> String {
    let converted = convert_id(id);
    if converted != id {
        mended.add(field, field);
    }
    converted
}

/// The title, cut to its maximum length.
fn convert_title(record: &SessionRecord, mended: &mut ImportNotes) -> Result<SessionTitle> {
    let text = record.title.as_deref().map(|title| truncate_chars(title.trim(), MAX_TITLE_CHARS));
    if text.map(str::len) != record.title.as_deref().map(|title| title.trim().len()) {
        mended.add("title", "title");
    }
    let mut title = SessionTitle::from_user(text)?;
    if title.source == TitleSource::User {
        // The source only counts for a title that is not the default.
        title.source = record.title_source.unwrap_or(title.source);
    }
    Ok(title)
}

fn convert_object(
    field: &'static str,
    raw: Option<Box<RawValue>>,
    left_out: &mut ImportNotes,
) -> JsonObject {
    let parsed = raw.map(|raw| JsonObject::parse(field, &raw));
    keep_valid(parsed, field, left_out).unwrap_or_default()
}

/// The settings without the invalid ones.
fn keep_valid_settings(
    mut settings: SessionSettings,
    max_prompt: usize,
    left_out: &mut ImportNotes,
) -> SessionSettings {
    // Validation names one field at a time.
    loop {
        let Err(invalid) = settings.clone().validate(max_prompt) else { return settings };
        let field = format!("settings.{}", invalid.field);
        left_out.add(&field, &field);
        match &*invalid.field {
            "temperature" => settings.temperature = None,
            "topP" => settings.top_p = None,
            "maxOutputTokens" => settings.max_output_tokens = None,
            "model" => settings.model = None,
            "systemPrompt" => settings.system_prompt = None,
            _ if settings.memory.is_empty() => return SessionSettings::default(),
            _ => settings.memory = MemoryOptions::default(),
        }
    }
}

fn convert_participants(users: Vec<String>, left_out: &mut ImportNotes) -> Vec<UserId> {
    let mut participants = Vec::new();
    for user in users {
        match UserId::parse("participants", &user) {
            Ok(user) if participants.len() < MAX_PARTICIPANTS => participants.push(user),
            _ => left_out.add("participants", "participants"),
        }
    }
    participants
}

/// The `seq` of each user's last read message.
fn convert_read_marks(
    marks: HashMap<String, String>,
    messages: &[(NewMessage, MessageParent)],
    left_out: &mut ImportNotes,
) -> HashMap<String, u32> {
    let mut marks: Vec<(String, String)> = marks.into_iter().collect();
    // The order of a map is random, and the same file should give the same outcome.
    marks.sort_unstable();
    // Imported messages are numbered in file order, starting at 1.
    let message_seqs: HashMap<&str, u32> =
        messages.iter().map(|(message, _)| message.id.as_str()).zip(1..).collect();
    let mut seqs = HashMap::new();
    for (user, id) in marks {
        let seq = message_seqs.get(convert_id(&id).as_str()).copied();
        match (UserId::parse("readMarks", &user), seq) {
            (Ok(user), Some(seq)) if seqs.len() < MAX_PARTICIPANTS => {
                seqs.insert(user.to_string(), seq);
            }
            _ => left_out.add("readMarks", "readMarks"),
        }
    }
    seqs
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

#[cfg(test)]
mod tests {
    use super::super::message_record::derive_message_id;
    use super::super::session_json::parse_session;
    use super::*;

    /// A change here would make a repeated import store its sessions a second time.
    #[test]
    fn derived_ids_never_change() {
        let principal = Principal { user: UserId::new_unchecked("ada"), is_admin: false };
        let record = |json: &str| parse_session(serde_json::from_str(json).unwrap()).unwrap();
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
