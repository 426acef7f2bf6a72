//! Replies for dialects other than the AI SDK's: what a turn's frames say, or a provider by itself,
//! as one kind of thing. Called by `http::v1`.

use super::frames;
use super::stateless::estimate_text_bytes;
use super::{ChatService, MeteredCall, TurnReader, TurnRequest};
use crate::domain::message::FinishReason;
use crate::domain::{MessageId, Principal, SessionId, TurnId, Usage};
use crate::error::{Error, ErrorKind, Result};
use crate::provider::{Prompt, ProviderError, ProviderEvent, ProviderEvents, RawResponse};
use bytes::Bytes;
use futures::stream::{self, BoxStream, Fuse, StreamExt};
use serde::Deserialize;
use std::collections::VecDeque;
use std::sync::Arc;

/// What is heard of a reply, in order. Behind `Finished`, `Stopped` and `Failed` nothing more comes.
#[derive(Debug)]
pub enum ReplyEvent {
    /// More of the answer.
    Text(String),
    /// More of what the model thinks before it answers.
    Reasoning(String),
    /// A function is to be called; its arguments follow.
    ToolCall {
        /// The call's name.
        id: String,
        /// The function.
        name: String,
    },
    /// More of a call's arguments.
    ToolInput {
        /// The call.
        id: String,
        /// The piece.
        delta: String,
    },
    /// All of it was heard.
    Finished {
        /// Why the model stopped.
        reason: FinishReason,
        /// The model that answered, if that is known.
        model: Option<String>,
        /// What it cost, if that is known.
        usage: Option<Usage>,
    },
    /// It will not be heard whole: somebody stopped it.
    Stopped,
    /// It will not be heard whole.
    Failed(Error),
}

/// A reply that is being heard.
pub struct ReplyStream {
    /// Its name: of the message that it is stored as, the same in every repetition; else its own.
    pub reply_id: MessageId,
    /// The session it is stored in.
    pub session_id: Option<SessionId>,
    /// Its turn, where one runs, ran, or is repeated.
    pub turn_id: Option<TurnId>,
    /// The message it answers, in its session.
    pub user_message_id: Option<MessageId>,
    /// What is heard.
    pub events: BoxStream<'static, ReplyEvent>,
}

/// What became of a request that was to be handed on.
pub enum Passthrough {
    /// The provider's answer to it.
    Response(RawResponse),
    /// The provider speaks otherwise, and was not asked.
    Unsupported(MeteredCall),
}

impl ChatService {
    /// Begins a turn, as [`ChatService::start_turn`] does, and listens to its reply. Whoever stops
    /// listening changes nothing.
    pub async fn stream_turn(self: &Arc<Self>, request: TurnRequest) -> Result<ReplyStream> {
        let principal = request.principal.clone();
        let mut reader = self.start_turn(request).await?;
        let mut frames: VecDeque<ReplyFrame> = VecDeque::new();
        let (mut reply, mut turn) = (None::<String>, None);
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
                    _ => {}
                }
            }
            if let Some(ReplySessionData { session_id, user_message_id }) = session {
                // Where a person will answer there is neither a turn nor a reply yet.
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

    /// Asks the provider, and stores nothing.
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
            call_ids: Vec::new(),
            calls_without_input: Vec::new(),
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

    /// Hands a request in the words of Chat Completions on to the provider, as it is.
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
        if response.status < 300 {
            call.record_sent(model, bytes);
        }
        let is_stream = response.content_type.starts_with("text/event-stream");
        let passthrough =
            PassthroughBody { body: response.body.fuse(), call, is_stream, held_back: None };
        let body = stream::unfold(passthrough, PassthroughBody::next_chunk).boxed();
        Ok(Passthrough::Response(RawResponse { body, ..response }))
    }

    /// Why a reply failed: its frames hold the sentence, the stored message the code as well.
    async fn load_failure(
        &self,
        principal: &Principal,
        session: &SessionId,
        reply: &MessageId,
        sentence: String,
    ) -> Error {
        let stored = self.store.get_message(principal, session, reply).await.ok();
        let code = stored.and_then(|message| message.error).map(|error| error.code);
        Error::new(ErrorKind::from_code(code.as_deref().unwrap_or_default()), sentence)
    }
}

