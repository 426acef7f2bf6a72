//! Converts the content of ChatGPT messages, which comes in many types, to Markdown.
//!
//! Content of a type that is not known here becomes its type in brackets, followed by its texts.

use super::chatgpt_marks::{MessageSources, resolve_marks};
use serde_json::Value;
use std::collections::HashMap;

/// The content of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ChatGptContent {
    /// Content that is marked as not displayed.
    Hidden,
    /// Content that is not part of the conversation, or none at all.
    LeftOut { kind: String },
    /// Reasoning before a reply.
    Reasoning(String),
    Text {
        text: String,
        /// Kinds of marks in the text that nothing could replace.
        lost_marks: Vec<String>,
    },
}

/// Converts the content of a message. `is_call` marks a message to a tool.
pub(super) fn convert_content(is_call: bool, content: &Value, metadata: &Value) -> ChatGptContent {
    let is = |flag: &str| metadata.get(flag).and_then(Value::as_bool) == Some(true);
    // The flags of system messages and of context that ChatGPT adds itself.
    if is("is_visually_hidden_from_conversation") || is("is_user_system_message") {
        return ChatGptContent::Hidden;
    }
    let content_type = string_field(content, "content_type");
    let attachments = AttachmentNames::from_metadata(metadata);
    let text = match content_type {
        "thoughts" => match convert_thoughts(content) {
            text if text.is_empty() => String::new(),
            text => return ChatGptContent::Reasoning(text),
        },
        // "Thought for 12 seconds", and the user's custom instructions: not part of the
        // conversation.
        "reasoning_recap" | "user_editable_context" | "model_editable_context" => String::new(),
        "code" => fence_code(code_language(content), string_field(content, "text")),
        "execution_output" => convert_output(content, metadata),
        "citable_code_output" => fence_code("", string_field(content, "output_str")),
        "tether_quote" => format_quote(content),
        "tether_browsing_display" => first_text(content, &["result", "summary"]).to_owned(),
        "text" | "multimodal_text" | "" => convert_parts(content, is_call, &attachments),
        unknown => convert_unknown(unknown, content, is_call, &attachments),
    };
    let resolved = resolve_marks(&text, &MessageSources::from_metadata(metadata));
    let names = attachments.list_unmentioned(content);
    let pieces = [resolved.text.trim()].into_iter().chain(names.iter().map(String::as_str));
    let text = pieces.filter(|piece| !piece.is_empty()).collect::<Vec<_>>().join("\n\n");
    if text.is_empty() {
        let kind = if content_type.is_empty() { "message" } else { content_type };
        return ChatGptContent::LeftOut { kind: kind.to_owned() };
    }
    ChatGptContent::Text { text, lost_marks: resolved.left_out }
}

fn string_field<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The first field that is a non-empty string, or else an empty string.
fn first_text<'a>(value: &'a Value, fields: &[&str]) -> &'a str {
    fields
        .iter()
        .map(|field| string_field(value, field))
        .find(|text| !text.is_empty())
        .unwrap_or("")
}

fn list_field<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

fn convert_thoughts(content: &Value) -> String {
    let thought = |thought: &Value| {
        let chunks = list_field(thought, "chunks").filter_map(Value::as_str).collect::<String>();
        let text = first_text(thought, &["content", "text"]);
        let text = if text.is_empty() { chunks.as_str() } else { text };
        let whole = [string_field(thought, "summary"), text, thought.as_str().unwrap_or_default()];
        whole.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n")
    };
    let thoughts = list_field(content, "thoughts").map(thought);
    let texts: Vec<String> = thoughts.filter(|text| !text.trim().is_empty()).collect();
    if texts.is_empty() {
        string_field(content, "content").trim().to_owned()
    } else {
        texts.join("\n\n")
    }
}

