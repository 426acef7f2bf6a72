//! Sessions: a conversation's own fields, settings and counters.

use super::extra_params::ExtraParams;
use super::memory::MemoryOptions;
use super::text::{has_nul, reject_nul};
use super::title::TitleSource;
use super::turn::ActiveTurn;
use super::{FieldError, MessageId, ProjectId, SessionId, Timestamp, UserId, node};
use crate::json::deserialize_object;
use crate::json::limits::check_value;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use std::fmt;
use utoipa::ToSchema;

/// Maximum size of `meta`, `userMeta` and `theme`, in bytes of JSON each.
pub const MAX_META_BYTES: usize = 16 * 1024;
pub const MAX_PARTICIPANTS: usize = 100;
const MAX_MODEL_CHARS: usize = 200;

/// A conversation.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// Session id, unique in the store.
    #[serde(rename = "sessionId")]
    #[schema(value_type = String)]
    pub id: SessionId,
    /// Owner of the session.
    #[serde(rename = "userId")]
    #[schema(value_type = String)]
    pub owner: UserId,
    /// Project the session belongs to.
    #[schema(value_type = Option<String>)]
    pub project_id: Option<ProjectId>,
    /// Title, `New Chat` until the session is named.
    pub title: String,
    /// Origin of the title.
    pub title_source: TitleSource,
    /// Users who may read and post, including the owner.
    #[schema(value_type = Vec<String>)]
    pub participants: Vec<UserId>,
    /// Users who are invited and have not accepted yet.
    #[schema(value_type = Vec<String>)]
    pub invited: Vec<UserId>,
    /// `active`, `agent_assigned`, `closed`, or a value defined by the application.
    #[schema(value_type = String)]
    pub status: SessionStatus,
    /// Whether the session is excluded from the caller's default list. Each participant has their
    /// own value.
    pub archived: bool,
    /// Whether the session is first in the caller's list. Each participant has their own value.
    pub pinned: bool,
    /// Application data.
    #[schema(value_type = Object)]
    pub meta: JsonObject,
    /// Application data about the user, such as browser, device and location.
    #[schema(value_type = Object)]
    pub user_meta: JsonObject,
    /// Application data about the display of the conversation.
    #[schema(value_type = Object)]
    pub theme: JsonObject,
    /// Defaults for the session's turns; a request may override them.
    pub settings: SessionSettings,
    /// Incremented whenever one of the session's own fields changes.
    pub version: u32,
    /// Number of messages in all branches.
    pub messages_count: u32,
    /// Newest message of the active path.
    #[schema(value_type = Option<String>)]
    pub head_id: Option<MessageId>,
    /// Reply in progress.
    pub active_turn: Option<ActiveTurn>,
    /// First 200 characters of the newest message.
    pub last_message: Option<String>,
    /// Time of the newest message.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_message_at: Option<Timestamp>,
    /// Time of the owner's last message.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen: Option<Timestamp>,
    /// Start of the conversation.
    #[schema(value_type = String, format = DateTime)]
    pub start_time: Timestamp,
    /// Time the session was created.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Time of the last change to the session or its messages.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
    /// Ids of the session's nodes, at most the first 1,000; omitted in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nodes: Option<Vec<String>>,
}

/// Maximum number of nodes that a session names. Each branch has a node, so sessions with very many
/// branches have as many.
const MAX_LISTED_NODES: u32 = 1_000;

/// The place of a session in the lists of one participant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ListPlacement {
    pub archived: bool,
    pub pinned: bool,
}

impl ListPlacement {
    pub fn is_default(self) -> bool {
        self == Self::default()
    }
}

impl Session {
    /// The part that invited users see before they accept: whose session it is, its title, and who
    /// takes part. Content, settings, counters and times of activity are left out.
    #[must_use]
    pub fn redact_for_invitee(self) -> Self {
        // Every field is named: a new one is not shown by mistake.
        Self {
            id: self.id,
            owner: self.owner,
            project_id: None,
            title: self.title,
            title_source: self.title_source,
            participants: self.participants,
            invited: self.invited,
            status: self.status,
            archived: false,
            pinned: false,
            meta: JsonObject::default(),
            user_meta: JsonObject::default(),
            theme: JsonObject::default(),
            settings: SessionSettings::default(),
            version: self.version,
            messages_count: 0,
            head_id: None,
            active_turn: None,
            last_message: None,
            last_message_at: None,
            last_seen: None,
            start_time: self.start_time,
            created_at: self.created_at,
            updated_at: self.created_at,
            nodes: None,
        }
    }

    /// The ids of a session's nodes, given their number. The route of nodes lists those that are
    /// left out.
    pub fn chat_ids(id: &SessionId, count: u32) -> Vec<String> {
        (1..=count.min(MAX_LISTED_NODES)).map(|number| node::format_chat_id(id, number)).collect()
    }
}

/// A session's status: 1 to 32 characters of `a-z` and `_`. Applications may define their own
/// values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionStatus(String);

