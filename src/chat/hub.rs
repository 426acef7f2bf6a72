//! The hub: the turns of this process and their readers.
//!
//! A turn has one buffer of frames; a reader is a cursor into it. Publishing never waits for a
//! reader, and a reader that leaves or is slow changes nothing for the turn or for other readers.
//! An ended turn stays for a minute, so that a reader whose connection broke near the end can come
//! back for the rest.

use super::frames::{FrameBatch, StreamCursor};
use crate::domain::{MessageId, SessionId, TurnId};
use crate::store::LogBatch;
use bytes::{Bytes, BytesMut};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long an ended turn can still be read.
pub(super) const ENDED_TTL: Duration = Duration::from_secs(60);
/// The most bytes of ended turns that are kept; the oldest go first.
const MAX_ENDED_BYTES: usize = 64 << 20;
/// The most bytes of a batch of the log, if it has more than one piece.
const MAX_BATCH_BYTES: usize = 4 << 20;

/// The turns of this process: running, waiting to run, and lately ended.
#[derive(Default)]
pub(super) struct Hub {
    turns: Mutex<BufferTable>,
    /// Cancelled once: stops every turn there is, and each that is opened later.
    abort: CancellationToken,
}

#[derive(Default)]
struct BufferTable {
    by_id: HashMap<TurnId, Arc<TurnBuffer>>,
    /// Ended turns and their sizes, the oldest first.
    ended: VecDeque<(Instant, usize, Arc<TurnBuffer>)>,
    /// Bytes that they hold.
    ended_bytes: usize,
}

impl Hub {
    /// Opens a turn's buffer, or gives the one that is open already. One that was closed while the
    /// turn waited has lost its readers, but the turn that begins after all needs one.
    pub(super) fn open_buffer(&self, session: &SessionId, turn: &TurnId) -> Arc<TurnBuffer> {
        let mut table = lock(&self.turns);
        if let Some(buffer) = table.by_id.get(turn).filter(|buffer| !buffer.is_ended()) {
            return buffer.clone();
        }
        let cancel = self.abort.child_token();
        let buffer = Arc::new(TurnBuffer::new(session.clone(), turn.clone(), cancel));
        table.by_id.insert(turn.clone(), buffer.clone());
        buffer
    }

    /// The buffer of a turn of this session.
    pub(super) fn find_session_buffer(
        &self,
        session: &SessionId,
        turn: &TurnId,
    ) -> Option<Arc<TurnBuffer>> {
        let buffer = self.find_buffer(turn)?;
        (buffer.session_id == *session).then_some(buffer)
    }

    /// The buffer of a turn, whosever it is.
    pub(super) fn find_buffer(&self, turn: &TurnId) -> Option<Arc<TurnBuffer>> {
        let mut table = lock(&self.turns);
        table.evict_expired();
        table.by_id.get(turn).cloned()
    }

    /// Lets go of turns that ended too long ago.
    pub(super) fn evict_expired(&self) {
        lock(&self.turns).evict_expired();
    }

    /// Forgets a turn that did not come to be.
    pub(super) fn discard_buffer(&self, turn: &TurnId) {
        lock(&self.turns).by_id.remove(turn);
    }

    /// Ends a turn's buffer: nothing more comes. It lingers for those who come late.
    pub(super) fn close_buffer(&self, buffer: &Arc<TurnBuffer>) {
        let Some(size) = buffer.mark_ended() else { return };
        let mut table = lock(&self.turns);
        table.ended.push_back((Instant::now(), size, buffer.clone()));
        table.ended_bytes += size;
        table.evict_expired();
    }

    /// The buffer of a turn that another instance runs; this one's journal leaves it alone.
    pub(super) fn open_remote_buffer(
        &self,
        session: &SessionId,
        turn: &TurnId,
        reply: &MessageId,
    ) -> Arc<TurnBuffer> {
        let buffer = self.open_buffer(session, turn);
        buffer.mark_remote(reply);
        buffer
    }

    /// The turns of other instances that somebody reads here; lets go of those that nobody does.
    pub(super) fn followed_buffers(&self) -> Vec<Arc<TurnBuffer>> {
        let mut table = lock(&self.turns);
        // Whoever reads a turn holds it, and gets hold of it only under this lock.
        table.by_id.retain(|_, buffer| !buffer.is_remote() || Arc::strong_count(buffer) > 1);
        let is_followed = |buffer: &&Arc<TurnBuffer>| buffer.is_remote() && !buffer.is_ended();
        table.by_id.values().filter(is_followed).cloned().collect()
    }

