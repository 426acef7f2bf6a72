//! Sessions as rows: how they are found and decoded. Nothing else depends on the order of columns.

use super::rows::decode_word;
use crate::domain::key::KeyId;
use crate::domain::quota::UsagePayer;
use crate::domain::session::{ListPlacement, SessionStatus};
use crate::domain::title::TitleSource;
use crate::domain::turn::ActiveTurn;
use crate::domain::{
    MessageId, Principal, ProjectId, Session, SessionId, Timestamp, TurnId, UserId,
};
use crate::error::{Error, Result};
use crate::store::stored_values::{decode_json, decode_object};
use crate::store::transaction::{MessageLocation, SessionRow};
use crate::store::{LeaseHolder, SessionMembers};
use rusqlite::{Connection, OptionalExtension, Row, params};

/// Columns in the order in which [`decode_session`] reads them.
const SELECT_SESSION: &str = "SELECT s.key, s.id, s.owner, s.participants, s.project_id, s.title, \
     s.title_source, s.status, s.archived, s.pinned, s.meta, s.user_meta, s.theme, s.settings, s.read_marks, \
     s.version, s.messages, s.nodes, s.head_id, s.head_seq, s.head_node, s.last_message, s.last_message_at, \
     s.last_seen, s.created_at, s.updated_at, t.turn_id, t.reply_id, t.question_id, t.started_at, \
     t.instance, t.boot, t.payer, t.payer_key, s.invited, s.placements \
     FROM sessions s LEFT JOIN turns t ON t.session = s.key";

/// A session and the key of its row, which other tables refer to.
#[derive(Debug)]
pub(super) struct KeyedSession {
    pub(super) key: i64,
    pub(super) row: SessionRow,
}

/// Finds a session without an access check.
pub(super) fn find_session(db: &Connection, id: &SessionId) -> Result<Option<KeyedSession>> {
    let mut statement = db.prepare_cached(&format!("{SELECT_SESSION} WHERE s.id = ?1"))?;
    let mut rows = statement.query([id.as_str()])?;
    rows.next()?.map(decode_session).transpose()
}

/// Finds a session that `principal` may see or is invited to. The query checks that, so nothing but
/// the owner is read of a hidden session.
pub(super) fn find_visible_session(
    db: &Connection,
    principal: &Principal,
    id: &SessionId,
) -> Result<Option<KeyedSession>> {
    let mut statement = db.prepare_cached(&format!(
        "{SELECT_SESSION} WHERE s.id = ?1 AND (?2 OR s.owner = ?3 OR EXISTS \
         (SELECT 1 FROM participants p WHERE p.user_id = ?3 AND p.session = s.key))"
    ))?;
    let mut rows =
        statement.query(params![id.as_str(), principal.is_admin, principal.user.as_str()])?;
    rows.next()?.map(decode_session).transpose()
}

