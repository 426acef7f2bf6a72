//! Builds the frames and the message of a reply from provider events. No I/O.
//!
//! The batching of events decides how text is split into frames, but neither the sum of the frames
//! nor the message depends on it.

mod restore;

pub(super) use restore::replay_reply;

use super::frames::{
    FinishMetadata, FrameBatch, FrameEncoder, LogRecord, MemorySummary, SessionData, StartMetadata,
    StreamFrame, TitleData,
};
use crate::domain::content::MessageBody;
use crate::domain::message::{CallOrigin, FinishReason, MessagePart, MessageParts};
use crate::domain::tool::{self, ToolCall};
use crate::domain::{MessageId, MessageType, SessionId, TurnId, Usage};
use crate::provider::{MAX_REPLY_BYTES, PART_OVERHEAD_BYTES, ProviderEvent};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::mem;

/// Maximum size of the frames of a reply, in bytes. They are kept in memory until the turn ends,
/// and a short delta takes a hundred times its length.
const MAX_STREAM_BYTES: usize = 32 << 20;

/// Maximum number of calls in a reply: a message has room for the results of as many.
const MAX_CALLS: usize = 1_000;

/// Maximum size of a provider's data of one call, in bytes.
const MAX_OPAQUE_BYTES: usize = 1 << 20;

/// A part of a reply, in the order in which the model wrote them.
#[derive(Debug)]
enum ReplyPart {
    Text(String),
    Reasoning(String),
    Call(PartialCall),
    Source { url: String, title: Option<String> },
}

/// The kind of part that receives deltas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OpenPart {
    None,
    Text,
    Reasoning,
}

/// A reply under construction.
#[derive(Debug)]
pub(super) struct Transcript {
    turn_id: TurnId,
    encoder: FrameEncoder,
    open_part: OpenPart,
    /// Id of the open part in frames.
    part_id: String,
    /// If a part is open, it is the last one, apart from sources.
    parts: Vec<ReplyPart>,
    counts: PartCounts,
    /// The position of each call in `parts`, by its id.
    calls_by_id: HashMap<String, usize>,
    /// The position of the latest call with an index: an index may be used again.
    calls_by_index: HashMap<u32, usize>,
    source_urls: HashSet<String>,
    /// Bytes of all parts.
    size: usize,
    /// The first content that could not be read, by its vendor's name.
    unsupported: Option<String>,
    usage: Option<Usage>,
    finish_reason: Option<FinishReason>,
    /// Set if a model other than the requested one answered.
    model: Option<String>,
    /// Set once the endpoint has accepted the prompt.
    answering: Option<AnsweringModel>,
}

/// The number of parts of each kind.
#[derive(Debug, Default)]
struct PartCounts {
    texts: usize,
    reasonings: usize,
    calls: usize,
    sources: usize,
}

#[derive(Debug)]
struct PartialCall {
    call: ToolCall,
    data: ProviderData,
    /// Whether the model finished its arguments.
    is_complete: bool,
}

/// The data of a call that only its provider understands.
#[derive(Debug, Default)]
struct ProviderData {
    call_id: Option<String>,
    opaque_data: Option<Value>,
}

impl ProviderData {
    fn to_origin(&self, answering: &AnsweringModel) -> CallOrigin {
        CallOrigin {
            provider: answering.endpoint.clone(),
            model: answering.model.clone(),
            call_id: self.call_id.clone(),
            opaque_data: self.opaque_data.clone(),
        }
    }
}

/// The model that writes a reply.
#[derive(Debug)]
struct AnsweringModel {
    /// Name of the endpoint.
    endpoint: String,
    /// Name of the model.
    model: String,
}

#[derive(Debug)]
pub(super) struct StreamHeader<'a> {
    pub(super) message_id: &'a MessageId,
    /// The first reply of the chain this one continues after tool results. AI SDK clients show the
    /// chain as one message, under the id of that reply.
    pub(super) continues: Option<&'a MessageId>,
    pub(super) session_id: &'a SessionId,
    pub(super) title: &'a str,
    pub(super) user_message_id: &'a MessageId,
}

impl StreamHeader<'_> {
    pub(super) fn session_frame(&self) -> StreamFrame<'_> {
        let data = SessionData {
            session_id: self.session_id,
            title: self.title,
            user_message_id: self.user_message_id,
        };
        StreamFrame::DataSession { data, transient: true }
    }
}

