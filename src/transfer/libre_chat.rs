//! Reads a conversation that LibreChat exported as JSON: `messages`, or `messagesTree` in older
//! versions, either flat with a parent for each, or as a tree of `children`.

use super::external_conversation::{
    ExternalConversation, ExternalMessage, MessageBlock, ParentLink,
};
use super::external_values::{
    collect_text, find_id, find_text, find_time, is_set, list_entries, render_call, render_result,
};
use super::session_record::SessionRecord;
use crate::domain::Role;
use crate::error::{Error, Result};
use crate::json::StrictObject;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// The fields of the conversation. The messages stay unparsed: a tree is nested more deeply than
/// the parser goes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LibreChatConversation<'a> {
    #[serde(default)]
    conversation_id: Value,
    #[serde(default)]
    title: Value,
    #[serde(default)]
    created_at: Value,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    #[serde(borrow)]
    messages_tree: Option<&'a RawValue>,
}

pub(super) fn parse_conversation(raw: &RawValue) -> Result<SessionRecord> {
    let parsed = serde_json::from_str::<StrictObject<LibreChatConversation<'_>>>(raw.get());
    let StrictObject(conversation) =
        parsed.map_err(|error| Error::invalid_field("messages", error.to_string()))?;
    let list = conversation.messages.or(conversation.messages_tree);
    let nodes = list.map(|list| split_message_tree(list.get())).unwrap_or_default();
    let mut messages: Vec<ExternalMessage> = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        let value: Value = serde_json::from_str(&node.json).unwrap_or_default();
        let parent = match node.parent {
            Some(parent) => {
                messages[parent].id.clone().map_or(ParentLink::Root, ParentLink::Message)
            }
            None => find_parent(&value),
        };
        let mut message = convert_message(&value, parent, format!("messages[{index}]"));
        // Children refer to their parent by its id.
        message.id.get_or_insert_with(|| format!("messages[{index}]"));
        messages.push(message);
    }
    let text = |value: Value| value.as_str().map(str::to_owned);
    ExternalConversation {
        id: text(conversation.conversation_id),
        title: text(conversation.title),
        created_at: find_time(&serde_json::json!({ "at": conversation.created_at }), "at")
            .or_else(|| messages.first()?.created_at),
        messages,
        ..ExternalConversation::default()
    }
    .into_record()
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
fn split_message_tree(json: &str) -> Vec<TreeNode> {
    let mut nodes: Vec<TreeNode> = Vec::new();
    let mut open: Vec<OpenValue> = Vec::new();
    let mut last_string = "";
    let mut at = 0;
    while let Some(byte) = json.as_bytes().get(at) {
        let length = if *byte == b'"' { string_length(&json[at..]) } else { 1 };
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
                if let Some(owner) = value.owner() {
                    nodes[owner].json.push_str(token);
                }
                match byte {
                    b'[' | b'{' => {
                        open.push(value.owner().map_or(OpenValue::Odd, OpenValue::Field))
                    }
                    b']' | b'}' => drop(open.pop()),
                    b'"' => last_string = token,
                    _ => {}
                }
            }
        }
    }
    nodes
}

/// The length of the string literal that `json` begins with, in bytes.
fn string_length(json: &str) -> usize {
    let mut is_escaped = false;
    let end = json.bytes().skip(1).position(|byte| {
        let ends = byte == b'"' && !is_escaped;
        is_escaped = byte == b'\\' && !is_escaped;
        ends
    });
    end.map_or(json.len(), |end| end + 2)
}

fn find_parent(message: &Value) -> ParentLink {
    match message.get("parentMessageId") {
        None => ParentLink::Previous,
        // A uuid of zeros stands for none; it is in no file.
        Some(parent) => {
            parent.as_str().map_or(ParentLink::Root, |id| ParentLink::Message(id.to_owned()))
        }
    }
}

fn convert_message(message: &Value, parent: ParentLink, path: String) -> ExternalMessage {
    let is_user = message.get("isCreatedByUser").and_then(Value::as_bool);
    let is_user =
        is_user.unwrap_or_else(|| find_text(message, "sender").as_deref() == Some("User"));
    let has_error = is_set(message, "error");
    ExternalMessage {
        id: find_id(message, "messageId"),
        parent,
        role: if is_user { Role::User } else { Role::Assistant },
        blocks: convert_content(message),
        created_at: find_time(message, "createdAt"),
        model: find_text(message, "model"),
        is_interrupted: is_set(message, "unfinished"),
        error: has_error.then(|| "the reply failed".to_owned()),
        path,
    }
}

fn convert_content(message: &Value) -> Vec<MessageBlock> {
    let mut blocks: Vec<MessageBlock> =
        list_entries(message, "content").iter().flat_map(convert_part).collect();
    if blocks.is_empty() {
        blocks.extend(find_text(message, "text").map(MessageBlock::Text));
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
    let parsed = input.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
    let output = [call, function].into_iter().find_map(|place| place.get("output"));
    let output = output.map(collect_text).unwrap_or_default();
    let call = render_call(&name, parsed.as_ref().unwrap_or(input));
    [call, render_result(&name, &output)].join("\n\n").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::external_conversation::tests::render_messages;
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
        let nodes = split_message_tree(json);
        let texts: Vec<_> = nodes.iter().map(|node| (node.json.as_str(), node.parent)).collect();
        assert_eq!(
            texts,
            [
                (r#"{"messageId": "m", "children": null, "z": 1}"#, None),
                (r#"{"k": [1, {"children": [2]}]}"#, Some(0)),
            ]
        );
    }
}
