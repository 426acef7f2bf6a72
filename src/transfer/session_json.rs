//! Reads a session in the format that Echoic exports. A field of an unexpected type or value is
//! mended or left out, and noted; it does not reject the session.

use super::external_values::has_many_values;
use super::import_notes::ImportNotes;
use super::lenient_values::{TimeForm, convert_role, join_place, read_id, read_time};
use super::session_record::{MessageRecord, SessionRecord};
use crate::domain::message::{FinishReason, MessageError};
use crate::domain::session::SessionSettings;
use crate::domain::usage::Cost;
use crate::domain::{Role, Timestamp, Usage};
use crate::error::{Error, Result};
use crate::json::StrictObject;
use crate::json::lenient::RawObject;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::HashMap;

/// Costs and waits of a reply that are believed: a million units, and a day.
const MAX_COST: Cost = Cost(1_000_000_000_000_000);
const MAX_FIRST_TOKEN_MS: u64 = 24 * 60 * 60 * 1000;

/// Error code of a message whose error is given as a text.
const UNKNOWN_ERROR_CODE: &str = "internal";

/// Reads a session without its messages. Fails only if it is no object, or if its messages are no
/// list.
pub(super) fn parse_fields(raw: &RawValue) -> Result<SessionRecord> {
    if !raw.get().starts_with('{') {
        return Err(Error::invalid_field(
            "entry",
            "must be an object with the fields of a session",
        ));
    }
    let object = RawObject::from_value(raw);
    let messages = object.get("messages");
    if messages.is_some_and(|messages| !messages.get().starts_with('[')) {
        return Err(Error::invalid_field("messages", "must be a list of messages"));
    }
    let mut fields = FieldReader::new(&object, String::new());
    let owned = |field: &str| object.get(field).map(ToOwned::to_owned);
    let title_field = if object.get("title").is_some() { "title" } else { "name" };
    let record = SessionRecord {
        session_id: fields.read_id("sessionId"),
        title: fields.read(title_field),
        title_source: fields.read("titleSource"),
        project_id: fields.read("projectId"),
        status: fields.read("status"),
        archived: fields.read("archived").unwrap_or_default(),
        pinned: fields.read("pinned").unwrap_or_default(),
        meta: owned("meta"),
        user_meta: owned("userMeta"),
        theme: owned("theme"),
        settings: fields.read_settings(),
        participants: fields.read_texts("participants"),
        invited: fields.read_texts("invited"),
        placements: fields.read("placements").unwrap_or_default(),
        created_at: fields.read_time("createdAt"),
        last_seen: fields.read_time("lastSeen"),
        head_id: fields.read_id("headId"),
        read_marks: fields.read_marks(),
        messages: Vec::new(),
        left_out: ImportNotes::default(),
        mended: fields.mended,
    };
    Ok(record)
}

pub(super) fn read_message(
    raw: &RawValue,
    place: String,
    last_time: Option<Timestamp>,
    mended: &mut ImportNotes,
) -> MessageRecord {
    let object = RawObject::from_value(raw);
    let mut fields = FieldReader::new(&object, place.clone());
    std::mem::swap(&mut fields.mended, mended);
    let (role, role_mark) = fields.read_role();
    let content = fields.read_content();
    let has_time = object.get("createdAt").is_some();
    let created_at = fields.read_time("createdAt");
    let record = MessageRecord {
        id: fields.read_id("id"),
        role,
        sender_id: fields.read("senderId"),
        content: format!("{role_mark}{content}"),
        kind: fields.read("type").unwrap_or_default(),
        parts: object.get("parts").map(ToOwned::to_owned),
        parent_id: fields.read_parent(),
        created_at: created_at.or(last_time.filter(|_| has_time)),
        client_message_id: fields.read_id("clientMessageId"),
        status: fields.read("status").unwrap_or_default(),
        model: fields.read("model"),
        finish_reason: fields.read_finish_reason(),
        error: fields.read_error(),
        usage: fields.read_usage(),
        error_path: Some(place),
    };
    std::mem::swap(&mut fields.mended, mended);
    record
}

/// Reads the fields of an object and notes those that are not as they should be.
struct FieldReader<'a> {
    object: &'a RawObject<'a>,
    place: String,
    mended: ImportNotes,
}

impl<'a> FieldReader<'a> {
    fn new(object: &'a RawObject<'a>, place: String) -> Self {
        Self { object, place, mended: ImportNotes::default() }
    }

    fn note(&mut self, field: &str) {
        self.mended.add(field, &join_place(&self.place, field));
    }

