//! What is asked of a store about turns.

use super::{IdempotencyKey, MessageParent, NewMessage};
use crate::domain::attachment::render_text_and_images;
use crate::domain::key::KeyId;
use crate::domain::message::MessageParts;
use crate::domain::quota::{Quota, UsagePayer};
use crate::domain::session::SessionSettings;
use crate::domain::title::SessionTitle;
use crate::domain::turn::ActiveTurn;
use crate::domain::{
    Message, MessageId, Principal, ProjectId, Role, Session, SessionId, Timestamp, TurnId,
};
use crate::error::Result;
use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use std::collections::HashSet;
use std::sync::Arc;

/// The most messages that wait in one session.
pub const MAX_QUEUED: u32 = 8;

/// Who runs turns: an instance of the server, and which of its lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeaseHolder {
    /// The instance's name, the same after a restart.
    pub instance: String,
    /// One start of it.
    pub boot: String,
}

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
pub enum DuplicateIdPolicy {
    /// A mistake of the client's.
    Reject,
    /// An edit: the new message becomes a sibling of the known one.
    Edit,
}

/// What to do when the session has a running turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBusy {
    /// Refuse.
    #[default]
    Reject,
    /// Wait behind those that wait already, [`MAX_QUEUED`] at the most.
    Queue,
    /// Wait before all others. Whoever asks for this stops the running turn.
    Interrupt,
}

/// What a turn answers.
#[derive(Debug, Clone)]
pub enum TurnInput {
    /// A new message.
    Send {
        /// The message.
        message: Box<NewMessage>,
        /// Where it stands.
        parent: MessageParent,
        /// What its client's id means if it is known already.
        on_duplicate_id: DuplicateIdPolicy,
    },
    /// The message that a reply (or, if none is named, the last one) answered, once more.
    Regenerate {
        /// The reply.
        reply_id: Option<MessageId>,
    },
}

/// Judges a session, and the size of the message to answer, at the moment a turn would begin; an
/// error keeps the turn from beginning, with nothing stored. It runs inside the store's own step,
/// so it must be quick.
pub type AdmissionCheck = Box<dyn Fn(&Session, MessageSize) -> Result<()> + Send + Sync>;

/// How large a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageSize {
    /// Its text, and what is attached to it, in tokens of o200k_base.
    pub tokens: u32,
    /// In bytes, which is no less than its tokens in any vocabulary.
    pub bytes: u32,
    /// In pictures beside its text.
    pub images: u32,
}

impl MessageSize {
    /// The size of a message whose tokens were counted.
    pub fn measure(text: &str, parts: &MessageParts, tokens: u32) -> Self {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let (rendered, images) = render_text_and_images(text, parts);
        Self { tokens, bytes: number(rendered.len()), images: number(images.len()) }
    }
}

/// A turn to begin.
pub struct BeginTurn {
    /// Who asks.
    pub principal: Principal,
    /// For which session.
    pub target: SessionTarget,
    /// The project of a session that is created.
    pub project_id: Option<ProjectId>,
    /// What to do when the session is busy.
    pub on_busy: OnBusy,
    /// How a repetition is known, beside the client's message id.
    pub idempotency_key: Option<IdempotencyKey>,
    /// The turn.
    pub turn: TurnSpec,
    /// Messages that are stored before the one it answers, the first one first. A turn that has some
    /// never waits.
    pub preceding: Vec<NewMessage>,
    /// The key that whoever asks came with.
    pub key_id: Option<KeyId>,
    /// What nobody may overrun.
    pub quotas: Arc<[Quota]>,
    /// The last word, once the session is known.
    pub admission: AdmissionCheck,
    /// Who will run it.
    pub lease_holder: LeaseHolder,
    /// The time.
    pub now: Timestamp,
}

/// What a turn is, wherever and whenever it begins.
#[derive(Debug, Clone)]
pub struct TurnSpec {
    /// Its id.
    pub turn_id: TurnId,
    /// The id its reply will have.
    pub reply_id: MessageId,
    /// What it answers.
    pub input: TurnInput,
    /// What it uses, over the session's settings.
    pub options: SessionSettings,
}

