//! Store operations on turns and their logs.

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

/// Maximum number of queued turns per session.
pub const MAX_QUEUED: u32 = 8;

/// The process that runs a turn: a server instance and one start of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeaseHolder {
    /// Name of the instance, the same after a restart.
    pub instance: String,
    /// Unique id of one start of the instance.
    pub boot: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionTarget {
    /// Must exist.
    Existing(SessionId),
    /// Created unless it exists.
    Ensure(SessionId),
    /// Created with this id.
    New(SessionId),
}

impl SessionTarget {
    pub fn id(&self) -> &SessionId {
        match self {
            Self::Existing(id) | Self::Ensure(id) | Self::New(id) => id,
        }
    }
}

/// How to treat a client message id that is already in use for other content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DuplicateIdPolicy {
    /// Reject the request with `idempotency_key_reused`.
    Reject,
    /// Treat it as an edit: the new message becomes a sibling of the existing one.
    Edit,
}

/// How to treat a turn for a session that already has a running one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBusy {
    #[default]
    Reject,
    /// Append it to the queue, which holds at most [`MAX_QUEUED`] turns.
    Queue,
    /// Put it at the front of the queue. The caller then cancels the running turn.
    Interrupt,
}

/// The input that a turn answers.
#[derive(Debug, Clone)]
pub enum TurnInput {
    Send {
        message: Box<NewMessage>,
        parent: MessageParent,
        /// Applied if the client message id is already in use.
        on_duplicate_id: DuplicateIdPolicy,
    },
    /// The message that an existing reply answered.
    Regenerate {
        /// The reply to regenerate; `None` means the last one of the active path.
        reply_id: Option<MessageId>,
    },
}

/// Checks the session and the size of the message to answer just before a turn begins. An error
/// rejects the turn, and nothing is stored. Runs inside the store's transaction, possibly more than
/// once, so it must be fast and free of side effects.
pub type AdmissionCheck = Box<dyn Fn(&Session, MessageSize) -> Result<()> + Send + Sync>;

/// The size of a message in the units of model limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MessageSize {
    /// Text and attachments in o200k_base tokens.
    pub tokens: u32,
    /// UTF-8 bytes of the text, an upper bound of its tokens in any vocabulary.
    pub bytes: u32,
    /// Number of images.
    pub images: u32,
}

impl MessageSize {
    /// Measures a message whose tokens are already counted.
    pub fn measure(text: &str, parts: &MessageParts, tokens: u32) -> Self {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        // Measure the text as the prompt will contain it, with its attachments rendered.
        let (rendered, images) = render_text_and_images(text, parts);
        Self { tokens, bytes: number(rendered.len()), images: number(images.len()) }
    }
}

pub struct BeginTurn {
    pub principal: Principal,
    pub target: SessionTarget,
    /// Project of a newly created session.
    pub project_id: Option<ProjectId>,
    pub on_busy: OnBusy,
    /// Recognizes retries, in addition to the client message id.
    pub idempotency_key: Option<IdempotencyKey>,
    pub turn: TurnSpec,
    /// Messages stored before the one to answer, in order. A turn with preceding messages
    /// is never queued.
    pub preceding: Vec<NewMessage>,
    /// API key that the caller authenticated with.
    pub key_id: Option<KeyId>,
    /// Quotas that must not be exhausted when the turn begins.
    pub quotas: Arc<[Quota]>,
    /// Final check, once the session is known.
    pub admission: AdmissionCheck,
    /// Process that will run the turn.
    pub lease_holder: LeaseHolder,
    pub now: Timestamp,
}

/// A turn as its request specifies it, whenever it starts.
#[derive(Debug, Clone)]
pub struct TurnSpec {
    pub turn_id: TurnId,
    /// Id that the reply will get.
    pub reply_id: MessageId,
    pub input: TurnInput,
    /// Overrides of the session's settings.
    pub options: SessionSettings,
}

/// The message that a turn answers. Its role may also be `tool`.
#[derive(Debug, Clone)]
pub struct UserMessage {
    pub id: MessageId,
    pub parent_id: Option<MessageId>,
    pub role: Role,
    pub content: String,
    pub parts: MessageParts,
    /// Size in o200k_base tokens.
    pub tokens: u32,
}

