//! Sessions: one conversation's own fields, its settings and its counters.

use super::extra_params::ExtraParams;
use super::memory::MemoryOptions;
use super::text::{has_nul, reject_nul};
use super::title::TitleSource;
use super::turn::ActiveTurn;
use super::{FieldError, MessageId, ProjectId, SessionId, Timestamp, UserId, node};
use crate::json::deserialize_object;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use std::fmt;
use utoipa::ToSchema;

/// The most bytes of JSON in `meta`, `userMeta` or `theme`.
pub const MAX_META_BYTES: usize = 16 * 1024;
/// The most participants of a session.
pub const MAX_PARTICIPANTS: usize = 100;
/// The most characters of a model's name.
const MAX_MODEL_CHARS: usize = 200;

/// One conversation.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// Its name, unique in the store.
    #[serde(rename = "sessionId")]
    #[schema(value_type = String)]
    pub id: SessionId,
    /// Its owner.
    #[serde(rename = "userId")]
    #[schema(value_type = String)]
    pub owner: UserId,
    /// The project it belongs to.
    #[schema(value_type = Option<String>)]
    pub project_id: Option<ProjectId>,
    /// What it is called.
    pub title: String,
    /// Where the title came from.
    pub title_source: TitleSource,
    /// Who may read it and write in it; the owner among them.
    #[schema(value_type = Vec<String>)]
    pub participants: Vec<UserId>,
    /// `active`, `agent_assigned`, `closed` or a word of the application's own.
    #[schema(value_type = String)]
    pub status: SessionStatus,
    /// Put away: out of the default list.
    pub archived: bool,
    /// Kept at the head of lists.
    pub pinned: bool,
    /// The application's own data.
    #[schema(value_type = Object)]
    pub meta: JsonObject,
    /// What the application knows of its user: browser, device, place.
    #[schema(value_type = Object)]
    pub user_meta: JsonObject,
    /// How the application shows the conversation.
    #[schema(value_type = Object)]
    pub theme: JsonObject,
    /// What its turns use unless a request says otherwise.
    pub settings: SessionSettings,
    /// Counts the changes of the session's own fields.
    pub version: u32,
    /// Messages in all branches.
    pub messages_count: u32,
    /// The newest message of the active path.
    #[schema(value_type = Option<String>)]
    pub head_id: Option<MessageId>,
    /// The reply that is being produced.
    pub active_turn: Option<ActiveTurn>,
    /// The first 200 characters of the newest message.
    pub last_message: Option<String>,
    /// When the newest message came.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_message_at: Option<Timestamp>,
    /// When its owner last sent a message.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen: Option<Timestamp>,
    /// When the conversation began.
    #[schema(value_type = String, format = DateTime)]
    pub start_time: Timestamp,
    /// When the session was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When anything about it last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// The names of its nodes; left out of lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<String>>,
}

impl Session {
    /// The names of a session's nodes, given how many there are.
    pub fn chat_ids(id: &SessionId, count: u32) -> Vec<String> {
        (1..=count).map(|number| node::format_chat_id(id, number)).collect()
    }
}

/// A session's status: 1 to 32 of `a-z _`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionStatus(String);

impl SessionStatus {
    /// The model answers.
    pub const ACTIVE: &'static str = "active";
    /// A person answers; the model stays silent.
    pub const AGENT_ASSIGNED: &'static str = "agent_assigned";
    /// Nothing can be added.
    pub const CLOSED: &'static str = "closed";

    /// Takes a status as a client spells it.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        if (1..=32).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(Self(text.to_owned()));
        }
        Err(FieldError::new("status", "must be 1 to 32 characters of a-z and _"))
    }

    /// A status that was checked before it was stored.
    pub fn new_unchecked(text: String) -> Self {
        Self(text)
    }

    /// The word itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether nothing may be added.
    pub fn is_closed(&self) -> bool {
        self.0 == Self::CLOSED
    }

    /// Whether a person answers in the model's place.
    pub fn is_agent_assigned(&self) -> bool {
        self.0 == Self::AGENT_ASSIGNED
    }
}

impl Default for SessionStatus {
    fn default() -> Self {
        Self(Self::ACTIVE.to_owned())
    }
}

impl fmt::Display for SessionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for SessionStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// A JSON object of at most 16 KiB that is the application's own: kept as it came.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct JsonObject(Box<RawValue>);

