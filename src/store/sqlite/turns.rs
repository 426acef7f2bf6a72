//! Turns in SQLite: begun and finished in one transaction each.

use super::SqliteStore;
use super::append::{append, head, name_after, resolve, save_counters};
use super::log::end_log;
use super::messages::{ensure_idle, ensure_open};
use super::paths::locate;
use super::repeats::{known_message, repeated, repeated_by_key, says_the_same, waiting_message};
use super::rows::{Location, SessionRow, message_key, word};
use super::sessions::{by_key, find, get, id_taken, insert, name};
use super::{idempotency, queue};
use crate::domain::principal::Access;
use crate::domain::session::Settings;
use crate::domain::title::{Title, TitleSource};
use crate::domain::turn::ActiveTurn;
use crate::domain::{MessageId, Role, SessionId, Timestamp, TurnId};
use crate::error::{Error, Kind, Result};
use crate::store::queued::Waiting;
use crate::store::{
    Ask, Began, BeginTurn, Begun, Claimant, FinishTurn, Finished, LedTo, NewMessage, NewSession,
    OnBusy, OnKnownId, Parent, Question, SessionTarget, Size, TurnSpec, TurnStore,
};
use async_trait::async_trait;
use rusqlite::{Connection, params};

#[async_trait]
impl TurnStore for SqliteStore {
    async fn begin_turn(&self, begin: BeginTurn) -> Result<Began> {
        self.write(move |db| begin_turn(db, begin)).await
    }

    async fn finish_turn(&self, finish: FinishTurn) -> Result<Option<Finished>> {
        self.write(move |db| finish_turn(db, &finish)).await
    }

    async fn begin_waiting(
        &self,
        claimant: &Claimant,
        now: Timestamp,
    ) -> Result<Option<Box<Begun>>> {
        let claimant = claimant.clone();
        self.write(move |db| match queue::idle_session(db)? {
            Some(key) => queue::begin_next(db, key, &claimant, now, &mut Vec::new()),
            None => Ok(None),
        })
        .await
    }

    async fn drop_waiting(&self, session: &SessionId) -> Result<Vec<TurnId>> {
        let session = session.clone();
        self.write(move |db| match find(db, &session)? {
            Some(row) => queue::clear(db, row.key),
            None => Ok(Vec::new()),
        })
        .await
    }

    async fn withdraw(&self, session: &SessionId, turn: &TurnId) -> Result<bool> {
        let (session, turn) = (session.clone(), turn.clone());
        self.write(move |db| match find(db, &session)? {
            Some(row) => queue::remove(db, row.key, &turn),
            None => Ok(false),
        })
        .await
    }

    async fn name_session(&self, session: &SessionId, title: Title) -> Result<bool> {
        let session = session.clone();
        self.write(move |db| match find(db, &session)? {
            Some(row) if row.session.title_source != TitleSource::User => {
                name(db, row.key, &title)?;
                Ok(true)
            }
            _ => Ok(false),
        })
        .await
    }
}

fn begin_turn(db: &Connection, begin: BeginTurn) -> Result<Began> {
    if let Some(key) = &begin.idempotency
        && let Some(known) = idempotency::find(db, &begin.who, key, begin.now)?
        && let Some(repeated) = repeated_by_key(db, &begin.who, &known)?
    {
        return Ok(repeated);
    }
    let row = target(db, &begin)?;
    let key = row.key;
    let began = match begin.turn.ask.clone() {
        Ask::Say { message, parent, on_known } => say(db, &begin, row, *message, parent, on_known)?,
        Ask::Again { reply } => again(db, &begin, row, reply)?,
    };
    if let Some(key_given) = &begin.idempotency {
        let (message_id, turn_id) = match &began {
            Began::Repeated { .. } => return Ok(began),
            Began::HandedOver { message_id, .. } => (message_id, None),
            Began::Running(_) | Began::Queued { .. } => {
                (&begin.turn.reply_id, Some(&begin.turn.turn_id))
            }
        };
        let row = by_key(db, key)?;
        idempotency::remember(db, &begin.who, key_given, &row, message_id, turn_id, begin.now)?;
    }
    Ok(began)
}

