//! Migration of whole sessions from one store to another, exactly as they are stored.
//!
//! This is the core of `echoic migrate`. Unlike an import it decides nothing: ids, numbers, node
//! boundaries, claims, queued turns and recorded requests stay the same. A claim is migrated
//! together with its turn's log, so the first instance that serves the new store ends that turn
//! as after a crash.
//!
//! A session is copied in pages of nodes, its own record last. Until then no reader can see it,
//! and a partial copy is deleted when the session is migrated again. Finally the copy is read
//! back and compared.

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
/// Ledger entries per page.
const LEDGER_PAGE_SIZE: u32 = 200;
/// Delay before the first retry; it doubles with each further one.
const INITIAL_BACKOFF: Duration = Duration::from_millis(250);
/// There is no further retry after a delay of this length, which is longer than MongoDB takes to
/// elect a new primary.
const MAX_BACKOFF: Duration = Duration::from_secs(8);

/// A session without its messages.
#[derive(Debug, Serialize)]
pub(crate) struct SessionDump {
    /// Fields, counters, head, read marks and claim.
    pub(crate) row: SessionRow,
    /// In the order in which they will start.
    pub(crate) queued_turns: Vec<QueuedTurnDump>,
    /// Complete batches of the active turn's log, in order.
    pub(crate) log: Vec<Vec<u8>>,
    /// Recorded requests with a result in this session, sorted by user, route and key.
    pub(crate) requests: Vec<RequestDump>,
    /// Sorted by turn id.
    pub(crate) responses: Vec<StoredResponse>,
}

#[derive(Debug, Serialize)]
pub(crate) struct QueuedTurnDump {
    pub(crate) id: TurnId,
    /// As serialized by [`super::queued_turn`].
    pub(crate) json: String,
}

/// A request recorded under an idempotency key.
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

#[derive(Debug, Serialize)]
pub(crate) struct NodeDump {
    /// From 1, without gaps.
    pub(crate) number: u32,
    /// Parent of the first message.
    pub(crate) prev: Option<MessageLocation>,
    pub(crate) first_seq: u32,
    pub(crate) last_seq: u32,
    /// Number of messages; it and `bytes` are counted as in [`crate::domain::node`].
    pub(crate) count: u32,
    pub(crate) bytes: u64,
    pub(crate) created_at: Timestamp,
    /// Oldest first.
    pub(crate) messages: Vec<MessageDump>,
}

#[derive(Debug, Serialize)]
pub(crate) struct MessageDump {
    pub(crate) seq: u32,
    pub(crate) parent: Option<LocatedMessage>,
    pub(crate) message: NewMessage,
    /// Tokens of the path up to this message.
    pub(crate) path_tokens: u64,
}

/// Number of stored objects, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct StoreTotals {
    pub(crate) keys: u64,
    pub(crate) usage: u64,
    pub(crate) projects: u64,
    pub(crate) sessions: u64,
    pub(crate) messages: u64,
    pub(crate) nodes: u64,
}

/// A store whose sessions and projects can be dumped exactly as they are stored.
///
/// Two stores that hold the same session return equal dumps, whatever their tables or documents
/// look like. The verification of a migration relies on this.
#[async_trait]
pub(crate) trait MigrationStore: ProjectStore + KeyStore + LedgerStore {
    /// Dumps a session without its messages; of its recorded requests, those made after `since`.
    async fn dump_session(&self, id: &SessionId, since: Timestamp) -> Result<Option<SessionDump>>;

    /// Dumps a page of nodes starting with the number `first`: at least one node if there is one,
    /// and no further one once the page holds [`MAX_PAGE_BYTES`]. Errors if the stored nodes
    /// contradict each other.
    async fn dump_nodes(&self, session: &SessionRow, first: u32) -> Result<Vec<NodeDump>>;

    /// Location of the store, without credentials.
    fn describe_location(&self) -> String;

    /// Releases the store.
    async fn disconnect(&self);
}

/// The store to migrate from. No other process writes to it while it is open.
#[async_trait]
pub(crate) trait MigrationSource: MigrationStore {
    /// Counts all stored objects.
    async fn count_totals(&self) -> Result<StoreTotals>;

    /// Lists up to `limit` ids after `after`, in order.
    async fn list_session_ids(
        &self,
        after: Option<&SessionId>,
        limit: u32,
    ) -> Result<Vec<SessionId>>;

    /// Lists the ids of all projects.
    async fn list_project_ids(&self) -> Result<Vec<ProjectId>>;
}

