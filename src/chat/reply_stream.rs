//! Replies as a stream of [`ReplyEvent`]s, independent of the AI SDK's protocol: decoded from the
//! frames of a turn, or read directly from a provider. Called by `http::v1`.

use super::frames;
use super::run_turn::unsupported_content_message;
use super::stateless::estimate_text_bytes;
use super::{ChatService, MeteredCall, TurnReader, TurnRequest, shutting_down_error};
use crate::domain::message::{CallOrigin, FinishReason};
use crate::domain::principal::AccessLevel;
use crate::domain::{MessageId, Principal, SessionId, TurnId, Usage};
use crate::error::{Error, ErrorKind, Result};
use crate::provider::{Prompt, ProviderError, ProviderEvent, ProviderEvents, RawResponse};
use bytes::Bytes;
use futures::stream::{self, BoxStream, Fuse, StreamExt};
use serde::Deserialize;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// An event of a reply. Nothing follows `Finished`, `Stopped` or `Failed`.
#[derive(Debug)]
pub enum ReplyEvent {
    /// A delta of the answer.
    Text(String),
    /// A delta of the reasoning.
    Reasoning(String),
    /// A tool call starts; its arguments follow.
    ToolCall { id: String, name: String },
    /// A delta of a call's arguments.
    ToolInput { id: String, delta: String },
    /// The reply is complete.
    Finished {
        reason: FinishReason,
        model: Option<String>,
        usage: Option<Usage>,
        /// The origins of the calls by their ids, if the reply is not stored.
        call_origins: Vec<(String, CallOrigin)>,
    },
    /// The reply was cancelled.
    Stopped,
    /// The reply failed.
    Failed(Error),
}

pub struct ReplyStream {
    /// Id of the stored message, the same for every retry; a generated id if nothing is stored.
    pub reply_id: MessageId,
    /// `None` if nothing is stored.
    pub session_id: Option<SessionId>,
    /// `None` if no turn belongs to the reply, for example because a human agent answers.
    pub turn_id: Option<TurnId>,
    pub user_message_id: Option<MessageId>,
    pub events: BoxStream<'static, ReplyEvent>,
}

/// Result of forwarding a raw request.
pub enum Passthrough {
    Response(RawResponse),
    /// The provider has another API and was not called.
    Unsupported(MeteredCall),
}

impl ChatService {
    /// Starts a turn like [`ChatService::start_turn`] and streams its reply. Dropping the stream
    /// does not affect the turn.
    pub async fn stream_turn(self: &Arc<Self>, request: TurnRequest) -> Result<ReplyStream> {
        let principal = request.principal.clone();
        let target = request.session.id().clone();
        let mut reader = self.start_turn(request).await?;
        let mut frames: VecDeque<ReplyFrame> = VecDeque::new();
        let (mut reply, mut turn) = (None::<String>, None);
        // The ids are in the first frames of the stream. They are read here, before the response
        // starts, so that errors up to this point still become HTTP errors.
        let (session, user_message_id) = loop {
            let Some(bytes) = reader.next().await else { return Err(shutting_down_error()) };
            frames.extend(frames::decode_frames(&bytes));
            let mut session = None;
            for frame in &frames {
                match frame {
                    ReplyFrame::Start { message_id, message_metadata } => {
                        let own_id = message_metadata.message_id.as_ref();
                        reply = Some(own_id.unwrap_or(message_id).clone());
                        turn = Some(TurnId::new_unchecked(message_metadata.turn_id.as_str()));
                    }
                    ReplyFrame::DataSession { data } => session = Some(data),
                    // A turn that was removed from the queue ends without a start.
                    ReplyFrame::Abort | ReplyFrame::Error { .. } if session.is_none() => {
                        self.store
                            .get_session(&principal, &target, AccessLevel::Participant)
                            .await?;
                        return Err(stopped_error());
                    }
                    _ => {}
                }
            }
            if let Some(ReplySessionData { session_id, user_message_id }) = session {
                // With a human agent there is no turn and no reply yet: the id of the user message
                // identifies the response.
                reply.get_or_insert_with(|| user_message_id.clone());
                let user_message_id = MessageId::new_unchecked(user_message_id.as_str());
                break (SessionId::new_unchecked(session_id.as_str()), Some(user_message_id));
            }
        };
        let reply_id = MessageId::new_unchecked(reply.unwrap_or_default());
        let mut events = TurnEventStream::new(self, &principal, &session, &reply_id, reader);
        events.frames = frames;
        Ok(ReplyStream {
            reply_id,
            session_id: Some(session),
            turn_id: turn,
            user_message_id,
            events: events.into_stream(),
        })
    }

