//! Reads a conversation that LibreChat exported as JSON: `messages`, or `messagesTree` in older
//! versions, either flat with a parent for each, or as a tree of `children`.

use super::external_conversation::{
    ExternalConversation, ExternalMessage, MessageBlock, ParentLink,
};
use super::external_fields::{read_any_time, read_parent};
use super::external_values::{
    collect_text, find_id, find_text, has_many_values, is_set, list_blocks, list_entries,
    parse_value, read_short_text, render_call, render_result,
};
use super::import_notes::ImportNotes;
use super::lenient_values::{TimeForm, read_id, read_time};
use super::session_record::SessionRecord;
use crate::domain::Role;
use crate::error::{Error, Result};
use crate::json::lenient::RawObject;
use serde_json::Value;
use serde_json::value::RawValue;

pub(super) fn parse_conversation(raw: &RawValue) -> Result<SessionRecord> {
    let conversation = RawObject::from_value(raw);
    let lists = ["messages", "messagesTree"].into_iter().filter_map(|name| conversation.get(name));
    let list = lists.clone().find(|list| list.get().starts_with('['));
    if list.is_none() && lists.count() > 0 {
        return Err(Error::invalid_field("messages", "must be a list of messages"));
    }
    let mut left_out = ImportNotes::default();
    let mut mended = ImportNotes::default();
    // The list stays unparsed: a tree is nested more deeply than the parser goes.
    let tree = list.map(|list| split_message_tree(list.get())).unwrap_or_default();
    if tree.odd_entries > 0 {
        left_out.add_many("message", tree.odd_entries, "messages");
    }
    let mut messages: Vec<ExternalMessage> = Vec::with_capacity(tree.nodes.len());
    for (index, node) in tree.nodes.into_iter().enumerate() {
        let path = format!("messages[{index}]");
        let raw: &RawValue = serde_json::from_str(&node.json).map_err(Error::internal)?;
        let value = parse_value(raw);
        let parent = match node.parent {
            Some(parent) => ParentLink::Entry(parent),
            None => read_parent(&value, "parentMessageId", &path, &mut mended),
        };
        let mut message = convert_message(&value, parent, path, &mut mended);
        message.id.get_or_insert_with(|| format!("messages[{index}]"));
        messages.push(message);
    }
    let created_at = read_time(&conversation, "createdAt", TimeForm::Text, "", &mut mended);
    ExternalConversation {
        id: conversation.get("conversationId").and_then(read_id),
        title: read_short_text(&conversation, "title", &mut left_out),
        created_at: created_at.or_else(|| messages.first()?.created_at),
        messages,
        left_out,
        mended,
        ..ExternalConversation::default()
    }
    .into_record()
}

/// The messages of a list and those inside of them, parents before children.
#[derive(Default)]
struct SplitTree {
    nodes: Vec<TreeNode>,
    /// Number of entries that are not messages.
    odd_entries: u64,
}

/// A message without its children.
struct TreeNode {
    json: String,
    /// Index of the message whose `children` it is among.
    parent: Option<usize>,
}

/// An open array or object of [`split_message_tree`].
#[derive(Clone, Copy)]
enum OpenValue {
    /// A list of messages, with the message that it belongs to.
    MessageList(Option<usize>),
    Message(usize),
    /// A value inside of this message.
    Field(usize),
    /// An entry of a list that is not a message.
    Odd,
}

impl OpenValue {
    /// The message whose JSON the next token belongs to.
    fn owner(self) -> Option<usize> {
        match self {
            Self::Message(node) | Self::Field(node) => Some(node),
            Self::MessageList(_) | Self::Odd => None,
        }
    }
}

/// Splits a list of messages into its messages and theirs. `json` is valid JSON. One pass without
/// recursion, so the depth of the tree does not matter.
fn split_message_tree(json: &str) -> SplitTree {
    let mut nodes: Vec<TreeNode> = Vec::new();
    let mut odd_entries = 0;
    let mut open: Vec<OpenValue> = Vec::new();
    let mut last_string = "";
    let mut at = 0;
    while let Some(byte) = json.as_bytes().get(at) {
        let length = token_length(&json[at..]);
        // Outside of strings JSON is ASCII, so these are character boundaries.
        let token = &json[at..at + length];
        at += length;
        let inner = open.last().copied();
        match (byte, inner) {
            (b'[', None) => open.push(OpenValue::MessageList(None)),
            (_, None) => {}
            (b'[', Some(OpenValue::Message(node))) if last_string == "\"children\"" => {
                nodes[node].json.push_str("null");
                open.push(OpenValue::MessageList(Some(node)));
            }
            (b'{', Some(OpenValue::MessageList(parent))) => {
                open.push(OpenValue::Message(nodes.len()));
                nodes.push(TreeNode { json: token.to_owned(), parent });
            }
            (_, Some(value)) => {
                let is_delimiter = matches!(byte, b',' | b']') || byte.is_ascii_whitespace();
                if matches!(value, OpenValue::MessageList(_)) && !is_delimiter {
                    odd_entries += 1;
                }
                if let Some(owner) = value.owner() {
                    nodes[owner].json.push_str(token);
                }
                match byte {
                    b'[' | b'{' => {
                        open.push(value.owner().map_or(OpenValue::Odd, OpenValue::Field))
                    }
                    b']' | b'}' => {
                        open.pop();
                        if let OpenValue::Message(node) = value {
                            nodes[node].json.shrink_to_fit();
                        }
                    }
                    b'"' => last_string = token,
                    _ => {}
                }
            }
        }
    }
    SplitTree { nodes, odd_entries }
}