/// What is said of a reply that somebody stopped, where there is no other word for that.
pub fn stopped_error() -> Error {
    Error::new(ErrorKind::ProviderError, "the reply was stopped")
}

pub(super) fn shutting_down_error() -> Error {
    Error::new(ErrorKind::ShuttingDown, "the server is going down; try again in a moment")
}

/// The frames of a turn, as far as a listener cares.
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
    /// The reply's own name, where it continues another.
    #[serde(default)]
    message_id: Option<String>,
}

#[derive(Deserialize, Default)]
struct ReplyFinishMetadata {
    model: Option<String>,
    usage: Option<Usage>,
}

/// A turn's frames on their way to being heard.
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
    /// Listens to what `reader` reads of a turn.
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
                    // The stream ended without its end: this instance does not run the turn on.
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
                    return Some(self.finish_with(ReplyEvent::Finished { reason, model, usage }));
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

/// A provider's own answer on its way. Invariant: it is booked before its last piece is told.
struct PassthroughBody {
    body: Fuse<BoxStream<'static, BodyChunk>>,
    call: MeteredCall,
    is_stream: bool,
    /// What may be the last piece: of a stream it is known, of anything else only behind it.
    held_back: Option<Bytes>,
}

impl PassthroughBody {
    async fn next_chunk(mut self) -> Option<(BodyChunk, Self)> {
        loop {
            match self.body.next().await {
                Some(Ok(bytes)) => {
                    self.call.record_forwarded(&bytes);
                    if self.is_stream {
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

/// A provider's events on their way to being heard.
struct ProviderEventStream {
    events: ProviderEvents,
    pending: VecDeque<ReplyEvent>,
    /// The calls so far, as they are told apart and by their names.
    call_ids: Vec<(u32, String)>,
    /// Those of them whose arguments are still to come.
    calls_without_input: Vec<String>,
    finish: FinishState,
    call: MeteredCall,
}

/// What is known of a reply's end.
#[derive(Default)]
struct FinishState {
    reason: Option<FinishReason>,
    model: Option<String>,
    usage: Option<Usage>,
    is_over: bool,
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
                // What comes after the reason to finish takes nothing away from the reply.
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
        match event {
            ProviderEvent::Text(text) => {
                self.call.record_output(&text);
                self.pending.push_back(ReplyEvent::Text(text));
            }
            ProviderEvent::Reasoning(text) => {
                self.call.record_output(&text);
                self.pending.push_back(ReplyEvent::Reasoning(text));
            }
            ProviderEvent::ToolCall { index, id, name } => {
                self.call_ids.push((index, id.clone()));
                self.calls_without_input.push(id.clone());
                self.pending.push_back(ReplyEvent::ToolCall { id, name });
            }
            ProviderEvent::ToolInput { index, delta } => {
                let call = self.call_ids.iter().rfind(|(known, _)| *known == index);
                self.call.record_output(&delta);
                self.calls_without_input.retain(|id| call.is_none_or(|(_, call_id)| call_id != id));
                let event = call.map(|(_, id)| ReplyEvent::ToolInput { id: id.clone(), delta });
                self.pending.extend(event);
            }
            ProviderEvent::Usage(usage) => {
                self.call.record_usage(usage);
                self.finish.usage = Some(usage);
            }
            ProviderEvent::Model(model) => self.finish.model = Some(model),
            ProviderEvent::Finish(reason) => {
                self.finish.reason = Some(reason);
                // A call without arguments has none to tell of, and JSON is wanted.
                for id in std::mem::take(&mut self.calls_without_input) {
                    self.pending.push_back(ReplyEvent::ToolInput { id, delta: "{}".to_owned() });
                }
            }
        }
    }
}

impl FinishState {
    fn final_event(&mut self) -> ReplyEvent {
        let failed = |why| ReplyEvent::Failed(Error::new(ErrorKind::ProviderError, why));
        match self.reason {
            None => failed("the provider's reply broke off"),
            Some(FinishReason::Error) => failed("the provider says that the reply failed"),
            Some(reason) => {
                ReplyEvent::Finished { reason, model: self.model.take(), usage: self.usage }
            }
        }
    }
}
