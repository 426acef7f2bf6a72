//! Whole sessions exactly as they are kept: read out of one store, written into another.
//!
//! `echoic migrate` stands on this. Nothing is decided anew, unlike at an import: ids, numbers, the
//! bounds of nodes, claims, waiting turns and remembered requests stay what they are. A claim moves
//! with its turn's log, so whoever serves the new store first ends that turn as after a crash.
//!
//! A session moves in pages of nodes, its own record last: what is half there is nobody's yet, and
//! is thrown away when it is moved again. What was written is read back and compared.

mod projects;

pub(crate) use projects::{ProjectMigrationOutcome, migrate_project};

use super::rules;
use super::transaction::{LocatedMessage, MessageLocation, SessionRow};
use super::{
    KeyStore, LedgerEntry, LedgerStore, NewFile, NewMessage, ProjectStore, StoredKey,
    StoredResponse,
};
use crate::domain::{MessageId, Project, ProjectId, SessionId, Timestamp, TurnId, UserId};
use crate::error::{Error, ErrorKind, Result};
use async_trait::async_trait;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::sleep;

/// A page of nodes ends once it holds this many bytes.
pub(super) const MAX_PAGE_BYTES: u64 = 1 << 20;
/// Lines of the ledger that are moved at once.
const LEDGER_PAGE_SIZE: u32 = 200;
/// A session is tried again after this long, then after twice as long, up to …
const INITIAL_BACKOFF: Duration = Duration::from_millis(250);
/// … this long: longer than another primary takes to come.
const MAX_BACKOFF: Duration = Duration::from_secs(8);

/// A session without its messages.
#[derive(Debug, Serialize)]
pub(crate) struct SessionDump {
    /// Its fields, counters, head, read marks and claim.
    pub(crate) row: SessionRow,
    /// The turns that wait, the next one first.
    pub(crate) queued_turns: Vec<QueuedTurnDump>,
    /// The log of the turn that holds the claim: whole batches, counted from 0.
    pub(crate) log: Vec<Vec<u8>>,
    /// The requests that led to something in it, by user, route and key.
    pub(crate) requests: Vec<RequestDump>,
    /// Its responses, by their turns.
    pub(crate) responses: Vec<StoredResponse>,
}

/// A turn that waits.
#[derive(Debug, Serialize)]
pub(crate) struct QueuedTurnDump {
    pub(crate) id: TurnId,
    /// As [`super::queued_turn`] writes it.
    pub(crate) json: String,
}

/// A request that may be repeated.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct RequestDump {
    pub(crate) user: UserId,
    pub(crate) route: String,
    pub(crate) key: String,
    pub(crate) fingerprint: String,
    pub(crate) message_id: MessageId,
    pub(crate) turn_id: Option<TurnId>,
    pub(crate) created_at: Timestamp,
}

/// A node with its messages.
#[derive(Debug, Serialize)]
pub(crate) struct NodeDump {
    /// From 1, without a gap.
    pub(crate) number: u32,
    /// What its first message follows.
    pub(crate) prev: Option<MessageLocation>,
    pub(crate) first_seq: u32,
    pub(crate) last_seq: u32,
    /// How many messages it counts, and how many bytes, by [`crate::domain::node`].
    pub(crate) count: u32,
    pub(crate) bytes: u64,
    pub(crate) created_at: Timestamp,
    /// Oldest first.
    pub(crate) messages: Vec<MessageDump>,
}

/// A message in its node.
#[derive(Debug, Serialize)]
pub(crate) struct MessageDump {
    pub(crate) seq: u32,
    pub(crate) parent: Option<LocatedMessage>,
    pub(crate) message: NewMessage,
    /// Tokens of the path up to it.
    pub(crate) path_tokens: u64,
}

/// How much a store holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StoreTotals {
    pub(crate) keys: u64,
    pub(crate) usage: u64,
    pub(crate) projects: u64,
    pub(crate) sessions: u64,
    pub(crate) messages: u64,
    pub(crate) nodes: u64,
}

/// A store whose sessions, and projects with them, can be read as they are kept.
///
/// Two stores that keep the same session give equal values, whatever their databases make of it:
/// that is how a move is verified.
#[async_trait]
pub(crate) trait MigrationStore: ProjectStore + KeyStore + LedgerStore {
    /// A session without its messages; of its requests those made after `since`.
    async fn dump_session(&self, id: &SessionId, since: Timestamp) -> Result<Option<SessionDump>>;

    /// A page of its nodes by number, beginning with the number `first`: at least one node if there
    /// is one, and no further one once the page holds [`MAX_PAGE_BYTES`] bytes. Errors if what is stored
    /// contradicts itself.
    async fn dump_nodes(&self, session: &SessionRow, first: u32) -> Result<Vec<NodeDump>>;

