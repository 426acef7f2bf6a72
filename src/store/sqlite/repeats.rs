//! Requests that came before: found by their key, or by the name that the client gave its message.

use super::messages::read_message;
use super::paths::{children, locate};
use super::rows::{Location, SELECT_MESSAGE, SessionRow, message_row};
use super::sessions::{by_key, get};
use super::{idempotency, queue};
use crate::domain::principal::Access;
use crate::domain::{Message, Principal, Role, TurnId};
use crate::error::{Error, Result};
use crate::store::queued::Waiting;
use crate::store::{Ask, Began, LedTo, NewMessage};
use rusqlite::Connection;

/// What a repeated request led to; `None` if nothing is left of it.
pub(super) fn repeated_by_key(
    db: &Connection,
    who: &Principal,
    known: &idempotency::Known,
) -> Result<Option<Began>> {
    let row = by_key(db, known.session)?;
    let row = get(db, who, &row.session.id, Access::Participate)?;
    if let Some(turn) = &known.turn_id {
        let runs = row.session.active_turn.as_ref().is_some_and(|active| active.turn_id == *turn);
        if runs || queue::holds(db, row.key, turn)? {
            let led_to = LedTo::Turn(turn.clone());
            return Ok(Some(Began::Repeated { session: Box::new(row.session), led_to }));
        }
    }
    let Some(at) = locate(db, row.key, &known.message_id)? else { return Ok(None) };
    let message = read_message(db, &row, at.seq)?;
    Ok(Some(match (message.role, message.parent_id.clone()) {
        (Role::Assistant, Some(question)) => {
            let led_to = LedTo::Reply { reply: Box::new(message), question };
            Began::Repeated { session: Box::new(row.session), led_to }
        }
        _ => Began::HandedOver { session: Box::new(row.session), message_id: message.id },
    }))
}

/// The waiting turn of a message that its client sent before. Errors: `idempotency_key_reused`.
pub(super) fn waiting_message(
    db: &Connection,
    row: &SessionRow,
    new: &NewMessage,
) -> Result<Option<TurnId>> {
    let Some(id) = &new.client_message_id else { return Ok(None) };
    let Some(Waiting { turn, .. }) = queue::by_client_id(db, row.key, id)? else { return Ok(None) };
    match &turn.ask {
        Ask::Say { message, .. } if message.body.content == new.body.content => {
            Ok(Some(turn.turn_id))
        }
        _ => Err(idempotency::reused("clientMessageId")),
    }
}

/// A stored message that a client names again.
pub(super) struct KnownMessage {
    pub(super) message: Message,
    at: Location,
}

pub(super) fn says_the_same(known: &Message, new: &NewMessage) -> bool {
    known.role == new.role
        && known.content == new.body.content
        && known.parts.as_json() == new.body.parts.as_json()
}

/// The newest message that has the new one's client id as its id or its client id.
pub(super) fn known_message(
    db: &Connection,
    row: &SessionRow,
    new: &NewMessage,
) -> Result<Option<KnownMessage>> {
    let Some(id) = &new.client_message_id else { return Ok(None) };
    let sql = "SELECT max(key) FROM ( \
               SELECT key FROM messages WHERE session = ?1 AND id = ?2 \
               UNION ALL SELECT key FROM messages WHERE session = ?1 AND client_message_id = ?2)";
    let key: Option<i64> =
        db.prepare_cached(sql)?.query_row((row.key, id.as_str()), |found| found.get(0))?;
    let Some(key) = key else { return Ok(None) };
    let mut statement = db.prepare_cached(&format!("{SELECT_MESSAGE} WHERE key = ?1"))?;
    let mut rows = statement.query([key])?;
    let found = rows.next()?.ok_or_else(Error::message_not_found)?;
    let (message, at) = message_row(found, row)?;
    Ok(Some(KnownMessage { message, at }))
}

/// The first reply is the one that the repeated request got.
pub(super) fn repeated(db: &Connection, row: SessionRow, known: KnownMessage) -> Result<Began> {
    let id = known.message.id;
    let running = row.session.active_turn.as_ref();
    let running = running.filter(|turn| turn.user_message_id.as_ref() == Some(&id));
    let led_to = match running {
        Some(turn) => LedTo::Turn(turn.turn_id.clone()),
        None => match first_reply(db, &row, known.at)? {
            Some(reply) => LedTo::Reply { reply: Box::new(reply), question: id },
            None => LedTo::Question(id),
        },
    };
    Ok(Began::Repeated { session: Box::new(row.session), led_to })
}

fn first_reply(db: &Connection, row: &SessionRow, under: Location) -> Result<Option<Message>> {
    for (seq, _) in children(db, row.key, Some(under))? {
        let child = read_message(db, row, seq)?;
        if child.role == Role::Assistant {
            return Ok(Some(child));
        }
    }
    Ok(None)
}
