//! The hub: the turns of this process and their readers.
//!
//! A turn has one buffer of frames; a reader is a cursor into it. Publishing never waits for a
//! reader, and a reader that leaves or is slow changes nothing for the turn or for other readers.
//! An ended turn stays for a minute, so that a reader whose connection broke near the end can come
//! back for the rest.

use super::frames::{Cursor, Frames};
use crate::domain::{MessageId, SessionId, TurnId};
use crate::store::LogBatch;
use bytes::{Bytes, BytesMut};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long an ended turn can still be read.
pub(super) const LINGER: Duration = Duration::from_secs(60);
/// The most bytes of ended turns that are kept; the oldest go first.
const MAX_LINGERING: usize = 64 << 20;
/// The most bytes of a batch of the log, if it has more than one piece.
const MAX_BATCH: usize = 4 << 20;

/// The turns of this process: running, waiting to run, and lately ended.
#[derive(Default)]
pub(super) struct Hub {
    turns: Mutex<Turns>,
    /// Cancelled once: stops every turn there is, and each that is opened later.
    cut: CancellationToken,
}

#[derive(Default)]
struct Turns {
    by_id: HashMap<TurnId, Arc<LiveTurn>>,
    /// Ended turns and their sizes, the oldest first.
    ended: VecDeque<(Instant, usize, Arc<LiveTurn>)>,
    /// Bytes that they hold.
    lingering: usize,
}

impl Hub {
    /// Opens a turn's buffer, or gives the one that is open already. One that was closed while the
    /// turn waited has lost its readers, but the turn that begins after all needs one.
    pub(super) fn open(&self, session: &SessionId, turn: &TurnId) -> Arc<LiveTurn> {
        let mut turns = lock(&self.turns);
        if let Some(live) = turns.by_id.get(turn).filter(|live| !live.is_ended()) {
            return live.clone();
        }
        let stop = self.cut.child_token();
        let live = Arc::new(LiveTurn::new(session.clone(), turn.clone(), stop));
        turns.by_id.insert(turn.clone(), live.clone());
        live
    }

    /// The buffer of a turn of this session.
    pub(super) fn get(&self, session: &SessionId, turn: &TurnId) -> Option<Arc<LiveTurn>> {
        let live = self.find(turn)?;
        (live.session == *session).then_some(live)
    }

    /// The buffer of a turn, whosever it is.
    pub(super) fn find(&self, turn: &TurnId) -> Option<Arc<LiveTurn>> {
        let mut turns = lock(&self.turns);
        turns.forget_the_oldest();
        turns.by_id.get(turn).cloned()
    }

    /// Lets go of turns that ended too long ago.
    pub(super) fn forget_the_oldest(&self) {
        lock(&self.turns).forget_the_oldest();
    }

    /// Forgets a turn that did not come to be.
    pub(super) fn discard(&self, turn: &TurnId) {
        lock(&self.turns).by_id.remove(turn);
    }

    /// Ends a turn's buffer: nothing more comes. It lingers for those who come late.
    pub(super) fn close(&self, live: &Arc<LiveTurn>) {
        let Some(size) = live.end() else { return };
        let mut turns = lock(&self.turns);
        turns.ended.push_back((Instant::now(), size, live.clone()));
        turns.lingering += size;
        turns.forget_the_oldest();
    }

    /// The buffer of a turn that another instance runs; this one's journal leaves it alone.
    pub(super) fn open_remote(
        &self,
        session: &SessionId,
        turn: &TurnId,
        reply: &MessageId,
    ) -> Arc<LiveTurn> {
        let live = self.open(session, turn);
        live.follow(reply);
        live
    }

    /// The turns of other instances that somebody reads here; lets go of those that nobody does.
    pub(super) fn followed(&self) -> Vec<Arc<LiveTurn>> {
        let mut turns = lock(&self.turns);
        // Whoever reads a turn holds it, and gets hold of it only under this lock.
        turns.by_id.retain(|_, live| !live.is_remote() || Arc::strong_count(live) > 1);
        let remote = |live: &&Arc<LiveTurn>| live.is_remote() && !live.is_ended();
        turns.by_id.values().filter(remote).cloned().collect()
    }

