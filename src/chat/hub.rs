//! The hub: frame buffers of the turns in this process, and their readers.
//!
//! Each turn has one buffer; a reader is a cursor into it. Publishing never waits for readers, so a
//! slow or disconnected reader affects neither the turn nor other readers. The buffer of an ended
//! turn is kept for a minute so that a client whose connection broke near the end can resume.

use super::empty_streams::{abort_frames_after, error_frames};
use super::frames::{FrameBatch, StreamCursor};
use super::reader_access::ReaderAccess;
use crate::domain::{MessageId, SessionId, TurnId};
use crate::error::Error;
use crate::store::LogBatch;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long the buffer of an ended turn is kept.
pub(super) const ENDED_TTL: Duration = Duration::from_secs(60);
/// Total size limit for buffers of ended turns; the oldest are evicted first.
const MAX_ENDED_BYTES: usize = 64 << 20;
/// Size limit of one log batch; a single larger chunk still becomes a batch.
const MAX_BATCH_BYTES: usize = 4 << 20;

/// Buffers of running, queued, followed and recently ended turns.
#[derive(Default)]
pub(super) struct Hub {
    turns: Mutex<BufferTable>,
    /// Parent of all cancellation tokens: cancelling it also stops turns that start later.
    abort: CancellationToken,
}

#[derive(Default)]
struct BufferTable {
    by_id: HashMap<TurnId, Arc<TurnBuffer>>,
    /// Time of the end, size and buffer of ended turns, oldest first.
    ended: VecDeque<(Instant, usize, Arc<TurnBuffer>)>,
    /// Sum of the sizes in `ended`.
    ended_bytes: usize,
}

impl Hub {
    /// Returns the open buffer of a turn, or creates one. A closed buffer is replaced: it has sent
    /// its readers away, and a queued turn that starts after all needs a new one.
    pub(super) fn open_buffer(&self, session: &SessionId, turn: &TurnId) -> Arc<TurnBuffer> {
        let mut table = self.turns.lock();
        if let Some(buffer) = table.by_id.get(turn).filter(|buffer| !buffer.is_ended()) {
            return buffer.clone();
        }
        let cancel = self.abort.child_token();
        let buffer = Arc::new(TurnBuffer::new(session.clone(), turn.clone(), cancel));
        table.by_id.insert(turn.clone(), buffer.clone());
        buffer
    }

    /// The buffer of a turn, if it belongs to `session`. Prevents reading another session through
    /// its turn id.
    pub(super) fn find_session_buffer(
        &self,
        session: &SessionId,
        turn: &TurnId,
    ) -> Option<Arc<TurnBuffer>> {
        let buffer = self.find_buffer(turn)?;
        (buffer.session_id == *session).then_some(buffer)
    }

    /// Finds a buffer without an access check.
    pub(super) fn find_buffer(&self, turn: &TurnId) -> Option<Arc<TurnBuffer>> {
        let mut table = self.turns.lock();
        table.evict_expired();
        table.by_id.get(turn).cloned()
    }

    /// Drops buffers past [`ENDED_TTL`].
    pub(super) fn evict_expired(&self) {
        self.turns.lock().evict_expired();
    }

    /// Drops the buffer of a turn that was not started.
    pub(super) fn discard_buffer(&self, turn: &TurnId) {
        self.turns.lock().by_id.remove(turn);
    }

    /// Ends a buffer: readers get the remaining frames, then the end of the stream. The buffer
    /// stays readable for [`ENDED_TTL`].
    pub(super) fn close_buffer(&self, buffer: &Arc<TurnBuffer>) {
        let Some(size) = buffer.mark_ended() else { return };
        let mut table = self.turns.lock();
        table.ended.push_back((Instant::now(), size, buffer.clone()));
        table.ended_bytes += size;
        table.evict_expired();
    }

    /// Buffer of a turn that another instance runs. The journal does not log it.
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

    /// Buffers of remote turns that have readers here; drops those without.
    pub(super) fn followed_buffers(&self) -> Vec<Arc<TurnBuffer>> {
        let mut table = self.turns.lock();
        // The map holds one reference, each reader another. References are only handed out under
        // this lock, so a count of 1 cannot grow in between.
        table.by_id.retain(|_, buffer| !buffer.is_remote() || Arc::strong_count(buffer) > 1);
        let is_followed = |buffer: &&Arc<TurnBuffer>| buffer.is_remote() && !buffer.is_ended();
        table.by_id.values().filter(is_followed).cloned().collect()
    }