#[derive(Debug)]
pub(super) enum StreamEnd<'a> {
    Finish {
        reason: FinishReason,
        model: Option<&'a str>,
        usage: Option<Usage>,
        memory: Option<&'a MemorySummary>,
    },
    Abort,
    Error(&'a str),
}

impl Transcript {
    /// Starts a reply with the frames `start`, `data-session` and `start-step`.
    pub(super) fn begin_stream(turn_id: TurnId, header: &StreamHeader<'_>) -> Self {
        let mut encoder = FrameEncoder::new(turn_id.clone());
        let StreamHeader { message_id, session_id, continues, .. } = *header;
        // The frame names the first reply of the chain, so the metadata carries the id under which
        // this one is stored.
        let own_id = continues.map(|_| message_id);
        encoder.write_frame(&StreamFrame::Start {
            message_id: continues.unwrap_or(message_id),
            message_metadata: StartMetadata { turn_id: &turn_id, session_id, message_id: own_id },
        });
        encoder.write_frame(&header.session_frame());
        encoder.write_frame(&StreamFrame::StartStep);
        Self::with_encoder(turn_id, encoder)
    }

    fn with_encoder(turn_id: TurnId, encoder: FrameEncoder) -> Self {
        Self {
            turn_id,
            encoder,
            open_part: OpenPart::None,
            part_id: String::new(),
            parts: Vec::new(),
            counts: PartCounts::default(),
            calls_by_id: HashMap::new(),
            calls_by_index: HashMap::new(),
            source_urls: HashSet::new(),
            size: 0,
            unsupported: None,
            usage: None,
            finish_reason: None,
            model: None,
            answering: None,
        }
    }

    /// Names the endpoint and the requested model, to which the data of calls belongs.
    pub(super) fn set_answering_model(&mut self, endpoint: &str, model: String) {
        self.answering = Some(AnsweringModel { endpoint: endpoint.to_owned(), model });
    }

    pub(super) fn apply_events(&mut self, events: Vec<ProviderEvent>) {
        for event in events {
            let bytes = event.reply_bytes();
            match event {
                ProviderEvent::Text(delta) => self.push_delta(OpenPart::Text, delta),
                ProviderEvent::Reasoning(delta) => self.push_delta(OpenPart::Reasoning, delta),
                ProviderEvent::ThoughtsEnd => self.end_thoughts(),
                ProviderEvent::ToolCall { index, provider_id, name, opaque_data } => {
                    if self.counts.calls == MAX_CALLS {
                        self.size = MAX_REPLY_BYTES;
                    }
                    if !self.claim_bytes(bytes) {
                        continue;
                    }
                    let id = tool::derive_call_id(&self.turn_id, self.counts.calls);
                    let opaque_data = opaque_data.and_then(|data| self.fit_opaque_data(data));
                    let data = ProviderData { call_id: provider_id, opaque_data };
                    self.begin_call(index, id, name, data);
                }
                ProviderEvent::ToolCallData { index, opaque_data } => {
                    let Some(opaque_data) = self.fit_opaque_data(opaque_data) else { continue };
                    let at = self.calls_by_index.get(&index).copied();
                    if let Some(PartialCall { call, data, .. }) = self.call_at(at) {
                        if let Some(origin) = &mut call.origin {
                            origin.opaque_data = Some(opaque_data.clone());
                        }
                        data.opaque_data = Some(opaque_data);
                    }
                }
                ProviderEvent::ToolInput { index, delta } => {
                    let delta = self.fit_delta(delta);
                    if !delta.is_empty() {
                        self.append_call_input(index, &delta);
                    }
                }
                ProviderEvent::Source { url, title } => self.push_source(url, title),
                ProviderEvent::Unsupported(kind) => {
                    self.unsupported.get_or_insert(kind);
                }
                ProviderEvent::Usage(usage) => self.usage = Some(usage.or_earlier(self.usage)),
                ProviderEvent::Finish(reason) => {
                    // Calls of a reply that ended for another reason, such as the token limit, may
                    // be cut off.
                    if reason == FinishReason::ToolCalls {
                        self.complete_calls();
                    }
                    self.finish_reason = Some(reason);
                }
                ProviderEvent::Model(model) => {
                    if let Some(answering) = &mut self.answering {
                        answering.model.clone_from(&model);
                    }
                    self.model = Some(model);
                }
            }
        }
    }

