//! What is asked of a store about turns.

use super::{NewMessage, Parent};
use crate::domain::message::Parts;
use crate::domain::session::Settings;
use crate::domain::turn::ActiveTurn;
use crate::domain::{
    Message, MessageId, MessageType, Principal, ProjectId, Role, Session, SessionId, Timestamp,
    TurnId,
};
use crate::error::Result;
use async_trait::async_trait;

/// Which session a turn is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionTarget {
    /// One that exists.
    Existing(SessionId),
    /// One that is created if it does not exist.
    Ensure(SessionId),
    /// A new one with this id.
    New(SessionId),
}

impl SessionTarget {
    /// The session's id.
    pub fn id(&self) -> &SessionId {
        match self {
            Self::Existing(id) | Self::Ensure(id) | Self::New(id) => id,
        }
    }
}

/// What a known client message id with other content means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnKnownId {
    /// A mistake of the client's.
    Refuse,
    /// An edit: the new message becomes a sibling of the known one.
    Edit,
}

/// What a turn answers.
#[derive(Debug, Clone)]
pub enum Ask {
    /// A new message.
    Say {
        /// The message.
        message: Box<NewMessage>,
        /// Where it stands.
        parent: Parent,
        /// What its client's id means if it is known already.
        on_known: OnKnownId,
    },
    /// The message that a reply (or, if none is named, the last one) answered, once more.
    Again {
        /// The reply.
        reply: Option<MessageId>,
    },
}

/// Judges a session at the moment a turn would begin in it; an error keeps the turn from
/// beginning, with nothing stored.
pub type Admission = Box<dyn Fn(&Session) -> Result<()> + Send + Sync>;

/// A turn to begin.
pub struct BeginTurn {
    /// Who asks.
    pub who: Principal,
    /// For which session.
    pub session: SessionTarget,
    /// The project of a session that is created.
    pub project_id: Option<ProjectId>,
    /// The settings of a session that is created.
    pub settings: Settings,
    /// The turn's id.
    pub turn_id: TurnId,
    /// The id its reply will have.
    pub reply_id: MessageId,
    /// What it answers.
    pub ask: Ask,
    /// The last word, once the session is known.
    pub admit: Admission,
    /// The time.
    pub now: Timestamp,
}

/// The message a turn answers.
#[derive(Debug, Clone)]
pub struct Question {
    /// Its id.
    pub id: MessageId,
    /// What it follows.
    pub parent_id: Option<MessageId>,
    /// Who speaks.
    pub role: Role,
    /// Its text.
    pub content: String,
    /// What is not plain text.
    pub parts: Parts,
    /// What it mainly is.
    pub kind: MessageType,
    /// Its size in tokens of o200k_base.
    pub tokens: u32,
}

/// What came of beginning a turn.
#[derive(Debug)]
pub enum Began {
    /// The session is claimed and the question stored: the reply may be produced.
    Running {
        /// The session as it is now, without nodes.
        session: Session,
        /// What the turn answers.
        question: Question,
        /// The turn.
        turn: ActiveTurn,
    },
    /// The message is stored and a person will answer it.
    HandedOver {
        /// The session as it is now, without nodes.
        session: Session,
        /// The stored message.
        message_id: MessageId,
    },
    /// The client's message id was known, with the same content.
    Repeated {
        /// The session as it is now, without nodes.
        session: Session,
        /// The message that was stored the first time.
        message_id: MessageId,
        /// Its first reply, if that is stored.
        reply: Option<Box<Message>>,
    },
}

/// A reply to store.
#[derive(Debug, Clone)]
pub struct FinishTurn {
    /// The session.
    pub session_id: SessionId,
    /// The turn; it must still hold the session's claim.
    pub turn_id: TurnId,
    /// The reply.
    pub reply: NewMessage,
}

/// Turns: begun, finished, and cleared away after a crash.
#[async_trait]
pub trait TurnStore: Send + Sync {
    /// In one step: checks access and status, claims the session, stores the user's message, names
    /// the session and moves its counters and head. Errors: `session_not_found`, `session_busy`,
    /// `session_closed`, `id_taken`, `message_not_found`, `idempotency_key_reused`, and whatever
    /// `admit` says.
    async fn begin_turn(&self, begin: BeginTurn) -> Result<Began>;

    /// In one step, if the turn still holds the claim: stores the reply, moves counters and head,
    /// releases the claim. `None` if the claim is gone, with nothing stored.
    async fn finish_turn(&self, finish: FinishTurn) -> Result<Option<Session>>;

    /// Ends the turns that a crash left behind: each becomes an empty `interrupted` reply, and its
    /// session is free again. Only for a store that no other process writes. Gives their number.
    async fn reap_turns(&self, now: Timestamp) -> Result<u64>;
}