    /// Where it is, without secrets.
    fn describe_location(&self) -> String;

    /// Lets go of it.
    async fn disconnect(&self);
}

/// A store that is left. Nobody else writes into it as long as it is open.
#[async_trait]
pub(crate) trait MigrationSource: MigrationStore {
    /// What it holds, counted where it lies.
    async fn count_totals(&self) -> Result<StoreTotals>;

    /// The ids behind this one in their order, at most so many.
    async fn list_session_ids(
        &self,
        after: Option<&SessionId>,
        limit: u32,
    ) -> Result<Vec<SessionId>>;

    /// The ids of all projects.
    async fn list_project_ids(&self) -> Result<Vec<ProjectId>>;
}

/// A store that is moved into.
#[async_trait]
pub(crate) trait MigrationTarget: MigrationStore {
    /// Throws away what an earlier move has left of a session that is not there.
    async fn clear_partial_session(&self, id: &SessionId) -> Result<()>;

    /// Adds nodes of a session that is not there yet; nobody sees them. Errors: `payload_too_large`
    /// if this database cannot hold one of them.
    async fn insert_nodes(&self, id: &SessionId, nodes: &[NodeDump]) -> Result<()>;

    /// Adds the session, whose nodes are all there. It is visible from here on, whole. Errors:
    /// `id_conflict` if it is there by now.
    async fn insert_session(&self, session: &SessionDump) -> Result<()>;

    /// Adds a project that is not there, with the contents of its files: all of it or nothing.
    async fn insert_project(&self, project: &Project, files: &[NewFile]) -> Result<()>;
}

/// Moves a key of the API, unless one of its id is there. Whether the same one is there now: when it
/// was last used does not count.
pub(crate) async fn migrate_key(to: &dyn MigrationTarget, stored: &StoredKey) -> Result<bool> {
    let id = &stored.key.id;
    with_retry(|| async {
        if to.find_key(id).await?.is_none() {
            to.add_key(stored.clone()).await?;
        }
        let present = to.find_key(id).await?;
        Ok(present.is_some_and(|present| {
            let mut present = present;
            let mut stored = stored.clone();
            (present.key.last_used_at, stored.key.last_used_at) = (None, None);
            present == stored
        }))
    })
    .await
}

/// Moves the lines of turns in the ledger, those that follow `behind` at the source: some of them, none
/// if all are moved. What of them is there now as it was.
pub(crate) async fn migrate_ledger(
    from: &dyn MigrationSource,
    to: &dyn MigrationTarget,
    after: Option<&TurnId>,
) -> Result<Vec<(LedgerEntry, bool)>> {
    with_retry(|| async move {
        let page = from.list_ledger_entries(after, LEDGER_PAGE_SIZE).await?;
        for entry in &page {
            to.record_usage(entry.clone()).await?;
        }
        let mut present = Vec::new();
        let mut position = after.cloned();
        // The other one may have lines in between.
        while page.last().is_some_and(|last| position.as_ref() < Some(&last.turn_id)) {
            let more = to.list_ledger_entries(position.as_ref(), LEDGER_PAGE_SIZE).await?;
            let Some(last) = more.last() else { break };
            position = Some(last.turn_id.clone());
            present.extend(more);
        }
        Ok(page.into_iter().map(|entry| (entry.clone(), present.contains(&entry))).collect())
    })
    .await
}

/// What became of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionMigrationOutcome {
    /// It is there now, and reads back as it was.
    Moved(StoreTotals),
    /// It was there, and equal.
    AlreadyPresent(StoreTotals),
    /// What is there is not equal: it was used since, or came from elsewhere. It is left alone.
    Differs,
    /// It holds a message that the other database cannot hold. Nothing of it is there.
    TooLarge,
}

/// Moves a session, unless it is there already; begins anew when a store fails for a moment.
/// `passed` hears of messages as they are read, of each once.
pub(crate) async fn migrate_session(
    from: &dyn MigrationSource,
    to: &dyn MigrationTarget,
    id: &SessionId,
    now: Timestamp,
    on_progress: &(dyn Fn(u64) + Sync),
) -> Result<SessionMigrationOutcome> {
    let reported = AtomicU64::new(0);
    with_retry(|| async {
        let position = AtomicU64::new(0);
        let report_progress = |messages| {
            let position = position.fetch_add(messages, Ordering::Relaxed) + messages;
            on_progress(position.saturating_sub(reported.fetch_max(position, Ordering::Relaxed)));
        };
        try_migrate_session(from, to, id, now, &report_progress).await
    })
    .await
}