    /// Calls the provider without storing anything.
    pub async fn stream_completion(
        &self,
        prompt: &Prompt,
        mut call: MeteredCall,
    ) -> Result<ReplyStream> {
        self.ensure_not_draining()?;
        call.require_price(&prompt.model)?;
        let events = self.provider.open_stream(prompt).await?;
        call.record_sent_prompt(prompt);
        let state = ProviderEventStream {
            events,
            pending: VecDeque::new(),
            calls: Vec::new(),
            calls_by_index: HashMap::new(),
            endpoint: self.provider.endpoint().to_owned(),
            model: prompt.model.clone(),
            finish: FinishState::default(),
            call,
        };
        Ok(ReplyStream {
            reply_id: MessageId::generate(),
            session_id: None,
            turn_id: None,
            user_message_id: None,
            events: stream::unfold(state, ProviderEventStream::next_event).boxed(),
        })
    }

    /// Forwards the body of a Chat Completions request to the provider unchanged.
    pub async fn forward_request(
        &self,
        body: Bytes,
        model: &str,
        is_stream: bool,
        mut call: MeteredCall,
    ) -> Result<Passthrough> {
        self.ensure_not_draining()?;
        call.require_price(model)?;
        let bytes = estimate_text_bytes(&body);
        let Some(response) = self.provider.forward_request(body, is_stream).await? else {
            return Ok(Passthrough::Unsupported(call));
        };
        // A rejected request costs nothing and is not recorded.
        if response.status < 300 {
            call.record_sent(model, bytes);
        }
        // A provider may answer a streaming request with a plain JSON body.
        let is_stream = response.content_type.starts_with("text/event-stream");
        let passthrough =
            PassthroughBody { body: response.body.fuse(), call, is_stream, held_back: None };
        let body = stream::unfold(passthrough, PassthroughBody::next_chunk).boxed();
        Ok(Passthrough::Response(RawResponse { body, ..response }))
    }

    /// The error of a failed reply: its frames contain only the message, the stored reply contains
    /// the code.
    async fn load_failure(
        &self,
        principal: &Principal,
        session: &SessionId,
        reply: &MessageId,
        sentence: String,
    ) -> Error {
        let stored = match self.store.get_message(principal, session, reply).await {
            // The stream has ended because its reader lost access, or because of a deletion.
            Err(error) if error.kind == ErrorKind::SessionNotFound => return error,
            stored => stored.ok(),
        };
        let code = stored.and_then(|message| message.error).map(|error| error.code);
        Error::new(ErrorKind::from_code(code.as_deref().unwrap_or_default()), sentence)
    }
}

/// The error for a cancelled reply in protocols that have no state for it.
pub fn stopped_error() -> Error {
    Error::new(ErrorKind::ProviderError, "the reply was stopped")
}

