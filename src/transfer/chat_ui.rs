//! Reads conversations of Hugging Face's chat-ui, the program behind HuggingChat: messages with
//! `from` and their `ancestors`, or without branches in older versions.

use super::external_conversation::{
    ExternalConversation, ExternalMessage, MessageBlock, ParentLink,
};
use super::external_fields::{list_messages, read_any_time, read_role};
use super::external_values::{
    collect_text, find_id, find_text, is_set, list_entries, parse_value, parse_without, to_id,
};
use super::import_notes::ImportNotes;
use super::session_record::SessionRecord;
use crate::error::Result;
use serde_json::Value;
use serde_json::value::RawValue;

pub(super) fn parse_conversation(raw: &RawValue) -> Result<SessionRecord> {
    let mut left_out = ImportNotes::default();
    let value = parse_without(raw, &["messages"], &mut left_out);
    let model = find_text(&value, "model");
    let mut mended = ImportNotes::default();
    let created_at = read_any_time(&value, "createdAt", "", &mut mended);
    let messages = list_messages(raw, "messages", &mut left_out)?.into_iter();
    let messages = messages
        .map(|(path, message)| convert_message(&parse_value(message), path, &mut mended, &model));
    ExternalConversation {
        id: find_id(&value, "_id").or_else(|| find_id(&value, "id")),
        title: find_text(&value, "title"),
        created_at,
        messages: messages.collect(),
        left_out,
        mended,
        ..ExternalConversation::default()
    }
    .into_record()
}

fn convert_message(
    message: &Value,
    path: String,
    mended: &mut ImportNotes,
    model: &Option<String>,
) -> ExternalMessage {
    let (role, role_mark) = read_role(message, "from", &path, mended);
    let ancestors = message.get("ancestors").and_then(Value::as_array);
    let parent = match ancestors.map(|ancestors| ancestors.last().and_then(to_id)) {
        None => ParentLink::Previous,
        Some(None) => ParentLink::Root,
        Some(Some(id)) => ParentLink::Message(id),
    };
    let mut blocks: Vec<MessageBlock> = role_mark.into_iter().collect();
    blocks.extend(find_text(message, "reasoning").map(MessageBlock::Reasoning));
    let content = message.get("content").map(collect_text).unwrap_or_default();
    blocks.extend(split_thoughts(&content));
    for file in list_entries(message, "files") {
        blocks.push(MessageBlock::file("file", find_text(file, "name"), ""));
    }
    ExternalMessage {
        id: find_id(message, "id"),
        parent,
        role,
        blocks: blocks.into(),
        created_at: read_any_time(message, "createdAt", &path, mended),
        model: model.clone(),
        is_interrupted: is_set(message, "interrupted"),
        error: None,
        is_placeholder: false,
        path,
    }
}

/// Thoughts at the beginning of a reply are in a `<think>` element.
fn split_thoughts(content: &str) -> Vec<MessageBlock> {
    let thought = content.trim_start().strip_prefix("<think>");
    match thought.and_then(|rest| rest.split_once("</think>")) {
        Some((thought, text)) => {
            vec![MessageBlock::Reasoning(thought.to_owned()), MessageBlock::Text(text.to_owned())]
        }
        None => vec![MessageBlock::Text(content.to_owned())],
    }
}

#[cfg(test)]
mod tests {
    use super::super::external_conversation::tests::render_messages;
    use super::*;
    use serde_json::json;
    use serde_json::value::to_raw_value;

    #[test]
    fn chat_ui_conversation_is_imported_with_its_branches() {
        let conversation = json!({"_id": {"$oid": "65a1"}, "title": "Sums", "model": "llama", "messages": [
            {"id": "s", "from": "system", "content": "", "ancestors": [], "children": ["q"]},
            {"id": "q", "from": "user", "content": "1 + 1?", "ancestors": ["s"], "children": ["a", "b"]},
            {"id": "a", "from": "assistant", "content": "<think>Add.</think>2", "ancestors": ["s", "q"],
             "createdAt": {"$date": "2025-01-01T00:00:00Z"}},
            {"id": "b", "from": "assistant", "content": "Two", "reasoning": "Hm.", "ancestors": ["s", "q"]}]});
        let record = parse_conversation(&to_raw_value(&conversation).unwrap()).unwrap();
        assert_eq!(record.session_id.as_deref(), Some("65a1"));
        assert_eq!(
            render_messages(&record),
            [
                "q< user: 1 + 1?",
                r#"a<q assistant: 2 [{"type":"reasoning","text":"Add."}]"#,
                r#"b<q assistant: Two [{"type":"reasoning","text":"Hm."}]"#,
            ]
        );
    }
}
