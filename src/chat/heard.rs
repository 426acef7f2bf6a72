//! Replies for dialects other than the AI SDK's: what a turn's frames say, or a provider by itself,
//! as one kind of thing. Called by `http::v1`.

use super::direct::text_size;
use super::frames;
use super::{Chat, Direct, NewTurn, Reader};
use crate::domain::message::FinishReason;
use crate::domain::{MessageId, Principal, SessionId, TurnId, Usage};
use crate::error::{Error, Kind, Result};
use crate::provider::{Prompt, ProviderError, ProviderEvent, ProviderEvents, RawResponse};
use bytes::Bytes;
use futures::stream::{self, BoxStream, Fuse, StreamExt};
use serde::Deserialize;
use std::collections::VecDeque;
use std::sync::Arc;

/// What is heard of a reply, in order. Behind `Finished`, `Stopped` and `Failed` nothing more comes.
#[derive(Debug)]
pub enum Heard {
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
pub struct Hearing {
    /// Its name: of the message that it is stored as, the same in every repetition; else its own.
    pub id: MessageId,
    /// The session it is stored in.
    pub session: Option<SessionId>,
    /// Its turn, where one runs, ran, or is repeated.
    pub turn: Option<TurnId>,
    /// The message it answers, in its session.
    pub question: Option<MessageId>,
    /// What is heard.
    pub heard: BoxStream<'static, Heard>,
}

/// What became of a request that was to be handed on.
pub enum Passed {
    /// The provider's answer to it.
    Answer(RawResponse),
    /// The provider speaks otherwise, and was not asked.
    Untold(Direct),
}

impl Chat {
    /// Begins a turn, as [`Chat::start_turn`] does, and listens to its reply. Whoever stops
    /// listening changes nothing.
    pub async fn hear_turn(self: &Arc<Self>, new: NewTurn) -> Result<Hearing> {
        let who = new.who.clone();
        let mut reader = self.start_turn(new).await?;
        let mut frames: VecDeque<Frame> = VecDeque::new();
        let (mut reply, mut turn) = (None::<String>, None);
        let (session, question) = loop {
            let Some(bytes) = reader.next().await else { return Err(going_down()) };
            frames.extend(frames::read(&bytes));
            let mut session = None;
            for frame in &frames {
                match frame {
                    Frame::Start { message_id, message_metadata } => {
                        let own = message_metadata.message_id.as_ref();
                        reply = Some(own.unwrap_or(message_id).clone());
                        turn = Some(TurnId::trusted(message_metadata.turn_id.as_str()));
                    }
                    Frame::DataSession { data } => session = Some(data),
                    _ => {}
                }
            }
            if let Some(SessionData { session_id, user_message_id }) = session {
                // Where a person will answer there is neither a turn nor a reply yet.
                reply.get_or_insert_with(|| user_message_id.clone());
                let question = MessageId::trusted(user_message_id.as_str());
                break (SessionId::trusted(session_id.as_str()), Some(question));
            }
        };
        let reply = MessageId::trusted(reply.unwrap_or_default());
        let id = reply.clone();
        let mut heard = Listening::new(self, &who, &session, &reply, reader);
        heard.frames = frames;
        let heard = heard.stream();
        Ok(Hearing { id, session: Some(session), turn, question, heard })
    }

    /// Asks the provider, and stores nothing.
    pub async fn hear(&self, prompt: &Prompt, mut direct: Direct) -> Result<Hearing> {
        self.ensure_not_draining()?;
        direct.ensure_priced(&prompt.model)?;
        let events = self.provider.open_stream(prompt).await?;
        direct.sent_prompt(prompt);
        let (waiting, ended) = (VecDeque::new(), Ended::default());
        let asked = Asked { events, waiting, calls: Vec::new(), silent: Vec::new(), ended, direct };
        let heard = stream::unfold(asked, Asked::next).boxed();
        let id = MessageId::generate();
        Ok(Hearing { id, session: None, turn: None, question: None, heard })
    }