/// The session the turn is for, created where that is asked.
fn target(db: &Connection, begin: &BeginTurn) -> Result<SessionRow> {
    let create = |id| {
        let new = NewSession { project_id: begin.project_id.clone(), ..NewSession::default() };
        insert(db, &begin.who.user, id, &new, begin.now)
    };
    match &begin.session {
        SessionTarget::New(id) => create(id),
        SessionTarget::Existing(id) => get(db, &begin.who, id, Access::Participate),
        SessionTarget::Ensure(id) => match find(db, id)? {
            None => create(id),
            Some(_) => match get(db, &begin.who, id, Access::Participate) {
                Err(error) if error.kind == Kind::SessionNotFound => Err(id_taken()),
                found => found,
            },
        },
    }
}

fn say(
    db: &Connection,
    begin: &BeginTurn,
    row: SessionRow,
    message: NewMessage,
    mut parent: Parent,
    on_known: OnKnownId,
) -> Result<Began> {
    if let Some(waiting) = waiting_message(db, &row, &message)? {
        let led_to = LedTo::Turn(waiting);
        return Ok(Began::Repeated { session: Box::new(row.session), led_to });
    }
    if let Some(known) = known_message(db, &row, &message)? {
        if says_the_same(&known.message, &message) {
            return repeated(db, row, known);
        }
        if on_known == OnKnownId::Refuse {
            return Err(idempotency::reused("clientMessageId"));
        }
        parent = known.message.parent_id.map_or(Parent::Root, Parent::Message);
    }
    ensure_open(&row)?;
    (begin.admit)(&row.session, Size::of(&message.body.content, message.tokens))?;
    if row.session.active_turn.is_some() {
        // What is known now is known then: an edit stays one.
        let ask = Ask::Say { message: Box::new(message), parent, on_known };
        return enqueue(db, begin, row, ask);
    }
    let TurnSpec { turn_id, reply_id, options, .. } = begin.turn.clone();
    let turn = Claim { turn_id, reply_id, options, claimant: &begin.claimant, now: begin.now };
    begin_saying(db, row, message, &parent, turn)
}

/// What a turn takes along from its asking to its running.
pub(super) struct Claim<'a> {
    pub(super) turn_id: TurnId,
    pub(super) reply_id: MessageId,
    pub(super) options: Settings,
    pub(super) claimant: &'a Claimant,
    pub(super) now: Timestamp,
}

/// Stores the message of a turn and claims the session for its reply.
pub(super) fn begin_saying(
    db: &Connection,
    mut row: SessionRow,
    message: NewMessage,
    parent: &Parent,
    claim: Claim<'_>,
) -> Result<Began> {
    let under = resolve(db, &row, parent)?;
    append(db, &mut row, &message, under.as_ref())?;
    name_after(db, &mut row, &message)?;
    save_counters(db, &mut row, claim.now)?;
    if row.session.status.is_agent_assigned() {
        return Ok(Began::HandedOver { session: Box::new(row.session), message_id: message.id });
    }
    let question = Question {
        id: message.id,
        parent_id: under.map(|under| under.id),
        role: message.role,
        content: message.body.content,
        tokens: message.tokens,
    };
    claim.hold(db, row, question)
}

/// Begins the answer to a question that is stored already, once more.
fn again(
    db: &Connection,
    begin: &BeginTurn,
    row: SessionRow,
    reply: Option<MessageId>,
) -> Result<Began> {
    ensure_open(&row)?;
    if row.session.active_turn.is_some() {
        return enqueue(db, begin, row, Ask::Again { reply });
    }
    let (question, _) = question_of(db, &row, reply.clone())?;
    (begin.admit)(&row.session, Size::of(&question.content, question.tokens))?;
    let TurnSpec { turn_id, reply_id, options, .. } = begin.turn.clone();
    let claim = Claim { turn_id, reply_id, options, claimant: &begin.claimant, now: begin.now };
    begin_again(db, row, reply, claim)
}