    /// Whether this instance has running or queued turns.
    pub(super) fn has_local_turns(&self) -> bool {
        self.turns.lock().by_id.values().any(|buffer| !buffer.is_ended() && !buffer.is_remote())
    }

    /// Buffers of running, queued and followed turns.
    pub(super) fn active_buffers(&self) -> Vec<Arc<TurnBuffer>> {
        let mut table = self.turns.lock();
        table.evict_expired();
        table.by_id.values().filter(|buffer| !buffer.is_ended()).cloned().collect()
    }

    /// Ids of the turns that this instance runs or has queued. Recovery treats every other turn
    /// claimed by this instance as orphaned.
    pub(super) fn local_turn_ids(&self) -> HashSet<TurnId> {
        let running = self.active_buffers();
        let local = running.iter().filter(|buffer| !buffer.is_remote());
        local.map(|buffer| buffer.turn_id.clone()).collect()
    }

    /// Sessions of ended turns whose buffers are kept.
    pub(super) fn ended_sessions(&self) -> HashSet<SessionId> {
        let table = self.turns.lock();
        table.ended.iter().map(|(.., buffer)| buffer.session_id.clone()).collect()
    }

    /// Forgets the turns of a deleted session: those that run are cancelled, and their readers get
    /// no further frame. `turns` are the ones that were running or queued. Turns of a new session
    /// under the same id go on.
    pub(super) fn cut_off_session(&self, session: &SessionId, turns: &[TurnId]) {
        let is_gone = |buffer: &TurnBuffer| {
            buffer.session_id == *session && (buffer.is_ended() || turns.contains(&buffer.turn_id))
        };
        let mut table = self.turns.lock();
        let gone = table.by_id.extract_if(|_, buffer| is_gone(buffer));
        let gone: Vec<_> = gone.map(|(_, buffer)| buffer).collect();
        drop(table);
        for buffer in gone {
            buffer.cut_off();
        }
    }

    /// Ends the buffers of queued and remote turns.
    pub(super) fn close_queued_and_remote(&self) {
        for buffer in
            self.active_buffers().iter().filter(|buffer| buffer.is_queued() || buffer.is_remote())
        {
            self.close_buffer(buffer);
        }
    }

    /// Cancels all turns, including those that start later.
    pub(super) fn abort_all(&self) {
        self.abort.cancel();
    }

    /// Whether a shutdown has cancelled all turns.
    pub(super) fn is_aborted(&self) -> bool {
        self.abort.is_cancelled()
    }
}

impl BufferTable {
    fn evict_expired(&mut self) {
        while let Some((ended_at, size, buffer)) = self.ended.front() {
            if ended_at.elapsed() < ENDED_TTL && self.ended_bytes <= MAX_ENDED_BYTES {
                return;
            }
            // A queued turn whose readers were sent away may have started with a new buffer under
            // the same id. Remove only the buffer that ended.
            if self.by_id.get(&buffer.turn_id).is_some_and(|current| Arc::ptr_eq(current, buffer)) {
                self.by_id.remove(&buffer.turn_id);
            }
            self.ended_bytes -= size;
            self.ended.pop_front();
        }
    }
}

/// The frames of one turn.
pub(super) struct TurnBuffer {
    pub(super) session_id: SessionId,
    pub(super) turn_id: TurnId,
    state: Mutex<BufferState>,
    changed: Arc<Notify>,
    /// Stops the turn when cancelled.
    pub(super) cancel: CancellationToken,
    /// Set when the session is deleted: nothing of the turn may be read any more.
    is_cut_off: AtomicBool,
}

#[derive(Default)]
struct BufferState {
    /// Published frames, one entry per publish.
    chunks: Vec<FrameBatch>,
    /// Number of the last published frame.
    last_frame: u64,
    byte_count: usize,
    phase: TurnPhase,
    log: LogProgress,
}

/// The state of a turn, as far as this instance knows it.
///
/// `Opening` leads to every other phase, `Queued` to `Remote` or `Local`, `Remote` to `Local`, and
/// all of them to `Ended`. Nothing leads back: a request that learns late that its turn was queued
/// or is run elsewhere must not take it away from the task that runs it here.
#[derive(Debug, Default)]
enum TurnPhase {
    /// A request has opened the buffer, and the store has not yet said what becomes of the turn.
    #[default]
    Opening,
    /// In the queue of its session. This instance will start it, unless the store is shared.
    Queued,
    /// Another instance runs the turn, or will start it; its frames come from the log.
    Remote(RemoteProgress),
    /// A task of this process runs the turn.
    Local,
    /// No frames will follow.
    Ended { was_remote: bool },
}

