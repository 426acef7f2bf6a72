//! Reads conversations of Hugging Face's chat-ui, the program behind HuggingChat: messages with
//! `from` and their `ancestors`, or without branches in older versions.

use super::external_conversation::{
    ExternalConversation, ExternalMessage, MessageBlock, ParentLink,
};
use super::external_values::{
    collect_text, find_id, find_text, find_time, is_set, list_entries, parse_value,
};
use super::lenient_values::parse_role;
use super::session_record::SessionRecord;
use crate::domain::Role;
use crate::error::Result;
use serde_json::Value;
use serde_json::value::RawValue;

pub(super) fn parse_conversation(raw: &RawValue) -> Result<SessionRecord> {
    let value = parse_value(raw)?;
    let model = find_text(&value, "model");
    let messages = list_entries(&value, "messages").iter().enumerate();
    let messages = messages.map(|(index, message)| convert_message(index, message, &model));
    ExternalConversation {
        id: find_id(&value, "_id").or_else(|| find_id(&value, "id")),
        title: find_text(&value, "title"),
        created_at: find_time(&value, "createdAt"),
        messages: messages.collect(),
        ..ExternalConversation::default()
    }
    .into_record()
}

fn convert_message(index: usize, message: &Value, model: &Option<String>) -> ExternalMessage {
    let role = find_text(message, "from").and_then(|role| parse_role(&role));
    let ancestors = message.get("ancestors").and_then(Value::as_array);
    let parent = match ancestors.map(|ancestors| ancestors.last().and_then(Value::as_str)) {
        None => ParentLink::Previous,
        Some(None) => ParentLink::Root,
        Some(Some(id)) => ParentLink::Message(id.to_owned()),
    };
    let mut blocks: Vec<MessageBlock> = Vec::new();
    blocks.extend(find_text(message, "reasoning").map(MessageBlock::Reasoning));
    let content = message.get("content").map(collect_text).unwrap_or_default();
    blocks.extend(split_thoughts(&content));
    for file in list_entries(message, "files") {
        blocks.push(MessageBlock::file("file", find_text(file, "name"), ""));
    }
    ExternalMessage {
        id: find_id(message, "id"),
        parent,
        role: role.unwrap_or(Role::System),
        blocks,
        created_at: find_time(message, "createdAt"),
        model: model.clone(),
        is_interrupted: is_set(message, "interrupted"),
        error: None,
        path: format!("messages[{index}]"),
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