pub(super) fn begin_again(
    db: &Connection,
    mut row: SessionRow,
    reply: Option<MessageId>,
    claim: Claim<'_>,
) -> Result<Began> {
    let (question, at) = question_of(db, &row, reply)?;
    if row.session.status.is_agent_assigned() {
        return Ok(Began::HandedOver { session: Box::new(row.session), message_id: question.id });
    }
    row.session.head_id = Some(question.id.clone());
    row.head = Some(at);
    save_counters(db, &mut row, claim.now)?;
    claim.hold(db, row, question)
}

impl Claim<'_> {
    /// Invariant: at most one running turn per session; `turns` has one row per session.
    fn hold(self, db: &Connection, mut row: SessionRow, question: Question) -> Result<Began> {
        let turn = ActiveTurn {
            turn_id: self.turn_id,
            message_id: self.reply_id,
            user_message_id: Some(question.id.clone()),
            started_at: self.now,
        };
        db.prepare_cached("INSERT INTO turns VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?.execute(
            params![
                row.key,
                turn.turn_id.as_str(),
                turn.message_id.as_str(),
                question.id.as_str(),
                self.now.as_millis(),
                self.claimant.instance,
                self.claimant.boot
            ],
        )?;
        row.session.active_turn = Some(turn.clone());
        let begun = Begun { session: row.session, question, turn, options: self.options };
        Ok(Began::Running(Box::new(begun)))
    }
}

/// Lets a turn wait for the running one, if it may.
fn enqueue(db: &Connection, begin: &BeginTurn, row: SessionRow, ask: Ask) -> Result<Began> {
    if begin.on_busy == OnBusy::Reject {
        ensure_idle(&row)?;
    }
    let turn = TurnSpec { ask, ..begin.turn.clone() };
    let waiting = Waiting { who: begin.who.clone(), turn };
    queue::push(db, &row, &waiting, begin.on_busy)?;
    Ok(Began::Queued { session: Box::new(row.session) })
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
    let sql = "SELECT id, parent_id, role, content, tokens FROM messages WHERE key = ?1";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([message_key(session, at.seq)])?;
    let row = rows.next()?.ok_or_else(Error::message_not_found)?;
    let question = Question {
        id: MessageId::trusted(row.get::<_, String>(0)?),
        parent_id: row.get::<_, Option<String>>(1)?.map(MessageId::trusted),
        role: word(Role::from_word, row, 2)?,
        content: row.get(3)?,
        tokens: row.get(4)?,
    };
    Ok((question, at))
}

fn finish_turn(db: &Connection, finish: &FinishTurn) -> Result<Option<Finished>> {
    let Some(mut row) = find(db, &finish.session_id)? else { return Ok(None) };
    let holds = row.session.active_turn.as_ref().is_some_and(|turn| turn.turn_id == finish.turn_id);
    if !holds {
        return Ok(None);
    }
    let now = finish.reply.created_at;
    // Since the turn began nothing has moved the head: it is the question.
    let question = head(&row);
    append(db, &mut row, &finish.reply, question.as_ref())?;
    save_counters(db, &mut row, now)?;
    if let Some(last) = &finish.last_batch {
        end_log(db, row.key, &finish.turn_id, last, now)?;
    }
    db.prepare_cached("DELETE FROM turns WHERE session = ?1")?.execute([row.key])?;
    let mut passed_over = Vec::new();
    let next = match &finish.take_next {
        Some(claimant) => queue::begin_next(db, row.key, claimant, now, &mut passed_over)?,
        None => None,
    };
    Ok(Some(Finished { next, passed_over }))
}
