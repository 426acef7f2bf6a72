//! Turns in SQLite: begun and finished in one transaction each.

use super::SqliteStore;
use super::append::{Under, append, head, name_after, resolve, save_counters};
use super::messages::{ensure_idle, ensure_open, key_reused, read_message};
use super::paths::{children, locate};
use super::rows::{Location, SELECT_MESSAGE, SessionRow, message_key, message_row, parts, word};
use super::sessions::{by_key, find, get, id_taken, insert};
use crate::domain::message::{Body, Parts};
use crate::domain::principal::Access;
use crate::domain::turn::ActiveTurn;
use crate::domain::{
    Message, MessageId, MessageType, Role, Session, Status, Timestamp, TurnId, UserId,
};
use crate::error::{Error, Result};
use crate::store::{
    Ask, Began, BeginTurn, FinishTurn, NewMessage, NewSession, OnKnownId, Parent, Question,
    ReplyFields, SessionTarget, TurnStore,
};
use async_trait::async_trait;
use rusqlite::{Connection, params};

#[async_trait]
impl TurnStore for SqliteStore {
    async fn begin_turn(&self, begin: BeginTurn) -> Result<Began> {
        self.write(move |db| begin_turn(db, begin)).await
    }

    async fn finish_turn(&self, finish: FinishTurn) -> Result<Option<Session>> {
        self.write(move |db| finish_turn(db, &finish)).await
    }

    async fn reap_turns(&self, now: Timestamp) -> Result<u64> {
        self.write(move |db| reap_turns(db, now)).await
    }
}

fn begin_turn(db: &Connection, begin: BeginTurn) -> Result<Began> {
    let row = target(db, &begin)?;
    match begin.ask.clone() {
        Ask::Say { message, parent, on_known } => say(db, begin, row, message, parent, on_known),
        Ask::Again { reply } => again(db, begin, row, reply),
    }
}

/// The session the turn is for, created where that is asked.
fn target(db: &Connection, begin: &BeginTurn) -> Result<SessionRow> {
    let create = |id| {
        let new = NewSession {
            project_id: begin.project_id.clone(),
            settings: begin.settings.clone(),
            ..NewSession::default()
        };
        insert(db, &begin.who.user, id, &new, begin.now)
    };
    match &begin.session {
        SessionTarget::New(id) => create(id),
        SessionTarget::Existing(id) => get(db, &begin.who, id, Access::Participate),
        SessionTarget::Ensure(id) => match find(db, id)? {
            None => create(id),
            Some(_) => get(db, &begin.who, id, Access::Participate).map_err(|_| id_taken()),
        },
    }
}

fn say(
    db: &Connection,
    begin: BeginTurn,
    mut row: SessionRow,
    message: Box<NewMessage>,
    parent: Parent,
    on_known: OnKnownId,
) -> Result<Began> {
    let mut parent = parent;
    if let Some(known) = known_message(db, &row, &message)? {
        if known.says_the_same(&message) {
            return repeated(db, row, known);
        }
        if on_known == OnKnownId::Refuse {
            return Err(key_reused("clientMessageId"));
        }
        parent = known.message.parent_id.clone().map_or(Parent::Root, Parent::Message);
    }
    ensure_open(&row)?;
    ensure_idle(&row)?;
    (begin.admit)(&row.session)?;
    let under = resolve(db, &row, &parent)?;
    append(db, &mut row, &message, under.as_ref())?;
    name_after(db, &mut row, &message)?;
    save_counters(db, &mut row, begin.now)?;
    if row.session.status.is_agent_assigned() {
        return Ok(Began::HandedOver { session: row.session, message_id: message.id });
    }
    let question = Question {
        id: message.id,
        parent_id: under.map(|under| under.id),
        role: message.role,
        content: message.body.content,
        parts: message.body.parts,
        kind: message.body.kind,
        tokens: message.tokens,
    };
    claim(db, begin, row, question)
}

/// Begins the answer to a question that is stored already, once more.
fn again(
    db: &Connection,
    begin: BeginTurn,
    mut row: SessionRow,
    reply: Option<MessageId>,
) -> Result<Began> {
    ensure_open(&row)?;
    ensure_idle(&row)?;
    let (question, at) = question_of(db, &row, reply)?;
    (begin.admit)(&row.session)?;
    row.session.head_id = Some(question.id.clone());
    row.head = Some(at);
    save_counters(db, &mut row, begin.now)?;
    if row.session.status.is_agent_assigned() {
        return Ok(Began::HandedOver { session: row.session, message_id: question.id });
    }
    claim(db, begin, row, question)
}

/// Invariant: at most one running turn per session; `turns` has one row per session.
fn claim(
    db: &Connection,
    begin: BeginTurn,
    mut row: SessionRow,
    question: Question,
) -> Result<Began> {
    let turn = ActiveTurn {
        turn_id: begin.turn_id,
        message_id: begin.reply_id,
        user_message_id: Some(question.id.clone()),
        started_at: begin.now,
    };
    db.prepare_cached("INSERT INTO turns VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
        row.key,
        turn.turn_id.as_str(),
        turn.message_id.as_str(),
        question.id.as_str(),
        begin.now.as_millis()
    ])?;
    row.session.active_turn = Some(turn.clone());
    Ok(Began::Running { session: row.session, question, turn })
}