impl JsonObject {
    /// Takes an object, or a string that holds one, as a client sent it.
    pub fn parse(field: &'static str, raw: &RawValue) -> Result<Self, FieldError> {
        let wants_object = || FieldError::new(field, "must be a JSON object");
        if raw.get().starts_with('"') {
            let text: String = serde_json::from_str(raw.get()).map_err(|_| wants_object())?;
            let inner = RawValue::from_string(text).map_err(|_| wants_object())?;
            return Self::parse_object(field, &inner);
        }
        Self::parse_object(field, raw)
    }

    fn parse_object(field: &'static str, raw: &RawValue) -> Result<Self, FieldError> {
        let text = raw.get().trim();
        if text.len() > MAX_META_BYTES {
            return Err(FieldError::new(field, "must be at most 16 KiB of JSON"));
        }
        // Reading it into values bounds its depth and finds what a mere scan lets pass, such as
        // half a surrogate pair.
        let value = serde_json::from_str(text).map_err(|error| {
            let deep = error.to_string().contains("recursion limit");
            let wants = if deep {
                "must be nested at most 127 levels deep"
            } else {
                "must be a JSON object"
            };
            FieldError::new(field, wants)
        })?;
        let serde_json::Value::Object(_) = value else {
            return Err(FieldError::new(field, "must be a JSON object"));
        };
        if has_nul(&value) {
            return Err(FieldError::new(field, "must not contain the character NUL (U+0000)"));
        }
        Ok(Self(raw.to_owned()))
    }

    /// An object read back from a store, as its JSON text.
    pub fn from_stored(text: String) -> Option<Self> {
        RawValue::from_string(text).ok().map(Self)
    }

    /// The JSON text.
    pub fn as_json(&self) -> &str {
        self.0.get()
    }
}

impl Default for JsonObject {
    fn default() -> Self {
        Self(serde_json::value::to_raw_value(&serde_json::Map::new()).unwrap_or_default())
    }
}

/// What a turn uses: of a session for all its turns, of a request for one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionSettings {
    /// The model that answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What the model is told before everything else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// From 0 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// From 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Most tokens of a reply, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    /// What of the session goes into the prompt.
    #[serde(
        skip_serializing_if = "MemoryOptions::is_empty",
        deserialize_with = "deserialize_object"
    )]
    pub memory: MemoryOptions,
    /// What a request hands on to its provider beside that; no session keeps it.
    #[serde(skip)]
    #[schema(ignore)]
    pub extra_params: ExtraParams,
}

impl SessionSettings {
    /// Checks the bounds; `max_prompt` is the most bytes of a system prompt.
    pub fn validate(self, max_prompt: usize) -> Result<Self, FieldError> {
        let range = |field, value: Option<f64>, most: f64, wants| match value {
            Some(value) if !(0.0..=most).contains(&value) => Err(FieldError::new(field, wants)),
            _ => Ok(()),
        };
        range("temperature", self.temperature, 2.0, "must be a number from 0 to 2")?;
        range("topP", self.top_p, 1.0, "must be a number from 0 to 1")?;
        if self.max_output_tokens == Some(0) {
            return Err(FieldError::new("maxOutputTokens", "must be a whole number of at least 1"));
        }
        if let Some(model) = &self.model {
            let sane = (1..=MAX_MODEL_CHARS).contains(&model.chars().count())
                && !model.chars().any(char::is_control);
            if !sane {
                return Err(FieldError::new(
                    "model",
                    "must be 1 to 200 characters without control characters",
                ));
            }
        }
        if let Some(prompt) = &self.system_prompt {
            reject_nul("systemPrompt", prompt)?;
            if prompt.len() > max_prompt {
                let wants = format!("must be at most {max_prompt} bytes");
                return Err(FieldError::new("systemPrompt", wants));
            }
        }
        self.memory.validate()?;
        Ok(self)
    }

    /// These settings where they say something, else `under`'s.
    #[must_use]
    pub fn with_defaults(self, under: Self) -> Self {
        Self {
            model: self.model.or(under.model),
            system_prompt: self.system_prompt.or(under.system_prompt),
            temperature: self.temperature.or(under.temperature),
            top_p: self.top_p.or(under.top_p),
            max_output_tokens: self.max_output_tokens.or(under.max_output_tokens),
            memory: self.memory.with_defaults(under.memory),
            extra_params: self.extra_params.or(under.extra_params),
        }
    }
}