/// A turn that has begun: its session is claimed and its message is stored.
#[derive(Debug)]
pub struct StartedTurn {
    /// Current state, without nodes.
    pub session: Session,
    pub user_message: UserMessage,
    pub turn: ActiveTurn,
    /// Overrides of the session's settings.
    pub options: SessionSettings,
    /// Whether the message was stored together with the turn; `false` for a regeneration.
    pub is_user_message_new: bool,
    /// Messages that were stored together with `user_message`, before it.
    pub preceding: Vec<NewMessage>,
    /// User and API key that are charged.
    pub payer: UsagePayer,
    /// Whether the turn was queued before it started.
    pub was_queued: bool,
}

/// Result of [`TurnStore::begin_turn`].
#[derive(Debug)]
pub enum BeginOutcome {
    /// The session is claimed, and the reply can be generated.
    Running(Box<StartedTurn>),
    /// The turn is stored in the queue until the running one has ended.
    Queued {
        /// Current state, without nodes.
        session: Box<Session>,
    },
    /// The message is stored, and a human agent will answer it.
    HumanTakeover {
        /// Current state, without nodes.
        session: Box<Session>,
        message_id: MessageId,
    },
    /// The request is a retry.
    Repeated {
        /// Current state, without nodes.
        session: Box<Session>,
        /// Result of the first request.
        prior: PriorResult,
    },
}

/// Result of the first of several equal requests.
#[derive(Debug)]
pub enum PriorResult {
    /// A turn that is running or queued.
    Turn {
        turn_id: TurnId,
        /// Id that the reply will get.
        reply_id: MessageId,
    },
    Reply(Box<Message>),
    /// A message without a reply.
    Unanswered(MessageId),
}

/// The reply of a turn to store, if the turn still holds the claim.
#[derive(Debug, Clone)]
pub struct FinishTurn {
    pub session_id: SessionId,
    /// Must still hold the session's claim, in the name of `lease_holder`.
    pub turn_id: TurnId,
    pub lease_holder: LeaseHolder,
    pub reply: NewMessage,
    /// Cost in billionths of the pricing currency; `None` without a price.
    pub cost: Option<i64>,
    /// Whether quotas depend on this turn: then the totals include its usage as soon as
    /// the call returns.
    pub counts_toward_quota: bool,
    /// Last batch of the turn's log; `None` if the turn has no log.
    pub last_batch: Option<LogBatch>,
    /// Process that will run the next queued turn; `None` leaves the queue alone.
    pub next_lease_holder: Option<LeaseHolder>,
}

/// Result of [`TurnStore::cancel_queued_turns`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CancelledTurns {
    /// The running turn, which the caller has to cancel.
    pub running: Option<TurnId>,
    /// Turns that were removed from the queue.
    pub dequeued: Vec<TurnId>,
}

/// Result of finishing a turn or of starting a queued one.
#[derive(Debug, Default)]
pub struct FinishOutcome {
    /// The queued turn that has begun.
    pub next: Option<Box<StartedTurn>>,
    /// Queued turns that were removed without being started.
    pub skipped: Vec<SkippedTurn>,
}

/// A queued turn that was removed without being started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SkippedTurn {
    pub turn_id: TurnId,
    /// Its sender may no longer use the session, or the key it was sent with is gone.
    pub has_lost_access: bool,
}

/// Beginning, queuing and finishing turns.
#[async_trait]
pub trait TurnStore: Send + Sync {
    /// In one transaction: checks access and status, claims the session, stores the user's message,
    /// names the session and updates its counters and head. In a busy session it queues the turn
    /// instead, if the request allows that. Errors: `session_not_found`, `session_busy`,
    /// `session_closed`, `queue_full`, `id_conflict`, `message_not_found`,
    /// `idempotency_key_reused`, `quota_exceeded`, `forbidden` (a preceding message in a role other
    /// than user, sent by a participant who is not the owner), and those of the admission check.
    async fn begin_turn(&self, begin: BeginTurn) -> Result<BeginOutcome>;