/// Does a piece of a move, and begins it anew when a store fails for a moment.
async fn with_retry<T, F: Future<Output = Result<T>>>(attempt: impl Fn() -> F) -> Result<T> {
    let mut pause = INITIAL_BACKOFF;
    loop {
        match attempt().await {
            Err(error) if error.kind == ErrorKind::StoreUnavailable && pause <= MAX_BACKOFF => {
                sleep(pause).await;
                pause *= 2;
            }
            done => return done,
        }
    }
}

async fn try_migrate_session(
    from: &dyn MigrationSource,
    to: &dyn MigrationTarget,
    id: &SessionId,
    now: Timestamp,
    on_progress: &(dyn Fn(u64) + Sync),
) -> Result<SessionMigrationOutcome> {
    let since = rules::oldest_valid_request(now);
    let session = from.dump_session(id, since).await?.ok_or_else(Error::session_not_found)?;
    if let Some(present) = to.dump_session(id, since).await? {
        let original = checksum_session(from, &session, on_progress).await?;
        let is_equal = original == checksum_session(to, &present, &|_| ()).await?;
        return Ok(if is_equal {
            SessionMigrationOutcome::AlreadyPresent(original.totals)
        } else {
            SessionMigrationOutcome::Differs
        });
    }
    let original = match copy_session(from, to, &session, on_progress).await {
        Ok(original) => original,
        Err(error) if error.kind == ErrorKind::PayloadTooLarge => {
            to.clear_partial_session(id).await?;
            return Ok(SessionMigrationOutcome::TooLarge);
        }
        Err(error) if error.kind == ErrorKind::IdConflict => {
            return Ok(SessionMigrationOutcome::Differs);
        }
        Err(error) => return Err(error),
    };
    let Some(present) = to.dump_session(id, since).await? else {
        return Ok(SessionMigrationOutcome::Differs);
    };
    let is_equal = original == checksum_session(to, &present, &|_| ()).await?;
    Ok(if is_equal {
        SessionMigrationOutcome::Moved(original.totals)
    } else {
        SessionMigrationOutcome::Differs
    })
}

/// Copies a session that is not there. What it came to at its origin.
async fn copy_session(
    from: &dyn MigrationSource,
    to: &dyn MigrationTarget,
    session: &SessionDump,
    on_progress: &(dyn Fn(u64) + Sync),
) -> Result<SessionChecksum> {
    let id = &session.row.session.id;
    to.clear_partial_session(id).await?;
    let mut checksum = ChecksumBuilder::new(session)?;
    loop {
        let page = from.dump_nodes(&session.row, checksum.next_node()).await?;
        if page.is_empty() {
            break;
        }
        on_progress(checksum.add_page(&page)?);
        to.insert_nodes(id, &page).await?;
    }
    // Invariant: a session is visible only with all its nodes; its own record comes last.
    to.insert_session(session).await?;
    Ok(checksum.finish())
}

/// What a session comes to where it is kept.
async fn checksum_session(
    store: &(impl MigrationStore + ?Sized),
    session: &SessionDump,
    on_progress: &(dyn Fn(u64) + Sync),
) -> Result<SessionChecksum> {
    let mut checksum = ChecksumBuilder::new(session)?;
    loop {
        let page = store.dump_nodes(&session.row, checksum.next_node()).await?;
        if page.is_empty() {
            return Ok(checksum.finish());
        }
        on_progress(checksum.add_page(&page)?);
    }
}

/// A whole session in short: equal sums are equal sessions.
#[derive(PartialEq, Eq)]
struct SessionChecksum {
    digest: [u8; 32],
    totals: StoreTotals,
}

/// A sum in the making. The canonical form of a session is the JSON of what is kept of it, so a
/// field that is added there is compared, too.
struct ChecksumBuilder {
    digest: Sha256,
    totals: StoreTotals,
    last_node: u32,
}

impl ChecksumBuilder {
    fn new(session: &SessionDump) -> Result<Self> {
        let mut digest = Sha256::new();
        serde_json::to_writer(&mut digest, session).map_err(Error::internal)?;
        Ok(Self {
            digest,
            totals: StoreTotals { sessions: 1, ..StoreTotals::default() },
            last_node: 0,
        })
    }

    /// The number of the node that comes next.
    fn next_node(&self) -> u32 {
        self.last_node + 1
    }

    /// Adds the next page. How many messages it holds.
    fn add_page(&mut self, page: &[NodeDump]) -> Result<u64> {
        serde_json::to_writer(&mut self.digest, &page).map_err(Error::internal)?;
        let messages = page.iter().map(|node| node.messages.len() as u64).sum();
        self.totals.nodes += page.len() as u64;
        self.totals.messages += messages;
        self.last_node = page.last().map_or(self.last_node, |node| node.number);
        Ok(messages)
    }

    fn finish(self) -> SessionChecksum {
        SessionChecksum { digest: self.digest.finalize().into(), totals: self.totals }
    }
}
