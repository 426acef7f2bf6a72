//! A response as its events tell it, in order.
//! Shapes: <https://platform.openai.com/docs/api-reference/responses-streaming>.
//!
//! Events and their sequence numbers follow from what is heard of the reply and from nothing else, so
//! whoever hears the same pieces reads the same events.

use super::object::{Head, Told, call, item_id, message, reasoning};
use crate::chat::{ReplyEvent, stopped_error};
use crate::domain::{MessageId, Principal, SessionId};
use crate::error::{Error, Kind, Result};
use crate::http::Api;
use crate::http::sse::Pieces;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::{Value, json};
use std::collections::VecDeque;

const COMPLETED: &str = "completed";
const INCOMPLETE: &str = "incomplete";
const IN_PROGRESS: &str = "in_progress";

/// Where the stored reply is found that says how a response ended.
pub(super) struct Stored {
    pub(super) api: Api,
    pub(super) who: Principal,
    pub(super) session: SessionId,
}

/// What an item is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kin {
    Message,
    Reasoning,
    Call { call_id: String, name: String },
}

/// An item; its place in the list is its `output_index`.
struct Item {
    kin: Kin,
    id: String,
    text: String,
    /// What it came to, once it is whole.
    whole: Option<Value>,
}

/// A response on its way.
pub(super) struct Telling {
    head: Head,
    reply: MessageId,
    stored: Option<Stored>,
    heard: BoxStream<'static, ReplyEvent>,
    is_background: bool,
    waiting: VecDeque<Bytes>,
    /// The number of the next event.
    sequence: u32,
    /// The first number that is told.
    first: u32,
    items: Vec<Item>,
    is_over: bool,
}

impl Telling {
    pub(super) fn new(
        head: Head,
        reply: MessageId,
        stored: Option<Stored>,
        heard: BoxStream<'static, ReplyEvent>,
    ) -> Self {
        Self {
            head,
            reply,
            stored,
            heard,
            is_background: false,
            waiting: VecDeque::new(),
            sequence: 0,
            first: 0,
            items: Vec::new(),
            is_over: false,
        }
    }

    /// Waits for the first word: until then a failure is an answer of its own.
    pub(super) async fn begin(&mut self) -> Result<()> {
        let first = match self.heard.next().await.unwrap_or_else(unended) {
            ReplyEvent::Failed(error) => return Err(error),
            ReplyEvent::Stopped => return Err(stopped_error()),
            first => first,
        };
        self.lifecycle("response.created", IN_PROGRESS);
        self.lifecycle("response.in_progress", IN_PROGRESS);
        self.take(first).await;
        Ok(())
    }

    /// Tells of a response that goes on by itself, from its beginning; what comes up to the event
    /// `after` is passed over.
    pub(super) fn in_background(mut self, after: Option<u32>) -> Self {
        self.is_background = true;
        self.first = after.map_or(0, |after| after.saturating_add(1));
        self.lifecycle("response.created", "queued");
        self.lifecycle("response.queued", "queued");
        self.lifecycle("response.in_progress", IN_PROGRESS);
        self
    }

    /// The response before anything of it is there.
    pub(super) fn queued(&self) -> Value {
        self.head.told(Told::begun("queued"))
    }

    /// Waits for the whole response.
    pub(super) async fn whole(mut self) -> Result<Value> {
        loop {
            match self.heard.next().await.unwrap_or_else(unended) {
                ReplyEvent::Failed(error) => return Err(error),
                last @ (ReplyEvent::Finished { .. } | ReplyEvent::Stopped) => {
                    return Ok(self.end(last).await);
                }
                more => self.take(more).await,
            }
            self.waiting.clear();
        }
    }

    async fn take(&mut self, heard: ReplyEvent) {
        match heard {
            ReplyEvent::Text(delta) => {
                let index = self.turn_to(Kin::Message);
                self.delta(index, delta);
            }
            ReplyEvent::Reasoning(delta) => {
                let index = self.turn_to(Kin::Reasoning);
                self.delta(index, delta);
            }
            ReplyEvent::ToolCall { id: call_id, name } => {
                self.turn_to(Kin::Call { call_id, name });
            }
            // Those of calls that are made at once may come in any order.
            ReplyEvent::ToolInput { id, delta } => {
                if let Some(index) = self.items.iter().rposition(|item| item.kin.is_call(&id)) {
                    self.delta(index, delta);
                }
            }
            // The turn goes on without this instance, and its reader finds the rest there.
            ReplyEvent::Failed(error) if self.is_background && error.kind == Kind::ShuttingDown => {
                self.is_over = true;
            }
            ReplyEvent::Failed(error) => {
                let (code, message) = (error.kind.code(), error.message.clone());
                self.close_all(INCOMPLETE);
                self.event("error", json!({"code": code, "message": message, "param": null}));
                let response = self.end(ReplyEvent::Failed(error)).await;
                self.last("response.failed", response);
            }
            last @ (ReplyEvent::Finished { .. } | ReplyEvent::Stopped) => {
                let response = self.end(last).await;
                // There is no word for one that was stopped but that it is not all.
                let kind = match response["status"].as_str() {
                    Some(COMPLETED) => "response.completed",
                    _ => "response.incomplete",
                };
                self.last(kind, response);
            }
        }
    }

    /// Closes what is open. How the response stands now that it is over: as its stored reply says,
    /// where there is one.
    async fn end(&mut self, last: ReplyEvent) -> Value {
        let told = match last {
            ReplyEvent::Finished { reason, model, usage } => {
                Told::finished(reason, Vec::new(), model, usage)
            }
            ReplyEvent::Failed(error) => Told::failed(&error, Vec::new()),
            _ => Told::stopped(Vec::new()),
        };
        self.close_all(if told.status == COMPLETED { COMPLETED } else { INCOMPLETE });
        let told = match &self.stored {
            Some(Stored { api, who, session }) => {
                let reply = api.store.get_message(who, session, &self.reply).await;
                // Whatever has become of it, how it ended was heard.
                reply.map_or(told, |reply| Told::of(&reply))
            }
            None => told.at_once(),
        };
        let output = self.items.drain(..).filter_map(|item| item.whole).collect();
        self.head.told(Told { output, ..told })
    }

