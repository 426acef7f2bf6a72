//! Reads exports of Open WebUI: `{"chat": {"history": …}}` as the server exports it, or only the
//! value of `chat`. The messages are a tree; `currentId` is the one shown last.
//!
//! Replies have their reasoning and tool calls in `output` since version 0.7, before that as
//! `<details>` elements within their text.

use super::external_conversation::{
    ExternalConversation, ExternalMessage, MessageBlock, ParentLink,
};
use super::external_fields::{list_messages, read_any_time, read_parent, read_role};
use super::external_values::{
    collect_text, fence_text, find_id, find_text, is_set, list_blocks, list_entries, parse_value,
    parse_without, render_call, render_result,
};
use super::import_notes::ImportNotes;
use super::session_record::SessionRecord;
use crate::error::{Error, Result};
use crate::json::lenient::RawObject;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::HashMap;

/// Fields that hold the messages, at each level.
const MESSAGE_FIELDS: &[&str] = &["chat", "history", "messages"];

pub(super) fn parse_conversation(raw: &RawValue) -> Result<SessionRecord> {
    let mut left_out = ImportNotes::default();
    let outer = parse_without(raw, MESSAGE_FIELDS, &mut left_out);
    let outer_object = RawObject::from_value(raw);
    let raw_chat = outer_object.get("chat").filter(|chat| chat.get().starts_with('{'));
    let raw_chat = raw_chat.unwrap_or(raw);
    let chat = &parse_without(raw_chat, MESSAGE_FIELDS, &mut left_out);
    let raw_history = RawObject::from_value(raw_chat).get("history");
    let parse_history = |history: &RawValue| parse_without(history, MESSAGE_FIELDS, &mut left_out);
    let history = &raw_history.map(parse_history).unwrap_or_default();
    let mut mended = ImportNotes::default();
    let mut messages = read_messages(raw, &mut left_out, &mut mended);
    if messages.is_empty() {
        // Chats of the oldest versions have a list without branches.
        let list = list_messages(raw_chat, "messages", &mut left_out)?;
        if list.is_empty() {
            check_history(raw_history)?;
        }
        let convert =
            |(path, message)| convert_message(&parse_value(message), None, path, &mut mended);
        messages = list.into_iter().map(convert).collect();
    }
    let title = find_text(&outer, "title").or_else(|| find_text(chat, "title"));
    let times = [
        read_any_time(&outer, "created_at", "", &mut mended),
        read_any_time(chat, "timestamp", "chat", &mut mended),
    ];
    ExternalConversation {
        id: find_id(&outer, "id").or_else(|| find_id(chat, "id")).filter(|id| !id.is_empty()),
        title,
        created_at: times.into_iter().flatten().next(),
        archived: is_set(&outer, "archived"),
        pinned: is_set(&outer, "pinned"),
        messages,
        head: find_id(history, "currentId"),
        left_out,
        mended,
    }
    .into_record()
}

/// Fails for a history that is not a tree of messages, rather than an empty one.
fn check_history(history: Option<&RawValue>) -> Result<()> {
    let is_tree = |value: &RawValue| value.get().starts_with('{');
    let messages = history.and_then(|history| RawObject::from_value(history).get("messages"));
    match history.is_none_or(is_tree) && messages.is_none_or(is_tree) {
        true => Ok(()),
        false => Err(Error::invalid_field("history.messages", "must be an object of messages")),
    }
}

/// The nodes of the tree in the order of the file, which `Value` does not keep; none if there is no
/// tree.
fn read_messages(
    raw: &RawValue,
    left_out: &mut ImportNotes,
    mended: &mut ImportNotes,
) -> Vec<ExternalMessage> {
    let outer = RawObject::from_value(raw);
    let nested = outer.object("chat").object("history").object("messages");
    let flat = outer.object("history").object("messages");
    let mut messages = Vec::new();
    for (id, message) in nested.fields().chain(flat.fields()) {
        let path = format!("chat.history.messages.{id}");
        let message = parse_value(message);
        match message.is_object() {
            true => messages.push(convert_message(&message, Some(id.to_owned()), path, mended)),
            false => left_out.add("message", &path),
        }
    }
    messages
}

