//! Import and export of whole sessions.

use super::MongoStore;
use super::message_pages;
use super::transaction::{MongoTransaction, TransactionMode, transact};
use crate::domain::principal::AccessLevel;
use crate::domain::{Principal, SessionId, Timestamp};
use crate::error::Result;
use crate::store::transaction::SessionRow;
use crate::store::{ImportOutcome, ImportSession, SessionChunk, TransferStore, rules};
use async_trait::async_trait;

/// Messages per query: few enough that large ones fit into memory.
const READ_WINDOW: u32 = 64;

#[async_trait]
impl TransferStore for MongoStore {
    async fn import_session(
        &self,
        principal: &Principal,
        import: ImportSession,
        now: Timestamp,
    ) -> Result<ImportOutcome> {
        let import = &import;
        transact!(self, TransactionMode::MULTI_DOCUMENT, |tx| rules::import_session(
            tx, principal, import, now
        )
        .await)
    }

    async fn read_chunk(
        &self,
        principal: &Principal,
        session: &SessionId,
        after: u32,
    ) -> Result<SessionChunk> {
        transact!(self, TransactionMode::READ, |tx| {
            let row = rules::get_session(tx, principal, session, AccessLevel::Owner).await?;
            read_session_chunk(tx, &row, after).await
        })
    }
}

/// Reads messages in order of their seq until the chunk is full. Seqs have no gaps, so a window of
/// them holds the same number of messages.
async fn read_session_chunk(
    tx: &mut MongoTransaction,
    row: &SessionRow,
    after: u32,
) -> Result<SessionChunk> {
    let mut chunk = SessionChunk::new(row);
    let mut before = after;
    while before < row.session.messages_count {
        let last = before.saturating_add(READ_WINDOW);
        for (_, stored) in message_pages::read_seq_range(tx, row, before + 1, last).await? {
            if !chunk.push(stored.into_message(row)?) {
                return Ok(chunk);
            }
        }
        before = last;
    }
    Ok(chunk)
}