    /// Whether any turn runs here, or waits to.
    pub(super) fn runs_any(&self) -> bool {
        lock(&self.turns).by_id.values().any(|live| !live.is_ended() && !live.is_remote())
    }

    /// The turns that run, or wait to.
    pub(super) fn running(&self) -> Vec<Arc<LiveTurn>> {
        let mut turns = lock(&self.turns);
        turns.forget_the_oldest();
        turns.by_id.values().filter(|live| !live.is_ended()).cloned().collect()
    }

    /// The names of the turns that this process runs, or will.
    pub(super) fn running_ids(&self) -> HashSet<TurnId> {
        let running = self.running();
        let own = running.iter().filter(|live| !live.is_remote());
        own.map(|live| live.turn.clone()).collect()
    }

    /// Ends the buffers of turns that wait in their sessions' queues, or that others run.
    pub(super) fn close_waiting(&self) {
        for live in self.running().iter().filter(|live| live.is_queued() || live.is_remote()) {
            self.close(live);
        }
    }

    /// Stops every turn, and each that begins from now on.
    pub(super) fn cut(&self) {
        self.cut.cancel();
    }
}

impl Turns {
    fn forget_the_oldest(&mut self) {
        while let Some((ended, size, live)) = self.ended.front() {
            if ended.elapsed() < LINGER && self.lingering <= MAX_LINGERING {
                return;
            }
            // A turn that began after all, behind readers that were sent away, has a new buffer.
            if self.by_id.get(&live.turn).is_some_and(|current| Arc::ptr_eq(current, live)) {
                self.by_id.remove(&live.turn);
            }
            self.lingering -= size;
            self.ended.pop_front();
        }
    }
}

/// One turn of this process.
pub(super) struct LiveTurn {
    /// The session it is in.
    pub(super) session: SessionId,
    /// Its id.
    pub(super) turn: TurnId,
    buffer: Mutex<Buffer>,
    changed: Notify,
    /// Cancelled when somebody stops the turn.
    pub(super) stop: CancellationToken,
}

#[derive(Default)]
struct Buffer {
    /// Frames as they were published.
    pieces: Vec<Frames>,
    /// The number of the last frame.
    last: u64,
    bytes: usize,
    /// Whether the store has the turn in its session's queue, or had it there.
    is_queued: bool,
    is_ended: bool,
    journal: Journal,
    /// How far the log was read, if another instance runs the turn.
    remote: Option<Remote>,
    /// Whether this process runs the turn.
    is_ours: bool,
}

/// A turn that another instance runs, as far as its log was read.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    /// The id its reply will have.
    pub(super) reply: MessageId,
    /// The number of the first batch that was not read.
    pub(super) next_batch: u32,
}

/// How far the turn's log has come.
#[derive(Default)]
struct Journal {
    /// Pieces that are in the log, or on their way there.
    pieces: usize,
    /// Batches that are.
    batches: u32,
    /// When the first piece was published that is not.
    behind_since: Option<Instant>,
    /// Whether a batch is on its way.
    is_writing: bool,
    /// Whether the last batch was taken: nothing may follow it.
    is_closed: bool,
}

impl LiveTurn {
    fn new(session: SessionId, turn: TurnId, stop: CancellationToken) -> Self {
        let (buffer, changed) = Default::default();
        Self { session, turn, buffer, changed, stop }
    }

    /// Adds frames for all readers.
    pub(super) fn publish(&self, frames: Frames) {
        if frames.bytes.is_empty() {
            return;
        }
        let mut buffer = lock(&self.buffer);
        buffer.last = frames.last;
        buffer.bytes += frames.bytes.len();
        buffer.pieces.push(frames);
        buffer.journal.behind_since.get_or_insert_with(Instant::now);
        drop(buffer);
        self.changed.notify_waiters();
    }

    /// Says that another instance runs the turn, or will.
    pub(super) fn follow(&self, reply: &MessageId) {
        let mut buffer = lock(&self.buffer);
        if buffer.pieces.is_empty() && buffer.remote.is_none() && !buffer.is_ours {
            buffer.remote = Some(Remote { reply: reply.clone(), next_batch: 0 });
        }
    }

    /// Says that this instance runs the turn after all.
    pub(super) fn take_over(&self) {
        let mut buffer = lock(&self.buffer);
        (buffer.remote, buffer.is_ours) = (None, true);
    }