fn convert_message(
    message: &Value,
    id: Option<String>,
    path: String,
    mended: &mut ImportNotes,
) -> ExternalMessage {
    let parent = match (&id, read_parent(message, "parentId", &path, mended)) {
        (None, _) => ParentLink::Previous,
        (Some(_), ParentLink::Previous) => ParentLink::Root,
        (Some(_), parent) => parent,
    };
    let (role, role_mark) = read_role(message, "role", &path, mended);
    ExternalMessage {
        id: id.or_else(|| find_id(message, "id")),
        parent,
        role,
        blocks: role_mark.into_iter().chain(convert_content(message)).collect(),
        created_at: read_any_time(message, "timestamp", &path, mended),
        model: find_text(message, "model"),
        is_interrupted: message.get("done").and_then(Value::as_bool) == Some(false),
        error: find_error(message),
        is_placeholder: false,
        path,
    }
}

/// `{"error": {"content": …}}`; older versions write `true` and put the error into the content.
fn find_error(message: &Value) -> Option<String> {
    let error = message.get("error")?;
    let text = collect_text(error);
    let text = if text.is_empty() { find_text(error, "message") } else { Some(text) };
    text.or_else(|| error.is_object().then(|| error.to_string()))
}

fn convert_content(message: &Value) -> Vec<MessageBlock> {
    let items = list_blocks(message, "output");
    let mut blocks = convert_output(items);
    let is_blank =
        |block: &MessageBlock| matches!(block, MessageBlock::Text(text) if text.trim().is_empty());
    // The content repeats the output, unless the answer is only there.
    if !items.iter().any(is_answer) {
        let content = collect_text(message.get("content").unwrap_or(&Value::Null));
        let has_elements = blocks.iter().all(is_blank);
        blocks.extend(split_details(&content, has_elements));
    }
    let merged = message.get("merged").and_then(|merged| find_text(merged, "content"));
    blocks.extend(merged.map(|text| MessageBlock::Text(format!("[merged]\n\n{text}"))));
    for file in list_entries(message, "files") {
        blocks.push(convert_file(file));
    }
    for source in list_entries(message, "sources").iter().chain(list_entries(message, "citations"))
    {
        blocks.extend(convert_source(source));
    }
    blocks
}

/// Whether an item of the output is a text of the reply itself.
fn is_answer(item: &Value) -> bool {
    let text = match item {
        Value::String(text) => text.clone(),
        _ if find_text(item, "type").as_deref() != Some("message") => return false,
        _ => item.get("content").map(collect_text).unwrap_or_default(),
    };
    !text.trim().is_empty()
}

/// Converts the items of a reply, which resemble those of OpenAI's Responses API.
fn convert_output(items: &[Value]) -> Vec<MessageBlock> {
    // Results do not name their function, only the call.
    let mut names: HashMap<String, String> = HashMap::new();
    let mut blocks = Vec::new();
    for item in items {
        if let Value::String(text) = item {
            blocks.push(MessageBlock::Text(text.clone()));
            continue;
        }
        let kind = find_text(item, "type").unwrap_or_default();
        let content = item.get("content").map(collect_text).unwrap_or_default();
        let name = find_text(item, "name").unwrap_or_else(|| kind.clone());
        let call_id = find_id(item, "call_id").or_else(|| find_id(item, "id")).unwrap_or_default();
        blocks.push(match kind.as_str() {
            "message" => MessageBlock::Text(content),
            "reasoning" if content.is_empty() => {
                MessageBlock::Reasoning(item.get("summary").map(collect_text).unwrap_or_default())
            }
            "reasoning" => MessageBlock::Reasoning(content),
            "function_call" => {
                let input = find_text(item, "arguments").unwrap_or_default();
                names.insert(call_id, name.clone());
                MessageBlock::Text(render_call(&name, &parse_arguments(&input)))
            }
            "function_call_output" => {
                let name = names.get(&call_id).map_or("tool", String::as_str);
                let output = item.get("output").map(collect_text).unwrap_or_default();
                MessageBlock::Text(render_result(name, &output))
            }
            "open_webui:code_interpreter" => MessageBlock::Text(render_code(item)),
            _ if !content.is_empty() => MessageBlock::Text(content),
            _ => MessageBlock::left_out(&kind),
        });
    }
    blocks
}

fn parse_arguments(input: &str) -> Value {
    serde_json::from_str(input).unwrap_or_else(|_| Value::String(input.to_owned()))
}

fn render_code(item: &Value) -> String {
    let language = find_text(item, "lang").unwrap_or_default();
    let code = fence_text(&language, &find_text(item, "code").unwrap_or_default());
    let output = item.get("output").unwrap_or(&Value::Null);
    let streams = ["stdout", "stderr", "result"].map(|name| find_text(output, name));
    let output = match streams.iter().any(Option::is_some) {
        true => streams.into_iter().flatten().collect::<Vec<_>>().join("\n"),
        false => collect_text(output),
    };
    [code, render_result("code", &output)].join("\n\n")
}

