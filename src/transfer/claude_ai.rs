//! Reads Claude.ai's `conversations.json`, of 2024 to 2026, and single conversations as the site's
//! own API and browser extensions give them. Anthropic does not document the format.
//!
//! Older exports list the messages of the shown path, newer ones all, with their parents. Blocks of
//! tools become text; the texts of attachments are kept.

use super::external_conversation::{
    ExternalConversation, ExternalMessage, MessageBlock, ParentLink,
};
use super::external_values::{
    collect_text, find_text, find_time, is_set, list_entries, parse_value, render_call,
    render_result,
};
use super::lenient_values::parse_role;
use super::session_record::SessionRecord;
use crate::domain::Role;
use crate::error::Result;
use serde_json::Value;
use serde_json::value::RawValue;

/// Begins the text that an export gives instead of a block that it does not have.
const UNSUPPORTED_BLOCK: &str = "This block is not supported on your current device yet.";

/// Kinds of blocks that are data of the product and no content.
const HIDDEN_BLOCKS: &[&str] = &["token_budget", "flag"];

pub(super) fn parse_conversation(raw: &RawValue) -> Result<SessionRecord> {
    let value = parse_value(raw)?;
    let model = find_text(&value, "model");
    let messages = list_entries(&value, "chat_messages");
    let messages = messages.iter().enumerate();
    let messages = messages.map(|(index, message)| convert_message(index, message, &model));
    ExternalConversation {
        id: find_text(&value, "uuid"),
        title: find_text(&value, "name"),
        created_at: find_time(&value, "created_at"),
        archived: false,
        pinned: is_set(&value, "is_starred"),
        messages: messages.collect(),
        head: find_text(&value, "current_leaf_message_uuid"),
    }
    .into_record()
}

fn convert_message(index: usize, message: &Value, model: &Option<String>) -> ExternalMessage {
    let role = find_text(message, "sender").and_then(|role| parse_role(&role));
    let parent = match message.get("parent_message_uuid") {
        None => ParentLink::Previous,
        // A uuid of zeros stands for none; it is in no file.
        Some(parent) => {
            parent.as_str().map_or(ParentLink::Root, |id| ParentLink::Message(id.to_owned()))
        }
    };
    ExternalMessage {
        id: find_text(message, "uuid"),
        parent,
        role: role.unwrap_or(Role::System),
        blocks: convert_content(message),
        created_at: find_time(message, "created_at"),
        model: find_text(message, "model").or_else(|| model.clone()),
        is_interrupted: matches!(
            find_text(message, "stop_reason").as_deref(),
            Some("user_canceled" | "max_tokens")
        ),
        error: None,
        path: format!("chat_messages[{index}]"),
    }
}

fn convert_content(message: &Value) -> Vec<MessageBlock> {
    let content = list_entries(message, "content");
    let mut blocks: Vec<_> = content.iter().flat_map(convert_block).collect();
    let has_text =
        |block: &MessageBlock| matches!(block, MessageBlock::Text(text) if !text.trim().is_empty());
    // The field `text` repeats the texts of the blocks; the oldest exports have nothing else.
    if !blocks.iter().any(has_text) {
        let text = find_text(message, "text").unwrap_or_default();
        if !text.trim_matches(['`', '\n']).starts_with(UNSUPPORTED_BLOCK) {
            blocks.push(MessageBlock::Text(text));
        }
    }
    blocks.extend(list_files(message));
    blocks
}

fn convert_block(block: &Value) -> Vec<MessageBlock> {
    let kind = find_text(block, "type").unwrap_or_default();
    let name = || find_text(block, "name").unwrap_or_else(|| "tool".to_owned());
    let text = match kind.as_str() {
        "text" => return convert_text(block),
        "thinking" => {
            return find_text(block, "thinking").map(MessageBlock::Reasoning).into_iter().collect();
        }
        "tool_use" => render_call(&name(), block.get("input").unwrap_or(&Value::Null)),
        "tool_result" => return convert_result(&name(), block),
        kind if HIDDEN_BLOCKS.contains(&kind) => return Vec::new(),
        // A spoken message has a title and its text.
        _ => find_text(block, "text").unwrap_or_default(),
    };
    match text.is_empty() {
        true => vec![MessageBlock::left_out(&kind)],
        false => vec![MessageBlock::Text(text)],
    }
}

fn convert_text(block: &Value) -> Vec<MessageBlock> {
    let sources = list_entries(block, "citations").iter().filter_map(|citation| {
        let place = citation.get("details").filter(|details| details.get("url").is_some());
        let place = place.unwrap_or(citation);
        let title = find_text(place, "title").or_else(|| find_text(citation, "title"));
        Some(MessageBlock::Source { url: find_text(place, "url")?, title })
    });
    let text = find_text(block, "text").map(MessageBlock::Text);
    text.into_iter().chain(sources).collect()
}

fn convert_result(name: &str, block: &Value) -> Vec<MessageBlock> {
    let content = block.get("content").unwrap_or(&Value::Null);
    let entries = content.as_array().map(Vec::as_slice).unwrap_or_default();
    let left_out = entries.iter().filter(|entry| collect_text(entry).is_empty());
    let left_out =
        left_out.map(|entry| MessageBlock::left_out(&find_text(entry, "type").unwrap_or_default()));
    let text = MessageBlock::Text(render_result(name, &collect_text(content)));
    std::iter::once(text).chain(left_out).collect()
}