/// The frames of a turn that matter here.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
enum ReplyFrame {
    Start {
        message_id: String,
        message_metadata: ReplyStartMetadata,
    },
    DataSession {
        data: ReplySessionData,
    },
    TextDelta {
        delta: String,
    },
    ReasoningDelta {
        delta: String,
    },
    ToolInputStart {
        tool_call_id: String,
        tool_name: String,
    },
    ToolInputDelta {
        tool_call_id: String,
        input_text_delta: String,
    },
    Finish {
        finish_reason: FinishReason,
        #[serde(default)]
        message_metadata: ReplyFinishMetadata,
    },
    Abort,
    Error {
        error_text: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReplySessionData {
    session_id: String,
    user_message_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReplyStartMetadata {
    turn_id: String,
    /// Id of this reply, if it continues another.
    #[serde(default)]
    message_id: Option<String>,
}

#[derive(Deserialize, Default)]
struct ReplyFinishMetadata {
    model: Option<String>,
    usage: Option<Usage>,
}

/// Decodes the frames of a turn.
pub(super) struct TurnEventStream {
    chat: Arc<ChatService>,
    principal: Principal,
    session_id: SessionId,
    reply_id: MessageId,
    reader: TurnReader,
    frames: VecDeque<ReplyFrame>,
    is_over: bool,
}

impl TurnEventStream {
    pub(super) fn new(
        chat: &Arc<ChatService>,
        principal: &Principal,
        session: &SessionId,
        reply: &MessageId,
        reader: TurnReader,
    ) -> Self {
        Self {
            chat: chat.clone(),
            principal: principal.clone(),
            session_id: session.clone(),
            reply_id: reply.clone(),
            reader,
            frames: VecDeque::new(),
            is_over: false,
        }
    }

    pub(super) fn into_stream(self) -> BoxStream<'static, ReplyEvent> {
        stream::unfold(self, Self::next_event).boxed()
    }

    async fn next_event(mut self) -> Option<(ReplyEvent, Self)> {
        loop {
            if self.is_over {
                return None;
            }
            let Some(frame) = self.frames.pop_front() else {
                match self.reader.next().await {
                    Some(bytes) => self.frames.extend(frames::decode_frames(&bytes)),
                    // A stream without a final frame: this instance shuts down, or the turn
                    // continues on another one.
                    None => {
                        return Some(self.finish_with(ReplyEvent::Failed(shutting_down_error())));
                    }
                }
                continue;
            };
            match frame {
                ReplyFrame::TextDelta { delta } => return Some((ReplyEvent::Text(delta), self)),
                ReplyFrame::ReasoningDelta { delta } => {
                    return Some((ReplyEvent::Reasoning(delta), self));
                }
                ReplyFrame::ToolInputStart { tool_call_id: id, tool_name: name } => {
                    return Some((ReplyEvent::ToolCall { id, name }, self));
                }
                ReplyFrame::ToolInputDelta { tool_call_id: id, input_text_delta: delta } => {
                    return Some((ReplyEvent::ToolInput { id, delta }, self));
                }
                ReplyFrame::Finish { finish_reason: reason, message_metadata } => {
                    let ReplyFinishMetadata { model, usage } = message_metadata;
                    let call_origins = Vec::new();
                    let last = ReplyEvent::Finished { reason, model, usage, call_origins };
                    return Some(self.finish_with(last));
                }
                ReplyFrame::Abort => return Some(self.finish_with(ReplyEvent::Stopped)),
                ReplyFrame::Error { error_text } => {
                    let Self { chat, principal, session_id, reply_id, .. } = &self;
                    let error =
                        chat.load_failure(principal, session_id, reply_id, error_text).await;
                    return Some(self.finish_with(ReplyEvent::Failed(error)));
                }
                ReplyFrame::Start { .. } | ReplyFrame::DataSession { .. } | ReplyFrame::Other => {}
            }
        }
    }

    fn finish_with(mut self, event: ReplyEvent) -> (ReplyEvent, Self) {
        self.is_over = true;
        (event, self)
    }
}

type BodyChunk = Result<Bytes, ProviderError>;

/// Body of a forwarded response. Invariant: usage is recorded before the last chunk is returned, so
/// a client that has the whole response can rely on its quota being up to date.
struct PassthroughBody {
    body: Fuse<BoxStream<'static, BodyChunk>>,
    call: MeteredCall,
    is_stream: bool,
    /// The latest chunk of a non-streaming body: whether it is the last one is known only when the
    /// body ends.
    held_back: Option<Bytes>,
}

impl PassthroughBody {
    async fn next_chunk(mut self) -> Option<(BodyChunk, Self)> {
        loop {
            match self.body.next().await {
                Some(Ok(bytes)) => {
                    self.call.record_forwarded(&bytes);
                    if self.is_stream {
                        // A stream announces its end with `[DONE]`, so nothing has to be held back
                        // and streaming stays immediate.
                        if self.call.is_stream_done() {
                            self.call.finish_call().await;
                        }
                        return Some((Ok(bytes), self));
                    }
                    if let Some(before) = self.held_back.replace(bytes) {
                        return Some((Ok(before), self));
                    }
                }
                Some(Err(error)) => {
                    self.call.finish_call().await;
                    return Some((Err(error), self));
                }
                None => {
                    self.call.finish_call().await;
                    return Some((Ok(self.held_back.take()?), self));
                }
            }
        }
    }
}

/// Converts provider events.
struct ProviderEventStream {
    events: ProviderEvents,
    pending: VecDeque<ReplyEvent>,
    calls: Vec<OpenCall>,
    /// The position of the latest call with a provider's index.
    calls_by_index: HashMap<u32, usize>,
    /// Names of the endpoint and of the requested model.
    endpoint: String,
    model: String,
    finish: FinishState,
    call: MeteredCall,
}

struct OpenCall {
    id: String,
    has_input: bool,
}

/// The tag that most models write after their thoughts.
const THOUGHTS_END: &str = "</think>\n\n";

/// Facts collected for the final event.
#[derive(Default)]
struct FinishState {
    reason: Option<FinishReason>,
    model: Option<String>,
    usage: Option<Usage>,
    is_over: bool,
    /// Whether text, reasoning or a call was received.
    has_content: bool,
    /// Content that could not be read, by its vendor's name.
    unsupported: Option<String>,
    /// The origins of the calls by their ids.
    call_origins: Vec<(String, CallOrigin)>,
}

impl ProviderEventStream {
    async fn next_event(mut self) -> Option<(ReplyEvent, Self)> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some((event, self));
            }
            if self.finish.is_over {
                return None;
            }
            match self.events.next().await {
                Some(Ok(events)) => events.into_iter().for_each(|event| self.apply_event(event)),
                // The reply is complete once it has a finish reason. A later error only loses the
                // usage report.
                Some(Err(error)) if self.finish.reason.is_none() => {
                    self.finish.is_over = true;
                    self.call.finish_call().await;
                    self.pending.push_back(ReplyEvent::Failed(error.into()));
                }
                Some(Err(_)) | None => {
                    self.finish.is_over = true;
                    self.call.finish_call().await;
                    let last = self.finish.final_event();
                    self.pending.push_back(last);
                }
            }
        }
    }

    fn apply_event(&mut self, event: ProviderEvent) {
        self.finish.has_content |= event.is_content();
        match event {
            ProviderEvent::Text(text) => {
                self.call.record_output(&text);
                self.pending.push_back(ReplyEvent::Text(text));
            }
            ProviderEvent::Reasoning(text) => {
                self.call.record_output(&text);
                self.pending.push_back(ReplyEvent::Reasoning(text));
            }
            ProviderEvent::ToolCall { index, name, provider_id, opaque_data } => {
                let id = self.call.derive_call_id(self.calls.len());
                let origin = CallOrigin {
                    provider: self.endpoint.clone(),
                    model: self.model.clone(),
                    call_id: provider_id,
                    opaque_data,
                };
                self.finish.call_origins.push((id.clone(), origin));
                self.calls_by_index.insert(index, self.calls.len());
                self.calls.push(OpenCall { id: id.clone(), has_input: false });
                self.pending.push_back(ReplyEvent::ToolCall { id, name });
            }
            ProviderEvent::ToolInput { index, delta } => {
                self.call.record_output(&delta);
                let Some(at) = self.calls_by_index.get(&index) else { return };
                let call = &mut self.calls[*at];
                call.has_input = true;
                self.pending.push_back(ReplyEvent::ToolInput { id: call.id.clone(), delta });
            }
            ProviderEvent::Usage(usage) => {
                self.call.record_usage(usage);
                self.finish.usage = Some(usage.or_earlier(self.finish.usage));
            }
            ProviderEvent::Model(model) => self.finish.model = Some(model),
            ProviderEvent::ToolCallData { index, opaque_data } => {
                // Both lists have the calls in the same order.
                if let Some(at) = self.calls_by_index.get(&index) {
                    self.finish.call_origins[*at].1.opaque_data = Some(opaque_data);
                }
            }
            // The text was passed on already, so the client gets the tag that ends it.
            ProviderEvent::ThoughtsEnd => {
                self.pending.push_back(ReplyEvent::Text(THOUGHTS_END.to_owned()));
            }
            ProviderEvent::Source { .. } => {}
            ProviderEvent::Unsupported(kind) => {
                self.finish.unsupported.get_or_insert(kind);
            }
            ProviderEvent::Finish(reason) => {
                self.finish.reason = Some(reason);
                // Clients expect valid JSON, also for calls without arguments.
                for call in self.calls.iter_mut().filter(|call| !call.has_input) {
                    call.has_input = true;
                    let (id, delta) = (call.id.clone(), "{}".to_owned());
                    self.pending.push_back(ReplyEvent::ToolInput { id, delta });
                }
            }
        }
    }
}

impl FinishState {
    fn final_event(&mut self) -> ReplyEvent {
        let failed =
            |why: &str| ReplyEvent::Failed(Error::new(ErrorKind::ProviderError, why.to_owned()));
        if let Some(kind) = self.unsupported.as_ref().filter(|_| !self.has_content) {
            return failed(&unsupported_content_message(kind));
        }
        match self.reason {
            None => failed("the provider's stream ended before the reply was complete"),
            Some(FinishReason::Error) => failed("the provider reported that the reply failed"),
            Some(FinishReason::Other) => failed("the provider ended the reply early"),
            Some(reason) => {
                let mut call_origins = std::mem::take(&mut self.call_origins);
                if let Some(model) = &self.model {
                    call_origins.iter_mut().for_each(|(_, origin)| origin.model.clone_from(model));
                }
                let model = self.model.take();
                ReplyEvent::Finished { reason, model, usage: self.usage, call_origins }
            }
        }
    }
}