    /// Adds a delta of a text or of reasoning, and its frames.
    fn push_delta(&mut self, part: OpenPart, delta: String) {
        if delta.is_empty() || self.is_full() {
            return;
        }
        if self.open_part != part && !self.claim_bytes(PART_OVERHEAD_BYTES) {
            return;
        }
        let delta = self.fit_delta(delta);
        self.switch_part(part);
        let id = &self.part_id;
        self.encoder.write_frame(&match part {
            OpenPart::Reasoning => StreamFrame::ReasoningDelta { id, delta: &delta },
            OpenPart::Text | OpenPart::None => StreamFrame::TextDelta { id, delta: &delta },
        });
        self.append_delta(delta);
    }

    /// Appends to the open part.
    fn append_delta(&mut self, delta: String) {
        let open_part = self.open_part;
        let text = self.parts.iter_mut().rev().find_map(|part| match (open_part, part) {
            (OpenPart::Text, ReplyPart::Text(text))
            | (OpenPart::Reasoning, ReplyPart::Reasoning(text)) => Some(text),
            _ => None,
        });
        match text {
            // Moves the first delta instead of copying it: often it is the whole text.
            Some(text) if text.is_empty() => *text = delta,
            Some(text) => text.push_str(&delta),
            None => {}
        }
    }

    /// Makes the text so far reasoning. It was already sent as text, so only the stored message and
    /// later prompts are free of it.
    fn end_thoughts(&mut self) {
        if self.open_part == OpenPart::Text {
            // Clients that join the texts must not join words.
            self.encoder.write_frame(&StreamFrame::TextDelta { id: &self.part_id, delta: "\n\n" });
        }
        self.close_part();
        for part in &mut self.parts {
            if let ReplyPart::Text(text) = part {
                *part = ReplyPart::Reasoning(mem::take(text));
            }
        }
        self.counts.reasonings += mem::take(&mut self.counts.texts);
    }

    /// Adds a cited page. Some servers repeat the list of pages in each chunk.
    fn push_source(&mut self, url: String, title: Option<String>) {
        let bytes = PART_OVERHEAD_BYTES + url.len() + title.as_ref().map_or(0, String::len);
        if self.source_urls.contains(&url) || !self.claim_bytes(bytes) {
            return;
        }
        self.encoder.write_frame(&StreamFrame::SourceUrl {
            source_id: &source_id(self.counts.sources),
            url: &url,
            title: title.as_deref(),
        });
        self.source_urls.insert(url.clone());
        self.counts.sources += 1;
        self.parts.push(ReplyPart::Source { url, title });
    }

    fn begin_call(&mut self, index: u32, id: String, name: String, data: ProviderData) {
        self.close_part();
        self.encoder
            .write_frame(&StreamFrame::ToolInputStart { tool_call_id: &id, tool_name: &name });
        self.push_call(index, id, name, data);
    }

    fn push_call(&mut self, index: u32, id: String, name: String, data: ProviderData) {
        self.calls_by_id.insert(id.clone(), self.parts.len());
        self.calls_by_index.insert(index, self.parts.len());
        self.counts.calls += 1;
        let call = ToolCall { id, name, input: String::new(), origin: None };
        self.parts.push(ReplyPart::Call(PartialCall { call, data, is_complete: false }));
    }

    fn append_call_input(&mut self, index: u32, delta: &str) {
        let at = self.calls_by_index.get(&index).copied();
        let Some(partial) = self.call_at(at) else { return };
        partial.call.input.push_str(delta);
        let id = partial.call.id.clone();
        let frame = StreamFrame::ToolInputDelta { tool_call_id: &id, input_text_delta: delta };
        self.encoder.write_frame(&frame);
    }

    fn find_call_by_id(&mut self, id: &str) -> Option<&mut PartialCall> {
        let at = self.calls_by_id.get(id).copied();
        self.call_at(at)
    }

    fn call_at(&mut self, position: Option<usize>) -> Option<&mut PartialCall> {
        match self.parts.get_mut(position?) {
            Some(ReplyPart::Call(call)) => Some(call),
            _ => None,
        }
    }

