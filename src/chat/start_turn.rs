//! From a request to a running turn: what is decided before the first byte goes out.

use super::Chat;
use super::frames::MemorySummary;
use super::hub::Reader;
use super::run_turn::RunningTurn;
use super::transcript::{Ending, Opening, Transcript, handed_over};
use crate::clock;
use crate::domain::message::{Body, FinishReason};
use crate::domain::session::Settings;
use crate::domain::{Message, MessageId, Principal, ProjectId, Role, Session, Status, TurnId};
use crate::error::{Error, Kind, Result};
use crate::memory::tokens;
use crate::provider::Event;
use crate::store::{
    Ask, Began, BeginTurn, NewMessage, OnKnownId, Parent, ReplyFields, SessionTarget,
};
use std::sync::Arc;

/// A turn as a client asks for it; both request bodies become this.
#[derive(Debug, Clone)]
pub struct NewTurn {
    /// Who asks.
    pub who: Principal,
    /// For which session.
    pub session: SessionTarget,
    /// The project of a session that is created.
    pub project_id: Option<ProjectId>,
    /// What to answer.
    pub wish: Wish,
    /// What this turn uses, over the session's settings.
    pub settings: Settings,
}

/// What a client wants answered.
#[derive(Debug, Clone)]
pub enum Wish {
    /// A new message.
    Say {
        /// The message.
        body: Body,
        /// The name its client gave it.
        client_message_id: Option<MessageId>,
        /// Where it stands.
        parent: Parent,
        /// What a known client id with other content means.
        on_known: OnKnownId,
    },
    /// An earlier message, once more.
    Again {
        /// The reply to make again; the last one if none is named.
        reply: Option<MessageId>,
    },
}

impl Chat {
    /// Makes the user's message durable, sets the reply going and gives a reader of it. A message
    /// that was sent before joins its running turn, or reads its stored reply.
    pub async fn start_turn(self: &Arc<Self>, new: NewTurn) -> Result<Reader> {
        self.ensure_not_draining()?;
        let turn_id = TurnId::generate();
        let begin = self.begin(&new, turn_id.clone()).await;
        match self.store.begin_turn(begin).await? {
            Began::Running { session, question, turn } => {
                Ok(self.run(RunningTurn::new(session, question, turn, new.settings)))
            }
            Began::HandedOver { session, message_id } => Ok(Reader::of(handed_over(
                turn_id.clone(),
                &Opening {
                    message_id: &message_id,
                    session_id: &session.id,
                    title: &session.title,
                    user_message_id: &message_id,
                },
            ))),
            Began::Repeated { session, message_id, reply } => {
                self.repeat(new, session, message_id, reply.map(|reply| *reply)).await
            }
        }
    }

    async fn begin(self: &Arc<Self>, new: &NewTurn, turn_id: TurnId) -> BeginTurn {
        let now = clock::now();
        let (ask, new_tokens) = match &new.wish {
            Wish::Again { reply } => (Ask::Again { reply: reply.clone() }, 0),
            Wish::Say { body, client_message_id, parent, on_known } => {
                let tokens = tokens::count_long(&body.content).await;
                let message = NewMessage {
                    id: MessageId::generate(),
                    client_message_id: client_message_id.clone(),
                    role: Role::User,
                    sender_id: new.who.user.clone(),
                    body: body.clone(),
                    tokens,
                    created_at: now,
                    reply: ReplyFields::default(),
                };
                (
                    Ask::Say {
                        message: Box::new(message),
                        parent: parent.clone(),
                        on_known: *on_known,
                    },
                    tokens,
                )
            }
        };
        let (chat, settings) = (self.clone(), new.settings.clone());
        BeginTurn {
            who: new.who.clone(),
            session: new.session.clone(),
            project_id: new.project_id.clone(),
            settings: Settings::default(),
            turn_id,
            reply_id: MessageId::generate(),
            ask,
            admit: Box::new(move |session: &Session| {
                let settings = settings.clone().over(session.settings.clone());
                chat.memory.plan(&settings, new_tokens).map(|_| ())
            }),
            now,
        }
    }

    /// Sets the task going that owns the turn from here on.
    fn run(self: &Arc<Self>, turn: RunningTurn) -> Reader {
        let live = self.hub.open(&turn.turn.turn_id);
        let reader = Reader::new(live.clone());
        let chat = self.clone();
        self.turns.spawn(async move { chat.run_turn(turn, live).await });
        reader
    }

    async fn repeat(
        self: &Arc<Self>,
        new: NewTurn,
        session: Session,
        message_id: MessageId,
        reply: Option<Message>,
    ) -> Result<Reader> {
        let running = session.active_turn.as_ref();
        let running = running.filter(|turn| turn.user_message_id.as_ref() == Some(&message_id));
        if let Some(live) = running.and_then(|turn| self.hub.get(&turn.turn_id)) {
            return Ok(Reader::new(live));
        }
        if let Some(reply) = reply {
            return Ok(Reader::of(replay(&session, &message_id, &reply)));
        }
        // The message was stored, but never answered: now it is.
        let turn_id = TurnId::generate();
        let wish = Wish::Again { reply: Some(message_id) };
        let begin = self.begin(&NewTurn { wish, ..new.clone() }, turn_id).await;
        match self.store.begin_turn(begin).await? {
            Began::Running { session, question, turn } => {
                Ok(self.run(RunningTurn::new(session, question, turn, new.settings)))
            }
            Began::HandedOver { .. } | Began::Repeated { .. } => {
                Err(Error::new(Kind::SessionBusy, "the session is busy with another message"))
            }
        }
    }
}

/// The stream of a reply that is stored: the same message, framed anew.
fn replay(session: &Session, user_message_id: &MessageId, reply: &Message) -> bytes::Bytes {
    let opening = Opening {
        message_id: &reply.id,
        session_id: &session.id,
        title: &session.title,
        user_message_id,
    };
    let mut transcript = Transcript::begin(TurnId::generate(), &opening);
    let reasoning = reply.parts.reasoning().map(Event::Reasoning);
    let text = Some(reply.content.clone()).filter(|text| !text.is_empty()).map(Event::Text);
    transcript.fold(reasoning.into_iter().chain(text).collect());
    let cause = reply.error.as_ref().map(|error| error.message.as_str());
    transcript.end(match (reply.status, cause) {
        (Status::Complete, _) => Ending::Finish {
            reason: reply.finish_reason.unwrap_or(FinishReason::Other),
            model: reply.model.as_deref(),
            usage: reply.usage,
            memory: None::<&MemorySummary>,
        },
        (Status::Interrupted, None) => Ending::Abort,
        (_, cause) => Ending::Error(cause.unwrap_or("the reply failed")),
    });
    transcript.take_frames()
}