/// The store to migrate to.
#[async_trait]
pub(crate) trait MigrationTarget: MigrationStore {
    /// Deletes what an interrupted migration left of a session that does not exist yet.
    async fn clear_partial_session(&self, id: &SessionId) -> Result<()>;

    /// Inserts nodes of a session that does not exist yet, where no reader can see them. Errors:
    /// `payload_too_large` if the database cannot hold one of them.
    async fn insert_nodes(&self, id: &SessionId, nodes: &[NodeDump]) -> Result<()>;

    /// Inserts the session, whose nodes are already stored, and thereby makes it visible. Errors:
    /// `id_conflict` if it exists by now.
    async fn insert_session(&self, session: &SessionDump) -> Result<()>;

    /// Inserts a new project with the contents of its files, completely or not at all.
    async fn insert_project(&self, project: &Project, files: &[NewFile]) -> Result<()>;
}

/// Migrates an API key unless its id is in use. Returns whether the target now has the same key,
/// apart from the time of its last use.
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
            // The key may have been used on either side since it was copied.
            (present.key.last_used_at, stored.key.last_used_at) = (None, None);
            present == stored
        }))
    })
    .await
}

/// Migrates a page of ledger entries that follow `after`; empty once all are migrated. Returns each
/// entry and whether the target holds it unchanged.
pub(crate) async fn migrate_ledger(
    from: &dyn MigrationSource,
    to: &dyn MigrationTarget,
    after: Option<&TurnId>,
) -> Result<Vec<(LedgerEntry, bool)>> {
    with_retry(|| async move {
        let page = from.list_ledger_entries(after, LEDGER_PAGE_SIZE).await?;
        // Recording an entry again has no effect, so a page can be retried after a failure halfway.
        for entry in &page {
            to.record_usage(entry.clone()).await?;
        }
        let mut present = Vec::new();
        let mut position = after.cloned();
        // The target may have entries of its own between those of the page.
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionMigrationOutcome {
    /// Copied, and equal when read back.
    Moved(StoreTotals),
    /// Present before, and equal.
    AlreadyPresent(StoreTotals),
    /// Present but different: it was used since, or has another origin. It is left alone.
    Differs,
    /// Contains a message that the target cannot hold. Nothing of it is stored.
    TooLarge,
}

/// Migrates a session unless it is present. Starts over after a transient failure of a store.
/// `on_progress` is called with numbers of messages as they are read, each message counted once.
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
        // A retry reads the same messages again: report only what exceeds the
        // furthest point so far.
        let report_progress = |messages| {
            let position = position.fetch_add(messages, Ordering::Relaxed) + messages;
            on_progress(position.saturating_sub(reported.fetch_max(position, Ordering::Relaxed)));
        };
        try_migrate_session(from, to, id, now, &report_progress).await
    })
    .await
}

/// Runs one step of a migration and retries it after transient failures of a store.
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
    // Nothing is ever overwritten: a session that is present is only compared.
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
        // A retry would not help: remove the partial copy and report the session.
        Err(error) if error.kind == ErrorKind::PayloadTooLarge => {
            to.clear_partial_session(id).await?;
            return Ok(SessionMigrationOutcome::TooLarge);
        }
        // Another process created the session since the check above.
        Err(error) if error.kind == ErrorKind::IdConflict => {
            return Ok(SessionMigrationOutcome::Differs);
        }
        Err(error) => return Err(error),
    };
    // Read back what was stored, instead of trusting that the writes have succeeded.
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

/// Copies a session that is not present. Returns the checksum of the original.
async fn copy_session(
    from: &dyn MigrationSource,
    to: &dyn MigrationTarget,
    session: &SessionDump,
    on_progress: &(dyn Fn(u64) + Sync),
) -> Result<SessionChecksum> {
    let id = &session.row.session.id;
    // Nodes of an interrupted migration would otherwise collide with the new ones.
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
    // Invariant: a session becomes visible only with all its nodes, so its own record is last.
    to.insert_session(session).await?;
    Ok(checksum.finish())
}

/// Computes the checksum of a session as a store holds it.
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

/// Digest of a whole session: equal checksums mean equal sessions.
#[derive(PartialEq, Eq)]
struct SessionChecksum {
    digest: [u8; 32],
    totals: StoreTotals,
}

/// Incremental checksum. The canonical form of a session is the JSON of its dumps, so a field added
/// to them is compared as well.
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

    fn next_node(&self) -> u32 {
        self.last_node + 1
    }

    /// Adds the next page. Returns its number of messages.
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
