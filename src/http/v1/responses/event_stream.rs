//! A response as a stream of events.
//!
//! Shapes: <https://platform.openai.com/docs/api-reference/responses-streaming>.
//!
//! Events and their sequence numbers are a function of the reply events alone. So every reader of a
//! background response gets the same events under the same numbers, on any instance.

use super::response_object::{
    ResponseHeader, ResponseState, encode_call, encode_encrypted_reasoning, encode_message,
    encode_reasoning,
};
use crate::chat::{ReplyEvent, stopped_error};
use crate::domain::{MessageId, Principal, SessionId};
use crate::error::{Error, ErrorKind, Result};
use crate::http::ApiState;
use crate::http::sse::SseSource;
use crate::http::v1::encrypted_reasoning::{
    ENCRYPTED_CONTENT, encode_origins, encode_reply_origins,
};
use crate::http::v1::ids::{ItemType, format_item_id};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use std::collections::VecDeque;

const COMPLETED: &str = "completed";
const INCOMPLETE: &str = "incomplete";
const IN_PROGRESS: &str = "in_progress";

/// Access to the stored reply, which determines the final state of a response.
pub(super) struct ReplyLookup {
    pub(super) api: ApiState,
    pub(super) principal: Principal,
    pub(super) session: SessionId,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum StreamedItemKind {
    Message,
    Reasoning,
    Call { call_id: String, name: String },
}

/// An output item. Its index in [`ResponseEventStream::items`] is its `output_index`.
struct StreamedItem {
    kind: StreamedItemKind,
    id: String,
    text: String,
    /// The complete item, once it is closed.
    completed: Option<Value>,
}

/// A response as a stream of events.
pub(super) struct ResponseEventStream {
    header: ResponseHeader,
    reply_id: MessageId,
    /// `None` if the response is not stored.
    lookup: Option<ReplyLookup>,
    events: BoxStream<'static, ReplyEvent>,
    is_background: bool,
    pending: VecDeque<Bytes>,
    /// Sequence number of the next event.
    next_sequence: u32,
    /// Events with a lower number are skipped.
    first_sequence: u32,
    items: Vec<StreamedItem>,
    /// The content of the first reasoning item, which is closed last because the content belongs to
    /// the calls. The inner value is `None` if the provider gave no data.
    encrypted: Option<Option<String>>,
    is_done: bool,
}

impl ResponseEventStream {
    pub(super) fn new(
        header: ResponseHeader,
        reply_id: MessageId,
        lookup: Option<ReplyLookup>,
        events: BoxStream<'static, ReplyEvent>,
    ) -> Self {
        Self {
            header,
            reply_id,
            lookup,
            events,
            is_background: false,
            pending: VecDeque::new(),
            next_sequence: 0,
            first_sequence: 0,
            items: Vec::new(),
            encrypted: None,
            is_done: false,
        }
    }

    /// Waits for the first event, because a failure before it can still be an HTTP error.
    pub(super) async fn start(&mut self) -> Result<()> {
        let first = match self.events.next().await.unwrap_or_else(missing_end_event) {
            ReplyEvent::Failed(error) => return Err(error),
            ReplyEvent::Stopped => return Err(stopped_error()),
            first => first,
        };
        self.push_lifecycle_event("response.created", IN_PROGRESS);
        self.push_lifecycle_event("response.in_progress", IN_PROGRESS);
        self.handle_event(first).await;
        Ok(())
    }

    /// Turns the stream into that of a background response. It replays all events after the
    /// sequence number `after`.
    pub(super) fn into_background(mut self, after: Option<u32>) -> Self {
        self.is_background = true;
        // Earlier events are still produced, because their numbers follow from the order.
        self.first_sequence = after.map_or(0, |after| after.saturating_add(1));
        self.push_lifecycle_event("response.created", "queued");
        self.push_lifecycle_event("response.queued", "queued");
        self.push_lifecycle_event("response.in_progress", IN_PROGRESS);
        self
    }

