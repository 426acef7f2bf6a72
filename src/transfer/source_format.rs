//! Recognizes the product that wrote a conversation, by its fields rather than by the file's name.

use super::lenient_values::read_id;
use super::session_record::SessionRecord;
use super::{chat_ui, chatgpt, claude_ai, deepseek, libre_chat, open_webui, session_json};
use crate::domain::ids::MAX_ID_CHARS;
use crate::domain::text::truncate_chars;
use crate::error::Result;
use crate::json::lenient::{RawObject, parse_list};
use serde_json::value::RawValue;

/// A format that can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SourceFormat {
    Echoic,
    ChatGpt,
    ClaudeAi,
    OpenWebUi,
    LibreChat,
    ChatUi,
    DeepSeek,
}

/// A value of an import file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FoundFormat {
    Readable(SourceFormat),
    /// Another product's format, with its name.
    Unreadable(&'static str),
    Unknown,
}

/// Entries of a list that are looked at. The first ones may be of a special kind.
const MAX_LOOKED_AT: usize = 10;

/// Formats that cannot be read, by the fields that an entry or the whole file has. `a.b` is the
/// field `b` of the object `a`, `a[].b` that of an entry of the list `a`, and `a~b` one anywhere
/// inside of `a`.
const UNREADABLE_FORMATS: &[(&str, &[&str])] = &[
    ("Gemini (Google Takeout)", &["header", "products", "time"]),
    ("Gemini (Google Takeout)", &["header", "title", "time"]),
    ("Google AI Studio", &["chunkedPrompt"]),
    ("Grok", &["conversation", "responses"]),
    ("Grok", &["conversations[].responses"]),
    ("Chatbot UI", &["history", "folders"]),
    ("Chatbot UI", &["history", "prompts"]),
    ("TypingMind", &["data.chats"]),
    ("Mistral Le Chat", &["chatId", "contentChunks"]),
    ("Claude Code", &["sessionId", "parentUuid"]),
    ("Claude Code", &["sessionId", "type", "message"]),
    ("Claude Code", &["type", "leafUuid"]),
    ("Codex", &["timestamp", "type", "payload"]),
    ("LM Studio", &["messages[].currentlySelected"]),
    ("Telegram", &["messages[].from_id"]),
    ("ShareGPT", &["conversations[].from"]),
    ("NextChat", &["chat-next-web-store"]),
    ("SillyTavern", &["user_name", "character_name"]),
    ("Cherry Studio", &["localStorage", "indexedDB"]),
];

/// Recognizes a conversation, or a file that holds them in a form that cannot be read.
pub(super) fn recognize_format(raw: &RawValue) -> FoundFormat {
    let object = RawObject::from_value(raw);
    let has_all = |markers: &[&str]| markers.iter().all(|marker| has_marker(&object, marker));
    if let Some((name, _)) = UNREADABLE_FORMATS.iter().find(|(_, markers)| has_all(markers)) {
        return FoundFormat::Unreadable(name);
    }
    let formats: [(SourceFormat, &[&str]); 12] = [
        (SourceFormat::ClaudeAi, &["chat_messages"]),
        // The messages of both are in a tree; an empty one has neither.
        (SourceFormat::ChatGpt, &["mapping~content_type"]),
        (SourceFormat::DeepSeek, &["mapping~fragments"]),
        (SourceFormat::ChatGpt, &["mapping"]),
        (SourceFormat::OpenWebUi, &["chat.history"]),
        (SourceFormat::OpenWebUi, &["chat.messages"]),
        (SourceFormat::OpenWebUi, &["history.messages"]),
        (SourceFormat::LibreChat, &["conversationId", "messages"]),
        (SourceFormat::LibreChat, &["conversationId", "messagesTree"]),
        (SourceFormat::ChatUi, &["messages[].from", "messages[].content"]),
        (SourceFormat::Echoic, &["sessionId"]),
        (SourceFormat::Echoic, &["messages"]),
    ];
    let found = formats.iter().find(|(_, markers)| has_all(markers));
    found.map_or(FoundFormat::Unknown, |(format, _)| FoundFormat::Readable(*format))
}

impl SourceFormat {
    pub(super) fn parse_record(self, raw: &RawValue) -> Result<SessionRecord> {
        match self {
            // Its messages are not in `raw`, but read from the file.
            Self::Echoic => session_json::parse_fields(raw),
            Self::ChatGpt => chatgpt::parse_conversation(raw),
            Self::ClaudeAi => claude_ai::parse_conversation(raw),
            Self::OpenWebUi => open_webui::parse_conversation(raw),
            Self::LibreChat => libre_chat::parse_conversation(raw),
            Self::ChatUi => chat_ui::parse_conversation(raw),
            Self::DeepSeek => deepseek::parse_conversation(raw),
        }
    }

