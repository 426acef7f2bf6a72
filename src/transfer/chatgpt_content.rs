//! Converts the content of ChatGPT messages, which comes in many types, to Markdown.

use crate::domain::Role;
use serde_json::Value;

/// The content of a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ChatGptContent {
    /// Content that ChatGPT does not display.
    Hidden,
    /// Reasoning before a reply.
    Reasoning(String),
    Text(String),
}

/// Converts the content of a message. `is_call` marks a message to a tool.
pub(super) fn convert_content(
    role: Role,
    is_call: bool,
    content: &Value,
    metadata: &Value,
) -> ChatGptContent {
    let is = |flag: &str| metadata.get(flag).and_then(Value::as_bool) == Some(true);
    // The flags of system messages and of context that ChatGPT adds itself.
    if is("is_visually_hidden_from_conversation") || is("is_user_system_message") {
        return ChatGptContent::Hidden;
    }
    let text = match string_field(content, "content_type") {
        "thoughts" => return convert_thoughts(content),
        // "Thought for 12 seconds", and the user's custom instructions: not part of the
        // conversation.
        "reasoning_recap" | "user_editable_context" | "model_editable_context" => String::new(),
        "code" => fence_code(code_language(content), string_field(content, "text")),
        "execution_output" => fence_code("", string_field(content, "text")),
        "tether_quote" => format_quote(content),
        "tether_browsing_display" => string_field(content, "result").to_owned(),
        // Tool input is code or JSON, not Markdown.
        _ if is_call => fence_code("", &convert_parts(content, false)),
        _ => convert_parts(content, true),
    };
    let text = strip_citations(&text);
    let names = if role == Role::User { list_attachments(metadata) } else { Vec::new() };
    let pieces = [text.trim()].into_iter().chain(names.iter().map(String::as_str));
    let text = pieces.filter(|piece| !piece.is_empty()).collect::<Vec<_>>().join("\n\n");
    if text.is_empty() { ChatGptContent::Hidden } else { ChatGptContent::Text(text) }
}

fn string_field<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn convert_thoughts(content: &Value) -> ChatGptContent {
    let list = content.get("thoughts").and_then(Value::as_array);
    let thought = |thought: &Value| {
        let whole = [string_field(thought, "summary"), string_field(thought, "content")];
        whole.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n")
    };
    let text = list.into_iter().flatten().map(thought).collect::<Vec<_>>().join("\n\n");
    if text.trim().is_empty() { ChatGptContent::Hidden } else { ChatGptContent::Reasoning(text) }
}

/// Joins the parts of a multimodal message. Media are replaced by their names in brackets if
/// `names_media`.
fn convert_parts(content: &Value, names_media: bool) -> String {
    let list = content.get("parts").and_then(Value::as_array);
    let pieces = list.into_iter().flatten().map(|part| convert_part(part, names_media));
    let text = pieces.filter(|piece| !piece.trim().is_empty()).collect::<Vec<_>>().join("\n\n");
    if text.is_empty() { string_field(content, "text").to_owned() } else { text }
}

fn convert_part(part: &Value, names_media: bool) -> String {
    if let Some(text) = part.as_str() {
        return text.to_owned();
    }
    let media = |kind: &str, pointer: &str| {
        let name = pointer.rsplit('/').next().unwrap_or_default();
        if names_media { format!("[{kind}: {name}]") } else { String::new() }
    };
    match string_field(part, "content_type") {
        "image_asset_pointer" => media("image", string_field(part, "asset_pointer")),
        "video_container_asset_pointer" => media("video", string_field(part, "asset_pointer")),
        // The transcription is a part of its own.
        "audio_asset_pointer" | "real_time_user_audio_video_asset_pointer" => String::new(),
        _ => string_field(part, "text").to_owned(),
    }
}

fn format_quote(content: &Value) -> String {
    let url = string_field(content, "url");
    let title = string_field(content, "title");
    let title = if title.is_empty() { url } else { title };
    let source = if url.is_empty() { title.to_owned() } else { format!("[{title}](<{url}>)") };
    [source.as_str(), string_field(content, "text")].join("\n\n")
}

/// The names of attached files, except for images, which are among the parts.
fn list_attachments(metadata: &Value) -> Vec<String> {
    let list = metadata.get("attachments").and_then(Value::as_array);
    let is_picture = |file: &&Value| string_field(file, "mime_type").starts_with("image/");
    let files = list.into_iter().flatten().filter(|file| !is_picture(file));
    let names = files.map(|file| string_field(file, "name")).filter(|name| !name.is_empty());
    names.map(|name| format!("[file: {name}]")).collect()
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

/// Removes ChatGPT's citation markers, which are enclosed in private-use characters and refer to
/// data that is not exported.
fn strip_citations(text: &str) -> String {
    let mut left = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, citation)) = rest.split_once('\u{e200}') {
        left.push_str(before);
        let Some((_, after)) = citation.split_once('\u{e201}') else { break };
        rest = after;
    }
    if !rest.contains('\u{e200}') {
        left.push_str(rest);
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn convert(role: Role, content: Value) -> ChatGptContent {
        convert_content(role, false, &content, &Value::Null)
    }

    #[test]
    fn content_kinds_convert_to_markdown() {
        let is = |content: Value, wanted: &str| {
            assert_eq!(convert(Role::Tool, content), ChatGptContent::Text(wanted.to_owned()));
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
        is(json!({"content_type": "tether_browsing_display", "result": "r"}), "r");
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
    }

    #[test]
    fn hidden_content_is_dropped() {
        for content in [
            json!(null),
            json!({"content_type": "text", "parts": [""]}),
            json!({"content_type": "text", "parts": 7}),
            json!({"content_type": "reasoning_recap", "content": "Thought for 3s"}),
            json!({"content_type": "user_editable_context", "user_profile": "I am Ada"}),
            json!({"content_type": "thoughts", "thoughts": []}),
        ] {
            assert_eq!(convert(Role::User, content.clone()), ChatGptContent::Hidden, "{content}");
        }
        let shown = json!({"content_type": "text", "parts": ["x"]});
        let hidden = json!({"is_visually_hidden_from_conversation": true});
        assert_eq!(convert_content(Role::User, false, &shown, &hidden), ChatGptContent::Hidden);
    }

    #[test]
    fn citations_are_stripped() {
        let cited = "It is so.\u{e200}cite\u{e202}turn0search1\u{e201} And so.\u{e200}cite\u{e201}";
        assert_eq!(strip_citations(cited), "It is so. And so.");
        assert_eq!(strip_citations("cut \u{e200}cite"), "cut ");
        assert_eq!(strip_citations("\u{e201}"), "\u{e201}");
    }
}
