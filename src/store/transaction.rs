//! What the rules of a store ask of a database inside one atomic step.
//!
//! A database implements [`StoreTransaction`] over one of its transactions; what may happen to a session, and
//! in which order, is written once in [`super::rules`], so no two databases can differ in it. A
//! step that ends in an error leaves nothing behind.

use super::queued_turn::QueuedTurn;
use super::{
    DeletionResult, IdempotencyKey, ImportSession, LeaseHolder, LedgerEntry, LogBatch, NewMessage,
    NewSession, SessionUpdate, UsageTotal, UserMessage,
};
use crate::domain::node::NodeFill;
use crate::domain::quota::UsagePayer;
use crate::domain::title::SessionTitle;
use crate::domain::{Message, MessageId, Principal, Session, SessionId, Timestamp, TurnId, UserId};
use crate::error::Result;
use serde::{Serialize, Serializer};
use std::collections::{BTreeMap, HashMap};

/// The most messages of one session: their places are counted in 24 bits.
pub(crate) const MAX_SEQ: u32 = (1 << 24) - 1;

/// A session with what only stores know of it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SessionRow {
    /// The database's own number for it, where it has one.
    #[serde(skip)]
    pub(crate) key: i64,
    pub(crate) session: Session,
    /// How many nodes it has; also the number of the newest.
    pub(crate) node_count: u32,
    /// Where its head lies.
    pub(crate) head: Option<MessageLocation>,
    /// Who runs its active turn.
    pub(crate) lease_holder: Option<LeaseHolder>,
    /// Who pays for it.
    pub(crate) payer: Option<UsagePayer>,
    /// How far each user has read, as a seq.
    #[serde(serialize_with = "serialize_sorted")]
    pub(crate) read_marks: HashMap<String, u32>,
}

impl SessionRow {
    /// The session with the names of its nodes, as single reads give it.
    pub(crate) fn into_session_with_nodes(mut self) -> Session {
        self.session.nodes = Some(Session::chat_ids(&self.session.id, self.node_count));
        self.session
    }

    /// The head and where it lies.
    pub(crate) fn located_head(&self) -> Option<LocatedMessage> {
        Some(LocatedMessage { id: self.session.head_id.clone()?, location: self.head? })
    }

    /// Whether somebody else than the sender has read a message.
    pub(crate) fn is_seen(&self, seq: u32, sender: &UserId) -> bool {
        self.read_marks.iter().any(|(user, mark)| *mark >= seq && user != sender.as_str())
    }
}

/// So that equal marks have one spelling.
fn serialize_sorted<S: Serializer>(
    marks: &HashMap<String, u32>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    marks.iter().collect::<BTreeMap<_, _>>().serialize(serializer)
}

/// Where a message lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct MessageLocation {
    pub(crate) node: u32,
    pub(crate) seq: u32,
}

/// A message that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LocatedMessage {
    pub(crate) id: MessageId,
    pub(crate) location: MessageLocation,
}

/// A node without its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeHeader {
    /// Its number in the session, from 1.
    pub(crate) number: u32,
    /// The message that its first one follows; `None` if that is a root. It lies in a node of a
    /// smaller number.
    pub(crate) prev: Option<MessageLocation>,
    /// The seq of its last message.
    pub(crate) last_seq: u32,
}

/// A message and where it goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MessageInsert<'a> {
    pub(crate) message: &'a NewMessage,
    pub(crate) location: MessageLocation,
    /// What it stands under.
    pub(crate) parent: Option<&'a LocatedMessage>,
    /// Whether it opens its node.
    pub(crate) opens_node: bool,
    /// Bytes it counts for in its node.
    pub(crate) size: u64,
    /// Tokens of the path up to it, itself and what each message takes beside its text included.
    pub(crate) path_tokens: u64,
}

/// A request that was made before, and what it led to.
#[derive(Debug, Clone)]
pub(crate) struct PriorRequest {
    /// What its body said.
    pub(crate) fingerprint: String,
    pub(crate) session_id: SessionId,
    /// What was posted, or the reply.
    pub(crate) message_id: MessageId,
    /// The turn, where there was one.
    pub(crate) turn_id: Option<TurnId>,
}

/// One atomic step on a database.
pub(crate) trait StoreTransaction {
    /// A session, whoever asks.
    async fn find_session(&mut self, id: &SessionId) -> Result<Option<SessionRow>>;

    /// A session, unless it is hidden from `who`: then finding nothing takes no longer than where
    /// there is nothing, as far as the database can do that. It is judged all the same.
    async fn find_visible_session(
        &mut self,
        principal: &Principal,
        id: &SessionId,
    ) -> Result<Option<SessionRow>>;

    /// Adds a session that does not exist.
    async fn insert_session(
        &mut self,
        owner: &UserId,
        id: &SessionId,
        new: &NewSession,
        now: Timestamp,
    ) -> Result<SessionRow>;

    /// Replaces fields of the session's own, and counts its version.
    async fn update_session(
        &mut self,
        row: &SessionRow,
        update: SessionUpdate,
        now: Timestamp,
    ) -> Result<()>;