/// The length of the token that `json` begins with, in bytes.
fn token_length(json: &str) -> usize {
    let is_literal = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
    if !json.starts_with('"') {
        return json.bytes().take_while(is_literal).count().max(1);
    }
    let mut is_escaped = false;
    let end = json.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    });
    end.map_or(json.len(), |end| end + 2)
}

fn convert_message(
    message: &Value,
    parent: ParentLink,
    path: String,
    mended: &mut ImportNotes,
) -> ExternalMessage {
    let is_user = message.get("isCreatedByUser").and_then(Value::as_bool);
    let is_user =
        is_user.unwrap_or_else(|| find_text(message, "sender").as_deref() == Some("User"));
    let has_error = is_set(message, "error");
    ExternalMessage {
        id: find_id(message, "messageId"),
        parent,
        role: if is_user { Role::User } else { Role::Assistant },
        blocks: convert_content(message).into(),
        created_at: read_any_time(message, "createdAt", &path, mended),
        model: find_text(message, "model"),
        is_interrupted: is_set(message, "unfinished"),
        error: has_error.then(|| "the reply failed".to_owned()),
        is_placeholder: false,
        path,
    }
}

fn convert_content(message: &Value) -> Vec<MessageBlock> {
    let mut blocks: Vec<MessageBlock> =
        list_blocks(message, "content").iter().flat_map(convert_part).collect();
    if blocks.is_empty() {
        blocks.extend(message.get("text").map(|text| MessageBlock::Text(collect_text(text))));
    }
    for file in list_entries(message, "files") {
        let is_image = find_text(file, "type").is_some_and(|kind| kind.starts_with("image/"));
        let kind = if is_image { "image" } else { "file" };
        let text = find_text(file, "text").unwrap_or_default();
        blocks.push(MessageBlock::file(kind, find_text(file, "filename"), &text));
    }
    blocks
}

fn convert_part(part: &Value) -> Vec<MessageBlock> {
    if let Value::String(text) = part {
        let text = Some(text).filter(|text| !text.trim().is_empty());
        return text.map(|text| MessageBlock::Text(text.clone())).into_iter().collect();
    }
    let kind = find_text(part, "type").unwrap_or_default();
    let value = part.get(&kind).unwrap_or(&Value::Null);
    let text = match kind.as_str() {
        "think" | "reasoning" => return vec![MessageBlock::Reasoning(collect_text(value))],
        "tool_call" => return vec![MessageBlock::Text(convert_tool_call(value))],
        // Marks a change of the agent; it has no content.
        "agent_update" => return Vec::new(),
        _ => collect_text(value),
    };
    let text = if text.is_empty() { find_text(part, "text").unwrap_or_default() } else { text };
    if !text.is_empty() && !kind.starts_with("image") {
        return vec![MessageBlock::Text(text)];
    }
    match kind.as_str() {
        "text" => Vec::new(),
        kind if kind.starts_with("image") => {
            vec![MessageBlock::file("image", find_text(value, "filename"), "")]
        }
        kind => vec![MessageBlock::left_out(kind)],
    }
}