/// Attachments come with their text, other files with their name only.
fn list_files(message: &Value) -> Vec<MessageBlock> {
    let name = |file: &Value| find_text(file, "file_name");
    let attachments = list_entries(message, "attachments");
    let mut blocks = Vec::new();
    for file in attachments {
        let text = find_text(file, "extracted_content").unwrap_or_default();
        blocks.push(MessageBlock::file("file", name(file), &text));
    }
    for file in list_entries(message, "files") {
        // Attachments are among the files as well.
        if !attachments.iter().any(|other| name(other) == name(file)) {
            let is_image = find_text(file, "file_kind").as_deref() == Some("image");
            let kind = if is_image { "image" } else { "file" };
            blocks.push(MessageBlock::file(kind, name(file), ""));
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::super::external_conversation::tests::render_messages;
    use super::*;
    use crate::domain::Timestamp;
    use serde_json::json;
    use serde_json::value::to_raw_value;

    fn convert(conversation: &Value) -> SessionRecord {
        parse_conversation(&to_raw_value(conversation).unwrap()).unwrap()
    }

    #[test]
    fn export_keeps_branches_thoughts_tools_and_attachments() {
        let question = json!({"uuid": "m1", "sender": "human", "text": "Where to?", "created_at": "2026-02-01T10:00:01Z",
            "content": [{"type": "text", "text": "Where to?", "citations": []}],
            "parent_message_uuid": "00000000-0000-4000-8000-000000000000",
            "attachments": [{"file_name": "plan.txt", "file_size": 5, "file_type": "txt", "extracted_content": "Rome"}],
            "files": [{"file_name": "plan.txt"}, {"file_name": "map.png", "file_kind": "image"}]});
        let search = json!({"type": "tool_result", "tool_use_id": null, "name": "web_search", "is_error": false,
            "content": [{"type": "knowledge", "title": "Guide", "url": "https://a.example", "text": "A city."}]});
        let cited = json!([{"uuid": "x", "details": {"type": "web_search_citation", "url": "https://a.example"}}]);
        let answer = json!({"uuid": "m2", "sender": "assistant", "text": "Rome.", "created_at": "2026-02-01T10:00:05Z",
            "parent_message_uuid": "m1", "attachments": [], "files": [], "content": [
                {"type": "thinking", "thinking": "Read the plan.", "summaries": []},
                {"type": "tool_use", "id": null, "name": "web_search", "input": {"query": "Rome"}}, search,
                {"type": "token_budget"}, {"type": "text", "text": "Rome.", "citations": cited}]});
        let other = json!({"uuid": "m3", "sender": "assistant", "text": "Oslo.", "created_at": "2026-02-01T10:00:04Z",
            "parent_message_uuid": "m1", "content": [{"type": "text", "text": "Oslo."}, {"type": "hologram"}]});
        let record = convert(
            &json!({"uuid": "c1", "name": "Trip", "created_at": "2026-02-01T10:00:00.123456+00:00",
            "account": {"uuid": "u"}, "chat_messages": [question, answer, other]}),
        );
        assert_eq!(record.session_id.as_deref(), Some("c1"));
        assert_eq!(record.title.as_deref(), Some("Trip"));
        assert_eq!(record.created_at, Timestamp::parse("2026-02-01T10:00:00.123Z"));
        let parts = r#"[{"type":"reasoning","text":"Read the plan."},{"type":"source-url","sourceId":"source-1","url":"https://a.example"}]"#;
        let call = "[web_search]\nquery: Rome\n\n[result of web_search]\n\n```\nA city.\n```";
        assert_eq!(
            render_messages(&record),
            [
                "m1< user: Where to?\n\n[file: plan.txt]\n\n```\nRome\n```\n\n[image: map.png]",
                &format!("m2<m1 assistant: {call}\n\nRome. {parts}"),
                "m3<m1 assistant: Oslo.\n\n[hologram]",
            ]
        );
        // Without a mark of its own, the newest message is the head.
        assert_eq!(record.head_id.as_deref(), Some("m2"));
        let left_out = record.left_out.into_list();
        let kinds: Vec<&str> = left_out.iter().map(|note| note.kind.as_str()).collect();
        assert_eq!(kinds, ["image", "hologram"]);
    }

    #[test]
    fn messages_of_old_exports_follow_one_another() {
        let record = convert(&json!({"uuid": "c2", "name": "", "chat_messages": [
            {"uuid": "a", "sender": "human", "text": "Hi"},
            {"uuid": "b", "sender": "assistant", "text": "Hello", "content": []},
            {"uuid": "c", "sender": "human", "text": "", "content": [{"type": "text", "text": "Bye"}]}]}));
        assert_eq!(
            render_messages(&record),
            ["a< user: Hi", "b<a assistant: Hello", "c<b user: Bye"]
        );
        assert_eq!((record.title, record.head_id.as_deref()), (None, Some("c")));
    }
}