    /// The response object before the reply has begun.
    pub(super) fn queued_response(&self) -> Value {
        self.header.to_response_json(ResponseState::started("queued"))
    }

    /// Waits for the end of the reply and returns the response object.
    pub(super) async fn collect(mut self) -> Result<Value> {
        loop {
            match self.events.next().await.unwrap_or_else(missing_end_event) {
                ReplyEvent::Failed(error) => return Err(error),
                last @ (ReplyEvent::Finished { .. } | ReplyEvent::Stopped) => {
                    return Ok(self.finish(last).await);
                }
                more => self.handle_event(more).await,
            }
            // The events are not sent; only the items matter.
            self.pending.clear();
        }
    }

    async fn handle_event(&mut self, event: ReplyEvent) {
        match event {
            ReplyEvent::Text(delta) => {
                let index = self.switch_item(StreamedItemKind::Message);
                self.push_delta(index, delta);
            }
            ReplyEvent::Reasoning(delta) => {
                let index = self.switch_item(StreamedItemKind::Reasoning);
                self.push_delta(index, delta);
            }
            ReplyEvent::ToolCall { id: call_id, name } => {
                self.switch_item(StreamedItemKind::Call { call_id, name });
            }
            // Deltas of parallel calls may be interleaved, so the item is found by the call's ID.
            ReplyEvent::ToolInput { id, delta } => {
                if let Some(index) = self.items.iter().rposition(|item| item.kind.is_call(&id)) {
                    self.push_delta(index, delta);
                }
            }
            // The response continues on another instance. The stream ends without a final event,
            // and the client resumes it there with `starting_after`.
            ReplyEvent::Failed(error)
                if self.is_background && error.kind == ErrorKind::ShuttingDown =>
            {
                self.is_done = true;
            }
            ReplyEvent::Failed(error) => {
                self.encrypted = Some(None);
                self.close_items(INCOMPLETE);
                let fields = json!({
                    "code": error.kind.code(), "message": error.message, "param": null,
                });
                self.push_event("error", fields);
                let response = self.finish(ReplyEvent::Failed(error)).await;
                self.push_final_event("response.failed", response);
            }
            last @ (ReplyEvent::Finished { .. } | ReplyEvent::Stopped) => {
                let response = self.finish(last).await;
                // The API has no event for a cancelled response; `incomplete` is the closest.
                let kind = match response["status"].as_str() {
                    Some(COMPLETED) => "response.completed",
                    _ => "response.incomplete",
                };
                self.push_final_event(kind, response);
            }
        }
    }

    /// Closes the open items and returns the final response object.
    async fn finish(&mut self, last: ReplyEvent) -> Value {
        let mut origins = Vec::new();
        let state = match last {
            ReplyEvent::Finished { reason, model, usage, call_origins } => {
                origins = call_origins;
                ResponseState::finished(reason, Vec::new(), model, usage)
            }
            ReplyEvent::Failed(error) => ResponseState::failed(&error, Vec::new()),
            _ => ResponseState::stopped(Vec::new()),
        };
        let status = if state.status == COMPLETED { COMPLETED } else { INCOMPLETE };
        let mut encrypted = encode_origins(origins);
        let state = match &self.lookup {
            Some(ReplyLookup { api, principal, session }) => {
                // The state is read from the stored reply, so that the final event and a later
                // `GET` cannot differ. If it cannot be read, the last event still tells the state.
                let reply = api.store.get_message(principal, session, &self.reply_id).await.ok();
                encrypted = reply.as_ref().and_then(encode_reply_origins);
                reply.map_or(state, |reply| ResponseState::from_reply(&reply, false))
            }
            None => state.completed_now(),
        };
        self.encrypted = Some(encrypted);
        self.close_items(status);
        self.push_encrypted_item();
        // The items keep the IDs that the stream has announced: text after a tool call is an item
        // of its own here, but stored it is one text with the first.
        let output = self.items.drain(..).filter_map(|item| item.completed).collect();
        self.header.to_response_json(ResponseState { output, ..state })
    }