/// Joins the parts of a message. Tool input is code or JSON, not Markdown, and has no media.
fn convert_parts(content: &Value, is_call: bool, attachments: &AttachmentNames) -> String {
    let has_transcript = list_field(content, "parts")
        .any(|part| string_field(part, "content_type") == "audio_transcription");
    let convert = |part: &Value| convert_part(part, has_transcript, attachments);
    let pieces: Vec<String> = match content.get("parts") {
        Some(Value::Array(parts)) => parts.iter().map(convert).collect(),
        Some(Value::String(text)) => vec![text.clone()],
        Some(part @ Value::Object(_)) => vec![convert(part)],
        _ => match content {
            // Other programs write plain texts and lists of them in ChatGPT's format.
            Value::String(text) => vec![text.clone()],
            Value::Array(parts) => parts.iter().map(convert).collect(),
            _ => Vec::new(),
        },
    };
    let pieces = pieces.into_iter().filter(|piece| !piece.trim().is_empty());
    let text = pieces.collect::<Vec<_>>().join("\n\n");
    let text = if text.is_empty() { string_field(content, "text").to_owned() } else { text };
    if is_call { fence_code("", &text) } else { text }
}

fn convert_part(part: &Value, has_transcript: bool, attachments: &AttachmentNames) -> String {
    if let Some(text) = part.as_str() {
        return text.to_owned();
    }
    match string_field(part, "content_type") {
        "image_asset_pointer" => {
            attachments.name_media("image", string_field(part, "asset_pointer"))
        }
        "video_container_asset_pointer" => {
            attachments.name_media("video", string_field(part, "asset_pointer"))
        }
        "audio_asset_pointer" | "real_time_user_audio_video_asset_pointer" if has_transcript => {
            String::new()
        }
        "audio_asset_pointer" => {
            attachments.name_media("audio", string_field(part, "asset_pointer"))
        }
        "real_time_user_audio_video_asset_pointer" => {
            let audio = part.get("audio_asset_pointer").unwrap_or(&Value::Null);
            attachments.name_media("audio", first_text(audio, &["asset_pointer"]))
        }
        kind => match string_field(part, "text") {
            "" if part.is_object() => format_unknown(kind, part),
            text => text.to_owned(),
        },
    }
}

/// The output of a program, with the images that it displayed.
fn convert_output(content: &Value, metadata: &Value) -> String {
    let result = metadata.get("aggregate_result").unwrap_or(&Value::Null);
    let messages = || list_field(result, "messages");
    let streamed: String = messages().map(|message| string_field(message, "text")).collect();
    let text = match first_text(content, &["text"]) {
        "" if streamed.trim().is_empty() => string_field(result, "final_expression_output"),
        "" => &streamed,
        text => text,
    };
    let images = messages().map(|message| string_field(message, "image_url"));
    let images =
        images.filter(|url| !url.is_empty()).map(|url| format!("[image: {}]", base_name(url)));
    let pieces = [fence_code("", text)].into_iter().chain(images);
    pieces.filter(|piece| !piece.is_empty()).collect::<Vec<_>>().join("\n\n")
}

/// Content of another type: its parts or text if it has any, all its texts otherwise.
fn convert_unknown(
    content_type: &str,
    content: &Value,
    is_call: bool,
    attachments: &AttachmentNames,
) -> String {
    let text = convert_parts(content, is_call, attachments);
    if text.is_empty() { format_unknown(content_type, content) } else { text }
}

/// The type of a value in brackets, followed by the texts in it.
fn format_unknown(content_type: &str, value: &Value) -> String {
    let mut texts = Vec::new();
    collect_texts(value, &mut texts);
    if texts.is_empty() && content_type.is_empty() {
        return String::new();
    }
    let name = if content_type.is_empty() { "content" } else { content_type };
    let pieces = [format!("[{name}]")].into_iter().chain(texts.into_iter().map(str::to_owned));
    pieces.collect::<Vec<_>>().join("\n\n")
}

/// The strings in a value, without those that only programs read.
fn collect_texts<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    let is_technical = |name: &str| {
        matches!(name, "content_type" | "type" | "id" | "asset_pointer" | "mime_type")
            || name.ends_with("_id")
    };
    match value {
        Value::String(text) if !text.trim().is_empty() => texts.push(text),
        Value::Array(list) => list.iter().for_each(|value| collect_texts(value, texts)),
        Value::Object(fields) => {
            let shown = fields.iter().filter(|(name, _)| !is_technical(name));
            shown.for_each(|(_, value)| collect_texts(value, texts));
        }
        _ => {}
    }
}