    /// Completes the open calls once the model asks for them to be executed. Calls of a reply that
    /// ends otherwise stay incomplete and are dropped.
    fn complete_calls(&mut self) {
        for part in &mut self.parts {
            let ReplyPart::Call(PartialCall {
                call, data, is_complete: is_complete @ false, ..
            }) = part
            else {
                continue;
            };
            if let Some(answering) = &self.answering {
                let origin = data.to_origin(answering);
                call.origin = Some(origin.clone());
                let record = LogRecord { tool_call_id: call.id.clone(), origin };
                self.encoder.write_log_record(&record);
            }
            let tool_call_id = call.id.as_str();
            let tool_name = call.name.as_str();
            if call.input.trim().is_empty() {
                // Models send no arguments for functions without parameters. Clients that
                // concatenate the deltas expect valid JSON.
                let empty_object = "{}";
                self.encoder.write_frame(&StreamFrame::ToolInputDelta {
                    tool_call_id,
                    input_text_delta: empty_object,
                });
                call.input = empty_object.to_owned();
            }
            // Invalid arguments are kept as a string, so that the client can show them and the
            // model can see its mistake.
            let input = tool::encode_input(&call.input);
            self.encoder.write_frame(&match tool::is_valid_json(&call.input) {
                true => StreamFrame::ToolInputAvailable { tool_call_id, tool_name, input: &input },
                false => {
                    let error_text = "the arguments of the call are not JSON";
                    StreamFrame::ToolInputError {
                        tool_call_id,
                        tool_name,
                        input: &input,
                        error_text,
                    }
                }
            });
            *is_complete = true;
        }
    }

    /// Makes `part` the open part: ends another open part and starts a new one.
    fn switch_part(&mut self, part: OpenPart) {
        if self.open_part == part {
            return;
        }
        self.close_part();
        match part {
            OpenPart::None => {}
            OpenPart::Text => {
                self.open_part(part, format!("text-{}", self.counts.texts + 1));
                self.encoder.write_frame(&StreamFrame::TextStart { id: &self.part_id });
            }
            OpenPart::Reasoning => {
                self.open_part(part, format!("reasoning-{}", self.counts.reasonings + 1));
                self.encoder.write_frame(&StreamFrame::ReasoningStart { id: &self.part_id });
            }
        }
    }

    fn open_part(&mut self, part: OpenPart, id: String) {
        self.open_part = part;
        self.part_id = id;
        match part {
            OpenPart::None => {}
            OpenPart::Text => {
                self.counts.texts += 1;
                self.parts.push(ReplyPart::Text(String::new()));
            }
            OpenPart::Reasoning => {
                self.counts.reasonings += 1;
                self.parts.push(ReplyPart::Reasoning(String::new()));
            }
        }
    }

    fn close_part(&mut self) {
        match self.open_part {
            OpenPart::None => {}
            OpenPart::Text => self.encoder.write_frame(&StreamFrame::TextEnd { id: &self.part_id }),
            OpenPart::Reasoning => {
                self.encoder.write_frame(&StreamFrame::ReasoningEnd { id: &self.part_id })
            }
        }
        self.open_part = OpenPart::None;
    }

    /// Writes a frame with the new title of the session.
    pub(super) fn write_title_frame(&mut self, title: &str) {
        self.encoder
            .write_frame(&StreamFrame::DataTitle { data: TitleData { title }, transient: true });
    }

    pub(super) fn end_stream(&mut self, ending: StreamEnd<'_>) {
        self.close_part();
        match ending {
            StreamEnd::Finish { reason, model, usage, memory } => {
                self.encoder.write_frame(&StreamFrame::FinishStep);
                let message_metadata = Some(FinishMetadata { model, usage, memory });
                self.encoder
                    .write_frame(&StreamFrame::Finish { finish_reason: reason, message_metadata });
            }
            StreamEnd::Abort => self.encoder.write_frame(&StreamFrame::Abort),
            StreamEnd::Error(error_text) => {
                self.encoder.write_frame(&StreamFrame::Error { error_text })
            }
        }
        self.encoder.write_done();
    }

    /// Returns the frames written since the last call.
    pub(super) fn take_frames(&mut self) -> FrameBatch {
        self.encoder.take_frames()
    }

    /// All texts. Texts with something else between them become paragraphs.
    fn message_content(&self) -> String {
        let mut content = String::new();
        for part in &self.parts {
            let ReplyPart::Text(text) = part else { continue };
            let is_separate = content.ends_with(char::is_whitespace)
                || text.starts_with(char::is_whitespace)
                || content.is_empty()
                || text.is_empty();
            content.push_str(if is_separate { "" } else { "\n\n" });
            content.push_str(text);
        }
        content
    }