/// The message a turn answers.
#[derive(Debug, Clone)]
pub struct UserMessage {
    /// Its id.
    pub id: MessageId,
    /// What it follows.
    pub parent_id: Option<MessageId>,
    /// Who speaks.
    pub role: Role,
    /// Its text.
    pub content: String,
    /// What is not plain text.
    pub parts: MessageParts,
    /// Its size in tokens of o200k_base.
    pub tokens: u32,
}

/// A turn that has begun: its session is claimed, its question stored.
#[derive(Debug)]
pub struct StartedTurn {
    /// The session as it is now, without nodes.
    pub session: Session,
    /// What the turn answers.
    pub user_message: UserMessage,
    /// The turn.
    pub turn: ActiveTurn,
    /// What it uses, over the session's settings.
    pub options: SessionSettings,
    /// Whether the question was stored with it, and not before.
    pub is_user_message_new: bool,
    /// The messages that were stored with it before the question.
    pub preceding: Vec<NewMessage>,
    /// Who pays for it.
    pub payer: UsagePayer,
    /// Whether it waited for another one to end.
    pub was_queued: bool,
}

/// What came of beginning a turn.
#[derive(Debug)]
pub enum BeginOutcome {
    /// The reply may be produced.
    Running(Box<StartedTurn>),
    /// The message waits, safely, for the running turn to end.
    Queued {
        /// The session as it is now, without nodes.
        session: Box<Session>,
    },
    /// The message is stored and a person will answer it.
    HumanTakeover {
        /// The session as it is now, without nodes.
        session: Box<Session>,
        /// The stored message.
        message_id: MessageId,
    },
    /// The request came before.
    Repeated {
        /// The session as it is now, without nodes.
        session: Box<Session>,
        /// What it led to.
        prior: PriorResult,
    },
}

/// What a request led to when it came first.
#[derive(Debug)]
pub enum PriorResult {
    /// A turn that runs, or waits to.
    Turn {
        /// The turn.
        turn_id: TurnId,
        /// The id its reply will have.
        reply_id: MessageId,
    },
    /// A reply.
    Reply(Box<Message>),
    /// A message that nobody has answered.
    Unanswered(MessageId),
}

/// A reply to store.
#[derive(Debug, Clone)]
pub struct FinishTurn {
    /// The session.
    pub session_id: SessionId,
    /// The turn; it must still hold the session's claim …
    pub turn_id: TurnId,
    /// … in this life of this instance.
    pub lease_holder: LeaseHolder,
    /// The reply.
    pub reply: NewMessage,
    /// What it cost, in billionths of the unit that prices are in; `None` without a price.
    pub cost: Option<i64>,
    /// Whether quotas go by it: then it is booked when this comes back, and not a moment later.
    pub counts_toward_quota: bool,
    /// The last batch of the turn's log, if it has one.
    pub last_batch: Option<LogBatch>,
    /// Who will run the next waiting turn; `None` leaves it waiting.
    pub next_lease_holder: Option<LeaseHolder>,
}

/// What ran in a session and what waited.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CancelledTurns {
    /// The turn that runs.
    pub running: Option<TurnId>,
    /// The turns that waited, and do no more.
    pub dequeued: Vec<TurnId>,
}

/// What came of storing a reply, or of looking for turns that wait.
#[derive(Debug, Default)]
pub struct FinishOutcome {
    /// The turn that waited, and has begun.
    pub next: Option<Box<StartedTurn>>,
    /// Turns that waited and could not begin any more.
    pub skipped: Vec<TurnId>,
}

/// Turns: begun, queued, finished.
#[async_trait]
pub trait TurnStore: Send + Sync {
    /// In one step: checks access and status, claims the session, stores the user's message, names
    /// the session and moves its counters and head; or, in a busy session, queues the turn if it
    /// may wait. Errors: `session_not_found`, `session_busy`, `session_closed`, `queue_full`,
    /// `id_conflict`, `message_not_found`, `idempotency_key_reused`, `forbidden` (an earlier message in
    /// another role than user, by somebody else than the owner), and whatever `admit` says.
    async fn begin_turn(&self, begin: BeginTurn) -> Result<BeginOutcome>;

