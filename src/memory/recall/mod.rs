//! Recall: which earlier messages of the path belong to the new one.
//!
//! The ranking is in [`super::rank`], above the store, so that stores cannot differ. Each session's
//! path is kept in memory between turns ([`kept`]), bounded ([`shelf`]). Where it is not, it is read
//! anew by a task of its own: a turn waits a moment for it and then goes on without, a preview waits
//! until it is there.

mod kept;
mod meaning;
mod render;
mod shelf;

pub(super) use render::Recalled;

use super::rank::{Vector, blend, scores};
use super::tokens::Vocabulary;
use crate::domain::text::truncate_chars;
use crate::domain::{MessageId, Session, SessionId, Timestamp};
use crate::error::{Error, Result};
use crate::provider::embeddings::Embedder;
use crate::store::{HistoryMessage, Store};
use kept::Kept;
use meaning::Meaning;
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
    pub(super) read: Vec<HistoryMessage>,
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
    /// What messages mean, where an endpoint tells.
    meaning: Option<Meaning>,
}

impl Recall {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        let (shelf, tasks) = (Shelf::new(MOST), TaskTracker::new());
        Self { store, shelf, tasks, meaning: None }
    }

    /// The same, with an endpoint that makes vectors of texts.
    pub(super) fn with_meaning(self, embedder: Arc<dyn Embedder>) -> Self {
        let meaning = Some(Meaning::new(embedder, self.store.clone()));
        Self { meaning, ..self }
    }

    /// The messages that belong to the new one, in the path's order, within the room. `None` if that
    /// cannot be told within `patience`; what is read meanwhile is kept for the next time.
    pub(super) async fn recall(
        self: &Arc<Self>,
        asked: Asked,
        patience: Option<Duration>,
    ) -> Result<Option<Vec<Recalled>>> {
        let recall = self.clone();
        let is_patient = patience.is_none();
        let task = self.tasks.spawn(async move { recall.find(asked, is_patient).await });
        // The vector of the message comes over the network.
        let more = if self.meaning.is_some() { meaning::PATIENCE } else { Duration::ZERO };
        let patience = patience.map(|patience| patience + more);
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

    async fn find(self: &Arc<Self>, asked: Asked, is_patient: bool) -> Result<Vec<Recalled>> {
        let (vector, followed) =
            tokio::join!(self.vector(&asked.text, is_patient), self.follow(&asked, is_patient));
        followed?;
        let Asked { session, text, at, before, room, vocabulary, .. } = asked;
        let slot = self.shelf.slot(&session.id);
        let mut place = slot.lock().await;
        // Somebody who asked about another branch may have been here in between: then that one's
        // messages are kept now, and nothing is recalled rather than something of theirs.
        let Some(kept) = place.as_mut().filter(|kept| kept.ends_with(&asked.last)) else {
            return Ok(Vec::new());
        };
        let near = vector.map_or_else(Vec::new, |vector| kept.near(&vector));
        let ranked = ranked(kept, &text, &near, before);
        let found = render::fill(kept, &ranked, at, room, vocabulary);
        self.shelf.weigh(&session.id, kept.bytes());
        Ok(found)
    }

    /// The vector of a new message, if there is an endpoint that gives it in time.
    async fn vector(&self, text: &str, is_patient: bool) -> Option<Vector> {
        let patience = if is_patient { Duration::from_secs(60) } else { meaning::PATIENCE };
        self.meaning.as_ref()?.of(text, patience).await
    }

    /// Brings what is kept of the session to the path that is asked about.
    async fn follow(self: &Arc<Self>, asked: &Asked, is_patient: bool) -> Result<()> {
        let Asked { session, last, read, .. } = asked;
        let slot = self.shelf.slot(&session.id);
        {
            // One at a time works with a session's path; it may have to read all of it first.
            let mut place = slot.lock().await;
            let kept = place.take().unwrap_or_default();
            let mut kept = match kept.follow(&*self.store, session, last, read.clone()).await {
                Ok(kept) => kept,
                Err(error) => {
                    self.shelf.forget(&session.id);
                    return Err(error);
                }
            };
            if let Some(meaning) = &self.meaning {
                meaning.load(&session.id, &mut kept).await?;
            }
            *place = Some(kept);
        }
        let (recall, id) = (self.clone(), session.id.clone());
        let make = async move {
            let Some(meaning) = &recall.meaning else { return };
            if let Err(error) = meaning.make(&id, &slot).await {
                tracing::warn!(session.id = %id, error = %error.chain(), "messages could not be embedded");
            }
        };
        match (self.meaning.is_some(), is_patient) {
            (false, _) => {}
            (true, true) => make.await,
            (true, false) => drop(self.tasks.spawn(make)),
        }
        Ok(())
    }
}

/// The passages before a place of the path that belong to a text, the best first.
fn ranked(kept: &Kept, text: &str, near: &[Option<f32>], before: u64) -> Vec<(u32, f32)> {
    let messages = kept.before(before);
    let mut scores = scores(&kept.index, truncate_chars(text, ASKED));
    blend(&mut scores, near);
    let passages = kept.index.passages().iter().zip(scores).enumerate();
    let mut ranked: Vec<(u32, f32)> = passages
        .filter(|(_, (passage, score))| passage.message < messages && *score > 0.0)
        .map(|(at, (_, score))| (u32::try_from(at).unwrap_or(u32::MAX), score))
        .collect();
    // Of equals the older one comes first: the order is the same on every instance.
    ranked.sort_by(|(a, a_score), (b, b_score)| b_score.total_cmp(a_score).then(a.cmp(b)));
    ranked
}