/// Progress in reading the log of a turn that another instance runs.
#[derive(Debug, Clone)]
pub(super) struct RemoteProgress {
    pub(super) reply_id: MessageId,
    /// Number of the first batch that has not been read.
    pub(super) next_batch: u32,
}

/// Progress in writing the log of a turn.
#[derive(Default)]
struct LogProgress {
    /// Chunks that are in the log or being written to it.
    chunks: usize,
    /// Batches that are in the log or being written to it.
    batch_count: u32,
    /// When the first unlogged chunk was published; `None` if all chunks are logged.
    unlogged_since: Option<Instant>,
    state: LogState,
}

/// Whether a batch may be taken for the log. At most one is being written at a time, so that batch
/// numbers have no gap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum LogState {
    #[default]
    Idle,
    Writing,
    /// A batch is being written, and after it only the last one may be taken.
    WritingLastButOne,
    /// No batch may follow the last one.
    Closed,
}

impl TurnBuffer {
    fn new(session_id: SessionId, turn_id: TurnId, cancel: CancellationToken) -> Self {
        Self {
            session_id,
            turn_id,
            state: Mutex::default(),
            changed: Arc::default(),
            cancel,
            is_cut_off: AtomicBool::new(false),
        }
    }

    /// Cancels the turn and ends its readers before the frames that they have not read.
    fn cut_off(&self) {
        self.is_cut_off.store(true, Ordering::Release);
        self.cancel.cancel();
        self.changed.notify_waiters();
    }

