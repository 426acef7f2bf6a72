//! Reading a turn that somebody else, or an earlier connection, set going.

use super::Chat;
use super::frames::{Cursor, Frames};
use super::hub::Reader;
use super::journal::lingering_since;
use super::transcript::{Opening, replay};
use crate::domain::principal::AccessLevel;
use crate::domain::{Message, Principal, Session, SessionId, TurnId, tool};
use crate::error::Result;
use bytes::Bytes;

impl Chat {
    /// A reader of the session's running turn: behind the frame that `cursor` names, or from the
    /// start. When nothing runs, of the rest of the turn that the cursor is inside of, if that ended
    /// less than a minute ago. `None` if there is nothing to read.
    pub async fn join(
        &self,
        who: &Principal,
        session: &SessionId,
        cursor: Option<&Cursor>,
    ) -> Result<Option<Reader>> {
        let session = self.store.get_session(who, session, AccessLevel::Participant).await?;
        let running = session.active_turn.as_ref().map(|turn| &turn.turn_id);
        let Some(turn) = running.or(cursor.map(|cursor| &cursor.turn)) else { return Ok(None) };
        if let Some(live) = self.hub.get(&session.id, turn) {
            if let Some(turn) = session.active_turn.as_ref().filter(|_| live.remote().is_some()) {
                return self.read_remote(&session.id, turn, cursor).await;
            }
            return Ok(Reader::behind(live, cursor));
        }
        if let Some(turn) = session.active_turn.as_ref().filter(|_| self.store.is_shared()) {
            return self.read_remote(&session.id, turn, cursor).await;
        }
        let Some(cursor) = cursor.filter(|_| running.is_none()) else { return Ok(None) };
        let log = self.store.read_log(&session.id, turn, lingering_since()).await?;
        Ok(rest_of(&log, cursor).map(Reader::of))
    }

    /// The stream of a reply that is stored, framed anew as the turn's.
    pub(super) async fn replayed(
        &self,
        session: &Session,
        turn: TurnId,
        reply: &Message,
    ) -> Result<Bytes> {
        let question = reply.parent_id.as_ref().unwrap_or(&reply.id);
        let asked = self.store.get_message(&Principal::server(), &session.id, question).await?;
        let continues = tool::find_continued_reply(asked.role, &asked.parts);
        let opening = Opening {
            message_id: &reply.id,
            continues: continues.as_ref(),
            session_id: &session.id,
            title: &session.title,
            user_message_id: question,
        };
        Ok(replay(turn, reply, &opening))
    }
}

/// What a log holds behind a cursor; `None` if that is nothing but the end.
fn rest_of(log: &[Bytes], cursor: &Cursor) -> Option<Bytes> {
    let bytes = log.concat();
    let frames = Frames::counted(bytes.into());
    // The terminal frame is the one before `[DONE]`.
    if cursor.frame + 1 >= frames.last {
        return None;
    }
    Some(frames.bytes.slice(frames.offset_of(cursor.frame + 1)..))
}