    /// In one transaction, if the turn still holds the claim: stores the reply and the end of
    /// its log, updates counters and head, releases the claim, and begins the next queued turn.
    /// A retry after a lost response stores nothing twice. `None` if the claim is gone; then
    /// nothing is stored.
    async fn finish_turn(&self, finish: FinishTurn) -> Result<Option<FinishOutcome>>;

    /// Begins a queued turn in any session that has no running one. Without a result, no such
    /// session is left.
    async fn begin_queued_turn(
        &self,
        lease_holder: &LeaseHolder,
        now: Timestamp,
    ) -> Result<FinishOutcome>;

    /// In one transaction: empties the queue of a session and returns the running turn. If `only`
    /// is given and another turn is running, nothing is removed and no running turn is returned.
    async fn cancel_queued_turns(
        &self,
        session: &SessionId,
        only: Option<&TurnId>,
    ) -> Result<CancelledTurns>;

    /// Removes one turn from the queue. Returns whether it was still queued.
    async fn remove_queued_turn(&self, session: &SessionId, turn: &TurnId) -> Result<bool>;

    /// Sets a title generated by a model, unless the user has set one. Returns whether it was set,
    /// which is `false` also if the session is gone.
    async fn set_generated_title(&self, session: &SessionId, title: SessionTitle) -> Result<bool>;
}

/// Consecutive frames of a turn, stored as one entry of its log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogBatch {
    /// Position in the log, from 0.
    pub number: u32,
    /// Complete frames, as they were published.
    pub frames: Bytes,
}

/// A log batch and the turn it belongs to.
#[derive(Debug, Clone)]
pub struct TurnLogEntry {
    pub session_id: SessionId,
    /// Must still hold the session's claim.
    pub turn_id: TurnId,
    pub batch: LogBatch,
}

/// A turn whose process has died or lost its lease.
#[derive(Debug)]
pub struct OrphanedTurn {
    pub session_id: SessionId,
    pub turn: ActiveTurn,
    /// Current holder of the claim in the store.
    pub lease_holder: LeaseHolder,
    /// All batches of the log, in order.
    pub log: Vec<Bytes>,
    /// Number of the next batch to write.
    pub next_batch: u32,
}

/// The turn log: frames of running turns, stored so that they survive a crash and can be read by
/// clients that join late.
#[async_trait]
pub trait TurnLogStore: Send + Sync {
    /// Appends batches to the logs of turns that still hold their claims. Returns the turns that do
    /// not: the store accepts nothing from them any more.
    async fn append_log(&self, entries: Vec<TurnLogEntry>) -> Result<Vec<TurnId>>;

    /// Reads the log of a turn in this session, in order, if the turn is running or ended at
    /// `since` or later. Empty if there is no log.
    async fn read_log(
        &self,
        session: &SessionId,
        turn: &TurnId,
        since: Timestamp,
    ) -> Result<Vec<Bytes>>;

    /// Deletes logs of turns that ended before a time, a limited number per call. Returns the
    /// number of deleted batches, 0 if nothing is left.
    async fn delete_ended_logs(&self, ended_before: Timestamp) -> Result<u64>;

    /// Records a heartbeat, which renews the lease of an instance.
    async fn record_heartbeat(&self, lease_holder: &LeaseHolder, now: Timestamp) -> Result<()>;

    /// Returns some of the orphaned turns: those of earlier starts of this instance, those of
    /// instances whose lease has expired, and those of this process that have been missing from
    /// `running` for a while: a turn that was claimed just now may be about to start. From then on,
    /// their former holders can write nothing more to them. Turns in `skipped` are left out: those
    /// that cannot be ended must not hide the others.
    ///
    /// With a shared store, this process must have recorded a heartbeat before.
    async fn find_orphaned_turns(
        &self,
        lease_holder: &LeaseHolder,
        running: &HashSet<TurnId>,
        skipped: &HashSet<TurnId>,
    ) -> Result<Vec<OrphanedTurn>>;
}