    /// Whether any turn runs here, or waits to.
    pub(super) fn has_local_turns(&self) -> bool {
        lock(&self.turns).by_id.values().any(|buffer| !buffer.is_ended() && !buffer.is_remote())
    }

    /// The turns that run, or wait to.
    pub(super) fn active_buffers(&self) -> Vec<Arc<TurnBuffer>> {
        let mut table = lock(&self.turns);
        table.evict_expired();
        table.by_id.values().filter(|buffer| !buffer.is_ended()).cloned().collect()
    }

    /// The names of the turns that this process runs, or will.
    pub(super) fn local_turn_ids(&self) -> HashSet<TurnId> {
        let running = self.active_buffers();
        let local = running.iter().filter(|buffer| !buffer.is_remote());
        local.map(|buffer| buffer.turn_id.clone()).collect()
    }

    /// Ends the buffers of turns that wait in their sessions' queues, or that others run.
    pub(super) fn close_queued_and_remote(&self) {
        for buffer in
            self.active_buffers().iter().filter(|buffer| buffer.is_queued() || buffer.is_remote())
        {
            self.close_buffer(buffer);
        }
    }

    /// Stops every turn, and each that begins from now on.
    pub(super) fn abort_all(&self) {
        self.abort.cancel();
    }
}

impl BufferTable {
    fn evict_expired(&mut self) {
        while let Some((ended_at, size, buffer)) = self.ended.front() {
            if ended_at.elapsed() < ENDED_TTL && self.ended_bytes <= MAX_ENDED_BYTES {
                return;
            }
            // A turn that began after all, behind readers that were sent away, has a new buffer.
            if self.by_id.get(&buffer.turn_id).is_some_and(|current| Arc::ptr_eq(current, buffer)) {
                self.by_id.remove(&buffer.turn_id);
            }
            self.ended_bytes -= size;
            self.ended.pop_front();
        }
    }
}

/// One turn of this process.
pub(super) struct TurnBuffer {
    /// The session it is in.
    pub(super) session_id: SessionId,
    /// Its id.
    pub(super) turn_id: TurnId,
    state: Mutex<BufferState>,
    changed: Notify,
    /// Cancelled when somebody stops the turn.
    pub(super) cancel: CancellationToken,
}

#[derive(Default)]
struct BufferState {
    /// Frames as they were published.
    chunks: Vec<FrameBatch>,
    /// The number of the last frame.
    last_frame: u64,
    byte_count: usize,
    /// Whether the store has the turn in its session's queue, or had it there.
    is_queued: bool,
    is_ended: bool,
    log: LogProgress,
    /// How far the log was read, if another instance runs the turn.
    remote: Option<RemoteProgress>,
    /// Whether this process runs the turn.
    is_local: bool,
}

/// A turn that another instance runs, as far as its log was read.
#[derive(Debug, Clone)]
pub(super) struct RemoteProgress {
    /// The id its reply will have.
    pub(super) reply_id: MessageId,
    /// The number of the first batch that was not read.
    pub(super) next_batch: u32,
}

/// How far the turn's log has come.
#[derive(Default)]
struct LogProgress {
    /// Pieces that are in the log, or on their way there.
    chunks: usize,
    /// Batches that are.
    batch_count: u32,
    /// When the first piece was published that is not.
    unlogged_since: Option<Instant>,
    /// Whether a batch is on its way.
    is_writing: bool,
    /// Whether the last batch was taken: nothing may follow it.
    is_closed: bool,
}

impl TurnBuffer {
    fn new(session_id: SessionId, turn_id: TurnId, cancel: CancellationToken) -> Self {
        Self { session_id, turn_id, state: Mutex::default(), changed: Notify::new(), cancel }
    }