/// Separates `<details>` elements that the server wrote from the text around them. Without
/// `has_elements`, only the text is kept.
fn split_details(content: &str, has_elements: bool) -> Vec<MessageBlock> {
    let mut blocks = Vec::new();
    let mut rest = content;
    while let Some((before, element)) = rest.split_once("<details type=\"") {
        let Some((attributes, element)) = element.split_once('>') else { break };
        let Some((body, after)) = element.split_once("</details>") else { break };
        blocks.push(MessageBlock::Text(before.to_owned()));
        if has_elements {
            blocks.push(convert_details(attributes, body));
        }
        rest = after;
    }
    blocks.push(MessageBlock::Text(rest.to_owned()));
    blocks
}

/// Converts a `<details>` element. `attributes` begins with the value of `type`.
fn convert_details(attributes: &str, body: &str) -> MessageBlock {
    let (kind, attributes) = attributes.split_once('"').unwrap_or((attributes, ""));
    let attribute = |name: &str| {
        let (_, value) = attributes.split_once(&format!(" {name}=\""))?;
        Some(unescape_html(value.split_once('"')?.0))
    };
    let body = body.split_once("</summary>").map_or(body, |(_, body)| body).trim();
    match kind {
        "reasoning" => {
            let lines = body.lines().map(|line| {
                line.strip_prefix("&gt;")
                    .or_else(|| line.strip_prefix('>'))
                    .map_or(line, str::trim_start)
            });
            MessageBlock::Reasoning(unescape_html(&lines.collect::<Vec<_>>().join("\n")))
        }
        "tool_calls" => {
            let name = attribute("name").unwrap_or_else(|| "tool".to_owned());
            let arguments = attribute("arguments").unwrap_or_default();
            let call = render_call(&name, &parse_encoded(&arguments));
            let result = attribute("result").unwrap_or_else(|| unescape_html(body));
            let result = collect_text(&parse_encoded(&result));
            MessageBlock::Text([call, render_result(&name, &result)].join("\n\n"))
        }
        _ => {
            let output = attribute("output").unwrap_or_default();
            let output = parse_encoded(&output);
            let output = find_text(&output, "stdout").unwrap_or_else(|| collect_text(&output));
            MessageBlock::Text([body.to_owned(), render_result("code", &output)].join("\n\n"))
        }
    }
}

/// Attributes are JSON, often encoded twice.
fn parse_encoded(text: &str) -> Value {
    match parse_arguments(text) {
        Value::String(inner) => parse_arguments(&inner),
        value => value,
    }
}

fn unescape_html(text: &str) -> String {
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    // Last, so that `&amp;lt;` becomes `&lt;`.
    text.replace("&#x27;", "'").replace("&#39;", "'").replace("&amp;", "&")
}

/// Files are stored on the server; only older exports have their text.
fn convert_file(file: &Value) -> MessageBlock {
    let is_image = find_text(file, "type").as_deref() == Some("image");
    let kind = if is_image { "image" } else { "file" };
    let inner = file.get("file").unwrap_or(&Value::Null);
    let name = find_text(file, "name").or_else(|| find_text(inner, "filename"));
    let text = inner.pointer("/data/content").and_then(Value::as_str).unwrap_or_default();
    MessageBlock::file(kind, name, text)
}

fn convert_source(source: &Value) -> Option<MessageBlock> {
    let place = source.get("source")?;
    let url = find_text(place, "url").or_else(|| find_text(place, "name"));
    let url = url.filter(|url| url.starts_with("http"))?;
    Some(MessageBlock::Source { url, title: find_text(place, "title") })
}

#[cfg(test)]
mod tests {
    use super::super::external_conversation::tests::{render_messages, render_notes};
    use super::*;
    use crate::domain::{Status, Timestamp};
    use serde_json::json;
    use serde_json::value::to_raw_value;

    fn convert(conversation: &Value) -> SessionRecord {
        parse_conversation(&to_raw_value(conversation).unwrap()).unwrap()
    }