    /// How far the log was read, while another instance runs the turn.
    pub(super) fn remote(&self) -> Option<Remote> {
        lock(&self.buffer).remote.clone()
    }

    fn is_remote(&self) -> bool {
        lock(&self.buffer).remote.is_some()
    }

    /// Adds what another instance wrote into the log, from the batch `from` up to `next`. Whether
    /// the turn is still another instance's, and nobody else was faster.
    pub(super) fn relay(&self, batches: &[Bytes], from: u32, next: u32) -> bool {
        let mut buffer = lock(&self.buffer);
        match &mut buffer.remote {
            Some(remote) if remote.next_batch == from => remote.next_batch = next,
            _ => return false,
        }
        for bytes in batches {
            let frames = Frames::behind(buffer.last, bytes.clone());
            buffer.last = frames.last;
            buffer.bytes += frames.bytes.len();
            buffer.pieces.push(frames);
        }
        drop(buffer);
        self.changed.notify_waiters();
        true
    }

    /// The number of the last frame.
    pub(super) fn last_frame(&self) -> u64 {
        lock(&self.buffer).last
    }

    /// Waits until a frame was published, or nothing more comes.
    pub(super) async fn reached(&self, frame: u64) {
        self.until(|buffer| buffer.last >= frame || buffer.is_ended).await;
    }

    /// How large it has become; `None` if it had ended before.
    fn end(&self) -> Option<usize> {
        let mut buffer = lock(&self.buffer);
        if std::mem::replace(&mut buffer.is_ended, true) {
            return None;
        }
        let size = buffer.bytes;
        drop(buffer);
        self.changed.notify_waiters();
        Some(size)
    }

    fn is_ended(&self) -> bool {
        lock(&self.buffer).is_ended
    }

    /// Says that the turn is in its session's queue.
    pub(super) fn set_queued(&self) {
        lock(&self.buffer).is_queued = true;
    }

    /// Whether the turn waits in its session's queue. One that is just being begun does not.
    fn is_queued(&self) -> bool {
        let buffer = lock(&self.buffer);
        buffer.is_queued && buffer.pieces.is_empty()
    }

    /// Whether nothing was published yet: the turn waits to run.
    pub(super) fn is_waiting(&self) -> bool {
        lock(&self.buffer).pieces.is_empty()
    }

    /// Waits until something was published, or nothing more comes.
    pub(super) async fn begun(&self) {
        self.until(|buffer| !buffer.pieces.is_empty() || buffer.is_ended).await;
    }

    /// Waits until nothing more comes.
    pub(super) async fn ended(&self) {
        self.until(|buffer| buffer.is_ended).await;
    }

    async fn until(&self, holds: impl Fn(&Buffer) -> bool) {
        loop {
            // Registered before looking, so that what happens in between wakes it.
            let changed = self.changed.notified();
            if holds(&lock(&self.buffer)) {
                return;
            }
            changed.await;
        }
    }

    /// What was published and is not in the log, if it has been waiting for this long and nothing
    /// is on its way there. [`LiveTurn::logged`] must follow.
    pub(super) fn unlogged(&self, behind: Duration) -> Option<LogBatch> {
        let mut buffer = lock(&self.buffer);
        let is_due = buffer.journal.behind_since.is_some_and(|since| since.elapsed() >= behind);
        if buffer.journal.is_closed || buffer.journal.is_writing || !is_due {
            return None;
        }
        let batch = buffer.take_unlogged(MAX_BATCH);
        buffer.journal.is_writing = true;
        Some(batch)
    }

    /// Says that the batch which was on its way to the log has arrived.
    pub(super) fn logged(&self) {
        lock(&self.buffer).journal.is_writing = false;
        self.changed.notify_waiters();
    }

    /// The last batch of the log: what is not in it, and the frames that end the stream. `None` if
    /// the log is empty: a turn that was over sooner than its first flush writes none.
    pub(super) async fn last_batch(&self, ending: &Frames) -> Option<LogBatch> {
        let mut buffer = loop {
            let changed = self.changed.notified();
            {
                let mut buffer = lock(&self.buffer);
                // From here on nothing more is taken for the log.
                buffer.journal.is_closed = true;
                if !buffer.journal.is_writing {
                    break buffer;
                }
            }
            changed.await;
        };
        if buffer.journal.batches == 0 {
            return None;
        }
        let LogBatch { number, frames } = buffer.take_unlogged(usize::MAX);
        Some(LogBatch { number, frames: [frames, ending.bytes.clone()].concat().into() })
    }
}

