//! Function calls in Chat Completions, put together from their deltas.
//!
//! In the protocol a call begins with its index, id and name, and its arguments follow under the
//! same index. Servers deviate: some repeat id and name in each delta, some give all calls index 0,
//! no index, no id or the same id. Neither identifies a call, so a delta with a name also begins a
//! new call if the arguments of the call it might belong to are already complete.

use super::reasoning_details::ReasoningDetails;
use crate::json::lenient::{self, RawObject, is_filled};
use crate::provider::opaque_allowance::OpaqueAllowance;
use crate::provider::{ProviderEvent, to_event_index};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::mem;

/// The field of a delta, and of a message sent back, that holds the reasoning. DeepSeek and Kimi
/// want it back between a call and its result:
/// <https://api-docs.deepseek.com/guides/thinking_mode>.
pub(super) const REASONING_CONTENT: &str = "reasoning_content";
/// The field of a call that holds Gemini's signature.
pub(super) const EXTRA_CONTENT: &str = "extra_content";
/// The field of a delta, and of a message sent back, that holds OpenRouter's list of reasoning in
/// the forms of many vendors, some of them signed or encrypted:
/// <https://openrouter.ai/docs/use-cases/reasoning-tokens>.
pub(super) const REASONING_DETAILS: &str = "reasoning_details";

/// A delta of a call; fields that are missing or odd are `None`.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct CallDelta {
    index: Option<u64>,
    id: Option<String>,
    name: Option<String>,
    arguments: Option<String>,
    extra_content: Option<Value>,
    /// Size of `extra_content`, in bytes.
    extra_bytes: usize,
}

impl CallDelta {
    pub(super) fn from_value(value: &RawValue) -> Self {
        let object = RawObject::from_value(value);
        let function = object.get("function").map(Self::read_function).unwrap_or_default();
        let index = object.count("index").or_else(|| object.text("index")?.parse().ok());
        // Gemini's place for the signature of a call:
        // <https://ai.google.dev/gemini-api/docs/thought-signatures>.
        let extra_content = object.get(EXTRA_CONTENT).filter(|value| is_filled(value));
        let extra_bytes = extra_content.map_or(0, |value| value.get().len());
        let extra_content = extra_content.and_then(|value| serde_json::from_str(value.get()).ok());
        Self { index, id: object.text("id"), extra_content, extra_bytes, ..function }
    }

    /// Reads `function_call`, the predecessor of `tool_calls`.
    pub(super) fn from_function(value: &RawValue) -> Option<Self> {
        let delta = Self::read_function(value);
        (delta != Self::default()).then_some(delta)
    }

    fn read_function(value: &RawValue) -> Self {
        let function = RawObject::from_value(value);
        // A string in the protocol; some servers send the object itself.
        let arguments = function.get("arguments").and_then(|arguments| {
            let is_object = arguments.get().starts_with('{');
            lenient::parse_text(arguments).or_else(|| is_object.then(|| arguments.get().to_owned()))
        });
        Self { name: function.text("name"), arguments, ..Self::default() }
    }
}

/// A call as far as it was received.
#[derive(Debug)]
struct KnownCall {
    index: Option<u64>,
    id: Option<String>,
    name: String,
    arguments: String,
    /// The data that the model wants back with the call.
    opaque_data: Map<String, Value>,
    /// Whether a part of the data arrived after the call had begun.
    has_late_data: bool,
}

impl KnownCall {
    /// Whether the arguments are a whole JSON object, so that no further delta belongs to them.
    fn is_complete(&self) -> bool {
        let arguments = self.arguments.trim();
        arguments.ends_with('}') && serde_json::from_str::<&RawValue>(arguments).is_ok()
    }

    fn data_event(&self, place: usize) -> ProviderEvent {
        let opaque_data = Value::Object(self.opaque_data.clone());
        ProviderEvent::ToolCallData { index: to_event_index(place), opaque_data }
    }
}

/// Assigns deltas to calls.
#[derive(Debug, Default)]
pub(super) struct CallParser {
    calls: Vec<KnownCall>,
    /// Reasoning before the first call.
    reasoning: String,
    reasoning_details: ReasoningDetails,
    /// Whether details arrived after the first call.
    has_late_details: bool,
    allowance: OpaqueAllowance,
}

impl CallParser {
    pub(super) const fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    pub(super) fn push_reasoning(&mut self, text: &str) {
        if self.calls.is_empty() {
            self.reasoning.push_str(text);
        }
    }

    /// Adds the `reasoning_details` of a delta. Those that arrive after the first call belong to
    /// the message as well, for example the encrypted ones.
    pub(super) fn push_reasoning_details(&mut self, details: &[&RawValue]) {
        for detail in details {
            if self.allowance.take(detail.get().len()) {
                self.reasoning_details.push(detail);
            }
        }
        self.has_late_details |= !details.is_empty() && !self.calls.is_empty();
    }

    /// Emits data that arrived after its call had begun. Call where the reply ends: the data of a
    /// call may arrive in many deltas, and an event has all of it.
    pub(super) fn flush_late_data(&mut self, events: &mut Vec<ProviderEvent>) {
        if let Some(first) = self.calls.first_mut()
            && mem::take(&mut self.has_late_details)
        {
            let list = self.reasoning_details.to_value();
            first.opaque_data.insert(REASONING_DETAILS.to_owned(), list);
            first.has_late_data = true;
        }
        for (place, call) in self.calls.iter_mut().enumerate() {
            if mem::take(&mut call.has_late_data) && !self.allowance.is_spent() {
                events.push(call.data_event(place));
            }
        }
    }