fn format_quote(content: &Value) -> String {
    let url = string_field(content, "url");
    let title = string_field(content, "title");
    let title = if title.is_empty() { url } else { title };
    let source = if url.is_empty() { title.to_owned() } else { format!("[{title}](<{url}>)") };
    let pieces = [source.as_str(), string_field(content, "text")].into_iter();
    pieces.filter(|piece| !piece.trim().is_empty()).collect::<Vec<_>>().join("\n\n")
}

/// The files attached to a message.
struct AttachmentNames {
    /// Kind and name of each file, in order, with its id.
    files: Vec<(String, &'static str, String)>,
    names: HashMap<String, String>,
}

impl AttachmentNames {
    fn from_metadata(metadata: &Value) -> Self {
        let mut attachments = Self { files: Vec::new(), names: HashMap::new() };
        for file in list_field(metadata, "attachments") {
            let id = first_text(file, &["id", "file_id"]);
            let name = match file.as_str() {
                Some(name) => name,
                None => first_text(file, &["name", "file_name", "id", "file_id"]),
            };
            let kind = match first_text(file, &["mime_type", "mimeType"]).split('/').next() {
                Some("image") => "image",
                Some("audio") => "audio",
                Some("video") => "video",
                _ => "file",
            };
            if !name.is_empty() {
                attachments.files.push((id.to_owned(), kind, name.to_owned()));
                attachments.names.insert(id.to_owned(), name.to_owned());
            }
        }
        attachments
    }

    /// A medium in brackets, by the name of its file or else by the last part of its address.
    fn name_media(&self, kind: &str, pointer: &str) -> String {
        let id = base_name(pointer);
        let name = self.names.get(id).map_or(id, String::as_str);
        if name.is_empty() { format!("[{kind}]") } else { format!("[{kind}: {name}]") }
    }

