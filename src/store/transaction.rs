//! The operations that the rules need from a database within one atomic transaction.
//!
//! Each database implements [`StoreTransaction`] over its own transactions. The rules in
//! [`super::rules`] are written once on top of it, so two databases cannot differ in what they
//! allow. A transaction that ends in an error leaves no trace.

use super::queued_turn::QueuedTurn;
use super::{
    DeletionResult, IdempotencyKey, ImportSession, LeaseHolder, LedgerEntry, LogBatch, NewMessage,
    NewSession, SessionUpdate, UsageTotal, UserMessage,
};
use crate::domain::key::KeyId;
use crate::domain::node::NodeFill;
use crate::domain::quota::UsagePayer;
use crate::domain::session::ListPlacement;
use crate::domain::title::SessionTitle;
use crate::domain::turn::ActiveTurn;
use crate::domain::{Message, MessageId, Principal, Session, SessionId, Timestamp, TurnId, UserId};
use crate::error::{Error, ErrorKind, Result};
use serde::{Serialize, Serializer};
use std::collections::{BTreeMap, HashMap};

/// Highest message number of a session. The limit is the same in every database, so that sessions
/// can be migrated.
pub(crate) const MAX_SEQ: u32 = (1 << 24) - 1;

/// A session plus the fields that only stores use.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SessionRow {
    pub(crate) session: Session,
    /// Number of nodes; also the number of the newest node.
    pub(crate) node_count: u32,
    /// Location of `session.head_id`.
    pub(crate) head: Option<MessageLocation>,
    /// The process that runs the active turn.
    pub(crate) lease_holder: Option<LeaseHolder>,
    /// The user and API key charged for the active turn.
    pub(crate) payer: Option<UsagePayer>,
    /// Read mark of each user: the seq of the last message they have seen.
    #[serde(serialize_with = "serialize_sorted")]
    pub(crate) read_marks: HashMap<String, u32>,
    /// `archived` and `pinned` of each participant who has set one of them, the owner included.
    /// In `session` they are those of the user for whom it was read.
    pub(crate) placements: BTreeMap<String, ListPlacement>,
}

impl SessionRow {
    pub(crate) fn placement(&self, user: &UserId) -> ListPlacement {
        self.placements.get(user.as_str()).copied().unwrap_or_default()
    }

    /// Sets a user's placement. One without any effect is not stored.
    pub(crate) fn set_placement(&mut self, user: &UserId, placement: ListPlacement) {
        if placement.is_default() {
            self.placements.remove(user.as_str());
        } else {
            self.placements.insert(user.to_string(), placement);
        }
    }

    /// The session as a user sees it, with their own placement. Users who do not participate, such
    /// as admins, see the owner's.
    #[must_use]
    pub(crate) fn for_viewer(mut self, user: &UserId) -> Self {
        let participates = self.session.participants.contains(user);
        let placement = self.placement(if participates { user } else { &self.session.owner });
        self.session.archived = placement.archived;
        self.session.pinned = placement.pinned;
        self
    }

    /// Adds the chat ids of all nodes, which single reads return and lists leave out.
    pub(crate) fn into_session_with_nodes(mut self) -> Session {
        self.session.nodes = Some(Session::chat_ids(&self.session.id, self.node_count));
        self.session
    }

    pub(crate) fn located_head(&self) -> Option<LocatedMessage> {
        Some(LocatedMessage { id: self.session.head_id.clone()?, location: self.head? })
    }

    /// The turn that claims the session, and who is charged for it.
    pub(crate) fn new_claim(&self) -> Result<(&ActiveTurn, &UsagePayer)> {
        let turn = self.session.active_turn.as_ref();
        let turn = turn.ok_or_else(|| Error::internal("the claim has no turn"))?;
        let payer = self.payer.as_ref();
        let payer = payer.ok_or_else(|| Error::internal("the claim has no payer"))?;
        Ok((turn, payer))
    }

    /// Whether a user other than the sender has read up to this seq.
    pub(crate) fn is_seen(&self, seq: u32, sender: &UserId) -> bool {
        self.read_marks.iter().any(|(user, mark)| *mark >= seq && user != sender.as_str())
    }
}

/// Serializes the marks in key order, so that equal maps give equal checksums in a migration.
fn serialize_sorted<S: Serializer>(
    marks: &HashMap<String, u32>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    marks.iter().collect::<BTreeMap<_, _>>().serialize(serializer)
}

/// The node of a message and its seq within the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct MessageLocation {
    pub(crate) node: u32,
    pub(crate) seq: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LocatedMessage {
    pub(crate) id: MessageId,
    pub(crate) location: MessageLocation,
}

