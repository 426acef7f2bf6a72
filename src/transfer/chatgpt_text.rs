//! What a message of ChatGPT's says, as Markdown: its content comes in many kinds.

use crate::domain::Role;
use serde_json::Value;

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing that ChatGPT shows.
    Nothing,
    /// What the model thought before its reply.
    Thought(String),
    /// This.
    Text(String),
}

/// Reads a message's content; `is_call` if it is meant for a tool.
pub(super) fn said(role: Role, is_call: bool, content: &Value, metadata: &Value) -> Said {
    let is = |flag: &str| metadata.get(flag).and_then(Value::as_bool) == Some(true);
    if is("is_visually_hidden_from_conversation") || is("is_user_system_message") {
        return Said::Nothing;
    }
    let text = match string(content, "content_type") {
        "thoughts" => return thoughts(content),
        "reasoning_recap" | "user_editable_context" | "model_editable_context" => String::new(),
        "code" => fenced(language(content), string(content, "text")),
        "execution_output" => fenced("", string(content, "text")),
        "tether_quote" => quote(content),
        "tether_browsing_display" => string(content, "result").to_owned(),
        _ if is_call => fenced("", &parts(content, false)),
        _ => parts(content, true),
    };
    let text = without_citations(&text);
    let names = if role == Role::User { attached(metadata) } else { Vec::new() };
    let pieces = [text.trim()].into_iter().chain(names.iter().map(String::as_str));
    let text = pieces.filter(|piece| !piece.is_empty()).collect::<Vec<_>>().join("\n\n");
    if text.is_empty() { Said::Nothing } else { Said::Text(text) }
}

fn string<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

fn thoughts(content: &Value) -> Said {
    let list = content.get("thoughts").and_then(Value::as_array);
    let thought = |thought: &Value| {
        let whole = [string(thought, "summary"), string(thought, "content")];
        whole.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n\n")
    };
    let text = list.into_iter().flatten().map(thought).collect::<Vec<_>>().join("\n\n");
    if text.trim().is_empty() { Said::Nothing } else { Said::Thought(text) }
}

/// The pieces of a text, pictures and recordings as their names in brackets.
fn parts(content: &Value, names_media: bool) -> String {
    let list = content.get("parts").and_then(Value::as_array);
    let pieces = list.into_iter().flatten().map(|part| piece(part, names_media));
    let text = pieces.filter(|piece| !piece.trim().is_empty()).collect::<Vec<_>>().join("\n\n");
    if text.is_empty() { string(content, "text").to_owned() } else { text }
}

fn piece(part: &Value, names_media: bool) -> String {
    if let Some(text) = part.as_str() {
        return text.to_owned();
    }
    let media = |kind: &str, pointer: &str| {
        let name = pointer.rsplit('/').next().unwrap_or_default();
        if names_media { format!("[{kind}: {name}]") } else { String::new() }
    };
    match string(part, "content_type") {
        "image_asset_pointer" => media("image", string(part, "asset_pointer")),
        "video_container_asset_pointer" => media("video", string(part, "asset_pointer")),
        // What was said stands beside it.
        "audio_asset_pointer" | "real_time_user_audio_video_asset_pointer" => String::new(),
        _ => string(part, "text").to_owned(),
    }
}

fn quote(content: &Value) -> String {
    let (url, title) = (string(content, "url"), string(content, "title"));
    let title = if title.is_empty() { url } else { title };
    let source = if url.is_empty() { title.to_owned() } else { format!("[{title}](<{url}>)") };
    [source.as_str(), string(content, "text")].join("\n\n")
}

/// The names of files that came with a message and are not shown by its parts.
fn attached(metadata: &Value) -> Vec<String> {
    let list = metadata.get("attachments").and_then(Value::as_array);
    let is_picture = |file: &&Value| string(file, "mime_type").starts_with("image/");
    let files = list.into_iter().flatten().filter(|file| !is_picture(file));
    let names = files.map(|file| string(file, "name")).filter(|name| !name.is_empty());
    names.map(|name| format!("[file: {name}]")).collect()
}

fn language(content: &Value) -> &str {
    match string(content, "language") {
        "unknown" => "",
        language => language,
    }
}

/// A code block whose fence is longer than any inside it.
fn fenced(language: &str, code: &str) -> String {
    if code.trim().is_empty() {
        return String::new();
    }
    let (mut longest, mut run) = (0, 0);
    for letter in code.chars() {
        run = if letter == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    let fence = "`".repeat(usize::max(3, longest + 1));
    format!("{fence}{language}\n{}\n{fence}", code.trim_end_matches('\n'))
}

/// Citations stand between two characters of private use, and mean something to ChatGPT alone.
fn without_citations(text: &str) -> String {
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

    fn text(role: Role, content: Value) -> Said {
        said(role, false, &content, &Value::Null)
    }

    #[test]
    fn each_kind_of_content_becomes_markdown() {
        let is = |content: Value, wanted: &str| {
            assert_eq!(text(Role::Tool, content), Said::Text(wanted.to_owned()));
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
    fn what_chatgpt_does_not_show_is_nothing() {
        for content in [
            json!(null),
            json!({"content_type": "text", "parts": [""]}),
            json!({"content_type": "text", "parts": 7}),
            json!({"content_type": "reasoning_recap", "content": "Thought for 3s"}),
            json!({"content_type": "user_editable_context", "user_profile": "I am Ada"}),
            json!({"content_type": "thoughts", "thoughts": []}),
        ] {
            assert_eq!(text(Role::User, content.clone()), Said::Nothing, "{content}");
        }
        let shown = json!({"content_type": "text", "parts": ["x"]});
        let hidden = json!({"is_visually_hidden_from_conversation": true});
        assert_eq!(said(Role::User, false, &shown, &hidden), Said::Nothing);
    }

    #[test]
    fn citations_are_taken_out_and_nothing_else() {
        let cited = "It is so.\u{e200}cite\u{e202}turn0search1\u{e201} And so.\u{e200}cite\u{e201}";
        assert_eq!(without_citations(cited), "It is so. And so.");
        assert_eq!(without_citations("cut \u{e200}cite"), "cut ");
        assert_eq!(without_citations("\u{e201}"), "\u{e201}");
    }
}
