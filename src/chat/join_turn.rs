//! Reads a turn that another request or an earlier connection started.

use super::ChatService;
use super::frames::{FrameBatch, StreamCursor};
use super::hub::TurnReader;
use super::journal::ended_cutoff;
use super::transcript::{StreamHeader, replay_reply};
use crate::domain::principal::AccessLevel;
use crate::domain::{Message, Principal, Session, SessionId, TurnId, tool};
use crate::error::Result;
use bytes::Bytes;
use std::time::Instant;

impl ChatService {
    /// Reader for the session's running turn, after the frame named by `cursor` or from the start.
    ///
    /// Without a running turn, reads the rest of the turn that `cursor` points into, if that turn
    /// ended less than a minute ago. `None` if nothing is left to read.
    pub async fn join_turn(
        &self,
        principal: &Principal,
        session: &SessionId,
        cursor: Option<&StreamCursor>,
    ) -> Result<Option<TurnReader>> {
        let checked_at = Instant::now();
        let session = self.store.get_session(principal, session, AccessLevel::Participant).await?;
        let reader = self.find_turn_reader(&session, cursor).await?;
        Ok(reader.map(|reader| self.access_watch.watch_reader(principal, reader, checked_at)))
    }

    async fn find_turn_reader(
        &self,
        session: &Session,
        cursor: Option<&StreamCursor>,
    ) -> Result<Option<TurnReader>> {
        let running = session.active_turn.as_ref().map(|turn| &turn.turn_id);
        let Some(turn) = running.or(cursor.map(|cursor| &cursor.turn_id)) else { return Ok(None) };
        // A buffer here is the fast path. For a turn of another instance the buffer is only as
        // fresh as the last poll, so that case catches up with the log first.
        if let Some(buffer) = self.hub.find_session_buffer(&session.id, turn) {
            if let Some(turn) =
                session.active_turn.as_ref().filter(|_| buffer.remote_progress().is_some())
            {
                return self.read_remote_turn(&session.id, turn, cursor).await;
            }
            return Ok(TurnReader::after_cursor(buffer, cursor));
        }
        if let Some(turn) = session.active_turn.as_ref().filter(|_| self.store.is_shared()) {
            return self.read_remote_turn(&session.id, turn, cursor).await;
        }
        // Without a shared store, a running turn that has no buffer has lost its task and will be
        // ended by recovery. Only the log of an ended turn is read.
        let Some(cursor) = cursor.filter(|_| running.is_none()) else { return Ok(None) };
        let log = self.store.read_log(&session.id, turn, ended_cutoff()).await?;
        Ok(frames_after(&log, cursor).map(TurnReader::from_frames))
    }

    /// Encodes a stored reply as a fresh frame stream of `turn`.
    pub(super) async fn replay_stored_reply(
        &self,
        session: &Session,
        turn: TurnId,
        reply: &Message,
    ) -> Result<Bytes> {
        let user_message_id = reply.parent_id.as_ref().unwrap_or(&reply.id);
        let user_message =
            self.store.get_message(&Principal::server(), &session.id, user_message_id).await?;
        // A reply to tool results must carry the id of the reply it continues, as it did when it
        // was streamed.
        let continues = tool::find_continued_reply(user_message.role, &user_message.parts);
        let header = StreamHeader {
            message_id: &reply.id,
            continues: continues.as_ref(),
            session_id: &session.id,
            title: &session.title,
            user_message_id,
        };
        Ok(replay_reply(turn, reply, &header))
    }
}

/// The frames of a log after `cursor`; `None` if only the end of the stream is left.
fn frames_after(log: &[Bytes], cursor: &StreamCursor) -> Option<Bytes> {
    let bytes = log.concat();
    let frames = FrameBatch::from_bytes(bytes.into());
    // The terminal frame is the one before `[DONE]`; a client that has it is finished.
    if cursor.frame + 1 >= frames.last {
        return None;
    }
    Some(frames.bytes.slice(frames.offset_of(cursor.frame + 1)..))
}
