//! Whole sessions into MongoDB, and out of it.

use super::MongoStore;
use super::message_pages;
use super::transaction::{MongoTransaction, TransactionMode, transact};
use crate::domain::principal::AccessLevel;
use crate::domain::{Principal, SessionId, Timestamp};
use crate::error::Result;
use crate::store::transaction::SessionRow;
use crate::store::{ImportOutcome, ImportSession, SessionChunk, TransferStore, rules};
use async_trait::async_trait;

/// How many messages are asked for at once: few enough that large ones have room.
const READ_WINDOW: u32 = 64;

#[async_trait]
impl TransferStore for MongoStore {
    async fn import_session(
        &self,
        who: &Principal,
        import: ImportSession,
        now: Timestamp,
    ) -> Result<ImportOutcome> {
        let import = &import;
        transact!(self, TransactionMode::MULTI_DOCUMENT, |step| rules::import_session(
            step, who, import, now
        )
        .await)
    }

    async fn read_chunk(
        &self,
        who: &Principal,
        session: &SessionId,
        after: u32,
    ) -> Result<SessionChunk> {
        transact!(self, TransactionMode::READ, |step| {
            let row = rules::get_session(step, who, session, AccessLevel::Owner).await?;
            read_session_chunk(step, &row, after).await
        })
    }
}

/// Seqs have no gaps, so a piece is read in windows of them.
async fn read_session_chunk(
    step: &mut MongoTransaction,
    row: &SessionRow,
    after: u32,
) -> Result<SessionChunk> {
    let mut piece = SessionChunk::new(row.session.clone(), row.read_marks.clone());
    let mut before = after;
    while before < row.session.messages_count {
        let last = before.saturating_add(READ_WINDOW);
        for (_, stored) in message_pages::read_seq_range(step, row, before + 1, last).await? {
            if !piece.push(stored.into_message(row)?) {
                return Ok(piece);
            }
        }
        before = last;
    }
    Ok(piece)
}
