//! Recall: which earlier messages of the path belong to the new one.
//!
//! The ranking is in [`super::rank`], above the store, so that stores cannot differ. Each session's
//! path is kept in memory between turns ([`kept`]), bounded ([`shelf`]). Where it is not, it is read
//! anew by a task of its own: a turn waits a moment for it and then goes on without, a preview waits
//! until it is there.

mod kept;
mod render;
mod shelf;

pub(super) use render::Recalled;

use super::rank::scores;
use super::tokens::Vocabulary;
use crate::domain::text::first_characters;
use crate::domain::{MessageId, Session, SessionId, Timestamp};
use crate::error::{Error, Result};
use crate::store::{Remembered, Store};
use kept::Kept;
use shelf::Shelf;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

/// What all paths together may take, in bytes.
const MOST: usize = 256 << 20;
/// As much of a message is looked at to find what belongs to it, in characters.
const ASKED: usize = 4_000;

/// What is asked.
pub(super) struct Asked {
    pub(super) session: Session,
    /// The path's last message.
    pub(super) last: MessageId,
    /// The new message.
    pub(super) text: Arc<str>,
    /// The time.
    pub(super) at: Timestamp,
    /// The newest messages of the path, as far as they were read, newest first.
    pub(super) read: Vec<Remembered>,
    /// Where the messages begin that stand verbatim in the prompt, in tokens of the path.
    pub(super) before: u64,
    pub(super) room: u32,
    pub(super) vocabulary: Vocabulary,
}

/// Recalls.
pub(super) struct Recall {
    store: Arc<dyn Store>,
    shelf: Shelf,
    tasks: TaskTracker,
}

impl Recall {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, shelf: Shelf::new(MOST), tasks: TaskTracker::new() }
    }

    /// The messages that belong to the new one, in the path's order, within the room. `None` if that
    /// cannot be told within `patience`; what is read meanwhile is kept for the next time.
    pub(super) async fn recall(
        self: &Arc<Self>,
        asked: Asked,
        patience: Option<Duration>,
    ) -> Result<Option<Vec<Recalled>>> {
        let recall = self.clone();
        let task = self.tasks.spawn(async move { recall.find(asked).await });
        let found = match patience {
            None => task.await,
            Some(patience) => match timeout(patience, task).await {
                Ok(found) => found,
                Err(_) => return Ok(None),
            },
        };
        found.map_err(Error::internal)?.map(Some)
    }

    /// The messages of the path that ends with `last` that end within these tokens of it, oldest
    /// first. Reads what is not kept.
    pub(super) async fn ids(
        &self,
        session: &Session,
        last: &MessageId,
        tokens: Range<u64>,
    ) -> Result<Vec<MessageId>> {
        let kept = Kept::default().follow(&*self.store, session, last, Vec::new()).await?;
        let within = kept.before(tokens.start)..kept.before(tokens.end);
        let within = within.start as usize..within.end as usize;
        Ok(kept.messages[within].iter().map(|message| message.id.clone()).collect())
    }

    /// Forgets a session that was deleted.
    pub(super) fn forget(&self, session: &SessionId) {
        self.shelf.forget(session);
    }

    /// How many sessions are kept, and about how many bytes they take.
    pub(super) fn held(&self) -> (usize, usize) {
        self.shelf.held()
    }

    async fn find(&self, asked: Asked) -> Result<Vec<Recalled>> {
        let Asked { session, last, text, at, read, before, room, vocabulary } = asked;
        let slot = self.shelf.slot(&session.id);
        // One at a time works with a session's path; it may have to read all of it first.
        let mut place = slot.lock().await;
        let kept = place.take().unwrap_or_default();
        let mut kept = match kept.follow(&*self.store, &session, &last, read).await {
            Ok(kept) => kept,
            Err(error) => {
                self.shelf.forget(&session.id);
                return Err(error);
            }
        };
        let ranked = ranked(&kept, &text, before);
        let found = render::fill(&mut kept, &ranked, at, room, vocabulary);
        self.shelf.weigh(&session.id, kept.bytes());
        *place = Some(kept);
        Ok(found)
    }
}

/// The passages before a place of the path that belong to a text, the best first.
fn ranked(kept: &Kept, text: &str, before: u64) -> Vec<(u32, f32)> {
    let messages = kept.before(before);
    let scores = scores(&kept.index, first_characters(text, ASKED));
    let passages = kept.index.passages().iter().zip(scores).enumerate();
    let mut ranked: Vec<(u32, f32)> = passages
        .filter(|(_, (passage, score))| passage.message < messages && *score > 0.0)
        .map(|(at, (_, score))| (u32::try_from(at).unwrap_or(u32::MAX), score))
        .collect();
    // Of equals the older one comes first: the order is the same on every instance.
    ranked.sort_by(|(a, a_score), (b, b_score)| b_score.total_cmp(a_score).then(a.cmp(b)));
    ranked
}