/// Owner and participants of a session, without the rest of its row.
pub(super) fn find_members(db: &Connection, id: &SessionId) -> Result<Option<SessionMembers>> {
    let sql = "SELECT owner, participants FROM sessions WHERE id = ?1";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([id.as_str()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let owner = UserId::new_unchecked(row.get::<_, String>(0)?);
    Ok(Some(SessionMembers { owner, participants: decode_users(row, 1)? }))
}

pub(super) fn get_session_by_key(db: &Connection, key: i64) -> Result<KeyedSession> {
    let mut statement = db.prepare_cached(&format!("{SELECT_SESSION} WHERE s.key = ?1"))?;
    let mut rows = statement.query([key])?;
    rows.next()?.map(decode_session).transpose()?.ok_or_else(Error::session_not_found)
}

pub(super) fn find_session_key(db: &Connection, session: &SessionId) -> Result<Option<i64>> {
    let sql = "SELECT key FROM sessions WHERE id = ?1";
    Ok(db.prepare_cached(sql)?.query_row([session.as_str()], |row| row.get(0)).optional()?)
}

fn decode_session(row: &Row<'_>) -> Result<KeyedSession> {
    let id = SessionId::new_unchecked(row.get::<_, String>(1)?);
    let owner = UserId::new_unchecked(row.get::<_, String>(2)?);
    let archived = row.get(8)?;
    let pinned = row.get(9)?;
    let created_at = Timestamp::from_millis(row.get(24)?);
    let location = match (row.get::<_, Option<u32>>(19)?, row.get::<_, Option<u32>>(20)?) {
        (Some(seq), Some(node)) => Some(MessageLocation { node, seq }),
        _ => None,
    };
    let session = Session {
        id,
        participants: decode_users(row, 3)?,
        invited: decode_users(row, 34)?,
        owner,
        project_id: row.get::<_, Option<String>>(4)?.map(ProjectId::new_unchecked),
        title: row.get(5)?,
        title_source: decode_word(TitleSource::from_name, row, 6)?,
        status: SessionStatus::new_unchecked(row.get(7)?),
        archived,
        pinned,
        meta: decode_object(row.get(10)?)?,
        user_meta: decode_object(row.get(11)?)?,
        theme: decode_object(row.get(12)?)?,
        settings: decode_json(row.get_ref(13)?.as_str().map_err(Error::store_unavailable)?)?,
        version: row.get(15)?,
        messages_count: row.get(16)?,
        head_id: row.get::<_, Option<String>>(18)?.map(MessageId::new_unchecked),
        active_turn: decode_active_turn(row)?,
        last_message: row.get(21)?,
        last_message_at: row.get::<_, Option<i64>>(22)?.map(Timestamp::from_millis),
        last_seen: row.get::<_, Option<i64>>(23)?.map(Timestamp::from_millis),
        start_time: created_at,
        created_at,
        updated_at: Timestamp::from_millis(row.get(25)?),
        nodes: None,
    };
    let owner = session.owner.clone();
    let mut session = SessionRow {
        session,
        node_count: row.get(17)?,
        head: location,
        lease_holder: decode_lease_holder(row)?,
        payer: decode_payer(row)?,
        read_marks: decode_json(row.get_ref(14)?.as_str().map_err(Error::store_unavailable)?)?,
        placements: decode_json(row.get_ref(35)?.as_str().map_err(Error::store_unavailable)?)?,
    };
    // The owner's are columns, which an index of lists contains.
    session.set_placement(&owner, ListPlacement { archived, pinned });
    Ok(KeyedSession { key: row.get(0)?, row: session })
}

fn decode_users(row: &Row<'_>, column: usize) -> Result<Vec<UserId>> {
    let users: Vec<String> =
        decode_json(row.get_ref(column)?.as_str().map_err(Error::store_unavailable)?)?;
    Ok(users.into_iter().map(UserId::new_unchecked).collect())
}

/// The columns of a claim are NULL if no turn is running.
fn decode_active_turn(row: &Row<'_>) -> Result<Option<ActiveTurn>> {
    let Some(turn) = row.get::<_, Option<String>>(26)? else { return Ok(None) };
    Ok(Some(ActiveTurn {
        turn_id: TurnId::new_unchecked(turn),
        message_id: MessageId::new_unchecked(row.get::<_, String>(27)?),
        user_message_id: Some(MessageId::new_unchecked(row.get::<_, String>(28)?)),
        started_at: Timestamp::from_millis(row.get(29)?),
    }))
}

fn decode_lease_holder(row: &Row<'_>) -> Result<Option<LeaseHolder>> {
    let Some(instance) = row.get::<_, Option<String>>(30)? else { return Ok(None) };
    Ok(Some(LeaseHolder { instance, boot: row.get(31)? }))
}

fn decode_payer(row: &Row<'_>) -> Result<Option<UsagePayer>> {
    let Some(user) = row.get::<_, Option<String>>(32)? else { return Ok(None) };
    let key = row.get::<_, Option<String>>(33)?.map(KeyId::new_unchecked);
    Ok(Some(UsagePayer { user: UserId::new_unchecked(user), key }))
}
