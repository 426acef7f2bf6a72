//! A response as its events tell it, in order.
//! Shapes: <https://platform.openai.com/docs/api-reference/responses-streaming>.
//!
//! Events and their sequence numbers follow from what is heard of the reply and from nothing else, so
//! whoever hears the same pieces reads the same events.

use super::response_object::{
    ResponseHeader, ResponseState, encode_call, encode_message, encode_reasoning, item_id,
};
use crate::chat::{ReplyEvent, stopped_error};
use crate::domain::{MessageId, Principal, SessionId};
use crate::error::{Error, ErrorKind, Result};
use crate::http::ApiState;
use crate::http::sse::SseSource;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use std::collections::VecDeque;

const COMPLETED: &str = "completed";
const INCOMPLETE: &str = "incomplete";
const IN_PROGRESS: &str = "in_progress";

/// Where the stored reply is found that says how a response ended.
pub(super) struct ReplyLookup {
    pub(super) api: ApiState,
    pub(super) principal: Principal,
    pub(super) session: SessionId,
}

/// What an item is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ItemKind {
    Message,
    Reasoning,
    Call { call_id: String, name: String },
}

/// An item; its place in the list is its `output_index`.
struct StreamedItem {
    kind: ItemKind,
    id: String,
    text: String,
    /// What it came to, once it is whole.
    completed: Option<Value>,
}

/// A response on its way.
pub(super) struct ResponseEventStream {
    header: ResponseHeader,
    reply_id: MessageId,
    lookup: Option<ReplyLookup>,
    events: BoxStream<'static, ReplyEvent>,
    is_background: bool,
    pending: VecDeque<Bytes>,
    /// The number of the next event.
    next_sequence: u32,
    /// The first number that is told.
    first_sequence: u32,
    items: Vec<StreamedItem>,
    is_done: bool,
}

impl ResponseEventStream {
    pub(super) fn new(
        head: ResponseHeader,
        reply: MessageId,
        stored: Option<ReplyLookup>,
        heard: BoxStream<'static, ReplyEvent>,
    ) -> Self {
        Self {
            header: head,
            reply_id: reply,
            lookup: stored,
            events: heard,
            is_background: false,
            pending: VecDeque::new(),
            next_sequence: 0,
            first_sequence: 0,
            items: Vec::new(),
            is_done: false,
        }
    }

    /// Waits for the first word: until then a failure is an answer of its own.
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

    /// Tells of a response that goes on by itself, from its beginning; what comes up to the event
    /// `after` is passed over.
    pub(super) fn into_background(mut self, after: Option<u32>) -> Self {
        self.is_background = true;
        self.first_sequence = after.map_or(0, |after| after.saturating_add(1));
        self.push_lifecycle_event("response.created", "queued");
        self.push_lifecycle_event("response.queued", "queued");
        self.push_lifecycle_event("response.in_progress", IN_PROGRESS);
        self
    }

    /// The response before anything of it is there.
    pub(super) fn queued_response(&self) -> Value {
        self.header.to_response_json(ResponseState::started("queued"))
    }

    /// Waits for the whole response.
    pub(super) async fn collect(mut self) -> Result<Value> {
        loop {
            match self.events.next().await.unwrap_or_else(missing_end_event) {
                ReplyEvent::Failed(error) => return Err(error),
                last @ (ReplyEvent::Finished { .. } | ReplyEvent::Stopped) => {
                    return Ok(self.finish(last).await);
                }
                more => self.handle_event(more).await,
            }
            self.pending.clear();
        }
    }

    async fn handle_event(&mut self, heard: ReplyEvent) {
        match heard {
            ReplyEvent::Text(delta) => {
                let index = self.switch_item(ItemKind::Message);
                self.push_delta(index, delta);
            }
            ReplyEvent::Reasoning(delta) => {
                let index = self.switch_item(ItemKind::Reasoning);
                self.push_delta(index, delta);
            }
            ReplyEvent::ToolCall { id: call_id, name } => {
                self.switch_item(ItemKind::Call { call_id, name });
            }
            // Those of calls that are made at once may come in any order.
            ReplyEvent::ToolInput { id, delta } => {
                if let Some(index) = self.items.iter().rposition(|item| item.kind.is_call(&id)) {
                    self.push_delta(index, delta);
                }
            }
            // The turn goes on without this instance, and its reader finds the rest there.
            ReplyEvent::Failed(error)
                if self.is_background && error.kind == ErrorKind::ShuttingDown =>
            {
                self.is_done = true;
            }
            ReplyEvent::Failed(error) => {
                let (code, message) = (error.kind.code(), error.message.clone());
                self.close_items(INCOMPLETE);
                self.push_event("error", json!({"code": code, "message": message, "param": null}));
                let response = self.finish(ReplyEvent::Failed(error)).await;
                self.push_final_event("response.failed", response);
            }
            last @ (ReplyEvent::Finished { .. } | ReplyEvent::Stopped) => {
                let response = self.finish(last).await;
                // There is no word for one that was stopped but that it is not all.
                let kind = match response["status"].as_str() {
                    Some(COMPLETED) => "response.completed",
                    _ => "response.incomplete",
                };
                self.push_final_event(kind, response);
            }
        }
    }