impl SessionStatus {
    /// The model replies.
    pub const ACTIVE: &'static str = "active";
    /// A person replies; messages do not start a turn.
    pub const AGENT_ASSIGNED: &'static str = "agent_assigned";
    /// Nothing can be added.
    pub const CLOSED: &'static str = "closed";

    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        if (1..=32).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(Self(text.to_owned()));
        }
        Err(FieldError::new("status", "must be 1 to 32 characters of a-z and _"))
    }

    /// Wraps a status that was validated before it was stored.
    pub fn new_unchecked(text: String) -> Self {
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_closed(&self) -> bool {
        self.0 == Self::CLOSED
    }

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

/// Application data: a JSON object of at most 16 KiB, stored byte for byte.
#[derive(Debug, Clone, Serialize)]
#[serde(transparent)]
pub struct JsonObject(Box<RawValue>);

impl JsonObject {
    /// Validates an object sent by a client, either as an object or as a string that contains one.
    pub fn parse(field: &'static str, raw: &RawValue) -> Result<Self, FieldError> {
        let not_an_object = || FieldError::new(field, "must be a JSON object");
        // Some clients send these objects as a string of JSON.
        if raw.get().starts_with('"') {
            let text: String = serde_json::from_str(raw.get()).map_err(|_| not_an_object())?;
            let inner = RawValue::from_string(text).map_err(|_| not_an_object())?;
            return Self::parse_object(field, &inner);
        }
        Self::parse_object(field, raw)
    }

    fn parse_object(field: &'static str, raw: &RawValue) -> Result<Self, FieldError> {
        let text = raw.get().trim();
        if text.len() > MAX_META_BYTES {
            return Err(FieldError::new(field, "must be at most 16 KiB of JSON"));
        }
        check_value(text).map_err(|message| FieldError::new(field, message))?;
        // Parsing into values, unlike scanning for syntax, limits the nesting depth and rejects
        // unpaired surrogates.
        let value = serde_json::from_str(text).map_err(|error| {
            // serde_json reports exceeded depth as a syntax error of no particular category.
            let is_too_deep = error.to_string().contains("recursion limit");
            let message = if is_too_deep {
                "must be nested at most 127 levels deep"
            } else {
                "must be a JSON object"
            };
            FieldError::new(field, message)
        })?;
        let serde_json::Value::Object(_) = value else {
            return Err(FieldError::new(field, "must be a JSON object"));
        };
        if has_nul(&value) {
            return Err(FieldError::new(field, "must not contain the character NUL (U+0000)"));
        }
        Ok(Self(raw.to_owned()))
    }

    /// Wraps an object read from a store, as JSON text.
    pub fn from_stored(text: String) -> Option<Self> {
        RawValue::from_string(text).ok().map(Self)
    }

    pub fn as_json(&self) -> &str {
        self.0.get()
    }
}

impl Default for JsonObject {
    fn default() -> Self {
        Self(serde_json::value::to_raw_value(&serde_json::Map::new()).unwrap_or_default())
    }
}

/// Parameters of a turn. A session's settings apply to all its turns, a request's to one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionSettings {
    /// Model that replies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// System prompt, in place of the server's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// Sampling temperature, from 0 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Nucleus sampling, from 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// Maximum tokens of a reply, at least 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
    /// Memory options: which messages of the session go into the prompt.
    #[serde(
        skip_serializing_if = "MemoryOptions::is_empty",
        deserialize_with = "deserialize_object"
    )]
    pub memory: MemoryOptions,
    /// Further parameters of a request for its provider. Never stored with a session.
    #[serde(skip)]
    #[schema(ignore)]
    pub extra_params: ExtraParams,
}

impl SessionSettings {
    /// `max_prompt` is the maximum size of a system prompt, in bytes.
    pub fn validate(self, max_prompt: usize) -> Result<Self, FieldError> {
        let range = |field, value: Option<f64>, most: f64, message| match value {
            // `contains` is false for NaN as well.
            Some(value) if !(0.0..=most).contains(&value) => Err(FieldError::new(field, message)),
            _ => Ok(()),
        };
        range("temperature", self.temperature, 2.0, "must be a number from 0 to 2")?;
        range("topP", self.top_p, 1.0, "must be a number from 0 to 1")?;
        if self.max_output_tokens == Some(0) {
            return Err(FieldError::new("maxOutputTokens", "must be a whole number of at least 1"));
        }
        if let Some(model) = &self.model {
            let is_valid = (1..=MAX_MODEL_CHARS).contains(&model.chars().count())
                && !model.chars().any(char::is_control);
            if !is_valid {
                return Err(FieldError::new(
                    "model",
                    "must be 1 to 200 characters without control characters",
                ));
            }
        }
        if let Some(prompt) = &self.system_prompt {
            reject_nul("systemPrompt", prompt)?;
            if prompt.len() > max_prompt {
                let message = format!("must be at most {max_prompt} bytes");
                return Err(FieldError::new("systemPrompt", message));
            }
        }
        self.memory.validate()?;
        Ok(self)
    }

    /// These settings, with the unset ones taken from `under`.
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