    /// Returns the index of the item that a delta belongs to, and opens a new one if needed.
    ///
    /// A text or reasoning item ends when another item begins. Calls stay open until the reply
    /// ends, because deltas of parallel calls may be interleaved.
    fn switch_item(&mut self, kind: StreamedItemKind) -> usize {
        let last = self.items.len().checked_sub(1);
        if let Some(last) = last.filter(|last| self.items[*last].is_open_for(&kind)) {
            return last;
        }
        if let Some(last) =
            last.filter(|last| !matches!(self.items[*last].kind, StreamedItemKind::Call { .. }))
        {
            self.close_item(last, COMPLETED);
        }
        let item_type = kind.item_type();
        let nth = self.items.iter().filter(|item| item.kind.item_type() == item_type).count();
        let id = format_item_id(item_type, &self.reply_id, nth);
        // An item is announced without parts, and each part with an event of its own.
        let mut started = encode_item(&kind, &id, "", IN_PROGRESS);
        let (part, added) = match kind {
            StreamedItemKind::Message => {
                (started["content"].take()[0].take(), Some("response.content_part.added"))
            }
            StreamedItemKind::Reasoning => {
                (started["summary"].take()[0].take(), Some("response.reasoning_summary_part.added"))
            }
            StreamedItemKind::Call { .. } => (Value::Null, None),
        };
        for parts in ["content", "summary"] {
            if started.get(parts).is_some() {
                started[parts] = json!([]);
            }
        }
        let index = self.items.len();
        self.push_event(
            "response.output_item.added",
            json!({"output_index": index, "item": started}),
        );
        self.items.push(StreamedItem { kind, id, text: String::new(), completed: None });
        if let Some(added) = added {
            self.push_item_event(index, added, json!({"part": part}));
        }
        index
    }

    /// Adds a reasoning item for encrypted content, if the reply has no reasoning of its own.
    fn push_encrypted_item(&mut self) {
        let Some(Some(content)) = self.encrypted.take() else { return };
        let is_reasoning = |item: &StreamedItem| item.kind == StreamedItemKind::Reasoning;
        if !self.header.includes_encrypted || self.items.iter().any(is_reasoning) {
            return;
        }
        let id = format_item_id(ItemType::Reasoning, &self.reply_id, 0);
        let item = encode_encrypted_reasoning(&id, &content);
        let index = self.items.len();
        for event in ["response.output_item.added", "response.output_item.done"] {
            self.push_event(event, json!({"output_index": index, "item": item}));
        }
        let (kind, text) = (StreamedItemKind::Reasoning, String::new());
        self.items.push(StreamedItem { kind, id, text, completed: Some(item) });
    }

    /// Whether an item is the one that gets the encrypted content.
    fn is_encrypted_item(&self, index: usize) -> bool {
        let is_reasoning = |item: &StreamedItem| item.kind == StreamedItemKind::Reasoning;
        self.header.includes_encrypted && self.items.iter().position(is_reasoning) == Some(index)
    }

    fn push_delta(&mut self, index: usize, delta: String) {
        let item = &mut self.items[index];
        item.text.push_str(&delta);
        let (kind, fields) = match item.kind {
            StreamedItemKind::Message => {
                ("response.output_text.delta", json!({"delta": delta, "logprobs": []}))
            }
            StreamedItemKind::Reasoning => {
                ("response.reasoning_summary_text.delta", json!({"delta": delta}))
            }
            StreamedItemKind::Call { .. } => {
                ("response.function_call_arguments.delta", json!({"delta": delta}))
            }
        };
        self.push_item_event(index, kind, fields);
    }

    fn close_items(&mut self, status: &str) {
        for index in 0..self.items.len() {
            self.close_item(index, status);
        }
    }

