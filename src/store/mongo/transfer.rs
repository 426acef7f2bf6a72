//! Whole sessions into MongoDB, and out of it.

use super::MongoStore;
use super::pages;
use super::step::{Manner, Step, step};
use crate::domain::principal::AccessLevel;
use crate::domain::{Principal, SessionId, Timestamp};
use crate::error::Result;
use crate::store::work::SessionRow;
use crate::store::{ImportSession, Imported, SessionPiece, TransferStore, rules};
use async_trait::async_trait;

/// How many messages are asked for at once: few enough that large ones have room.
const WINDOW: u32 = 64;

#[async_trait]
impl TransferStore for MongoStore {
    async fn import_session(
        &self,
        who: &Principal,
        import: ImportSession,
        now: Timestamp,
    ) -> Result<Imported> {
        let import = &import;
        step!(self, Manner::LONG_STEP, |step| rules::import_session(step, who, import, now).await)
    }

    async fn read_piece(
        &self,
        who: &Principal,
        session: &SessionId,
        after: u32,
    ) -> Result<SessionPiece> {
        step!(self, Manner::LOOK, |step| {
            let row = rules::get(step, who, session, AccessLevel::Owner).await?;
            piece(step, &row, after).await
        })
    }
}

/// Seqs have no gaps, so a piece is read in windows of them.
async fn piece(step: &mut Step, row: &SessionRow, after: u32) -> Result<SessionPiece> {
    let mut piece = SessionPiece::new(row.session.clone(), row.read_marks.clone());
    let mut before = after;
    while before < row.session.messages_count {
        let last = before.saturating_add(WINDOW);
        for (_, stored) in pages::between(step, row, before + 1, last).await? {
            if !piece.push(stored.into_message(row)?) {
                return Ok(piece);
            }
        }
        before = last;
    }
    Ok(piece)
}