    /// Adds frames for all readers.
    pub(super) fn publish_frames(&self, frames: FrameBatch) {
        if frames.bytes.is_empty() {
            return;
        }
        let mut state = lock(&self.state);
        state.last_frame = frames.last;
        state.byte_count += frames.bytes.len();
        state.chunks.push(frames);
        state.log.unlogged_since.get_or_insert_with(Instant::now);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Says that another instance runs the turn, or will.
    pub(super) fn mark_remote(&self, reply: &MessageId) {
        let mut state = lock(&self.state);
        if state.chunks.is_empty() && state.remote.is_none() && !state.is_local {
            state.remote = Some(RemoteProgress { reply_id: reply.clone(), next_batch: 0 });
        }
    }

    /// Says that this instance runs the turn after all.
    pub(super) fn mark_local(&self) {
        let mut state = lock(&self.state);
        state.remote = None;
        state.is_local = true;
    }

    /// How far the log was read, while another instance runs the turn.
    pub(super) fn remote_progress(&self) -> Option<RemoteProgress> {
        lock(&self.state).remote.clone()
    }

    fn is_remote(&self) -> bool {
        lock(&self.state).remote.is_some()
    }

    /// Adds what another instance wrote into the log, from the batch `from` up to `next`. Whether
    /// the turn is still another instance's, and nobody else was faster.
    pub(super) fn append_remote(&self, batches: &[Bytes], from: u32, next: u32) -> bool {
        let mut state = lock(&self.state);
        match &mut state.remote {
            Some(remote) if remote.next_batch == from => remote.next_batch = next,
            _ => return false,
        }
        for bytes in batches {
            let frames = FrameBatch::from_bytes_after(state.last_frame, bytes.clone());
            state.last_frame = frames.last;
            state.byte_count += frames.bytes.len();
            state.chunks.push(frames);
        }
        drop(state);
        self.changed.notify_waiters();
        true
    }

    /// The number of the last frame.
    pub(super) fn last_frame(&self) -> u64 {
        lock(&self.state).last_frame
    }

    /// Waits until a frame was published, or nothing more comes.
    pub(super) async fn wait_for_frame(&self, frame: u64) {
        self.wait_until(|state| state.last_frame >= frame || state.is_ended).await;
    }

    /// How large it has become; `None` if it had ended before.
    fn mark_ended(&self) -> Option<usize> {
        let mut state = lock(&self.state);
        if std::mem::replace(&mut state.is_ended, true) {
            return None;
        }
        let size = state.byte_count;
        drop(state);
        self.changed.notify_waiters();
        Some(size)
    }

    fn is_ended(&self) -> bool {
        lock(&self.state).is_ended
    }

    /// Says that the turn is in its session's queue.
    pub(super) fn mark_queued(&self) {
        lock(&self.state).is_queued = true;
    }

    /// Whether the turn waits in its session's queue. One that is just being begun does not.
    fn is_queued(&self) -> bool {
        let state = lock(&self.state);
        state.is_queued && state.chunks.is_empty()
    }

    /// Whether nothing was published yet: the turn waits to run.
    pub(super) fn is_pending(&self) -> bool {
        lock(&self.state).chunks.is_empty()
    }

    /// Waits until something was published, or nothing more comes.
    pub(super) async fn wait_until_started(&self) {
        self.wait_until(|state| !state.chunks.is_empty() || state.is_ended).await;
    }

    /// Waits until nothing more comes.
    pub(super) async fn wait_until_ended(&self) {
        self.wait_until(|state| state.is_ended).await;
    }

    async fn wait_until(&self, holds: impl Fn(&BufferState) -> bool) {
        loop {
            // Registered before looking, so that what happens in between wakes it.
            let changed = self.changed.notified();
            if holds(&lock(&self.state)) {
                return;
            }
            changed.await;
        }
    }

    /// What was published and is not in the log, if it has been waiting for this long and nothing
    /// is on its way there. [`TurnBuffer::finish_log_write`] must follow.
    pub(super) fn take_due_batch(&self, delay: Duration) -> Option<LogBatch> {
        let mut state = lock(&self.state);
        let is_due = state.log.unlogged_since.is_some_and(|since| since.elapsed() >= delay);
        if state.log.is_closed || state.log.is_writing || !is_due {
            return None;
        }
        let batch = state.take_unlogged(MAX_BATCH_BYTES);
        state.log.is_writing = true;
        Some(batch)
    }

    /// Says that the batch which was on its way to the log has arrived.
    pub(super) fn finish_log_write(&self) {
        lock(&self.state).log.is_writing = false;
        self.changed.notify_waiters();
    }

    /// The last batch of the log: what is not in it, and the frames that end the stream. `None` if
    /// the log is empty: a turn that was over sooner than its first flush writes none.
    pub(super) async fn close_log(&self, ending: &FrameBatch) -> Option<LogBatch> {
        let mut state = loop {
            let changed = self.changed.notified();
            {
                let mut state = lock(&self.state);
                // From here on nothing more is taken for the log.
                state.log.is_closed = true;
                if !state.log.is_writing {
                    break state;
                }
            }
            changed.await;
        };
        if state.log.batch_count == 0 {
            return None;
        }
        let LogBatch { number, frames } = state.take_unlogged(usize::MAX);
        Some(LogBatch { number, frames: [frames, ending.bytes.clone()].concat().into() })
    }
}

impl BufferState {
    /// What is not in the log, as many pieces as fit into `most` bytes, but one at the least.
    fn take_unlogged(&mut self, max_bytes: usize) -> LogBatch {
        let unlogged = &self.chunks[self.log.chunks..];
        let mut size = 0;
        let fitting = unlogged.iter().take_while(|chunk| {
            size += chunk.bytes.len();
            size <= max_bytes
        });
        let taken = &unlogged[..fitting.count().max(1).min(unlogged.len())];
        let is_all = taken.len() == unlogged.len();
        let frames = match taken {
            [chunk] => chunk.bytes.clone(),
            chunks => {
                let mut all =
                    BytesMut::with_capacity(chunks.iter().map(|chunk| chunk.bytes.len()).sum());
                chunks.iter().for_each(|chunk| all.extend_from_slice(&chunk.bytes));
                all.freeze()
            }
        };
        let number = self.log.batch_count;
        self.log.chunks += taken.len();
        self.log.batch_count += 1;
        if is_all {
            self.log.unlogged_since = None;
        }
        LogBatch { number, frames }
    }