    fn read<T: Deserialize<'a>>(&mut self, field: &str) -> Option<T> {
        let read = serde_json::from_str(self.object.get(field)?.get()).ok();
        if read.is_none() {
            self.note(field);
        }
        read
    }

    /// The usage without counts that no reply has.
    fn read_usage(&mut self) -> Option<Usage> {
        let StrictObject(usage): StrictObject<Usage> = self.read("usage")?;
        let counts = usage.without_absurd_counts();
        let believed = Usage {
            cost: counts.cost.filter(|cost| (0..=MAX_COST.0).contains(&cost.0)),
            first_token_ms: counts.first_token_ms.filter(|time| *time <= MAX_FIRST_TOKEN_MS),
            ..counts
        };
        if believed != usage {
            self.note("usage");
        }
        Some(believed)
    }

    fn read_id(&mut self, field: &str) -> Option<String> {
        let raw = self.object.get(field)?;
        let id = read_id(raw);
        // The id of a field that is empty, or of another type than text.
        if id.is_none() || !raw.get().starts_with('"') {
            self.note(field);
        }
        id
    }

    fn read_time(&mut self, field: &str) -> Option<Timestamp> {
        read_time(self.object, field, TimeForm::Text, &self.place, &mut self.mended)
    }

    fn read_texts(&mut self, field: &str) -> Option<Vec<String>> {
        let list = self.object.list(field);
        let texts: Vec<String> =
            list.iter().filter_map(|text| serde_json::from_str(text.get()).ok()).collect();
        if texts.len() < list.len() || (list.is_empty() && self.has_other_than_list(field)) {
            self.note(field);
        }
        // An empty list is not an absent one.
        self.object.get(field).is_some_and(|value| value.get().starts_with('[')).then_some(texts)
    }

    fn has_other_than_list(&self, field: &str) -> bool {
        self.object.get(field).is_some_and(|value| !value.get().starts_with('['))
    }

    /// The settings, without those of a wrong type.
    fn read_settings(&mut self) -> SessionSettings {
        let Some(raw) = self.object.get("settings") else { return SessionSettings::default() };
        if let Ok(StrictObject(settings)) = serde_json::from_str(raw.get()) {
            return settings;
        }
        let mut settings = SessionSettings::default();
        let fields = RawObject::from_value(raw);
        if !raw.get().starts_with('{') {
            self.note("settings");
        }
        for (name, value) in fields.fields() {
            let alone = serde_json::to_string(&HashMap::from([(name, value)])).unwrap_or_default();
            match serde_json::from_str::<SessionSettings>(&alone) {
                Ok(read) => settings = read.with_defaults(settings),
                Err(_) => self.note(&format!("settings.{name}")),
            }
        }
        settings
    }

    fn read_marks(&mut self) -> HashMap<String, String> {
        let marks = self.object.object("readMarks");
        let mut read = HashMap::new();
        for (user, id) in marks.fields() {
            match read_id(id) {
                Some(id) => drop(read.insert(user.to_owned(), id)),
                None => self.note("readMarks"),
            }
        }
        if self.object.get("readMarks").is_some_and(|marks| !marks.get().starts_with('{')) {
            self.note("readMarks");
        }
        read
    }

    /// The role of a message. An unknown one becomes a tool, with its name in brackets before the
    /// text.
    fn read_role(&mut self) -> (Role, String) {
        let name = self.object.text("role").unwrap_or_default();
        let (role, mark) = convert_role(&name);
        if role.as_str() != name {
            self.note("role");
        }
        (role, mark.map_or_else(String::new, |mark| format!("{mark}\n\n")))
    }

    /// The text of a message. A list of text parts is joined; any other value is kept as JSON.
    fn read_content(&mut self) -> String {
        let Some(raw) = self.object.get("content") else { return String::new() };
        let parsed = match has_many_values(raw.get()) {
            true => None,
            false => serde_json::from_str(raw.get()).ok(),
        };
        let value = match parsed {
            Some(Value::String(text)) => return text,
            value => value.unwrap_or_default(),
        };
        self.note("content");
        let text_of = |part: &Value| match part {
            Value::String(text) => Some(text.clone()),
            part => part.get("text")?.as_str().map(str::to_owned),
        };
        let texts: Option<Vec<String>> = match &value {
            Value::Array(parts) => parts.iter().map(text_of).collect(),
            part => text_of(part).map(|text| vec![text]),
        };
        texts.map_or_else(|| raw.get().to_owned(), |texts| texts.join("\n\n"))
    }

    /// `None` for a message without the field, which follows the preceding one.
    fn read_parent(&mut self) -> Option<Option<String>> {
        if self.object.get("parentId").is_some() {
            return Some(self.read_id("parentId"));
        }
        self.object.fields().any(|(name, _)| name == "parentId").then_some(None)
    }

    fn read_finish_reason(&mut self) -> Option<FinishReason> {
        self.object.get("finishReason")?;
        self.read("finishReason").or(Some(FinishReason::Other))
    }

    fn read_error(&mut self) -> Option<MessageError> {
        let raw = self.object.get("error")?;
        if let Ok(StrictObject(error)) = serde_json::from_str(raw.get()) {
            return Some(error);
        }
        self.note("error");
        let error = self.object.object("error");
        let code = error.text("code").unwrap_or_else(|| UNKNOWN_ERROR_CODE.to_owned());
        let message = error.text("message").or_else(|| self.object.text("error"));
        Some(MessageError { code, message: message.unwrap_or_else(|| raw.get().to_owned()) })
    }
}