    /// Closes an item, unless it is closed already.
    fn close_item(&mut self, index: usize, status: &str) {
        let StreamedItem { kind, id, text, completed: None } = &self.items[index] else {
            return;
        };
        let mut item = encode_item(kind, id, text, status);
        if self.is_encrypted_item(index) {
            let Some(content) = &self.encrypted else { return };
            item[ENCRYPTED_CONTENT] = content.clone().into();
        }
        let done = match kind {
            StreamedItemKind::Message => vec![
                ("response.output_text.done", json!({"text": text, "logprobs": []})),
                ("response.content_part.done", json!({"part": item["content"][0]})),
            ],
            StreamedItemKind::Reasoning => vec![
                ("response.reasoning_summary_text.done", json!({"text": text})),
                ("response.reasoning_summary_part.done", json!({"part": item["summary"][0]})),
            ],
            StreamedItemKind::Call { name, .. } => {
                let fields = json!({"name": name, "arguments": item["arguments"]});
                vec![("response.function_call_arguments.done", fields)]
            }
        };
        for (kind, fields) in done {
            self.push_item_event(index, kind, fields);
        }
        self.push_event("response.output_item.done", json!({"output_index": index, "item": item}));
        self.items[index].completed = Some(item);
    }

    fn push_item_event(&mut self, index: usize, kind: &str, mut fields: Value) {
        let item = &self.items[index];
        fields["item_id"] = item.id.as_str().into();
        fields["output_index"] = index.into();
        // Every item has a single part.
        match item.kind {
            StreamedItemKind::Message => fields["content_index"] = 0.into(),
            StreamedItemKind::Reasoning => fields["summary_index"] = 0.into(),
            StreamedItemKind::Call { .. } => {}
        }
        self.push_event(kind, fields);
    }

    fn push_lifecycle_event(&mut self, kind: &str, status: &'static str) {
        let response = self.header.to_response_json(ResponseState::started(status));
        self.push_event(kind, json!({"response": response}));
    }

    fn push_final_event(&mut self, kind: &str, response: Value) {
        self.push_event(kind, json!({"response": response}));
        self.pending.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
        self.is_done = true;
    }

    fn push_event(&mut self, kind: &str, mut fields: Value) {
        // Skipped events are numbered, too: the numbers must be those of the first reader.
        let number = self.next_sequence;
        self.next_sequence += 1;
        if number < self.first_sequence {
            return;
        }
        fields["type"] = kind.into();
        fields["sequence_number"] = number.into();
        self.pending.push_back(format!("event: {kind}\ndata: {fields}\n\n").into());
    }
}

impl StreamedItemKind {
    const fn item_type(&self) -> ItemType {
        match self {
            Self::Message => ItemType::Message,
            Self::Reasoning => ItemType::Reasoning,
            Self::Call { .. } => ItemType::Call,
        }
    }

    fn is_call(&self, id: &str) -> bool {
        matches!(self, Self::Call { call_id, .. } if call_id == id)
    }
}

impl StreamedItem {
    fn is_open_for(&self, kind: &StreamedItemKind) -> bool {
        self.completed.is_none() && self.kind == *kind
    }
}

fn encode_item(kind: &StreamedItemKind, id: &str, text: &str, status: &str) -> Value {
    match kind {
        StreamedItemKind::Message => encode_message(id, text, status),
        StreamedItemKind::Reasoning => encode_reasoning(id, text, status),
        StreamedItemKind::Call { call_id, name } => encode_call(id, call_id, name, text, status),
    }
}

/// Replaces the final event of a stream that ended without one.
fn missing_end_event() -> ReplyEvent {
    ReplyEvent::Failed(Error::internal("the reply stream ended without a final event"))
}

impl SseSource for ResponseEventStream {
    async fn next(&mut self) -> Option<Bytes> {
        while self.pending.is_empty() && !self.is_done {
            let event = self.events.next().await.unwrap_or_else(missing_end_event);
            self.handle_event(event).await;
        }
        self.pending.pop_front()
    }
}