/// Names the siblings of a message that are nearest to it, given all of them, oldest first.
pub(super) fn describe_siblings(message: &mut Message, siblings: &[LocatedMessage]) {
    let index = siblings.binary_search_by_key(&message.seq, |sibling| sibling.location.seq);
    let index = index.unwrap_or_default();
    message.set_siblings(siblings.len(), index, |at| siblings[at].id.clone());
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NodeHeader {
    /// Number of the node in its session, from 1 without gaps.
    pub(crate) number: u32,
    /// Parent of the node's first message, `None` if that is a root. It is always in a node with
    /// a smaller number.
    pub(crate) prev: Option<MessageLocation>,
    pub(crate) last_seq: u32,
}

/// A message to insert, with everything that depends on its position.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MessageInsert<'a> {
    pub(crate) message: &'a NewMessage,
    pub(crate) location: MessageLocation,
    pub(crate) parent: Option<&'a LocatedMessage>,
    /// Whether this message is the first of a new node.
    pub(crate) opens_node: bool,
    /// Bytes counted toward the limit of the node, see [`crate::domain::node`].
    pub(crate) size: u64,
    /// Tokens of the path from the root to this message, both included, with the overhead
    /// of each message.
    pub(crate) path_tokens: u64,
}

/// A recorded request and its result, found by its idempotency key.
#[derive(Debug, Clone)]
pub(crate) struct PriorRequest {
    /// Hash of the request body; empty for keys that are derived from the body.
    pub(crate) fingerprint: String,
    pub(crate) session_id: SessionId,
    /// The posted message, or the reply of the turn.
    pub(crate) message_id: MessageId,
    /// `None` if the request started no turn.
    pub(crate) turn_id: Option<TurnId>,
}

/// Children of a message among which a retry finds its reply. An imported message may have any
/// number of them; the reply to a request is among the first.
pub(crate) const MAX_SEARCHED_CHILDREN: u32 = 1_000;

/// The error for an id that the session has in use. Databases report a duplicate key without saying
/// which object has it.
pub(crate) fn object_id_conflict() -> Error {
    Error::new(ErrorKind::IdConflict, "the session already has an object with this id")
}

/// One atomic transaction on a database. It may be rolled back and run again after a conflict.
///
/// It is in several traits, so that a database can implement each next to the table it is about.
pub(crate) trait StoreTransaction:
    SessionTransaction
    + MessageTransaction
    + NodeTransaction
    + TurnTransaction
    + QueueTransaction
    + UsageTransaction
    + RequestTransaction
{
}

impl<T> StoreTransaction for T where
    T: SessionTransaction
        + MessageTransaction
        + NodeTransaction
        + TurnTransaction
        + QueueTransaction
        + UsageTransaction
        + RequestTransaction
{
}

/// Sessions without their messages.
pub(crate) trait SessionTransaction {
    /// Finds a session without an access check.
    async fn find_session(&mut self, id: &SessionId) -> Result<Option<SessionRow>>;

    /// Finds a session, stopping early if `principal` may not see it: as far as the database
    /// allows, a hidden session takes no longer to look up than a missing one. Callers still
    /// check access to the result.
    async fn find_visible_session(
        &mut self,
        principal: &Principal,
        id: &SessionId,
    ) -> Result<Option<SessionRow>>;

    /// Inserts a session whose id is not in use.
    async fn insert_session(
        &mut self,
        owner: &UserId,
        id: &SessionId,
        new: &NewSession,
        now: Timestamp,
    ) -> Result<SessionRow>;

    /// Replaces the given fields and increments the version. Leaves the members to
    /// [`save_members`](SessionTransaction::save_members).
    async fn update_session(
        &mut self,
        row: &SessionRow,
        update: SessionUpdate,
        now: Timestamp,
    ) -> Result<()>;

    /// Sets the title and its source, and increments the version.
    async fn set_title(&mut self, row: &SessionRow, title: &SessionTitle) -> Result<()>;

    /// Writes back the participants, the invited users and the placements of `row`.
    async fn save_members(&mut self, row: &SessionRow) -> Result<()>;

    /// Sets the fields of a newly inserted session that only imports carry: status and last seen.
    async fn set_imported_fields(&mut self, row: &SessionRow, import: &ImportSession)
    -> Result<()>;

    /// Writes back the counters, node count, head, last message and times of `row`.
    async fn save_counters(&mut self, row: &SessionRow) -> Result<()>;

    /// Writes back `row.read_marks`.
    async fn save_read_marks(&mut self, row: &SessionRow) -> Result<()>;

    /// Deletes a session and everything that belongs to it. The result lists its running
    /// and queued turns.
    async fn delete_session(&mut self, row: &SessionRow) -> Result<DeletionResult>;
}