    /// Gives a session the title in `row`, and counts its version.
    async fn set_title(&mut self, row: &SessionRow, title: &SessionTitle) -> Result<()>;

    /// Gives a session that was just added the fields that only an imported one has: status,
    /// archived, pinned, last seen.
    async fn set_imported_fields(&mut self, row: &SessionRow, import: &ImportSession)
    -> Result<()>;

    /// Writes back counters, nodes, head, last message and times.
    async fn save_counters(&mut self, row: &SessionRow) -> Result<()>;

    /// Writes back how far each user has read.
    async fn save_read_marks(&mut self, row: &SessionRow) -> Result<()>;

    /// Deletes a session and all that belongs to it. What went, turns that waited among it.
    async fn delete_session(&mut self, row: &SessionRow) -> Result<DeletionResult>;

    /// Says that many messages of a session will be looked for and stored in this step.
    async fn preload_message_ids(&mut self, _row: &SessionRow) -> Result<()> {
        Ok(())
    }

    /// The message with this id; failing that, the newest one that a client named so.
    async fn find_message(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>>;

    /// The message with this very id.
    async fn find_message_by_id(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>>;

    /// The newest message that has this id, or that a client named so.
    async fn find_newest_message(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>>;

    /// A message with its siblings.
    async fn read_message(&mut self, row: &SessionRow, at: MessageLocation) -> Result<Message>;

    /// A message as far as a turn needs it.
    async fn read_user_message(
        &mut self,
        row: &SessionRow,
        at: MessageLocation,
    ) -> Result<UserMessage>;

    /// The messages under this one, oldest first.
    async fn list_children(
        &mut self,
        row: &SessionRow,
        parent: MessageLocation,
    ) -> Result<Vec<MessageLocation>>;

    /// How full a message's node is, and whether the message is its last.
    async fn node_fill(&mut self, row: &SessionRow, at: MessageLocation) -> Result<NodeFill>;

    /// Tokens of the path up to this message, as it was stored with them.
    async fn path_tokens(&mut self, row: &SessionRow, at: MessageLocation) -> Result<u64>;

    /// The session's nodes without their messages, by number: 1, 2, 3, … without a gap. Asked of a
    /// session before anything is stored in it in the same step.
    async fn list_nodes(&mut self, row: &SessionRow) -> Result<Vec<NodeHeader>>;

    /// The messages of one node from its first up to the one at `up_to`, itself included, oldest
    /// first, each with its place and exactly as [`put`](StoreTransaction::insert_message) stored it. Asked like
    /// [`nodes`](StoreTransaction::list_nodes).
    async fn node_messages(
        &mut self,
        row: &SessionRow,
        up_to: MessageLocation,
    ) -> Result<Vec<(MessageLocation, NewMessage)>>;

    /// Stores a message. Errors: `id_conflict`.
    async fn insert_message(&mut self, row: &SessionRow, insert: MessageInsert<'_>) -> Result<()>;

    /// Claims the session for its active turn, at the cost of its payer. Invariant: at most one running turn per session.
    async fn claim(&mut self, row: &SessionRow, lease_holder: &LeaseHolder) -> Result<()>;

    /// Books a turn that ends in this step, once. What it adds to what is spent shows when the step is
    /// over if it is booked `at_once`, else it may take a moment.
    async fn record_usage(&mut self, entry: &LedgerEntry, at_once: bool) -> Result<()>;

    /// What has been spent of a purse from a day on.
    async fn usage_total(&mut self, quota_key: &str, since_day: i64) -> Result<UsageTotal>;

    /// Releases the claim.
    async fn release(&mut self, row: &SessionRow) -> Result<()>;

    /// The turns that wait in a session, the next one first.
    async fn queued_turns(&mut self, row: &SessionRow) -> Result<Vec<QueuedTurn>>;

    /// Puts a turn behind those that wait, or before them.
    async fn enqueue(&mut self, row: &SessionRow, turn: &QueuedTurn, at_front: bool) -> Result<()>;

    /// Drops a turn that waits. Whether it still did.
    async fn dequeue(&mut self, row: &SessionRow, turn: &TurnId) -> Result<bool>;

    /// A session in which turns wait and none runs.
    async fn find_startable_session(&mut self) -> Result<Option<SessionId>>;

    /// A request that was made at `since` or later.
    async fn find_request(
        &mut self,
        principal: &Principal,
        key: &IdempotencyKey,
        since: Timestamp,
    ) -> Result<Option<PriorRequest>>;

    /// Remembers a request, and may forget those made before `since`.
    async fn record_request(
        &mut self,
        principal: &Principal,
        key: &IdempotencyKey,
        request: &PriorRequest,
        now: Timestamp,
        since: Timestamp,
    ) -> Result<()>;

    /// Writes the last batch of a turn's log.
    async fn finish_log(
        &mut self,
        row: &SessionRow,
        turn: &TurnId,
        last: &LogBatch,
        now: Timestamp,
    ) -> Result<()>;
}