    /// The data that the model wants back with the next call.
    fn take_opaque_data(&mut self, extra_content: Option<Value>) -> Map<String, Value> {
        let mut data = Map::new();
        if self.allowance.is_spent() {
            return data;
        }
        if !self.reasoning.is_empty() {
            data.insert(REASONING_CONTENT.to_owned(), mem::take(&mut self.reasoning).into());
        }
        if self.calls.is_empty() && !self.reasoning_details.is_empty() {
            data.insert(REASONING_DETAILS.to_owned(), self.reasoning_details.to_value());
        }
        data.extend(extra_content.map(|content| (EXTRA_CONTENT.to_owned(), content)));
        data
    }

    /// Whether there are calls, and the arguments of each are complete.
    pub(super) fn are_complete(&self) -> bool {
        let is_complete = |call: &KnownCall| call.arguments.is_empty() || call.is_complete();
        !self.calls.is_empty() && self.calls.iter().all(is_complete)
    }

    /// Adds the deltas of one chunk.
    pub(super) fn push_deltas(&mut self, events: &mut Vec<ProviderEvent>, deltas: Vec<CallDelta>) {
        // Calls of the same chunk are separate calls.
        let earlier = self.calls.len();
        for mut delta in deltas {
            if delta.extra_content.is_some() && !self.allowance.take(delta.extra_bytes) {
                delta.extra_content = None;
            }
            let place = match (self.find_call(&delta, earlier), delta.name) {
                (Some(place), _) => {
                    if let Some(content) = delta.extra_content {
                        let call = &mut self.calls[place];
                        merge_value(call.opaque_data.entry(EXTRA_CONTENT), content);
                        call.has_late_data = true;
                    }
                    place
                }
                // Arguments of an unknown call.
                (None, None) => {
                    if delta.arguments.is_some() {
                        events.push(ProviderEvent::Unsupported("tool_calls".to_owned()));
                    }
                    continue;
                }
                (None, Some(name)) => {
                    let opaque_data = self.take_opaque_data(delta.extra_content);
                    events.push(ProviderEvent::ToolCall {
                        index: to_event_index(self.calls.len()),
                        provider_id: delta.id.clone(),
                        name: name.clone(),
                        opaque_data: (!opaque_data.is_empty())
                            .then(|| Value::Object(opaque_data.clone())),
                    });
                    self.calls.push(KnownCall {
                        index: delta.index,
                        id: delta.id,
                        name,
                        arguments: String::new(),
                        opaque_data,
                        has_late_data: false,
                    });
                    self.calls.len() - 1
                }
            };
            if let Some(arguments) = delta.arguments {
                self.calls[place].arguments.push_str(&arguments);
                let index = to_event_index(place);
                events.push(ProviderEvent::ToolInput { index, delta: arguments });
            }
        }
    }

    /// The place of the call that a delta continues, if it does not begin a new one.
    fn find_call(&self, delta: &CallDelta, earlier: usize) -> Option<usize> {
        let Some(name) = &delta.name else { return self.find_unnamed(delta) };
        // A repeated name: the delta continues the latest call that nothing tells apart from it.
        let place = self.calls[..earlier].iter().rposition(|call| {
            let has_same_index = call.index == delta.index;
            let has_other_index = !has_same_index && call.index.is_some() && delta.index.is_some();
            let has_other_id = call.id != delta.id && call.id.is_some() && delta.id.is_some();
            // Some servers make a new id for each delta; they repeat the index.
            let is_unfinished = || !call.arguments.is_empty() && !call.is_complete();
            call.name == *name
                && !has_other_index
                && (!has_other_id || (has_same_index && is_unfinished()))
        })?;
        let call = &self.calls[place];
        let has_same_id = delta.id.is_some() && delta.id == call.id;
        let has_arguments = delta.arguments.is_some();
        let continues = match call.is_complete() {
            // The end of the call, repeated without arguments.
            true => has_same_id && !has_arguments,
            // Two calls without ids and arguments are two calls.
            false => delta.id.is_some() || has_arguments || !call.arguments.is_empty(),
        };
        continues.then_some(place)
    }

    /// The call that a delta without a name continues: by index, else by id, else the last one.
    fn find_unnamed(&self, delta: &CallDelta) -> Option<usize> {
        let by_both = |call: &KnownCall| call.index == delta.index && call.id == delta.id;
        let by_index = |call: &KnownCall| call.index == delta.index;
        let by_id = |call: &KnownCall| call.id == delta.id;
        let find = |is_match: &dyn Fn(&KnownCall) -> bool| self.calls.iter().rposition(is_match);
        match (delta.index.is_some(), delta.id.is_some()) {
            (true, true) => find(&by_both).or_else(|| find(&by_index)).or_else(|| find(&by_id)),
            (true, false) => find(&by_index),
            (false, true) => find(&by_id),
            (false, false) => None,
        }
        .or_else(|| {
            // The last call, unless something tells it apart.
            let last = self.calls.last()?;
            let has_other_index =
                last.index.is_some() && delta.index.is_some() && last.index != delta.index;
            let has_other_id = last.id.is_some() && delta.id.is_some() && last.id != delta.id;
            let continues = !has_other_index && !has_other_id && !last.is_complete();
            continues.then_some(self.calls.len() - 1)
        })
    }
}

/// Adds the fields of `more`, which may continue an object of an earlier delta.
fn merge_value(entry: serde_json::map::Entry<'_>, more: Value) {
    match (entry.or_insert(Value::Null), more) {
        (Value::Object(known), Value::Object(more)) => {
            for (name, value) in more {
                merge_value(known.entry(name), value);
            }
        }
        (known, more) => *known = more,
    }
}