impl Buffer {
    /// What is not in the log, as many pieces as fit into `most` bytes, but one at the least.
    fn take_unlogged(&mut self, most: usize) -> LogBatch {
        let unlogged = &self.pieces[self.journal.pieces..];
        let mut size = 0;
        let fitting = unlogged.iter().take_while(|piece| {
            size += piece.bytes.len();
            size <= most
        });
        let pieces = &unlogged[..fitting.count().max(1).min(unlogged.len())];
        let is_all = pieces.len() == unlogged.len();
        let frames = match pieces {
            [only] => only.bytes.clone(),
            several => {
                let mut all =
                    BytesMut::with_capacity(several.iter().map(|piece| piece.bytes.len()).sum());
                several.iter().for_each(|piece| all.extend_from_slice(&piece.bytes));
                all.freeze()
            }
        };
        let number = self.journal.batches;
        self.journal.pieces += pieces.len();
        self.journal.batches += 1;
        if is_all {
            self.journal.behind_since = None;
        }
        LogBatch { number, frames }
    }

    /// Where the frame behind a cursor is: its piece, and the bytes of that piece before it. `None`
    /// if the cursor names no frame that was published.
    fn behind(&self, cursor: &Cursor) -> Option<(usize, usize)> {
        if cursor.frame > self.last {
            return None;
        }
        let wanted = cursor.frame + 1;
        let piece = self.pieces.partition_point(|piece| piece.last < wanted);
        let skipped = self.pieces.get(piece).map_or(0, |frames| frames.offset_of(wanted));
        Some((piece, skipped))
    }
}

/// Reads a turn's frames at its own pace.
pub struct Reader {
    live: Arc<LiveTurn>,
    next: usize,
    /// Bytes of the next piece that this reader has had.
    skipped: usize,
}

impl Reader {
    /// A reader that stands before the first frame.
    pub(super) fn new(live: Arc<LiveTurn>) -> Self {
        Self { live, next: 0, skipped: 0 }
    }

    /// A reader that stands behind the frame which a cursor names; before the first one if it
    /// names none of this turn. `None` if nothing is left to read, and nothing will come.
    pub(super) fn behind(live: Arc<LiveTurn>, cursor: Option<&Cursor>) -> Option<Self> {
        let place = {
            let buffer = lock(&live.buffer);
            let cursor = cursor.filter(|cursor| cursor.turn == live.turn);
            let place = cursor.and_then(|cursor| Some((cursor, buffer.behind(cursor)?)));
            // The terminal frame is the one before `[DONE]`. Of a turn that is over only the rest
            // is to be had.
            let is_inside = place.is_some_and(|(cursor, _)| cursor.frame + 1 < buffer.last);
            if buffer.is_ended && !is_inside {
                return None;
            }
            place.map(|(_, place)| place)
        };
        let (next, skipped) = place.unwrap_or_default();
        Some(Self { live, next, skipped })
    }

    /// A reader that stands behind all frames there are.
    pub(super) fn at_end(live: Arc<LiveTurn>) -> Self {
        let next = lock(&live.buffer).pieces.len();
        Self { live, next, skipped: 0 }
    }

    /// A reader of frames that are all there already.
    pub(super) fn of(frames: Bytes) -> Self {
        let live =
            LiveTurn::new(SessionId::trusted(""), TurnId::trusted(""), CancellationToken::new());
        live.publish(Frames { first: 1, last: 1, bytes: frames });
        live.end();
        Self::new(Arc::new(live))
    }

    /// The next frames, as many as are there; waits for them. `None` behind the last.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            let changed = self.live.changed.notified();
            {
                let buffer = lock(&self.live.buffer);
                if let Some(frames) = buffer.pieces.get(self.next) {
                    self.next += 1;
                    return Some(frames.bytes.slice(std::mem::take(&mut self.skipped)..));
                }
                if buffer.is_ended {
                    return None;
                }
            }
            changed.await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