    /// The place of the item that this belongs to: the last one, or a new one. A text ends where
    /// something else begins; calls are open until the reply ends.
    fn turn_to(&mut self, kin: Kin) -> usize {
        let last = self.items.len().checked_sub(1);
        if let Some(last) = last.filter(|last| self.items[*last].is_open_as(&kin)) {
            return last;
        }
        if let Some(last) = last.filter(|last| !matches!(self.items[*last].kin, Kin::Call { .. })) {
            self.close(last, COMPLETED);
        }
        let prefix = kin.prefix();
        let nth = self.items.iter().filter(|item| item.kin.prefix() == prefix).count();
        let (id, text) = (item_id(prefix, &self.reply, nth), String::new());
        let mut begun = whole(&kin, &id, "", IN_PROGRESS);
        let (part, added) = match kin {
            Kin::Message => {
                (begun["content"].take()[0].take(), Some("response.content_part.added"))
            }
            Kin::Reasoning => {
                (begun["summary"].take()[0].take(), Some("response.reasoning_summary_part.added"))
            }
            Kin::Call { .. } => (Value::Null, None),
        };
        for parts in ["content", "summary"] {
            if begun.get(parts).is_some() {
                begun[parts] = json!([]);
            }
        }
        let index = self.items.len();
        self.event("response.output_item.added", json!({"output_index": index, "item": begun}));
        self.items.push(Item { kin, id, text, whole: None });
        if let Some(added) = added {
            self.of_item(index, added, json!({"part": part}));
        }
        index
    }

    fn delta(&mut self, index: usize, delta: String) {
        let item = &mut self.items[index];
        item.text.push_str(&delta);
        let (kind, fields) = match item.kin {
            Kin::Message => ("response.output_text.delta", json!({"delta": delta, "logprobs": []})),
            Kin::Reasoning => ("response.reasoning_summary_text.delta", json!({"delta": delta})),
            Kin::Call { .. } => ("response.function_call_arguments.delta", json!({"delta": delta})),
        };
        self.of_item(index, kind, fields);
    }

    fn close_all(&mut self, status: &str) {
        for index in 0..self.items.len() {
            self.close(index, status);
        }
    }

    /// Ends an item, unless it has ended.
    fn close(&mut self, index: usize, status: &str) {
        let Item { kin, id, text, whole: None } = &self.items[index] else { return };
        let item = whole(kin, id, text, status);
        let done = match kin {
            Kin::Message => vec![
                ("response.output_text.done", json!({"text": text, "logprobs": []})),
                ("response.content_part.done", json!({"part": item["content"][0]})),
            ],
            Kin::Reasoning => vec![
                ("response.reasoning_summary_text.done", json!({"text": text})),
                ("response.reasoning_summary_part.done", json!({"part": item["summary"][0]})),
            ],
            Kin::Call { name, .. } => {
                let fields = json!({"name": name, "arguments": item["arguments"]});
                vec![("response.function_call_arguments.done", fields)]
            }
        };
        for (kind, fields) in done {
            self.of_item(index, kind, fields);
        }
        self.event("response.output_item.done", json!({"output_index": index, "item": item}));
        self.items[index].whole = Some(item);
    }

    /// An event of an item, or of the one part that it has.
    fn of_item(&mut self, index: usize, kind: &str, mut fields: Value) {
        let item = &self.items[index];
        fields["item_id"] = item.id.as_str().into();
        fields["output_index"] = index.into();
        match item.kin {
            Kin::Message => fields["content_index"] = 0.into(),
            Kin::Reasoning => fields["summary_index"] = 0.into(),
            Kin::Call { .. } => {}
        }
        self.event(kind, fields);
    }

    fn lifecycle(&mut self, kind: &str, status: &'static str) {
        let response = self.head.told(Told::begun(status));
        self.event(kind, json!({"response": response}));
    }

    fn last(&mut self, kind: &str, response: Value) {
        self.event(kind, json!({"response": response}));
        self.waiting.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
        self.is_over = true;
    }

    fn event(&mut self, kind: &str, mut fields: Value) {
        let number = self.sequence;
        self.sequence += 1;
        if number < self.first {
            return;
        }
        fields["type"] = kind.into();
        fields["sequence_number"] = number.into();
        self.waiting.push_back(format!("event: {kind}\ndata: {fields}\n\n").into());
    }
}

impl Kin {
    const fn prefix(&self) -> &'static str {
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

impl Item {
    fn is_open_as(&self, kin: &Kin) -> bool {
        self.whole.is_none() && self.kin == *kin
    }
}

/// An item that says this.
fn whole(kin: &Kin, id: &str, text: &str, status: &str) -> Value {
    match kin {
        Kin::Message => message(id, text, status),
        Kin::Reasoning => reasoning(id, text, status),
        Kin::Call { call_id, name } => call(id, call_id, name, text, status),
    }
}

/// What stands for an end that never came.
fn unended() -> ReplyEvent {
    ReplyEvent::Failed(Error::internal("a reply ended without its end"))
}

impl Pieces for Telling {
    async fn next(&mut self) -> Option<Bytes> {
        while self.waiting.is_empty() && !self.is_over {
            let heard = self.heard.next().await.unwrap_or_else(unended);
            self.take(heard).await;
        }
        self.waiting.pop_front()
    }
}