    #[test]
    fn tree_is_imported_with_output_items_and_head() {
        let output = json!([
            {"type": "reasoning", "content": [{"type": "output_text", "text": "Add."}], "summary": null},
            {"type": "function_call", "call_id": "k", "name": "calc", "arguments": "{\"x\": 1}"},
            {"type": "function_call_output", "call_id": "k", "output": [{"type": "input_text", "text": "2"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "It is 2."}]}]);
        let file = json!({"type": "file", "name": "a.txt", "file": {"data": {"content": "one"}}});
        // Written by hand: the order of the nodes is not that of their ids.
        let messages = format!(
            r#"{{"q": {{"parentId": null, "role": "user", "content": "1 + 1?", "timestamp": 1757000001, "files": [{file}]}},
            "z1": {{"parentId": "q", "role": "assistant", "model": "qwen3", "timestamp": 1757000002, "done": true,
                    "content": "ignored", "output": {output}}},
            "a2": {{"parentId": "q", "role": "assistant", "content": "", "timestamp": 1757000009,
                    "error": {{"content": "model not found"}}}},
            "z2": {{"parentId": "z1", "role": "user", "content": "Sure?", "timestamp": 1757000003}}}}"#
        );
        let raw = format!(
            r#"{{"id": "c1", "user_id": "u", "title": "Sums", "pinned": true, "created_at": 1757000000,
            "chat": {{"title": "Sums", "messages": [], "history": {{"currentId": "z2", "messages": {messages}}}}}}}"#
        );
        let record = parse_conversation(&RawValue::from_string(raw).unwrap()).unwrap();
        let call = "[calc]\nx: 1\n\n[result of calc]\n\n```\n2\n```";
        let parts = r#"[{"type":"reasoning","text":"Add."}]"#;
        assert_eq!(
            render_messages(&record),
            [
                "q< user: 1 + 1?\n\n[file: a.txt]\n\n```\none\n```",
                &format!("z1<q assistant: {call}\n\nIt is 2. {parts}"),
                "a2<q assistant: ",
                "z2<z1 user: Sure?",
            ]
        );
        let failed = &record.messages[2].0;
        assert_eq!(failed.status, Status::Failed);
        assert_eq!(failed.error.as_ref().unwrap().message, "model not found");
        assert_eq!((record.head_id.as_deref(), record.pinned), (Some("z2"), true));
        assert_eq!(record.created_at, Timestamp::parse("2025-09-04T15:33:20Z"));
    }

    #[test]
    fn details_within_the_text_are_separated() {
        let thought = "<details type=\"reasoning\" done=\"true\" duration=\"2\">\n<summary>Thought for 2 seconds</summary>\n\
            &gt; Is 1 &lt; 2?\n&gt; Yes.\n</details>";
        let call = "<details type=\"tool_calls\" done=\"true\" id=\"1\" name=\"look\" \
            arguments=\"&quot;{\\&quot;q\\&quot;: \\&quot;x\\&quot;}&quot;\" result=\"&quot;found&quot;\" files=\"\">\n\
            <summary>Tool Executed</summary>\n</details>";
        let content = format!("{thought}\nYes. {call}\nDone. <details type=\"reasoning\">cut");
        let message = json!({"role": "assistant", "content": content});
        let history = json!({"currentId": "m", "messages": {"m": message}});
        let record = convert(&json!({"title": "New Chat", "history": history}));
        let text = "Yes.\n\n[look]\nq: x\n\n[result of look]\n\n```\nfound\n```\n\nDone. <details type=\"reasoning\">cut";
        let parts = r#"[{"type":"reasoning","text":"Is 1 < 2?\nYes."}]"#;
        assert_eq!(render_messages(&record), [format!("m< assistant: {text} {parts}")]);
        assert_eq!(record.title, None);
    }

    #[test]
    fn content_is_kept_if_the_output_has_no_answer() {
        let thought = "<details type=\"reasoning\">\n&gt; Add.\n</details>";
        let output = json!([{"type": "reasoning", "content": [{"text": "Add."}]}]);
        let message = json!({"role": "assistant", "output": output, "content": format!("{thought}\n42"),
            "merged": {"status": true, "content": "Both say 42."}});
        let history = json!({"messages": {"m": message, "n": null}});
        let record = convert(&json!({"history": history}));
        let parts = r#"[{"type":"reasoning","text":"Add."}]"#;
        assert_eq!(
            render_messages(&record),
            [format!("m< assistant: 42\n\n[merged]\n\nBoth say 42. {parts}")]
        );
        assert_eq!(render_notes(record.left_out), ["message 1 chat.history.messages.n"]);
    }

    #[test]
    fn history_that_is_not_a_tree_is_an_error() {
        let raw = |value: Value| to_raw_value(&value).unwrap();
        for messages in [json!([]), json!("x"), json!(7)] {
            let chat = json!({"chat": {"history": {"messages": messages}}});
            assert!(parse_conversation(&raw(chat)).is_err(), "{messages}");
        }
        assert!(parse_conversation(&raw(json!({"chat": {"history": {}}}))).is_ok());
    }
}