    /// Appends frames and wakes the readers.
    pub(super) fn publish_frames(&self, frames: FrameBatch) {
        if frames.bytes.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        state.last_frame = frames.last;
        state.byte_count += frames.bytes.len();
        state.chunks.push(frames);
        state.log.unlogged_since.get_or_insert_with(Instant::now);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Marks the turn as run by another instance. No effect if this instance runs it or has
    /// published frames.
    pub(super) fn mark_remote(&self, reply: &MessageId) {
        let mut state = self.state.lock();
        if matches!(state.phase, TurnPhase::Opening | TurnPhase::Queued) {
            let progress = RemoteProgress { reply_id: reply.clone(), next_batch: 0 };
            state.phase = TurnPhase::Remote(progress);
        }
    }

    /// Marks the turn as run by this instance.
    pub(super) fn mark_local(&self) {
        let mut state = self.state.lock();
        if !state.is_ended() {
            state.phase = TurnPhase::Local;
        }
    }

    /// `None` unless another instance runs the turn, or will start it.
    pub(super) fn remote_progress(&self) -> Option<RemoteProgress> {
        match &self.state.lock().phase {
            TurnPhase::Remote(progress) => Some(progress.clone()),
            _ => None,
        }
    }

    /// Whether another instance runs or ran the turn.
    pub(super) fn is_remote(&self) -> bool {
        let phase = &self.state.lock().phase;
        matches!(phase, TurnPhase::Remote(_) | TurnPhase::Ended { was_remote: true })
    }

    /// Appends log batches `from..next` of another instance. Returns `false` if they were already
    /// appended or the turn has become local.
    pub(super) fn append_remote(&self, batches: &[Bytes], from: u32, next: u32) -> bool {
        let mut state = self.state.lock();
        match &mut state.phase {
            // The shared poll and a joining reader may fetch the same batches concurrently. Only
            // the first may append them, or readers would see frames twice.
            TurnPhase::Remote(remote) if remote.next_batch == from => remote.next_batch = next,
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

    pub(super) fn last_frame(&self) -> u64 {
        self.state.lock().last_frame
    }

    /// Waits until `frame` is published or the turn ends.
    pub(super) async fn wait_for_frame(&self, frame: u64) {
        self.wait_until(|state| state.last_frame >= frame || state.is_ended()).await;
    }

    /// Marks the buffer as ended and returns its size; `None` if it had already ended.
    fn mark_ended(&self) -> Option<usize> {
        let mut state = self.state.lock();
        if state.is_ended() {
            return None;
        }
        let was_remote = matches!(state.phase, TurnPhase::Remote(_));
        state.phase = TurnPhase::Ended { was_remote };
        let size = state.byte_count;
        drop(state);
        self.changed.notify_waiters();
        Some(size)
    }

    fn is_ended(&self) -> bool {
        self.state.lock().is_ended()
    }

    /// Marks the turn as queued. No effect if it has been started meanwhile.
    pub(super) fn mark_queued(&self) {
        let mut state = self.state.lock();
        if matches!(state.phase, TurnPhase::Opening) {
            state.phase = TurnPhase::Queued;
        }
    }

    fn is_queued(&self) -> bool {
        matches!(self.state.lock().phase, TurnPhase::Queued)
    }

    /// Whether the turn has published no frames.
    pub(super) fn is_pending(&self) -> bool {
        self.state.lock().chunks.is_empty()
    }

    /// Waits until the first frame is published or the turn ends.
    pub(super) async fn wait_until_started(&self) {
        self.wait_until(|state| !state.chunks.is_empty() || state.is_ended()).await;
    }

    pub(super) async fn wait_until_ended(&self) {
        self.wait_until(BufferState::is_ended).await;
    }

    async fn wait_until(&self, holds: impl Fn(&BufferState) -> bool) {
        loop {
            // Registered before checking, so that a notification in between is not lost.
            let changed = self.changed.notified();
            if holds(&self.state.lock()) {
                return;
            }
            changed.await;
        }
    }

    /// Takes the next log batch, if its oldest frame has waited for at least `delay` and no write
    /// is in flight. The caller must call [`TurnBuffer::finish_log_write`] afterwards.
    pub(super) fn take_due_batch(&self, delay: Duration) -> Option<LogBatch> {
        let mut state = self.state.lock();
        let is_due = state.log.unlogged_since.is_some_and(|since| since.elapsed() >= delay);
        if state.log.state != LogState::Idle || !is_due {
            return None;
        }
        state.log.state = LogState::Writing;
        Some(state.take_unlogged(MAX_BATCH_BYTES))
    }

    /// Allows the next batch to be taken, and wakes `close_log`.
    pub(super) fn finish_log_write(&self) {
        let log = &mut self.state.lock().log.state;
        *log = match *log {
            LogState::Idle | LogState::Writing => LogState::Idle,
            LogState::WritingLastButOne | LogState::Closed => LogState::Closed,
        };
        self.changed.notify_waiters();
    }

    /// Closes the log and returns its last batch: the unlogged frames followed by `ending`. Before
    /// it the other batches must be written, which are few and usually none. `None` if nothing was
    /// logged; a turn that ends before its first flush has no log.
    pub(super) async fn close_log(&self, ending: &FrameBatch) -> (Vec<LogBatch>, Option<LogBatch>) {
        let mut state = loop {
            let changed = self.changed.notified();
            {
                let mut state = self.state.lock();
                // From here on `take_due_batch` returns `None`, so at most one more write completes
                // before the last batch is taken.
                state.log.state = match state.log.state {
                    LogState::Idle | LogState::Closed => LogState::Closed,
                    LogState::Writing | LogState::WritingLastButOne => LogState::WritingLastButOne,
                };
                if state.log.state == LogState::Closed {
                    break state;
                }
            }
            changed.await;
        };
        if state.log.batch_count == 0 {
            return (Vec::new(), None);
        }
        let mut earlier = Vec::new();
        let mut last = state.take_unlogged(MAX_BATCH_BYTES);
        while state.log.unlogged_since.is_some() {
            earlier.push(std::mem::replace(&mut last, state.take_unlogged(MAX_BATCH_BYTES)));
        }
        last.frames = [last.frames, ending.log_bytes()].concat().into();
        (earlier, Some(last))
    }
}

impl BufferState {
    fn is_ended(&self) -> bool {
        matches!(self.phase, TurnPhase::Ended { .. })
    }

    /// Takes unlogged chunks up to `max_bytes`, but at least one.
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
            // `Bytes` is reference counted: the common single chunk is not copied.
            [chunk] => chunk.log_bytes(),
            chunks => {
                let mut all =
                    BytesMut::with_capacity(chunks.iter().map(|chunk| chunk.bytes.len()).sum());
                chunks.iter().for_each(|chunk| all.extend_from_slice(&chunk.log_bytes()));
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

    /// Position of the frame after `cursor`: the chunk index, and the bytes to skip in that chunk.
    /// `None` if the cursor names a frame that was not published.
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

pub struct TurnReader {
    buffer: Arc<TurnBuffer>,
    next_chunk: usize,
    /// Bytes of the next chunk that the client already has.
    skip_bytes: usize,
    /// Number of the last frame that was read.
    last_frame: u64,
    /// `None` until [`TurnReader::with_access`].
    access: Option<Arc<ReaderAccess>>,
    /// Whether the last frames of a stream that was cut short have been read.
    has_ended_early: bool,
}

impl TurnReader {
    /// Reads from the first frame.
    pub(super) fn new(buffer: Arc<TurnBuffer>) -> Self {
        Self::at_position(buffer, 0, 0, 0)
    }

    /// Reads after `cursor`, or from the first frame if the cursor is of another turn or unknown.
    /// `None` if nothing is left to read.
    pub(super) fn after_cursor(
        buffer: Arc<TurnBuffer>,
        cursor: Option<&StreamCursor>,
    ) -> Option<Self> {
        let position = {
            let state = buffer.state.lock();
            let cursor = cursor.filter(|cursor| cursor.turn_id == buffer.turn_id);
            let position = cursor.and_then(|cursor| Some((cursor, state.position_after(cursor)?)));
            // The terminal frame is the one before `[DONE]`. A client that has it is finished, and
            // a cursor of another turn must not replay a turn that has ended.
            let is_inside = position.is_some_and(|(cursor, _)| cursor.frame + 1 < state.last_frame);
            if state.is_ended() && !is_inside {
                return None;
            }
            position.map(|(_, position)| position)
        };
        let (next_chunk, skip_bytes) = position.unwrap_or_default();
        let last_frame = cursor.filter(|_| position.is_some()).map_or(0, |cursor| cursor.frame);
        Some(Self::at_position(buffer, next_chunk, skip_bytes, last_frame))
    }

    /// Reads only frames published from now on.
    pub(super) fn at_end(buffer: Arc<TurnBuffer>) -> Self {
        let state = buffer.state.lock();
        let next_chunk = state.chunks.len();
        let last_frame = state.last_frame;
        drop(state);
        Self::at_position(buffer, next_chunk, 0, last_frame)
    }

    fn at_position(
        buffer: Arc<TurnBuffer>,
        next_chunk: usize,
        skip_bytes: usize,
        last_frame: u64,
    ) -> Self {
        let access = None;
        Self { buffer, next_chunk, skip_bytes, last_frame, access, has_ended_early: false }
    }

    /// The session of the turn, and the notification of its readers; `None` for frames that are
    /// complete, which are read at once.
    pub(super) fn live_buffer(&self) -> Option<(SessionId, Arc<Notify>)> {
        let TurnBuffer { session_id, changed, .. } = &*self.buffer;
        (!session_id.as_str().is_empty()).then(|| (session_id.clone(), changed.clone()))
    }

    /// Ends with an error once `access` is revoked.
    pub(super) fn with_access(self, access: Arc<ReaderAccess>) -> Self {
        Self { access: Some(access), ..self }
    }

    /// Reads frames that are complete.
    pub(super) fn from_frames(frames: Bytes) -> Self {
        let buffer = TurnBuffer::new(
            SessionId::new_unchecked(""),
            TurnId::new_unchecked(""),
            CancellationToken::new(),
        );
        // The frame numbers do not matter here: no cursor is applied to this buffer.
        buffer.publish_frames(FrameBatch { last: 1, ..FrameBatch::from_bytes(frames) });
        buffer.mark_ended();
        Self::new(Arc::new(buffer))
    }

    /// Waits for the next chunk of frames; `None` at the end of the stream. Cancel-safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            let changed = self.buffer.changed.notified();
            // Before the frames: those that were published but not read are not delivered.
            if let Some(ending) = self.early_ending() {
                return (!std::mem::replace(&mut self.has_ended_early, true)).then_some(ending);
            }
            {
                let state = self.buffer.state.lock();
                match state.chunks.get(self.next_chunk) {
                    // The next check of the access wakes the reader.
                    Some(_) if self.access.as_ref().is_some_and(|access| access.is_stale()) => {}
                    Some(frames) => {
                        self.next_chunk += 1;
                        self.last_frame = frames.last;
                        return Some(frames.bytes.slice(std::mem::take(&mut self.skip_bytes)..));
                    }
                    None if state.is_ended() => return None,
                    None => {}
                }
            }
            changed.await;
        }
    }

    /// The end of a stream whose reader may not go on.
    fn early_ending(&self) -> Option<Bytes> {
        let turn = || self.buffer.turn_id.clone();
        let revoked = self.access.as_ref().filter(|access| access.is_revoked());
        if revoked.is_some_and(|access| !access.is_session_gone()) {
            let text = Error::session_not_found().message;
            return Some(error_frames(turn(), self.last_frame + 1, &text).bytes);
        }
        let is_cut_off = self.buffer.is_cut_off.load(Ordering::Acquire);
        (is_cut_off || revoked.is_some()).then(|| abort_frames_after(turn(), self.last_frame).bytes)
    }
}