    /// In one step, if the turn still holds the claim: stores the reply with the end of its log,
    /// moves counters and head, releases the claim, and begins the next waiting turn. A repeat, when
    /// the first answer was lost on its way, stores nothing twice. `None` if the claim is gone, with
    /// nothing stored.
    async fn finish_turn(&self, finish: FinishTurn) -> Result<Option<FinishOutcome>>;

    /// Begins a waiting turn of any session in which none runs; without one, nothing is left that
    /// waits so.
    async fn begin_queued_turn(
        &self,
        lease_holder: &LeaseHolder,
        now: Timestamp,
    ) -> Result<FinishOutcome>;

    /// In one step: drops the turns that wait in a session, and says which one runs. If `only` is
    /// named and another one runs, nothing is dropped, and none is said to run.
    async fn cancel_queued_turns(
        &self,
        session: &SessionId,
        only: Option<&TurnId>,
    ) -> Result<CancelledTurns>;

    /// Drops one turn that waits. Whether it still did.
    async fn remove_queued_turn(&self, session: &SessionId, turn: &TurnId) -> Result<bool>;

    /// Gives a session a title that a model wrote, unless its user has named it or it is gone.
    async fn set_generated_title(&self, session: &SessionId, title: SessionTitle) -> Result<bool>;
}

/// Some frames of a turn, as its log keeps them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogBatch {
    /// Its place in the log, from 0.
    pub number: u32,
    /// Whole frames, as they were published.
    pub frames: Bytes,
}

/// A batch and whose it is.
#[derive(Debug, Clone)]
pub struct TurnLogEntry {
    /// The session.
    pub session_id: SessionId,
    /// The turn; it must still hold the session's claim.
    pub turn_id: TurnId,
    /// The frames.
    pub batch: LogBatch,
}

/// A turn whose server is gone.
#[derive(Debug)]
pub struct OrphanedTurn {
    /// The session.
    pub session_id: SessionId,
    /// The turn.
    pub turn: ActiveTurn,
    /// Who holds its claim, as the store has it now.
    pub lease_holder: LeaseHolder,
    /// Its log, whole and in order.
    pub log: Vec<Bytes>,
    /// The number of the batch that can follow.
    pub next_batch: u32,
}

/// The turn log: the frames of running turns, kept so that neither a crash nor a restart loses
/// them, and so that whoever comes late can still read them.
#[async_trait]
pub trait TurnLogStore: Send + Sync {
    /// Adds batches to the logs of turns that still hold their claims. Gives the turns that do not:
    /// they can store nothing any more.
    async fn append_log(&self, entries: Vec<TurnLogEntry>) -> Result<Vec<TurnId>>;

    /// The log of a turn of this session that runs, or ended at `since` or later, in order; empty if
    /// there is none.
    async fn read_log(
        &self,
        session: &SessionId,
        turn: &TurnId,
        since: Timestamp,
    ) -> Result<Vec<Bytes>>;

    /// Drops logs of turns that ended before a time, not too many in one step. How many batches
    /// that were; none if nothing is left.
    async fn delete_ended_logs(&self, ended_before: Timestamp) -> Result<u64>;

    /// Says that an instance lives.
    async fn record_heartbeat(&self, lease_holder: &LeaseHolder, now: Timestamp) -> Result<()>;

    /// Some of the turns that nobody runs, none if there are none: of earlier lives of this instance, of others that have been
    /// silent too long, and of this very life if `running` does not know them. Whoever ran them can
    /// write nothing of them from here on. A store that only one process can open knows them at
    /// once; in another one, this life must have said that it lives.
    async fn find_orphaned_turns(
        &self,
        lease_holder: &LeaseHolder,
        running: &HashSet<TurnId>,
    ) -> Result<Vec<OrphanedTurn>>;
}