    fn message_parts(&self) -> MessageParts {
        let with_texts = !self.has_usual_order();
        let mut sources = 0;
        let parts = self.parts.iter().filter_map(|part| match part {
            ReplyPart::Text(text) => with_texts.then(|| MessagePart::Text { text: text.clone() }),
            ReplyPart::Reasoning(text) => Some(MessagePart::Reasoning { text: text.clone() }),
            ReplyPart::Call(PartialCall { is_complete: false, .. }) => None,
            ReplyPart::Call(PartialCall { call, .. }) => Some(MessagePart::ToolCall {
                origin: call.origin.clone(),
                input: tool::encode_input(&call.input),
                tool_call_id: call.id.clone(),
                tool_name: call.name.clone(),
            }),
            ReplyPart::Source { url, title } => {
                sources += 1;
                Some(MessagePart::SourceUrl {
                    source_id: source_id(sources - 1),
                    url: url.clone(),
                    title: title.clone(),
                })
            }
        });
        MessageParts::from_parts(&parts.collect::<Vec<_>>())
    }

    /// Whether the parts are reasoning, a text and calls, in this order and each of the first two
    /// at most once. Then the order need not be stored. Sources may be anywhere.
    fn has_usual_order(&self) -> bool {
        let ranks: Vec<u8> = self
            .parts
            .iter()
            .filter_map(|part| match part {
                ReplyPart::Reasoning(_) => Some(0),
                ReplyPart::Text(_) => Some(1),
                ReplyPart::Call(call) => call.is_complete.then_some(2),
                ReplyPart::Source { .. } => None,
            })
            .collect();
        ranks.windows(2).all(|pair| pair[0] < pair[1] || pair == [2, 2])
    }

    /// The message as far as it has been generated.
    pub(super) fn message_body(&self) -> MessageBody {
        MessageBody {
            content: self.message_content(),
            parts: self.message_parts(),
            kind: MessageType::Text,
        }
    }

    /// The content that could not be read, if nothing else has arrived.
    pub(super) fn unsupported_content(&self) -> Option<&str> {
        let is_empty = self.parts.iter().all(|part| match part {
            ReplyPart::Text(text) | ReplyPart::Reasoning(text) => text.trim().is_empty(),
            ReplyPart::Call(call) => !call.is_complete,
            ReplyPart::Source { .. } => false,
        });
        self.unsupported.as_deref().filter(|_| is_empty)
    }

    /// Whether the reply has its maximum size. Further deltas are dropped.
    pub(super) fn is_full(&self) -> bool {
        self.size >= MAX_REPLY_BYTES || self.encoder.written_bytes() >= MAX_STREAM_BYTES
    }

    /// Counts bytes of a part. `false` if the reply has no room for them: then it is full.
    fn claim_bytes(&mut self, bytes: usize) -> bool {
        let size = self.size.saturating_add(bytes);
        let fits = size <= MAX_REPLY_BYTES && !self.is_full();
        self.size = size.min(MAX_REPLY_BYTES);
        fits
    }

    /// The part of a delta that the reply has room for.
    fn fit_delta(&mut self, mut delta: String) -> String {
        let room = MAX_REPLY_BYTES - self.size;
        if delta.len() > room {
            // No character is cut, and the reply counts as full.
            let end = (0..=room).rev().find(|at| delta.is_char_boundary(*at));
            delta.truncate(end.unwrap_or(0));
            self.size = MAX_REPLY_BYTES;
        } else {
            self.size += delta.len();
        }
        delta
    }

    /// Data of a call that the reply has room for. Without it the model may refuse the results of
    /// the call, but the reply can be stored.
    fn fit_opaque_data(&mut self, data: Value) -> Option<Value> {
        let text = data.to_string();
        let size = text.len();
        if size > MAX_OPAQUE_BYTES
            || self.size + size > MAX_REPLY_BYTES
            || !tool::is_storable_data(&text)
        {
            tracing::warn!(turn.id = %self.turn_id, bytes = size, "provider's data of a call is too large or too deep, dropped");
            return None;
        }
        self.size += size;
        Some(data)
    }

    /// As reported by the provider.
    pub(super) fn usage(&self) -> Option<Usage> {
        self.usage
    }

    /// `None` while the model has not finished.
    pub(super) fn finish_reason(&self) -> Option<FinishReason> {
        self.finish_reason
    }

    /// `None` if the requested model answered.
    pub(super) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }
}

fn source_id(number: usize) -> String {
    format!("source-{}", number + 1)
}

#[cfg(test)]
mod tests;