    /// Where the frame behind a cursor is: its piece, and the bytes of that piece before it. `None`
    /// if the cursor names no frame that was published.
    fn position_after(&self, cursor: &StreamCursor) -> Option<(usize, usize)> {
        if cursor.frame > self.last_frame {
            return None;
        }
        let target = cursor.frame + 1;
        let chunk = self.chunks.partition_point(|chunk| chunk.last < target);
        let skip_bytes = self.chunks.get(chunk).map_or(0, |frames| frames.offset_of(target));
        Some((chunk, skip_bytes))
    }
}

/// Reads a turn's frames at its own pace.
pub struct TurnReader {
    buffer: Arc<TurnBuffer>,
    next_chunk: usize,
    /// Bytes of the next piece that this reader has had.
    skip_bytes: usize,
}

impl TurnReader {
    /// A reader that stands before the first frame.
    pub(super) fn new(buffer: Arc<TurnBuffer>) -> Self {
        Self { buffer, next_chunk: 0, skip_bytes: 0 }
    }

    /// A reader that stands behind the frame which a cursor names; before the first one if it
    /// names none of this turn. `None` if nothing is left to read, and nothing will come.
    pub(super) fn after_cursor(
        buffer: Arc<TurnBuffer>,
        cursor: Option<&StreamCursor>,
    ) -> Option<Self> {
        let position = {
            let state = lock(&buffer.state);
            let cursor = cursor.filter(|cursor| cursor.turn_id == buffer.turn_id);
            let position = cursor.and_then(|cursor| Some((cursor, state.position_after(cursor)?)));
            // The terminal frame is the one before `[DONE]`. Of a turn that is over only the rest
            // is to be had.
            let is_inside = position.is_some_and(|(cursor, _)| cursor.frame + 1 < state.last_frame);
            if state.is_ended && !is_inside {
                return None;
            }
            position.map(|(_, position)| position)
        };
        let (next_chunk, skip_bytes) = position.unwrap_or_default();
        Some(Self { buffer, next_chunk, skip_bytes })
    }

    /// A reader that stands behind all frames there are.
    pub(super) fn at_end(buffer: Arc<TurnBuffer>) -> Self {
        let next_chunk = lock(&buffer.state).chunks.len();
        Self { buffer, next_chunk, skip_bytes: 0 }
    }

    /// A reader of frames that are all there already.
    pub(super) fn from_frames(frames: Bytes) -> Self {
        let buffer = TurnBuffer::new(
            SessionId::new_unchecked(""),
            TurnId::new_unchecked(""),
            CancellationToken::new(),
        );
        buffer.publish_frames(FrameBatch { first: 1, last: 1, bytes: frames });
        buffer.mark_ended();
        Self::new(Arc::new(buffer))
    }

    /// The next frames, as many as are there; waits for them. `None` behind the last.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            let changed = self.buffer.changed.notified();
            {
                let state = lock(&self.buffer.state);
                if let Some(frames) = state.chunks.get(self.next_chunk) {
                    self.next_chunk += 1;
                    return Some(frames.bytes.slice(std::mem::take(&mut self.skip_bytes)..));
                }
                if state.is_ended {
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
