//! The sessions and messages of a file, in the form that all formats are read into, and their
//! conversion for the store.
//!
//! An invalid value is replaced or left out, and noted; it does not reject the session.

use super::import_notes::ImportNotes;
use super::lenient_values::{convert_id, to_hex_id};
pub use super::message_record::MessageRecord;
use super::message_record::{format_time, role_name};
use crate::domain::memory::MemoryOptions;
use crate::domain::session::{
    JsonObject, ListPlacement, MAX_PARTICIPANTS, SessionSettings, SessionStatus,
};
use crate::domain::text::truncate_chars;
use crate::domain::title::{MAX_TITLE_CHARS, SessionTitle, TitleSource};
use crate::domain::{FieldError, MessageId, Principal, ProjectId, SessionId, Timestamp, UserId};
use crate::error::Result;
use crate::json::StrictObject;
use crate::store::{ImportEnd, ImportTarget, NewSession};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use utoipa::ToSchema;

/// Bytes of a title that are looked at. Ids are derived from as much of it.
const MAX_READ_TITLE_BYTES: usize = 64 << 10;

/// Limits and permissions of an import.
#[derive(Debug, Clone, Copy)]
pub struct ImportOptions {
    /// Maximum size of a system prompt, in bytes.
    pub max_message: usize,
    /// Whether the participants named in the file are added to the sessions.
    pub trusts_participants: bool,
    /// Whether those participants are invited, unless the file lists who is invited and thereby
    /// says that the others have accepted.
    pub needs_consent: bool,
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
    /// Users who were invited and had not accepted. With this list, the participants of a file
    /// count as having accepted.
    pub(super) invited: Option<Vec<String>>,
    /// `archived` and `pinned` of participants other than the owner, by user.
    #[schema(required = false)]
    pub(super) placements: BTreeMap<String, ListPlacement>,
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

/// The fields of a session, ready for the store.
pub struct PreparedSession {
    pub target: ImportTarget,
    pub end: ImportEnd,
    pub left_out: ImportNotes,
    pub mended: ImportNotes,
}

/// Converts the fields of a session for the store, other than its messages. Invalid values are
/// replaced and noted. `derive_id` gives the id of a session without one; `first_time` is the time
/// of its first message.
pub(super) fn prepare_session(
    principal: &Principal,
    mut record: SessionRecord,
    derive_id: impl FnOnce(&SessionRecord) -> Result<SessionId>,
    first_time: Option<Timestamp>,
    options: ImportOptions,
    now: Timestamp,
) -> Result<PreparedSession> {
    let mut left_out = std::mem::take(&mut record.left_out);
    let mut mended = std::mem::take(&mut record.mended);
    let keep_title = record.title_source.is_some();
    if let Some(title) = &mut record.title {
        let end = title.floor_char_boundary(MAX_READ_TITLE_BYTES);
        if end < title.len() {
            title.truncate(end);
            mended.add("title", "title");
        }
    }
    let title = convert_title(&record, &mut mended)?;
    let id = match &record.session_id {
        Some(id) => SessionId::new_unchecked(note_converted_id(id, "sessionId", &mut mended)),
        None => derive_id(&record)?,
    };
    // Derived from the user and the id rather than generated, so that a second import finds the
    // session again.
    let fallback_id = to_hex_id(Sha256::new_with_prefix(format!("{}\0{id}", principal.user)));
    let members = convert_members(&mut record, options, &mut left_out);
    // A session without a time is as old as its first message, otherwise new.
    let created_at = record.created_at.or(first_time).unwrap_or(now);
    let project_id = record.project_id.as_deref().map(|id| ProjectId::parse("projectId", id));
    let status = record.status.as_deref().map(SessionStatus::parse);
    let target = ImportTarget { id, fallback_id: SessionId::new_unchecked(fallback_id) };
    let end = ImportEnd {
        read_marks: convert_read_marks(record.read_marks, &mut left_out),
        keep_title,
        fields: NewSession {
            id: None,
            title,
            project_id: keep_valid(project_id, "projectId", &mut left_out),
            participants: members.participants,
            invited: members.invited,
            meta: convert_object("meta", record.meta, &mut left_out),
            user_meta: convert_object("userMeta", record.user_meta, &mut left_out),
            theme: convert_object("theme", record.theme, &mut left_out),
            settings: keep_valid_settings(record.settings, options.max_message, &mut left_out),
        },
        status: keep_valid(status, "status", &mut mended).unwrap_or_default(),
        archived: record.archived,
        pinned: record.pinned,
        placements: members.placements,
        created_at,
        last_seen: record.last_seen,
        head_id: record
            .head_id
            .map(|id| MessageId::new_unchecked(note_converted_id(&id, "headId", &mut mended))),
    };
    Ok(PreparedSession { target, end, left_out, mended })
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

/// The users of an imported session.
#[derive(Default)]
struct ImportedMembers {
    participants: Vec<UserId>,
    invited: Vec<UserId>,
    placements: Vec<(UserId, ListPlacement)>,
}

fn convert_members(
    record: &mut SessionRecord,
    options: ImportOptions,
    left_out: &mut ImportNotes,
) -> ImportedMembers {
    let participants = record.participants.take().unwrap_or_default();
    let participants = convert_users("participants", participants, MAX_PARTICIPANTS, left_out);
    let room = MAX_PARTICIPANTS - participants.len();
    let invited = record.invited.take();
    let invited = invited.map(|users| convert_users("invited", users, room, left_out));
    if !options.trusts_participants {
        return ImportedMembers::default();
    }
    match invited {
        None if options.needs_consent => {
            ImportedMembers { invited: participants, ..ImportedMembers::default() }
        }
        invited => {
            let placements = std::mem::take(&mut record.placements).into_iter();
            let placements = placements.filter_map(|(user, placement)| {
                Some((participants.iter().find(|one| one.as_str() == user)?.clone(), placement))
            });
            let placements = placements.collect();
            ImportedMembers { participants, invited: invited.unwrap_or_default(), placements }
        }
    }
}

fn convert_users(
    field: &'static str,
    users: Vec<String>,
    limit: usize,
    left_out: &mut ImportNotes,
) -> Vec<UserId> {
    let mut converted = Vec::new();
    for user in users {
        match UserId::parse(field, &user) {
            Ok(user) if converted.len() < limit => converted.push(user),
            _ => left_out.add(field, field),
        }
    }
    converted
}

/// Each user's last read message. The store ignores those that the session does not have.
fn convert_read_marks(
    marks: HashMap<String, String>,
    left_out: &mut ImportNotes,
) -> HashMap<String, MessageId> {
    let mut marks: Vec<(String, String)> = marks.into_iter().collect();
    // The order of a map is random, and the same file should give the same outcome.
    marks.sort_unstable();
    let mut converted = HashMap::new();
    for (user, id) in marks {
        match UserId::parse("readMarks", &user) {
            Ok(user) if converted.len() < MAX_PARTICIPANTS => {
                converted.insert(user.to_string(), MessageId::new_unchecked(convert_id(&id)));
            }
            _ => left_out.add("readMarks", "readMarks"),
        }
    }
    converted
}

/// Derives an id from the content of a session without one, so that importing it again finds it.
pub(super) struct SessionDigest(Sha256);

impl SessionDigest {
    /// `index` is the position of the session in the file.
    pub(super) fn new(principal: &Principal, record: &SessionRecord, index: usize) -> Self {
        // NUL separates the fields, which do not contain it. With another format, repeating an
        // earlier import would duplicate its sessions.
        let time = format_time(record.created_at);
        let fields = format!("{}\0{index}\0{:?}\0{time}", principal.user, record.title);
        Self(Sha256::new_with_prefix(fields))
    }

    pub(super) fn add(&mut self, message: &MessageRecord) {
        let role = role_name(message.role);
        self.0.update(format!("\0{:?}\0{role}\0{}", message.id, message.content));
    }

    pub(super) fn finish(self) -> SessionId {
        SessionId::new_unchecked(to_hex_id(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::import_pace::ImportPace;
    use super::super::json_cursor::JsonCursor;
    use super::super::message_index::MessageIndex;
    use super::super::message_reader::MessageReader;
    use super::super::message_record::derive_message_id;
    use super::super::session_json::parse_fields;
    use super::*;

    /// A change here would make a repeated import store its sessions a second time.
    #[test]
    fn derived_ids_never_change() {
        let principal = Principal { user: UserId::new_unchecked("ada"), is_admin: false };
        let messages = |json: &str| {
            let list =
                json.find("\"messages\": ").map_or("[]", |at| &json[at + 12..json.len() - 1]);
            let mut cursor =
                JsonCursor::copy_file(list.as_bytes(), &ImportPace::default()).unwrap();
            let (index, _) = MessageIndex::scan(&mut cursor, 0, 0).unwrap();
            let mut reader = MessageReader::open(&mut cursor, &index, 0, None).unwrap();
            let mut notes = (ImportNotes::default(), ImportNotes::default());
            let next = || reader.next_record(&mut notes.0, &mut notes.1).unwrap();
            std::iter::from_fn(next).collect::<Vec<_>>()
        };
        let session_id = |json: &str| {
            let record = parse_fields(serde_json::from_str(json).unwrap()).unwrap();
            let mut digest = SessionDigest::new(&principal, &record, 3);
            messages(json).iter().for_each(|message| digest.add(message));
            digest.finish().to_string()
        };
        let full = r#"{"title": "A \"b\"\n", "createdAt": "2026-01-31T12:00:00.000Z", "messages": [
            {"id": "m1", "role": "user", "content": "hi"},
            {"role": "assistant", "content": "yes", "createdAt": "2026-01-31T12:00:01.000Z"},
            {"role": "system", "content": "s"}, {"role": "tool", "content": "t"}]}"#;
        assert_eq!(session_id("{}"), "89fb10f9148635c96777ef34e88e0bf5");
        assert_eq!(session_id(full), "9716ab01db9250b00b9cb1b3cd028359");
        let session = SessionId::new_unchecked("s");
        let message_ids: Vec<String> = messages(full)
            .iter()
            .map(|message| derive_message_id(&session, message, 7).to_string())
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
