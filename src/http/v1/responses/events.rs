//! A response as its events tell it, in order.
//! Shapes: <https://platform.openai.com/docs/api-reference/responses-streaming>.
//!
//! Events and their sequence numbers follow from what is heard of the reply and from nothing else, so
//! whoever hears the same pieces reads the same events.

use super::object::{Head, Told, item_id, message, output_text, reasoning, summary_text};
use crate::chat::{Heard, stopped};
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kin {
    Message,
    Reasoning,
}

/// The item that deltas are going into.
struct Open {
    kin: Kin,
    id: String,
    text: String,
}

/// A response on its way.
pub(super) struct Telling {
    head: Head,
    reply: MessageId,
    stored: Option<Stored>,
    heard: BoxStream<'static, Heard>,
    is_background: bool,
    waiting: VecDeque<Bytes>,
    /// The number of the next event.
    sequence: u32,
    /// The first number that is told.
    first: u32,
    /// The items that are whole.
    output: Vec<Value>,
    open: Option<Open>,
    /// Items begun, of each kind.
    begun: [usize; 2],
    is_over: bool,
}

impl Telling {
    pub(super) fn new(
        head: Head,
        reply: MessageId,
        stored: Option<Stored>,
        heard: BoxStream<'static, Heard>,
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
            output: Vec::new(),
            open: None,
            begun: [0; 2],
            is_over: false,
        }
    }

    /// Waits for the first word: until then a failure is an answer of its own.
    pub(super) async fn begin(&mut self) -> Result<()> {
        let first = match self.heard.next().await.unwrap_or_else(unended) {
            Heard::Failed(error) => return Err(error),
            Heard::Stopped => return Err(stopped()),
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
                Heard::Failed(error) => return Err(error),
                last @ (Heard::Finished { .. } | Heard::Stopped) => {
                    return Ok(self.end(last).await);
                }
                more => self.take(more).await,
            }
            self.waiting.clear();
        }
    }

    async fn take(&mut self, heard: Heard) {
        match heard {
            Heard::Text(delta) => {
                self.turn_to(Kin::Message);
                self.delta(delta);
            }
            Heard::Reasoning(delta) => {
                self.turn_to(Kin::Reasoning);
                self.delta(delta);
            }
            // The turn goes on without this instance, and its reader finds the rest there.
            Heard::Failed(error) if self.is_background && error.kind == Kind::ShuttingDown => {
                self.is_over = true;
            }
            Heard::Failed(error) => {
                let (code, message) = (error.kind.code(), error.message.clone());
                self.close(INCOMPLETE);
                self.event("error", json!({"code": code, "message": message, "param": null}));
                let response = self.end(Heard::Failed(error)).await;
                self.last("response.failed", response);
            }
            last @ (Heard::Finished { .. } | Heard::Stopped) => {
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
    async fn end(&mut self, last: Heard) -> Value {
        let told = match last {
            Heard::Finished { reason, model, usage } => {
                Told::finished(reason, Vec::new(), model, usage)
            }
            Heard::Failed(error) => Told::failed(&error, Vec::new()),
            _ => Told::stopped(Vec::new()),
        };
        self.close(if told.status == COMPLETED { COMPLETED } else { INCOMPLETE });
        let told = match &self.stored {
            Some(Stored { api, who, session }) => {
                let reply = api.store.message(who, session, &self.reply).await;
                // Whatever has become of it, how it ended was heard.
                reply.map_or(told, |reply| Told::of(&reply))
            }
            None => told.at_once(),
        };
        self.head.told(Told { output: std::mem::take(&mut self.output), ..told })
    }

    /// Ends the open item if it is another, and begins one of this kind.
    fn turn_to(&mut self, kin: Kin) {
        if self.open.as_ref().is_some_and(|open| open.kin == kin) {
            return;
        }
        self.close(COMPLETED);
        let begun = &mut self.begun[kin as usize];
        let id = item_id(kin.prefix(), &self.reply, *begun);
        *begun += 1;
        let index = self.output.len();
        let item = match kin {
            Kin::Message => {
                json!({"type": "message", "id": id, "status": IN_PROGRESS, "role": "assistant", "content": []})
            }
            Kin::Reasoning => {
                json!({"type": "reasoning", "id": id, "status": IN_PROGRESS, "summary": []})
            }
        };
        self.event("response.output_item.added", json!({"output_index": index, "item": item}));
        self.open = Some(Open { kin, id, text: String::new() });
        match kin {
            Kin::Message => {
                self.of_item("response.content_part.added", json!({"part": output_text("")}))
            }
            Kin::Reasoning => {
                self.of_item(
                    "response.reasoning_summary_part.added",
                    json!({"part": summary_text("")}),
                );
            }
        }
    }

    fn delta(&mut self, delta: String) {
        let Some(open) = &mut self.open else { return };
        open.text.push_str(&delta);
        match open.kin {
            Kin::Message => {
                self.of_item("response.output_text.delta", json!({"delta": delta, "logprobs": []}));
            }
            Kin::Reasoning => {
                self.of_item("response.reasoning_summary_text.delta", json!({"delta": delta}));
            }
        }
    }

    /// Ends the open item.
    fn close(&mut self, status: &str) {
        let Some(Open { kin, id, text }) = &self.open else { return };
        let (kin, id, text) = (*kin, id.clone(), text.clone());
        let item = match kin {
            Kin::Message => {
                self.of_item("response.output_text.done", json!({"text": text, "logprobs": []}));
                self.of_item("response.content_part.done", json!({"part": output_text(&text)}));
                message(&id, &text, status)
            }
            Kin::Reasoning => {
                self.of_item("response.reasoning_summary_text.done", json!({"text": text}));
                let part = json!({"part": summary_text(&text)});
                self.of_item("response.reasoning_summary_part.done", part);
                reasoning(&id, &text, status)
            }
        };
        self.open = None;
        let index = self.output.len();
        self.event("response.output_item.done", json!({"output_index": index, "item": item}));
        self.output.push(item);
    }

    /// An event of the part of the open item that is being made; each item has one.
    fn of_item(&mut self, kind: &str, mut fields: Value) {
        let Some(open) = &self.open else { return };
        fields["item_id"] = open.id.as_str().into();
        fields["output_index"] = self.output.len().into();
        match open.kin {
            Kin::Message => fields["content_index"] = 0.into(),
            Kin::Reasoning => fields["summary_index"] = 0.into(),
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
    const fn prefix(self) -> &'static str {
        match self {
            Self::Message => "msg",
            Self::Reasoning => "rs",
        }
    }
}

/// What stands for an end that never came.
fn unended() -> Heard {
    Heard::Failed(Error::internal("a reply ended without its end"))
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
