//! Recognizes input items that the history of `previous_response_id` already contains.
//!
//! Some clients send the whole conversation again with each request, with or without the IDs of the
//! items. Users' messages never have an ID, so those are recognized by their content and by their
//! neighbors.

use crate::domain::tool::{self, NewToolResult, ToolCall, ToolResult};
use crate::domain::{MessageId, Role, SessionId};
use crate::error::{Error, ErrorKind, Result};
use crate::http::ApiState;
use crate::http::v1::ids::ItemId;
use crate::http::v1::item_mapping::{InputItem, PositionedItem};
use crate::store::{HistoryLimits, HistoryMessage};
use serde_json::Value;
use std::collections::HashMap;

/// Messages that are read beyond the number of items, for messages that are not items.
const EXTRA_MESSAGES: u32 = 1_000;
/// Bytes of images and calls that are read.
const MAX_PART_BYTES: usize = 32 << 20;

/// The end of the path that a response continues.
#[derive(Default)]
pub(super) struct KnownHistory {
    /// Oldest first.
    messages: Vec<HistoryMessage>,
    /// Positions in `messages`.
    by_id: HashMap<MessageId, usize>,
    /// By ID, oldest first: clients may use an ID of their own more than once.
    calls: HashMap<String, Vec<(KnownCall, usize)>>,
    outputs: HashMap<String, Vec<(KnownOutput, usize)>>,
}

/// A call in the form in which it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KnownCall {
    id: String,
    name: String,
    input: Value,
}

/// An output in the form in which it is compared.
#[derive(Debug, Clone, PartialEq, Eq)]
struct KnownOutput {
    call_id: String,
    text: String,
}

impl KnownCall {
    fn new(call: &ToolCall) -> Self {
        let input = tool::normalize_input(&call.input);
        Self { id: call.id.clone(), name: call.name.clone(), input }
    }
}

impl KnownOutput {
    fn new(result: ToolResult) -> Self {
        Self { call_id: result.call_id, text: result.output }
    }
}

/// Consecutive items of one author, in the form in which they are compared. A client may split or
/// join the texts of a reply.
#[derive(Debug, PartialEq, Eq)]
enum ItemGroup {
    Reply { letters: String, calls: Vec<KnownCall> },
    Outputs(Vec<KnownOutput>),
    Message { role: Role, letters: String, parts: String },
}

