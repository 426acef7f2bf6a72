//! Reads DeepSeek's `conversations.json`: the tree of ChatGPT's format with messages of its own.
//! Their `fragments` are question, thoughts and answer.

use super::external_conversation::{
    ExternalConversation, ExternalMessage, MessageBlock, ParentLink,
};
use super::external_fields::{read_any_time, read_parent};
use super::external_values::{
    collect_text, find_id, find_text, list_blocks, list_entries, parse_value, parse_without,
    render_result,
};
use super::import_notes::ImportNotes;
use super::session_record::SessionRecord;
use crate::domain::Role;
use crate::error::{Error, Result};
use crate::json::lenient::RawObject;
use serde_json::Value;
use serde_json::value::RawValue;

pub(super) fn parse_conversation(raw: &RawValue) -> Result<SessionRecord> {
    let mapping = RawObject::from_value(raw).get("mapping");
    if !mapping.is_some_and(|mapping| mapping.get().starts_with('{')) {
        return Err(Error::invalid_field("mapping", "must be an object of nodes"));
    }
    let mut left_out = ImportNotes::default();
    let value = parse_without(raw, &["mapping"], &mut left_out);
    let mut mended = ImportNotes::default();
    let created_at = read_any_time(&value, "inserted_at", "", &mut mended);
    let mut messages = Vec::new();
    // Unlike `Value`, this keeps the order of the nodes.
    for (id, node) in RawObject::from_value(raw).object("mapping").fields() {
        let node = parse_value(node);
        let message = node.get("message").unwrap_or(&Value::Null);
        if !node.is_object() || !(message.is_object() || message.is_null()) {
            left_out.add("message", &format!("mapping.{id}"));
        }
        messages.push(convert_node(id, &node, &mut mended));
    }
    ExternalConversation {
        id: find_id(&value, "id"),
        title: find_text(&value, "title"),
        created_at,
        messages,
        head: find_id(&value, "current_node"),
        left_out,
        mended,
        ..ExternalConversation::default()
    }
    .into_record()
}

fn convert_node(id: &str, node: &Value, mended: &mut ImportNotes) -> ExternalMessage {
    let path = format!("mapping.{id}.message");
    let message = node.get("message").unwrap_or(&Value::Null);
    let fragments = list_blocks(message, "fragments");
    let is_kind =
        |kind: &str| fragments.iter().any(|it| find_text(it, "type").as_deref() == Some(kind));
    let parent = match read_parent(node, "parent", &format!("mapping.{id}"), mended) {
        ParentLink::Previous => ParentLink::Root,
        parent => parent,
    };
    let mut blocks: Vec<MessageBlock> = fragments.iter().flat_map(convert_fragment).collect();
    for file in list_entries(message, "files") {
        let name = find_text(file, "file_name").or_else(|| find_text(file, "name"));
        let text = find_text(file, "content").unwrap_or_default();
        blocks.push(MessageBlock::file("file", name, &text));
    }
    ExternalMessage {
        id: Some(id.to_owned()),
        parent,
        role: if is_kind("REQUEST") { Role::User } else { Role::Assistant },
        blocks: blocks.into(),
        created_at: read_any_time(message, "inserted_at", &path, mended),
        model: find_text(message, "model"),
        is_interrupted: false,
        error: None,
        is_placeholder: !message.is_object(),
        path,
    }
}

fn convert_fragment(fragment: &Value) -> Vec<MessageBlock> {
    if let Value::String(text) = fragment {
        return vec![MessageBlock::Text(text.clone())];
    }
    let kind = find_text(fragment, "type").unwrap_or_default();
    let content = collect_text(fragment.get("content").unwrap_or(&Value::Null));
    match kind.as_str() {
        "THINK" => vec![MessageBlock::Reasoning(content)],
        "SEARCH" | "TOOL_SEARCH" | "TOOL_OPEN" => convert_search(fragment, &content),
        _ if content.is_empty() && !matches!(kind.as_str(), "REQUEST" | "RESPONSE") => {
            vec![MessageBlock::left_out(&kind)]
        }
        _ => vec![MessageBlock::Text(content)],
    }
}

fn convert_search(fragment: &Value, content: &str) -> Vec<MessageBlock> {
    let results = list_entries(fragment, "results").iter();
    let sources = results.filter_map(|result| {
        let title = find_text(result, "title");
        Some(MessageBlock::Source { url: find_text(result, "url")?, title })
    });
    let text = MessageBlock::Text(render_result("search", content));
    std::iter::once(text).chain(sources).collect()
}

#[cfg(test)]
mod tests {
    use super::super::external_conversation::tests::render_messages;
    use super::*;
    use crate::domain::Timestamp;

    #[test]
    fn fragments_become_messages_with_reasoning() {
        let raw = r#"{"id": "c1", "title": "Sums", "inserted_at": "2026-01-01T18:00:00.000000+08:00", "mapping": {
            "root": {"id": "root", "parent": null, "children": ["1"], "message": null},
            "1": {"id": "1", "parent": "root", "message": {"inserted_at": "2026-01-01T18:00:01+08:00",
                "fragments": [{"type": "REQUEST", "content": "1 + 1?"}], "files": [{"file_name": "a.txt", "content": "one"}]}},
            "10": {"id": "10", "parent": "1", "message": {"model": "deepseek-reasoner", "inserted_at": "2026-01-01T18:00:02+08:00",
                "fragments": [{"type": "THINK", "content": "Add."}, {"type": "SEARCH", "results": [{"url": "https://a.example", "title": "A"}]},
                              {"type": "RESPONSE", "content": "2"}]}},
            "2": {"id": "2", "parent": "10", "message": {"fragments": [{"type": "REQUEST", "content": "Sure?"}]}}}}"#;
        let record = parse_conversation(&RawValue::from_string(raw.to_owned()).unwrap()).unwrap();
        let parts = r#"[{"type":"reasoning","text":"Add."},{"type":"source-url","sourceId":"source-1","url":"https://a.example","title":"A"}]"#;
        assert_eq!(
            render_messages(&record),
            [
                "1< user: 1 + 1?\n\n[file: a.txt]\n\n```\none\n```",
                &format!("10<1 assistant: 2 {parts}"),
                "2<10 user: Sure?",
            ]
        );
        assert_eq!(record.created_at, Timestamp::parse("2026-01-01T10:00:00Z"));
        assert_eq!(record.head_id.as_deref(), Some("2"));
    }
}