    /// The session's id in the file, even if the rest cannot be read.
    pub(super) fn find_source_id(self, raw: &RawValue) -> Option<String> {
        let names: &[&str] = match self {
            Self::Echoic => &["sessionId"],
            Self::ChatGpt => &["conversation_id", "id"],
            Self::ClaudeAi => &["uuid"],
            Self::OpenWebUi | Self::DeepSeek => &["id"],
            Self::LibreChat => &["conversationId"],
            Self::ChatUi => &["_id", "id"],
        };
        let object = RawObject::from_value(raw);
        let id = names.iter().find_map(|name| read_id(object.get(name)?))?;
        Some(truncate_chars(&id, MAX_ID_CHARS).to_owned())
    }
}

/// The reason for skipping an entry, or for rejecting a file.
pub(super) fn describe_unreadable(name: &str) -> String {
    format!("this looks like an export of {name}, which cannot be read yet")
}

/// Whether the object has the field that a marker describes.
fn has_marker(object: &RawObject<'_>, marker: &str) -> bool {
    let Some(split) = marker.find(['.', '[', '~']) else { return object.get(marker).is_some() };
    let (outer, inner) = marker.split_at(split);
    let Some(value) = object.get(outer) else { return false };
    if let Some(field) = inner.strip_prefix("[].") {
        let mut entries = parse_list(value).into_iter().take(MAX_LOOKED_AT);
        return entries.any(|entry| RawObject::from_value(entry).get(field).is_some());
    }
    match inner.strip_prefix('~') {
        Some(key) => has_key(value.get(), key),
        None => RawObject::from_value(value).get(&inner[1..]).is_some(),
    }
}

/// Whether an object anywhere in `json` has the key. Exact without parsing: inside of a string the
/// closing quote would be escaped.
fn has_key(json: &str, key: &str) -> bool {
    let quoted = format!("\"{key}\"");
    json.match_indices(&quoted)
        .any(|(at, _)| json[at + quoted.len()..].trim_start().starts_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::value::to_raw_value;
    use serde_json::{Value, json};

    fn recognize(value: &Value) -> FoundFormat {
        recognize_format(&to_raw_value(value).unwrap())
    }

    #[test]
    fn formats_are_recognized_by_their_fields() {
        // Fields of other formats inside of the data of a message mean nothing.
        let input = json!({"from_id": 1, "from": "x", "content": 1});
        let message = json!({"role": "user", "from_id": null, "parts": [{"input": input}]});
        let tree = |message: Value| json!({"mapping": {"n": {"message": message}}});
        let chatgpt = json!({"content": {"content_type": "text"}, "metadata": {"fragments": []}});
        let quoting = json!({"content": {"text": "\"fragments\": []"}});
        for (value, format) in [
            (json!({"sessionId": "s"}), SourceFormat::Echoic),
            (json!({"sessionId": "s", "messages": [message]}), SourceFormat::Echoic),
            (json!({"title": "t", "mapping": {}}), SourceFormat::ChatGpt),
            (tree(chatgpt), SourceFormat::ChatGpt),
            (tree(quoting), SourceFormat::ChatGpt),
            (tree(json!({"fragments": []})), SourceFormat::DeepSeek),
            (json!({"uuid": "u", "chat_messages": []}), SourceFormat::ClaudeAi),
            (json!({"id": "i", "chat": {"history": {}}}), SourceFormat::OpenWebUi),
            (json!({"history": {"messages": {}, "currentId": null}}), SourceFormat::OpenWebUi),
            (json!({"conversationId": "c", "messages": []}), SourceFormat::LibreChat),
            (json!({"conversationId": "c", "messagesTree": []}), SourceFormat::LibreChat),
            (json!({"messages": [{"from": "user", "content": "hi"}]}), SourceFormat::ChatUi),
        ] {
            assert_eq!(recognize(&value), FoundFormat::Readable(format), "{value}");
        }
    }

    #[test]
    fn unreadable_formats_are_named() {
        let activity = json!({"header": "Gemini Apps", "title": "Prompted hi", "time": "2026-01-01T00:00:00Z"});
        let grok = json!({"conversation": {"id": "c"}, "responses": []});
        let line = json!({"sessionId": "s", "parentUuid": "p", "type": "user", "message": {}});
        let chatted = json!({"from": "A", "from_id": "user1", "text": "hi"});
        for (value, name) in [
            (activity, "Gemini (Google Takeout)"),
            (json!({"runSettings": {}, "chunkedPrompt": {"chunks": []}}), "Google AI Studio"),
            (grok.clone(), "Grok"),
            (json!({"conversations": [grok], "projects": []}), "Grok"),
            (json!({"version": 4, "history": [], "folders": [], "prompts": []}), "Chatbot UI"),
            (json!({"data": {"chats": []}}), "TypingMind"),
            (line, "Claude Code"),
            (json!({"timestamp": "t", "type": "session_meta", "payload": {}}), "Codex"),
            (json!({"messages": [{"versions": [], "currentlySelected": 0}]}), "LM Studio"),
            (json!({"type": "personal_chat", "messages": [chatted]}), "Telegram"),
        ] {
            assert_eq!(recognize(&value), FoundFormat::Unreadable(name), "{value}");
        }
        for value in
            [json!({}), json!([]), json!(7), json!({"title": "t"}), json!({"messages": null})]
        {
            assert_eq!(recognize(&value), FoundFormat::Unknown, "{value}");
        }
    }
}