/// A call with its result: `{"name", "args", "output"}`, where the arguments are JSON or its text.
fn convert_tool_call(call: &Value) -> String {
    let function = call.get("function").unwrap_or(call);
    let name = find_text(function, "name").unwrap_or_else(|| "tool".to_owned());
    let input = function.get("args").or_else(|| function.get("arguments")).unwrap_or(&Value::Null);
    let parsed = input
        .as_str()
        .filter(|text| !has_many_values(text))
        .and_then(|text| serde_json::from_str::<Value>(text).ok());
    let output = [call, function].into_iter().find_map(|place| place.get("output"));
    let output = output.map(collect_text).unwrap_or_default();
    let call = render_call(&name, parsed.as_ref().unwrap_or(input));
    [call, render_result(&name, &output)].join("\n\n").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::external_conversation::tests::{render_messages, render_notes};
    use super::*;
    use serde_json::json;

    fn convert(json: String) -> SessionRecord {
        parse_conversation(&RawValue::from_string(json).unwrap()).unwrap()
    }

    const ROOT: &str = "00000000-0000-0000-0000-000000000000";

    #[test]
    fn flat_messages_are_imported_with_branches_and_parts() {
        let content = json!([{"type": "think", "think": "Add."}, {"type": "text", "text": {"value": "It is"}},
            {"type": "tool_call", "tool_call": {"id": "k", "name": "calc", "args": "{\"x\":1}", "output": "2"}},
            {"type": "text", "text": "2."}]);
        let conversation = json!({
            "conversationId": "c1", "endpoint": "openAI", "title": "Sums", "branches": true, "recursive": false,
            "options": {"model": "gpt-4o"}, "messages": [
                {"messageId": "q", "parentMessageId": ROOT, "isCreatedByUser": true, "text": "1 + 1?",
                 "createdAt": "2025-03-01T10:00:00.000Z", "files": [{"filename": "a.pdf", "type": "application/pdf"}]},
                {"messageId": "a", "parentMessageId": "q", "isCreatedByUser": false, "text": "", "model": "gpt-4o",
                 "createdAt": "2025-03-01T10:00:02.000Z", "content": content},
                {"messageId": "b", "parentMessageId": "q", "isCreatedByUser": false, "text": "Two", "unfinished": true,
                 "createdAt": "2025-03-01T10:00:01.000Z"}]});
        let record = convert(conversation.to_string());
        let call = "[calc]\nx: 1\n\n[result of calc]\n\n```\n2\n```";
        let parts = r#"[{"type":"reasoning","text":"Add."}]"#;
        assert_eq!(
            render_messages(&record),
            [
                "q< user: 1 + 1?\n\n[file: a.pdf]",
                &format!("a<q assistant: It is\n\n{call}\n\n2. {parts}"),
                "b<q assistant: Two",
            ]
        );
        assert_eq!(record.session_id.as_deref(), Some("c1"));
        assert_eq!(record.head_id.as_deref(), Some("a"));
        assert_eq!(record.created_at, record.messages[0].0.created_at);
    }

    #[test]
    fn deep_tree_of_children_is_imported() {
        let depth = 5000;
        let mut tree = String::new();
        for number in 0..depth {
            let text = json!(format!("\"{number}\" [{{\\ é"));
            let is_user = number % 2 == 0;
            tree += &format!(
                r#"[{{"messageId": "m{number}", "isCreatedByUser": {is_user}, "content": [{{"type": "text", "text": {text}}}], "children": "#
            );
        }
        tree += &format!("[]{}", "}]".repeat(depth));
        let record = convert(format!(
            r#"{{"conversationId": "c", "recursive": true, "title": "Deep", "messages": {tree}}}"#
        ));
        let lines = render_messages(&record);
        assert_eq!(lines.len(), depth);
        assert_eq!(lines[0], "m0< user: \"0\" [{\\ é");
        assert_eq!(lines[depth - 1], "m4999<m4998 assistant: \"4999\" [{\\ é");
    }

    #[test]
    fn odd_entries_of_a_tree_do_not_disturb_the_others() {
        let json = r#"[7, "x\"", [{"a": []}], {"messageId": "m", "children": [null, {"k": [1, {"children": [2]}]}], "z": 1}]"#;
        let tree = split_message_tree(json);
        assert_eq!(tree.odd_entries, 4);
        let texts: Vec<_> =
            tree.nodes.iter().map(|node| (node.json.as_str(), node.parent)).collect();
        assert_eq!(
            texts,
            [
                (r#"{"messageId": "m", "children": null, "z": 1}"#, None),
                (r#"{"k": [1, {"children": [2]}]}"#, Some(0)),
            ]
        );
    }

    #[test]
    fn odd_values_keep_the_text_and_are_noted() {
        let record = convert(
            r#"{"conversationId": 5, "createdAt": 1e999, "messages": [7, -1.5e3, "x", null,
            {"messageId": 1, "parentMessageId": null, "isCreatedByUser": true, "content": "Hi", "text": ""},
            {"messageId": 2, "parentMessageId": 1, "text": "Hello", "tokenCount": 1e999},
            {"messageId": 3, "parentMessageId": 9, "text": "Lost", "content": ["and", "found"], "createdAt": "soon"},
            {"messageId": 4, "parentMessageId": 3, "text": ""}]}"#
                .to_owned(),
        );
        assert_eq!(record.session_id.as_deref(), Some("5"));
        assert_eq!(
            render_messages(&record),
            ["1< user: Hi", "2<1 assistant: Hello", "3< assistant: and\n\nfound"]
        );
        assert_eq!(
            render_notes(record.left_out),
            ["message 4 messages", "blank message 1 messages[3]"]
        );
        let mended = ["createdAt 2 messages[2].createdAt", "parent 1 messages[2]"];
        assert_eq!(render_notes(record.mended), mended);
    }

    #[test]
    fn children_follow_the_message_that_they_are_in() {
        let message = |text: &str, children: Value| json!({"messageId": "m", "text": text, "children": children});
        let tree = json!([
            message("1", json!([])),
            message("2", json!([{"messageId": "n", "text": "3"}]))
        ]);
        let record = convert(json!({"conversationId": "c", "messages": tree}).to_string());
        assert_eq!(record.messages[2].0.parent_id, Some(record.messages[1].0.id.clone()));
        assert_eq!(render_notes(record.mended), ["id 1 messages[1]"]);
    }

    #[test]
    fn messages_that_are_not_a_list_are_an_error() {
        let json = r#"{"conversationId": "c", "messages": {}}"#.to_owned();
        assert!(parse_conversation(&RawValue::from_string(json).unwrap()).is_err());
    }
}
