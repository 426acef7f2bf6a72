//! Reads Claude.ai's `conversations.json`, of 2024 to 2026, and single conversations as the site's
//! own API and browser extensions give them. Anthropic does not document the format.
//!
//! Older exports list the messages of the shown path, newer ones all, with their parents. Blocks of
//! tools become text; the texts of attachments are kept.

use super::external_conversation::{ExternalConversation, ExternalMessage, MessageBlock};
use super::external_fields::{list_messages, read_any_time, read_parent, read_role};
use super::external_values::{
    collect_text, find_id, find_text, is_set, list_blocks, list_entries, parse_value,
    parse_without, render_call, render_result,
};
use super::import_notes::ImportNotes;
use super::session_record::SessionRecord;
use crate::error::Result;
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::HashSet;

/// Begins the text that an export gives instead of a block that it does not have.
const UNSUPPORTED_BLOCK: &str = "This block is not supported on your current device yet.";

/// Kinds of blocks that are data of the product and no content.
const HIDDEN_BLOCKS: &[&str] = &["token_budget", "flag"];

pub(super) fn parse_conversation(raw: &RawValue) -> Result<SessionRecord> {
    let mut left_out = ImportNotes::default();
    let value = parse_without(raw, &["chat_messages"], &mut left_out);
    let model = find_text(&value, "model");
    let mut mended = ImportNotes::default();
    let created_at = read_any_time(&value, "created_at", "", &mut mended);
    let messages = list_messages(raw, "chat_messages", &mut left_out)?.into_iter();
    let messages = messages
        .map(|(path, message)| convert_message(&parse_value(message), path, &mut mended, &model));
    ExternalConversation {
        id: find_id(&value, "uuid"),
        title: find_text(&value, "name"),
        created_at,
        archived: false,
        pinned: is_set(&value, "is_starred"),
        messages: messages.collect(),
        head: find_id(&value, "current_leaf_message_uuid"),
        left_out,
        mended,
    }
    .into_record()
}

fn convert_message(
    message: &Value,
    path: String,
    mended: &mut ImportNotes,
    model: &Option<String>,
) -> ExternalMessage {
    let (role, role_mark) = read_role(message, "sender", &path, mended);
    ExternalMessage {
        id: find_id(message, "uuid"),
        parent: read_parent(message, "parent_message_uuid", &path, mended),
        role,
        blocks: role_mark.into_iter().chain(convert_content(message)).collect(),
        created_at: read_any_time(message, "created_at", &path, mended),
        model: find_text(message, "model").or_else(|| model.clone()),
        is_interrupted: matches!(
            find_text(message, "stop_reason").as_deref(),
            Some("user_canceled" | "max_tokens")
        ),
        error: None,
        is_placeholder: false,
        path,
    }
}

fn convert_content(message: &Value) -> Vec<MessageBlock> {
    let content = list_blocks(message, "content");
    let mut blocks: Vec<_> = content.iter().flat_map(convert_block).collect();
    let has_text =
        |block: &MessageBlock| matches!(block, MessageBlock::Text(text) if !text.trim().is_empty());
    // The field `text` repeats the texts of the blocks; the oldest exports have nothing else.
    if !blocks.iter().any(has_text) {
        let text = message.get("text").map(collect_text).unwrap_or_default();
        if !text.trim_matches(['`', '\n']).starts_with(UNSUPPORTED_BLOCK) {
            blocks.push(MessageBlock::Text(text));
        }
    }
    blocks.extend(list_files(message));
    blocks
}

fn convert_block(block: &Value) -> Vec<MessageBlock> {
    if let Value::String(text) = block {
        return vec![MessageBlock::Text(text.clone())];
    }
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
    let attached: HashSet<String> = attachments.iter().filter_map(name).collect();
    let mut blocks = Vec::new();
    for file in attachments {
        let text = find_text(file, "extracted_content").unwrap_or_default();
        blocks.push(MessageBlock::file("file", name(file), &text));
    }
    for file in list_entries(message, "files") {
        // Attachments are among the files as well.
        if !name(file).is_some_and(|name| attached.contains(&name)) {
            let is_image = find_text(file, "file_kind").as_deref() == Some("image");
            let kind = if is_image { "image" } else { "file" };
            blocks.push(MessageBlock::file(kind, name(file), ""));
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::super::external_conversation::tests::{render_messages, render_notes};
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

    #[test]
    fn content_in_other_forms_is_kept() {
        let pasted = json!([{"file_name": "", "extracted_content": "one"}]);
        let record = convert(&json!({"uuid": "c", "chat_messages": [
            {"uuid": "a", "sender": "human", "content": "Hi"},
            {"uuid": "b", "sender": "assistant", "text": "", "content": ["Hello", {"type": "text", "text": "you"}]},
            {"uuid": "c", "sender": "human", "text": "Look", "attachments": pasted,
             "files": [{"file_kind": "image"}, {"file_name": "x.png", "file_kind": "image"}]}]}));
        assert_eq!(
            render_messages(&record),
            [
                "a< user: Hi",
                "b<a assistant: Hello\n\nyou",
                "c<b user: Look\n\n[file]\n\n```\none\n```\n\n[image]\n\n[image: x.png]",
            ]
        );
    }

    #[test]
    fn values_that_are_not_understood_are_noted() {
        let record = convert(&json!({"uuid": 7, "created_at": "soon", "chat_messages": [
            null, 7, "x",
            {"uuid": 1, "sender": "robot", "text": "Beep", "parent_message_uuid": null},
            {"uuid": 2, "text": "Who?", "parent_message_uuid": 1, "created_at": true},
            {"uuid": 3, "sender": "human", "text": "", "parent_message_uuid": 2},
            {"uuid": 4, "sender": "human", "text": "Me", "parent_message_uuid": []}]}));
        assert_eq!(
            render_messages(&record),
            ["1< tool: [robot]\n\nBeep", "2<1 tool: Who?", "4< user: Me"]
        );
        let left_out = ["message 3 chat_messages[0]", "blank message 1 chat_messages[5]"];
        assert_eq!(render_notes(record.left_out), left_out);
        assert_eq!(
            render_notes(record.mended),
            [
                "created_at 2 created_at",
                "role 2 chat_messages[3].sender",
                "parent 1 chat_messages[6].parent_message_uuid",
            ]
        );
    }

    #[test]
    fn messages_that_are_not_a_list_are_an_error() {
        let raw = to_raw_value(&json!({"uuid": "c", "chat_messages": {}})).unwrap();
        let error = parse_conversation(&raw).err().unwrap();
        assert!(error.to_string().contains("chat_messages"), "{error}");
    }

    #[test]
    fn value_that_cannot_be_parsed_costs_no_conversation() {
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        let raw = format!(
            r#"{{"uuid": "c", "chat_messages": [
            {{"uuid": "a", "sender": "human", "text": "Hi", "created_at": 1e999}},
            {{"uuid": "b", "sender": "assistant", "content": [
                {{"type": "tool_use", "name": "f", "input": {{"x": {deep}, "y": 1e999, "z": "kept"}}}},
                {{"type": "text", "text": "Done"}}]}}]}}"#
        );
        let record = parse_conversation(&RawValue::from_string(raw).unwrap()).unwrap();
        let lines = render_messages(&record);
        assert_eq!(lines[0], "a< user: Hi");
        assert!(lines[1].contains("y: 1e999\nz: kept\n\nDone"), "{}", lines[1]);
        assert_eq!(render_notes(record.mended), ["created_at 1 chat_messages[0].created_at"]);
    }
}