    /// The files in brackets that no part of the content is about.
    fn list_unmentioned(&self, content: &Value) -> Vec<String> {
        let nested = |part: &Value| {
            let audio = part.get("audio_asset_pointer");
            audio.map(|audio| string_field(audio, "asset_pointer").to_owned()).unwrap_or_default()
        };
        let pointers = list_field(content, "parts")
            .flat_map(|part| [string_field(part, "asset_pointer").to_owned(), nested(part)]);
        let shown: Vec<String> = pointers.map(|pointer| base_name(&pointer).to_owned()).collect();
        let others = self.files.iter().filter(|(id, ..)| id.is_empty() || !shown.contains(id));
        others.map(|(_, kind, name)| format!("[{kind}: {name}]")).collect()
    }
}

/// The part of an address after its last slash.
fn base_name(pointer: &str) -> &str {
    pointer.rsplit('/').next().unwrap_or_default()
}

fn code_language(content: &Value) -> &str {
    match string_field(content, "language") {
        "unknown" => "",
        language => language,
    }
}

/// Fences code with more backticks than any run inside it.
fn fence_code(language: &str, code: &str) -> String {
    if code.trim().is_empty() {
        return String::new();
    }
    let mut longest = 0;
    let mut run = 0;
    for letter in code.chars() {
        run = if letter == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    let fence = "`".repeat(usize::max(3, longest + 1));
    format!("{fence}{language}\n{}\n{fence}", code.trim_end_matches('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text_of(content: &Value, metadata: &Value) -> Option<String> {
        match convert_content(false, content, metadata) {
            ChatGptContent::Text { text, .. } => Some(text),
            _ => None,
        }
    }

    fn left_out(content: &Value) -> String {
        match convert_content(false, content, &Value::Null) {
            ChatGptContent::LeftOut { kind } => kind,
            other => panic!("{content}: {other:?}"),
        }
    }

    #[test]
    fn content_kinds_convert_to_markdown() {
        let is = |content: Value, wanted: &str| {
            assert_eq!(text_of(&content, &Value::Null).as_deref(), Some(wanted), "{content}");
        };
        is(json!({"content_type": "text", "parts": ["a", "", "b"]}), "a\n\nb");
        is(
            json!({"content_type": "code", "language": "python", "text": "1\n"}),
            "```python\n1\n```",
        );
        is(
            json!({"content_type": "code", "language": "unknown", "text": "```"}),
            "````\n```\n````",
        );
        is(json!({"content_type": "execution_output", "text": "2"}), "```\n2\n```");
        is(json!({"content_type": "citable_code_output", "output_str": "2"}), "```\n2\n```");
        is(json!({"content_type": "tether_browsing_display", "result": "r"}), "r");
        is(json!({"content_type": "tether_browsing_display", "result": "", "summary": "s"}), "s");
        is(
            json!({"content_type": "tether_quote", "url": "https://a.b", "title": "T", "text": "q"}),
            "[T](<https://a.b>)\n\nq",
        );
        is(json!({"content_type": "something new", "text": "t"}), "t");
        is(
            json!({"content_type": "multimodal_text", "parts": [
                {"content_type": "image_asset_pointer", "asset_pointer": "file-service://file-1"}, "Look",
                {"content_type": "audio_transcription", "text": "spoken"},
                {"content_type": "audio_asset_pointer", "asset_pointer": "sediment://x"}]}),
            "[image: file-1]\n\nLook\n\nspoken",
        );
        is(
            json!({"content_type": "multimodal_text", "parts": [
                {"content_type": "audio_asset_pointer", "asset_pointer": "sediment://x"}]}),
            "[audio: x]",
        );
        is(json!("plain"), "plain");
        is(json!({"content_type": "text", "parts": "one"}), "one");
    }

    #[test]
    fn unknown_kinds_keep_their_texts_after_their_name() {
        let is = |content: Value, wanted: &str| {
            assert_eq!(text_of(&content, &Value::Null).as_deref(), Some(wanted), "{content}");
        };
        is(
            json!({"content_type": "new", "id": "x", "blocks": [{"type": "t", "value": "words"}]}),
            "[new]\n\nwords",
        );
        is(
            json!({"content_type": "computer_output", "state": {"title": "Page", "url": "https://a.b"}}),
            "[computer_output]\n\nPage\n\nhttps://a.b",
        );
        is(json!({"content_type": "new"}), "[new]");
        is(
            json!({"content_type": "text", "parts": ["a", {"content_type": "new", "value": "b"}]}),
            "a\n\n[new]\n\nb",
        );
    }

    #[test]
    fn attachments_are_named_once() {
        let metadata = json!({"attachments": [
            {"id": "file-1", "name": "cat.png", "mime_type": "image/png"},
            {"id": "file-2", "name": "notes.pdf", "mime_type": "application/pdf"}]});
        let picture =
            json!({"content_type": "image_asset_pointer", "asset_pointer": "sediment://file-1"});
        let content = json!({"content_type": "multimodal_text", "parts": [picture, "Look"]});
        assert_eq!(
            text_of(&content, &metadata).unwrap(),
            "[image: cat.png]\n\nLook\n\n[file: notes.pdf]"
        );
        let content = json!({"content_type": "text", "parts": [""]});
        assert_eq!(text_of(&content, &metadata).unwrap(), "[image: cat.png]\n\n[file: notes.pdf]");
        let output = json!({"content_type": "execution_output", "text": ""});
        let plot = json!({"aggregate_result": {"messages": [
            {"message_type": "image", "image_url": "file-service://file-plot"}]}});
        assert_eq!(text_of(&output, &plot).unwrap(), "[image: file-plot]");
    }

    #[test]
    fn content_without_text_is_left_out_by_its_kind() {
        for (content, kind) in [
            (json!(null), "message"),
            (json!({"content_type": "text", "parts": [""]}), "text"),
            (json!({"content_type": "text", "parts": 7}), "text"),
            (
                json!({"content_type": "reasoning_recap", "content": "Thought for 3s"}),
                "reasoning_recap",
            ),
            (
                json!({"content_type": "user_editable_context", "user_profile": "I am Ada"}),
                "user_editable_context",
            ),
            (json!({"content_type": "thoughts", "thoughts": []}), "thoughts"),
        ] {
            assert_eq!(left_out(&content), kind, "{content}");
        }
        let shown = json!({"content_type": "text", "parts": ["x"]});
        let hidden = json!({"is_visually_hidden_from_conversation": true});
        assert_eq!(convert_content(false, &shown, &hidden), ChatGptContent::Hidden);
    }
}