/// Messages of a session, found by id or location.
pub(crate) trait MessageTransaction {
    /// Finds a message by its id or, failing that, the newest message with this client message id.
    async fn find_message(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>>;

    /// Finds a message by its id only.
    async fn find_message_by_id(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>>;

    /// Finds the newest message whose id or client message id is `id`.
    async fn find_newest_message(
        &mut self,
        row: &SessionRow,
        id: &MessageId,
    ) -> Result<Option<LocatedMessage>>;

    /// Reads a message with its siblings.
    async fn read_message(&mut self, row: &SessionRow, at: MessageLocation) -> Result<Message>;

    /// Reads the fields of a message that a turn needs.
    async fn read_user_message(
        &mut self,
        row: &SessionRow,
        at: MessageLocation,
    ) -> Result<UserMessage>;

    /// Finds the oldest reply among the first [`MAX_SEARCHED_CHILDREN`] children of a message.
    async fn find_first_reply(
        &mut self,
        row: &SessionRow,
        parent: MessageLocation,
    ) -> Result<Option<MessageLocation>>;
}

/// Nodes of a session, and the messages that are inserted into them.
pub(crate) trait NodeTransaction {
    /// Hint that these ids and client ids of messages will be looked up: a remote database can find
    /// all of them at once.
    async fn preload_messages(&mut self, _row: &SessionRow, _ids: Vec<MessageId>) -> Result<()> {
        Ok(())
    }

    /// Fill level of the message's node, and whether the message is the last one in it.
    async fn node_fill(&mut self, row: &SessionRow, at: MessageLocation) -> Result<NodeFill>;

    /// Tokens of the path up to this message, as stored with it.
    async fn path_tokens(&mut self, row: &SessionRow, at: MessageLocation) -> Result<u64>;

    /// Lists the headers of all nodes by number: 1, 2, 3, … without gaps. Must be called before the
    /// transaction inserts messages into the session.
    async fn list_nodes(&mut self, row: &SessionRow) -> Result<Vec<NodeHeader>>;

    /// Reads the messages of one node from its first up to and including `up_to`, oldest first,
    /// with their locations and exactly as [`insert_message`](NodeTransaction::insert_message)
    /// stored them. Restricted like [`list_nodes`](NodeTransaction::list_nodes).
    async fn node_messages(
        &mut self,
        row: &SessionRow,
        up_to: MessageLocation,
    ) -> Result<Vec<(MessageLocation, NewMessage)>>;

    /// Inserts a message. Errors: `id_conflict`.
    async fn insert_message(&mut self, row: &SessionRow, insert: MessageInsert<'_>) -> Result<()>;
}

/// The claim of a running turn, and the end of its log.
pub(crate) trait TurnTransaction {
    /// Claims the session for `row.session.active_turn`, charged to `row.payer`. Invariant: at most
    /// one running turn per session.
    async fn claim(&mut self, row: &SessionRow, lease_holder: &LeaseHolder) -> Result<()>;

    /// Releases the claim on the session.
    async fn release(&mut self, row: &SessionRow) -> Result<()>;

    /// Writes the last batch of a turn's log and marks the log as ended at `now`.
    async fn finish_log(
        &mut self,
        row: &SessionRow,
        turn: &TurnId,
        last: &LogBatch,
        now: Timestamp,
    ) -> Result<()>;
}

/// Turns that wait for the running one.
pub(crate) trait QueueTransaction {
    /// Queued turns of a session in the order in which they will start.
    async fn queued_turns(&mut self, row: &SessionRow) -> Result<Vec<QueuedTurn>>;

    /// Adds a turn at the end of the queue, or at its front.
    async fn enqueue(&mut self, row: &SessionRow, turn: &QueuedTurn, at_front: bool) -> Result<()>;

    /// Removes a turn from the queue. Returns whether it was still queued.
    async fn dequeue(&mut self, row: &SessionRow, turn: &TurnId) -> Result<bool>;

    /// Finds a session that has queued turns but no running one.
    async fn find_startable_session(&mut self) -> Result<Option<SessionId>>;

    /// Whether an API key exists and has not expired.
    async fn is_key_valid(&mut self, key: &KeyId, now: Timestamp) -> Result<bool>;
}

/// Usage within the transaction that begins or ends a turn.
pub(crate) trait UsageTransaction {
    /// Records the usage of a turn that ends in this transaction, at most once per turn.
    /// With `at_once` the totals include it as soon as the transaction has committed,
    /// otherwise shortly after.
    async fn record_usage(&mut self, entry: &LedgerEntry, at_once: bool) -> Result<()>;

    /// Usage counted under a quota key since a day, counted from 1970-01-01.
    async fn usage_total(&mut self, quota_key: &str, since_day: i64) -> Result<UsageTotal>;
}

/// Requests recorded under idempotency keys.
pub(crate) trait RequestTransaction {
    /// Finds a recorded request that is not older than `since`.
    async fn find_request(
        &mut self,
        principal: &Principal,
        key: &IdempotencyKey,
        since: Timestamp,
    ) -> Result<Option<PriorRequest>>;

    /// Records a request. May delete records older than `since`.
    async fn record_request(
        &mut self,
        principal: &Principal,
        key: &IdempotencyKey,
        request: &PriorRequest,
        now: Timestamp,
        since: Timestamp,
    ) -> Result<()>;
}