/// A stored message that a client names again.
struct Known {
    message: Message,
    at: Location,
}

impl Known {
    fn says_the_same(&self, new: &NewMessage) -> bool {
        self.message.role == new.role
            && self.message.content == new.body.content
            && self.message.parts.as_json() == new.body.parts.as_json()
    }
}

/// The newest message that has the new one's client id as its id or its client id.
fn known_message(db: &Connection, row: &SessionRow, new: &NewMessage) -> Result<Option<Known>> {
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
    Ok(Some(Known { message, at }))
}

/// The first reply is the one that the repeated request got.
fn repeated(db: &Connection, row: SessionRow, known: Known) -> Result<Began> {
    let mut reply = None;
    for (seq, _) in children(db, row.key, Some(known.at))? {
        let child = read_message(db, &row, seq)?;
        if child.role == Role::Assistant {
            reply = Some(Box::new(child));
            break;
        }
    }
    Ok(Began::Repeated { session: row.session, message_id: known.message.id, reply })
}

/// The message that a reply answered; without a reply, the one that the head answered, or the head.
fn question_of(
    db: &Connection,
    row: &SessionRow,
    reply: Option<MessageId>,
) -> Result<(Question, Location)> {
    let named = match reply {
        Some(id) => Some(locate(db, row.key, &id)?.ok_or_else(Error::message_not_found)?),
        None => row.head,
    };
    let nothing = || Error::invalid("messageId", "must name a reply, or the session must have one");
    let (question, at) = read_question(db, row.key, named.ok_or_else(nothing)?)?;
    if question.role != Role::Assistant {
        return Ok((question, at));
    }
    let parent = question.parent_id.ok_or_else(nothing)?;
    let at = locate(db, row.key, &parent)?.ok_or_else(Error::message_not_found)?;
    read_question(db, row.key, at)
}

fn read_question(db: &Connection, session: i64, at: Location) -> Result<(Question, Location)> {
    let sql =
        "SELECT id, parent_id, role, content, parts, type, tokens FROM messages WHERE key = ?1";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([message_key(session, at.seq)])?;
    let row = rows.next()?.ok_or_else(Error::message_not_found)?;
    let question = Question {
        id: MessageId::trusted(row.get::<_, String>(0)?),
        parent_id: row.get::<_, Option<String>>(1)?.map(MessageId::trusted),
        role: word(Role::from_word, row, 2)?,
        content: row.get(3)?,
        parts: parts(row.get(4)?)?,
        kind: word(MessageType::from_word, row, 5)?,
        tokens: row.get(6)?,
    };
    Ok((question, at))
}

fn finish_turn(db: &Connection, finish: &FinishTurn) -> Result<Option<Session>> {
    let Some(mut row) = find(db, &finish.session_id)? else { return Ok(None) };
    let holds = row.session.active_turn.as_ref().is_some_and(|turn| turn.turn_id == finish.turn_id);
    if !holds {
        return Ok(None);
    }
    // Since the turn began nothing has moved the head: it is the question.
    let question = head(&row);
    settle_reply(db, &mut row, &finish.reply, question.as_ref(), finish.reply.created_at)?;
    Ok(Some(row.session))
}

fn settle_reply(
    db: &Connection,
    row: &mut SessionRow,
    reply: &NewMessage,
    question: Option<&Under>,
    now: Timestamp,
) -> Result<()> {
    append(db, row, reply, question)?;
    save_counters(db, row, now)?;
    db.prepare_cached("DELETE FROM turns WHERE session = ?1")?.execute([row.key])?;
    row.session.active_turn = None;
    Ok(())
}

fn reap_turns(db: &Connection, now: Timestamp) -> Result<u64> {
    let sessions: Vec<i64> = db
        .prepare("SELECT session FROM turns")?
        .query_map([], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for key in &sessions {
        let mut row = by_key(db, *key)?;
        let Some(turn) = row.session.active_turn.clone() else { continue };
        let reply = cut_off(turn.message_id, &turn.turn_id, now);
        let question = head(&row);
        settle_reply(db, &mut row, &reply, question.as_ref(), now)?;
    }
    Ok(sessions.len() as u64)
}

/// The reply of a turn whose server died.
fn cut_off(id: MessageId, turn: &TurnId, now: Timestamp) -> NewMessage {
    tracing::warn!(turn.id = %turn, "a reply was cut off by a crash");
    NewMessage {
        id,
        client_message_id: None,
        role: Role::Assistant,
        sender_id: UserId::assistant(),
        body: Body { content: String::new(), parts: Parts::default(), kind: MessageType::Text },
        tokens: 0,
        created_at: now,
        reply: ReplyFields { status: Status::Interrupted, ..ReplyFields::default() },
    }
}