impl KnownHistory {
    /// Reads as much of the path that ends with `reply` as `items` items may repeat.
    pub(super) async fn load(
        api: &ApiState,
        session: &SessionId,
        reply: &MessageId,
        items: usize,
    ) -> Result<Self> {
        let limits = HistoryLimits {
            max_messages: u32::try_from(items).unwrap_or(u32::MAX).saturating_add(EXTRA_MESSAGES),
            max_tokens: u32::MAX,
            token_overhead: 0,
            max_part_bytes: MAX_PART_BYTES,
        };
        let mut messages = match api.store.recent_history(session, reply, limits).await {
            Ok(messages) => messages,
            // The reply is still being written, or was not stored.
            Err(error) if error.kind == ErrorKind::MessageNotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        messages.reverse();
        Ok(Self::from_messages(messages))
    }

    fn from_messages(messages: Vec<HistoryMessage>) -> Self {
        let mut history = Self::default();
        for (at, message) in messages.iter().enumerate() {
            history.by_id.insert(message.id.clone(), at);
            for call in tool::parse_calls(&message.parts) {
                let known = KnownCall::new(&call);
                history.calls.entry(call.id).or_default().push((known, at));
            }
            for result in tool::parse_results(&message.parts) {
                let known = KnownOutput::new(result);
                history.outputs.entry(known.call_id.clone()).or_default().push((known, at));
            }
        }
        Self { messages, ..history }
    }

    /// Removes the items that the history contains. Errors: `invalid_request` if nothing is left.
    pub(super) fn remove_known(&self, items: Vec<PositionedItem>) -> Result<Vec<PositionedItem>> {
        let repeated = self.count_repeated(&items);
        let mut known = self.find_identified(&items);
        known[..repeated].fill(true);
        let is_empty = known.iter().all(|is_known| *is_known) && !items.is_empty();
        if is_empty {
            let message = "has no items that the previous response does not already contain";
            return Err(Error::invalid_field("input", message));
        }
        let new = items.into_iter().zip(known).filter(|(_, is_known)| !is_known);
        Ok(new.map(|(item, _)| item).collect())
    }

    /// The number of items at the start of the input that repeat the end of the history. They
    /// include a reply or outputs, so new messages that equal old ones are not among them.
    fn count_repeated(&self, items: &[PositionedItem]) -> usize {
        let history = self.messages.iter().filter_map(Self::group_message);
        let history = join_groups(history.map(|group| (group, 0)));
        let groups = items.iter().enumerate();
        let groups =
            join_groups(groups.filter_map(|(at, item)| Some((Self::group_item(item)?, at + 1))));
        let is_same = |count: &usize| {
            let end = &history[history.len() - count..];
            // After a failed reply the history ends with a message, which may be sent again.
            end.iter().any(|(group, _)| !matches!(group, ItemGroup::Message { .. }))
                && groups
                    .iter()
                    .zip(end)
                    .take(*count)
                    .all(|((group, _), (known, _))| group == known)
        };
        let longest = (1..=groups.len().min(history.len())).rev().find(is_same);
        longest.map_or(0, |count| groups[count - 1].1)
    }

    /// Which items have the ID of a message or call of the history, or directly precede or follow
    /// such an item and have the same content as the history there.
    fn find_identified(&self, items: &[PositionedItem]) -> Vec<bool> {
        let mut places: Vec<Option<usize>> =
            (0..items.len()).map(|at| self.find_place(items, at)).collect();
        for at in 1..items.len() {
            let next = places[at - 1].map(|place| place + 1);
            places[at] = places[at].or(next.filter(|place| self.has_content(&items[at], *place)));
        }
        for at in (1..items.len()).rev() {
            let previous = places[at].and_then(|place| place.checked_sub(1));
            let is_same = |place: &usize| self.has_content(&items[at - 1], *place);
            places[at - 1] = places[at - 1].or(previous.filter(is_same));
        }
        if self.repeats_question(items) {
            places[0] = places[0].or(Some(0));
        }
        places.into_iter().map(|place| place.is_some()).collect()
    }

    /// The place of the message that the item at `at` belongs to. Calls and outputs are known by
    /// their content, other items by their ID.
    fn find_place(&self, items: &[PositionedItem], at: usize) -> Option<usize> {
        let item = &items[at];
        let id = match &item.item {
            InputItem::Call(call) => return self.find_call(call, &items[at + 1..]),
            InputItem::Output(result) if self.follows_new_call(result, &items[..at]) => {
                return None;
            }
            InputItem::Output(result) => return self.find_output(result),
            InputItem::Reference(id) => id,
            InputItem::Message(..) | InputItem::Reasoning | InputItem::EncryptedReasoning(_) => {
                item.id.as_ref()?
            }
        };
        self.find_message(&ItemId::parse("id", id).ok()?.message).copied()
    }

    /// The place of a call that the items `following` it do not give a new output. A call that
    /// still waits for its output is known by its ID alone.
    fn find_call(&self, call: &ToolCall, following: &[PositionedItem]) -> Option<usize> {
        let known = self.calls.get(&call.id)?;
        if !self.outputs.contains_key(&call.id) {
            return known.last().map(|(_, place)| *place);
        }
        let output = following.iter().find_map(|item| match &item.item {
            InputItem::Output(result) if result.call_id == call.id => Some(result),
            _ => None,
        });
        if output.is_some_and(|output| self.find_output(output).is_none()) {
            return None;
        }
        let call = KnownCall::new(call);
        known.iter().rev().find(|(one, _)| *one == call).map(|(_, place)| *place)
    }

    /// Whether the output answers a call in the input that the history does not contain.
    fn follows_new_call(&self, result: &NewToolResult, preceding: &[PositionedItem]) -> bool {
        let is_its_call = |item: &PositionedItem| matches!(&item.item, InputItem::Call(call) if call.id == result.call_id);
        let at = preceding.iter().rposition(is_its_call);
        at.is_some_and(|at| match &preceding[at].item {
            InputItem::Call(call) => self.find_call(call, &[]).is_none(),
            _ => false,
        })
    }

    fn find_output(&self, result: &NewToolResult) -> Option<usize> {
        let known = self.outputs.get(&result.call_id)?;
        let output = KnownOutput::new(result.to_tool_result());
        known.iter().rev().find(|(one, _)| *one == output).map(|(_, place)| *place)
    }

    /// The place of a message by its ID, or by the ID of a later text of it, `<messageId>_<n>`.
    fn find_message(&self, id: &MessageId) -> Option<&usize> {
        self.by_id.get(id).or_else(|| {
            let (message, _) = id.as_str().rsplit_once('_')?;
            self.by_id.get(&MessageId::new_unchecked(message))
        })
    }

    /// Whether a message has the content of the one at this place.
    fn has_content(&self, item: &PositionedItem, place: usize) -> bool {
        let Some(message) = self.messages.get(place) else { return false };
        let group = Self::group_item(item);
        matches!(item.item, InputItem::Message(..)) && group == Self::group_message(message)
    }

    /// Whether the input begins with the question of the tool loop at the end of the history, and
    /// outputs of that loop follow.
    fn repeats_question(&self, items: &[PositionedItem]) -> bool {
        let is_step = |message: &&HistoryMessage| {
            message.role == Role::Tool || !tool::parse_calls(&message.parts).is_empty()
        };
        let steps = self.messages.iter().rev().take_while(is_step).count();
        let Some(question) = (self.messages.len() - steps).checked_sub(1) else { return false };
        let returns_output = |item: &PositionedItem| match &item.item {
            InputItem::Output(result) => self.calls.contains_key(&result.call_id),
            _ => false,
        };
        steps > 0
            && items.get(1).is_some_and(returns_output)
            && self.has_content(&items[0], question)
    }

    fn group_message(message: &HistoryMessage) -> Option<ItemGroup> {
        let letters = letters_of(&message.content);
        match message.role {
            Role::Assistant => {
                let calls = tool::parse_calls(&message.parts);
                to_reply_group(letters, calls.iter().map(KnownCall::new).collect())
            }
            Role::Tool => {
                let results = tool::parse_results(&message.parts).into_iter();
                Some(ItemGroup::Outputs(results.map(KnownOutput::new).collect()))
            }
            role => Some(ItemGroup::Message {
                role,
                letters,
                parts: message.parts.as_json().to_owned(),
            }),
        }
    }

    /// `None` for items that are not shown to a model, and for those that are known by their ID.
    fn group_item(item: &PositionedItem) -> Option<ItemGroup> {
        match &item.item {
            InputItem::Message(Role::Assistant, content) => {
                to_reply_group(letters_of(&content.text), Vec::new())
            }
            InputItem::Message(role, content) => Some(ItemGroup::Message {
                role: *role,
                letters: letters_of(&content.text),
                parts: content.parts.as_json().to_owned(),
            }),
            InputItem::Call(call) => to_reply_group(String::new(), vec![KnownCall::new(call)]),
            InputItem::Output(result) => {
                Some(ItemGroup::Outputs(vec![KnownOutput::new(result.to_tool_result())]))
            }
            InputItem::Reference(_) | InputItem::Reasoning | InputItem::EncryptedReasoning(_) => {
                None
            }
        }
    }
}

/// Whether items may be of an earlier response. A single new message or output is not, and then the
/// history need not be read.
pub(super) fn may_repeat_history(items: &[PositionedItem]) -> bool {
    match items {
        [PositionedItem { id: None, item, .. }] => {
            !matches!(item, InputItem::Message(..) | InputItem::Output(_))
        }
        _ => true,
    }
}

/// `None` for a reply without anything, which clients leave out.
fn to_reply_group(letters: String, calls: Vec<KnownCall>) -> Option<ItemGroup> {
    let is_empty = letters.is_empty() && calls.is_empty();
    (!is_empty).then_some(ItemGroup::Reply { letters, calls })
}

fn letters_of(text: &str) -> String {
    text.split_whitespace().collect()
}

/// Joins consecutive groups of a reply, and of outputs. The number of a joined group is that of its
/// last part.
fn join_groups(groups: impl Iterator<Item = (ItemGroup, usize)>) -> Vec<(ItemGroup, usize)> {
    let mut joined: Vec<(ItemGroup, usize)> = Vec::new();
    for (group, number) in groups {
        match (joined.last_mut(), group) {
            (
                Some((ItemGroup::Reply { letters, calls }, last)),
                ItemGroup::Reply { letters: more_letters, calls: more_calls },
            ) => {
                letters.push_str(&more_letters);
                calls.extend(more_calls);
                *last = number;
            }
            (Some((ItemGroup::Outputs(outputs), last)), ItemGroup::Outputs(more)) => {
                outputs.extend(more);
                *last = number;
            }
            (_, group) => joined.push((group, number)),
        }
    }
    joined
}