    /// Hands a request in the words of Chat Completions on to the provider, as it is.
    pub async fn pass(
        &self,
        body: Bytes,
        model: &str,
        is_stream: bool,
        mut direct: Direct,
    ) -> Result<Passed> {
        self.ensure_not_draining()?;
        direct.ensure_priced(model)?;
        let bytes = text_size(&body);
        let Some(answer) = self.provider.forward_request(body, is_stream).await? else {
            return Ok(Passed::Untold(direct));
        };
        if answer.status < 300 {
            direct.sent(model, bytes);
        }
        let is_stream = answer.content_type.starts_with("text/event-stream");
        let passing = Passing { body: answer.body.fuse(), direct, is_stream, last: None };
        let body = stream::unfold(passing, Passing::next).boxed();
        Ok(Passed::Answer(RawResponse { body, ..answer }))
    }

    /// Why a reply failed: its frames hold the sentence, the stored message the code as well.
    async fn failure(
        &self,
        who: &Principal,
        session: &SessionId,
        reply: &MessageId,
        sentence: String,
    ) -> Error {
        let stored = self.store.get_message(who, session, reply).await.ok();
        let code = stored.and_then(|message| message.error).map(|error| error.code);
        Error::new(Kind::of_code(code.as_deref().unwrap_or_default()), sentence)
    }
}

/// What is said of a reply that somebody stopped, where there is no other word for that.
pub fn stopped() -> Error {
    Error::new(Kind::ProviderError, "the reply was stopped")
}

pub(super) fn going_down() -> Error {
    Error::new(Kind::ShuttingDown, "the server is going down; try again in a moment")
}

/// The frames of a turn, as far as a listener cares.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
enum Frame {
    Start {
        message_id: String,
        message_metadata: StartMetadata,
    },
    DataSession {
        data: SessionData,
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
        message_metadata: FinishMetadata,
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
struct SessionData {
    session_id: String,
    user_message_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StartMetadata {
    turn_id: String,
    /// The reply's own name, where it continues another.
    #[serde(default)]
    message_id: Option<String>,
}

#[derive(Deserialize, Default)]
struct FinishMetadata {
    model: Option<String>,
    usage: Option<Usage>,
}

/// A turn's frames on their way to being heard.
pub(super) struct Listening {
    chat: Arc<Chat>,
    who: Principal,
    session: SessionId,
    reply: MessageId,
    reader: Reader,
    frames: VecDeque<Frame>,
    is_over: bool,
}

impl Listening {
    /// Listens to what `reader` reads of a turn.
    pub(super) fn new(
        chat: &Arc<Chat>,
        who: &Principal,
        session: &SessionId,
        reply: &MessageId,
        reader: Reader,
    ) -> Self {
        Self {
            chat: chat.clone(),
            who: who.clone(),
            session: session.clone(),
            reply: reply.clone(),
            reader,
            frames: VecDeque::new(),
            is_over: false,
        }
    }

    pub(super) fn stream(self) -> BoxStream<'static, Heard> {
        stream::unfold(self, Self::next).boxed()
    }

    async fn next(mut self) -> Option<(Heard, Self)> {
        loop {
            if self.is_over {
                return None;
            }
            let Some(frame) = self.frames.pop_front() else {
                match self.reader.next().await {
                    Some(bytes) => self.frames.extend(frames::read(&bytes)),
                    // The stream ended without its end: this instance does not run the turn on.
                    None => return Some(self.last(Heard::Failed(going_down()))),
                }
                continue;
            };
            match frame {
                Frame::TextDelta { delta } => return Some((Heard::Text(delta), self)),
                Frame::ReasoningDelta { delta } => return Some((Heard::Reasoning(delta), self)),
                Frame::ToolInputStart { tool_call_id: id, tool_name: name } => {
                    return Some((Heard::ToolCall { id, name }, self));
                }
                Frame::ToolInputDelta { tool_call_id: id, input_text_delta: delta } => {
                    return Some((Heard::ToolInput { id, delta }, self));
                }
                Frame::Finish { finish_reason: reason, message_metadata } => {
                    let FinishMetadata { model, usage } = message_metadata;
                    return Some(self.last(Heard::Finished { reason, model, usage }));
                }
                Frame::Abort => return Some(self.last(Heard::Stopped)),
                Frame::Error { error_text } => {
                    let Self { chat, who, session, reply, .. } = &self;
                    let error = chat.failure(who, session, reply, error_text).await;
                    return Some(self.last(Heard::Failed(error)));
                }
                Frame::Start { .. } | Frame::DataSession { .. } | Frame::Other => {}
            }
        }
    }

    fn last(mut self, heard: Heard) -> (Heard, Self) {
        self.is_over = true;
        (heard, self)
    }
}

type Piece = Result<Bytes, ProviderError>;

/// A provider's own answer on its way. Invariant: it is booked before its last piece is told.
struct Passing {
    body: Fuse<BoxStream<'static, Piece>>,
    direct: Direct,
    is_stream: bool,
    /// What may be the last piece: of a stream it is known, of anything else only behind it.
    last: Option<Bytes>,
}

impl Passing {
    async fn next(mut self) -> Option<(Piece, Self)> {
        loop {
            match self.body.next().await {
                Some(Ok(bytes)) => {
                    self.direct.passed(&bytes);
                    if self.is_stream {
                        if self.direct.is_done() {
                            self.direct.booked().await;
                        }
                        return Some((Ok(bytes), self));
                    }
                    if let Some(before) = self.last.replace(bytes) {
                        return Some((Ok(before), self));
                    }
                }
                Some(Err(error)) => {
                    self.direct.booked().await;
                    return Some((Err(error), self));
                }
                None => {
                    self.direct.booked().await;
                    return Some((Ok(self.last.take()?), self));
                }
            }
        }
    }
}

/// A provider's events on their way to being heard.
struct Asked {
    events: ProviderEvents,
    waiting: VecDeque<Heard>,
    /// The calls so far, as they are told apart and by their names.
    calls: Vec<(u32, String)>,
    /// Those of them whose arguments are still to come.
    silent: Vec<String>,
    ended: Ended,
    direct: Direct,
}

/// What is known of a reply's end.
#[derive(Default)]
struct Ended {
    reason: Option<FinishReason>,
    model: Option<String>,
    usage: Option<Usage>,
    is_over: bool,
}

impl Asked {
    async fn next(mut self) -> Option<(Heard, Self)> {
        loop {
            if let Some(heard) = self.waiting.pop_front() {
                return Some((heard, self));
            }
            if self.ended.is_over {
                return None;
            }
            match self.events.next().await {
                Some(Ok(events)) => events.into_iter().for_each(|event| self.take(event)),
                // What comes after the reason to finish takes nothing away from the reply.
                Some(Err(error)) if self.ended.reason.is_none() => {
                    self.ended.is_over = true;
                    self.direct.booked().await;
                    self.waiting.push_back(Heard::Failed(error.into()));
                }
                Some(Err(_)) | None => {
                    self.ended.is_over = true;
                    self.direct.booked().await;
                    let last = self.ended.heard();
                    self.waiting.push_back(last);
                }
            }
        }
    }

    fn take(&mut self, event: ProviderEvent) {
        match event {
            ProviderEvent::Text(text) => {
                self.direct.told(&text);
                self.waiting.push_back(Heard::Text(text));
            }
            ProviderEvent::Reasoning(text) => {
                self.direct.told(&text);
                self.waiting.push_back(Heard::Reasoning(text));
            }
            ProviderEvent::ToolCall { index, id, name } => {
                self.calls.push((index, id.clone()));
                self.silent.push(id.clone());
                self.waiting.push_back(Heard::ToolCall { id, name });
            }
            ProviderEvent::ToolInput { index, delta } => {
                let known = self.calls.iter().rfind(|(known, _)| *known == index);
                self.direct.told(&delta);
                self.silent.retain(|id| known.is_none_or(|(_, known)| known != id));
                let told = known.map(|(_, id)| Heard::ToolInput { id: id.clone(), delta });
                self.waiting.extend(told);
            }
            ProviderEvent::Usage(usage) => {
                self.direct.used(usage);
                self.ended.usage = Some(usage);
            }
            ProviderEvent::Model(model) => self.ended.model = Some(model),
            ProviderEvent::Finish(reason) => {
                self.ended.reason = Some(reason);
                // A call without arguments has none to tell of, and JSON is wanted.
                for id in std::mem::take(&mut self.silent) {
                    self.waiting.push_back(Heard::ToolInput { id, delta: "{}".to_owned() });
                }
            }
        }
    }
}

impl Ended {
    fn heard(&mut self) -> Heard {
        let failed = |why| Heard::Failed(Error::new(Kind::ProviderError, why));
        match self.reason {
            None => failed("the provider's reply broke off"),
            Some(FinishReason::Error) => failed("the provider says that the reply failed"),
            Some(reason) => Heard::Finished { reason, model: self.model.take(), usage: self.usage },
        }
    }
}