    /// Closes what is open. How the response stands now that it is over: as its stored reply says,
    /// where there is one.
    async fn finish(&mut self, last: ReplyEvent) -> Value {
        let told = match last {
            ReplyEvent::Finished { reason, model, usage } => {
                ResponseState::finished(reason, Vec::new(), model, usage)
            }
            ReplyEvent::Failed(error) => ResponseState::failed(&error, Vec::new()),
            _ => ResponseState::stopped(Vec::new()),
        };
        self.close_items(if told.status == COMPLETED { COMPLETED } else { INCOMPLETE });
        let told = match &self.lookup {
            Some(ReplyLookup { api, principal: who, session }) => {
                let reply = api.store.get_message(who, session, &self.reply_id).await;
                // Whatever has become of it, how it ended was heard.
                reply.map_or(told, |reply| ResponseState::from_reply(&reply))
            }
            None => told.completed_now(),
        };
        let output = self.items.drain(..).filter_map(|item| item.completed).collect();
        self.header.to_response_json(ResponseState { output, ..told })
    }

    /// The place of the item that this belongs to: the last one, or a new one. A text ends where
    /// something else begins; calls are open until the reply ends.
    fn switch_item(&mut self, kin: ItemKind) -> usize {
        let last = self.items.len().checked_sub(1);
        if let Some(last) = last.filter(|last| self.items[*last].is_open_for(&kin)) {
            return last;
        }
        if let Some(last) =
            last.filter(|last| !matches!(self.items[*last].kind, ItemKind::Call { .. }))
        {
            self.close_item(last, COMPLETED);
        }
        let prefix = kin.id_prefix();
        let nth = self.items.iter().filter(|item| item.kind.id_prefix() == prefix).count();
        let (id, text) = (item_id(prefix, &self.reply_id, nth), String::new());
        let mut begun = encode_item(&kin, &id, "", IN_PROGRESS);
        let (part, added) = match kin {
            ItemKind::Message => {
                (begun["content"].take()[0].take(), Some("response.content_part.added"))
            }
            ItemKind::Reasoning => {
                (begun["summary"].take()[0].take(), Some("response.reasoning_summary_part.added"))
            }
            ItemKind::Call { .. } => (Value::Null, None),
        };
        for parts in ["content", "summary"] {
            if begun.get(parts).is_some() {
                begun[parts] = json!([]);
            }
        }
        let index = self.items.len();
        self.push_event(
            "response.output_item.added",
            json!({"output_index": index, "item": begun}),
        );
        self.items.push(StreamedItem { kind: kin, id, text, completed: None });
        if let Some(added) = added {
            self.push_item_event(index, added, json!({"part": part}));
        }
        index
    }

    fn push_delta(&mut self, index: usize, delta: String) {
        let item = &mut self.items[index];
        item.text.push_str(&delta);
        let (kind, fields) = match item.kind {
            ItemKind::Message => {
                ("response.output_text.delta", json!({"delta": delta, "logprobs": []}))
            }
            ItemKind::Reasoning => {
                ("response.reasoning_summary_text.delta", json!({"delta": delta}))
            }
            ItemKind::Call { .. } => {
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

    /// Ends an item, unless it has ended.
    fn close_item(&mut self, index: usize, status: &str) {
        let StreamedItem { kind: kin, id, text, completed: None } = &self.items[index] else {
            return;
        };
        let item = encode_item(kin, id, text, status);
        let done = match kin {
            ItemKind::Message => vec![
                ("response.output_text.done", json!({"text": text, "logprobs": []})),
                ("response.content_part.done", json!({"part": item["content"][0]})),
            ],
            ItemKind::Reasoning => vec![
                ("response.reasoning_summary_text.done", json!({"text": text})),
                ("response.reasoning_summary_part.done", json!({"part": item["summary"][0]})),
            ],
            ItemKind::Call { name, .. } => {
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

    /// An event of an item, or of the one part that it has.
    fn push_item_event(&mut self, index: usize, kind: &str, mut fields: Value) {
        let item = &self.items[index];
        fields["item_id"] = item.id.as_str().into();
        fields["output_index"] = index.into();
        match item.kind {
            ItemKind::Message => fields["content_index"] = 0.into(),
            ItemKind::Reasoning => fields["summary_index"] = 0.into(),
            ItemKind::Call { .. } => {}
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

impl ItemKind {
    const fn id_prefix(&self) -> &'static str {
        match self {
            Self::Message => "msg",
            Self::Reasoning => "rs",
            Self::Call { .. } => "fc",
        }
    }

    fn is_call(&self, id: &str) -> bool {
        matches!(self, Self::Call { call_id, .. } if call_id == id)
    }
}

impl StreamedItem {
    fn is_open_for(&self, kin: &ItemKind) -> bool {
        self.completed.is_none() && self.kind == *kin
    }
}

/// An item that says this.
fn encode_item(kin: &ItemKind, id: &str, text: &str, status: &str) -> Value {
    match kin {
        ItemKind::Message => encode_message(id, text, status),
        ItemKind::Reasoning => encode_reasoning(id, text, status),
        ItemKind::Call { call_id, name } => encode_call(id, call_id, name, text, status),
    }
}

/// What stands for an end that never came.
fn missing_end_event() -> ReplyEvent {
    ReplyEvent::Failed(Error::internal("a reply ended without its end"))
}

impl SseSource for ResponseEventStream {
    async fn next(&mut self) -> Option<Bytes> {
        while self.pending.is_empty() && !self.is_done {
            let heard = self.events.next().await.unwrap_or_else(missing_end_event);
            self.handle_event(heard).await;
        }
        self.pending.pop_front()
    }
}
