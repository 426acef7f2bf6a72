//! Turns: begun and finished, each in one step.

use super::append::{append, name_after, resolve, save};
use super::ledger::{ensure_left, entry_of};
use super::posts::{ensure_idle, ensure_open, ensure_role};
use super::repeats::{known_message, repeated, repeated_by_key, says_the_same, waiting_message};
use super::sessions::{get, id_taken, judged};
use super::{queue, requests};
use crate::domain::principal::AccessLevel;
use crate::domain::quota::UsagePayer;
use crate::domain::session::SessionSettings;
use crate::domain::turn::ActiveTurn;
use crate::domain::{MessageId, Role, Timestamp, TurnId};
use crate::error::{Error, Kind, Result};
use crate::store::queued::Waiting;
use crate::store::work::{Location, SessionRow, Work};
use crate::store::{
    Ask, Began, BeginTurn, Begun, Claimant, FinishTurn, Finished, NewMessage, NewSession, OnBusy,
    OnKnownId, Parent, Question, SessionTarget, Size, TurnSpec,
};

pub(in crate::store) async fn begin_turn(work: &mut impl Work, begin: &BeginTurn) -> Result<Began> {
    if let Some(key) = &begin.idempotency
        && let Some(known) = requests::find(work, &begin.who, key, begin.now).await?
        && let Some(repeated) = repeated_by_key(work, &begin.who, &known).await?
    {
        return Ok(repeated);
    }
    let row = target(work, begin).await?;
    let session = row.session.id.clone();
    let began = match begin.turn.ask.clone() {
        Ask::Say { message, parent, on_known } => {
            say(work, begin, row, *message, parent, on_known).await?
        }
        Ask::Again { reply } => again(work, begin, row, reply).await?,
    };
    if let Some(key) = &begin.idempotency {
        let (message_id, turn_id) = match &began {
            Began::Repeated { .. } => return Ok(began),
            Began::HandedOver { message_id, .. } => (message_id, None),
            Began::Running(_) | Began::Queued { .. } => {
                (&begin.turn.reply_id, Some(&begin.turn.turn_id))
            }
        };
        let led_to = (&session, message_id, turn_id);
        requests::remember(work, &begin.who, key, led_to, begin.now).await?;
    }
    Ok(began)
}

/// The session the turn is for, created where that is asked.
async fn target(work: &mut impl Work, begin: &BeginTurn) -> Result<SessionRow> {
    let new = NewSession { project_id: begin.project_id.clone(), ..NewSession::default() };
    let owner = &begin.who.user;
    match &begin.session {
        SessionTarget::New(id) => work.insert_session(owner, id, &new, begin.now).await,
        SessionTarget::Existing(id) => get(work, &begin.who, id, AccessLevel::Participant).await,
        SessionTarget::Ensure(id) => match work.session(id).await? {
            None => work.insert_session(owner, id, &new, begin.now).await,
            Some(row) => match judged(row, &begin.who, AccessLevel::Participant) {
                Err(error) if error.kind == Kind::SessionNotFound => Err(id_taken()),
                found => found,
            },
        },
    }
}

async fn say(
    work: &mut impl Work,
    begin: &BeginTurn,
    row: SessionRow,
    message: NewMessage,
    mut parent: Parent,
    on_known: OnKnownId,
) -> Result<Began> {
    if let Some(led_to) = waiting_message(work, &row, &message).await? {
        return Ok(Began::Repeated { session: Box::new(row.session), led_to });
    }
    if let Some(known) = known_message(work, &row, &message).await? {
        if says_the_same(&known.message, &message) {
            return repeated(work, row, known).await;
        }
        if on_known == OnKnownId::Refuse {
            return Err(requests::reused("clientMessageId"));
        }
        parent = known.message.parent_id.map_or(Parent::Root, Parent::Message);
    }
    ensure_open(&row)?;
    for earlier in &begin.earlier {
        ensure_role(&row, &begin.who, earlier.role)?;
    }
    (begin.admit)(
        &row.session,
        Size::of(&message.body.content, &message.body.parts, message.tokens),
    )?;
    ensure_affordable(work, begin, &row).await?;
    if row.session.active_turn.is_some() {
        // What is known now is known then: an edit stays one.
        let ask = Ask::Say { message: Box::new(message), parent, on_known };
        return enqueue(work, begin, row, ask).await;
    }
    begin_saying(work, row, message, &parent, claim_of(begin)).await
}

/// Refuses what its payer cannot pay for, unless a person answers.
async fn ensure_affordable(
    work: &mut impl Work,
    begin: &BeginTurn,
    row: &SessionRow,
) -> Result<()> {
    if row.session.status.is_agent_assigned() {
        return Ok(());
    }
    ensure_left(work, &begin.quotas, &payer_of(begin), &row.session, begin.now).await
}

fn payer_of(begin: &BeginTurn) -> UsagePayer {
    UsagePayer { user: begin.who.user.clone(), key: begin.key.clone() }
}

/// What a turn takes along from its asking to its running.
pub(super) struct Claim<'a> {
    pub(super) turn_id: TurnId,
    pub(super) reply_id: MessageId,
    pub(super) options: SessionSettings,
    pub(super) earlier: Vec<NewMessage>,
    pub(super) payer: UsagePayer,
    pub(super) has_waited: bool,
    pub(super) claimant: &'a Claimant,
    pub(super) now: Timestamp,
}

fn claim_of(begin: &BeginTurn) -> Claim<'_> {
    let TurnSpec { turn_id, reply_id, options, .. } = begin.turn.clone();
    Claim {
        turn_id,
        reply_id,
        options,
        earlier: begin.earlier.clone(),
        payer: payer_of(begin),
        has_waited: false,
        claimant: &begin.claimant,
        now: begin.now,
    }
}

/// Stores the message of a turn and claims the session for its reply.
pub(super) async fn begin_saying(
    work: &mut impl Work,
    mut row: SessionRow,
    message: NewMessage,
    parent: &Parent,
    claim: Claim<'_>,
) -> Result<Began> {
    let mut under = resolve(work, &row, parent).await?;
    for earlier in &claim.earlier {
        append(work, &mut row, earlier, under.as_ref()).await?;
        name_after(work, &mut row, earlier).await?;
        under = row.head();
    }
    append(work, &mut row, &message, under.as_ref()).await?;
    name_after(work, &mut row, &message).await?;
    save(work, &mut row, claim.now).await?;
    if row.session.status.is_agent_assigned() {
        return Ok(Began::HandedOver { session: Box::new(row.session), message_id: message.id });
    }
    let question = Question {
        id: message.id,
        parent_id: under.map(|under| under.id),
        role: message.role,
        content: message.body.content,
        parts: message.body.parts,
        tokens: message.tokens,
    };
    claim.hold(work, row, question, true).await
}

/// Begins the answer to a question that is stored already, once more.
async fn again(
    work: &mut impl Work,
    begin: &BeginTurn,
    row: SessionRow,
    reply: Option<MessageId>,
) -> Result<Began> {
    ensure_open(&row)?;
    if row.session.active_turn.is_some() {
        return enqueue(work, begin, row, Ask::Again { reply }).await;
    }
    let (question, _) = question_of(work, &row, reply.clone()).await?;
    (begin.admit)(&row.session, Size::of(&question.content, &question.parts, question.tokens))?;
    ensure_affordable(work, begin, &row).await?;
    begin_again(work, row, reply, claim_of(begin)).await
}

pub(super) async fn begin_again(
    work: &mut impl Work,
    mut row: SessionRow,
    reply: Option<MessageId>,
    claim: Claim<'_>,
) -> Result<Began> {
    let (question, at) = question_of(work, &row, reply).await?;
    if row.session.status.is_agent_assigned() {
        return Ok(Began::HandedOver { session: Box::new(row.session), message_id: question.id });
    }
    row.session.head_id = Some(question.id.clone());
    row.head = Some(at);
    save(work, &mut row, claim.now).await?;
    claim.hold(work, row, question, false).await
}

impl Claim<'_> {
    async fn hold(
        self,
        work: &mut impl Work,
        mut row: SessionRow,
        question: Question,
        is_question_new: bool,
    ) -> Result<Began> {
        let turn = ActiveTurn {
            turn_id: self.turn_id.clone(),
            message_id: self.reply_id.clone(),
            user_message_id: Some(question.id.clone()),
            started_at: self.now,
        };
        row.session.active_turn = Some(turn.clone());
        row.claimant = Some(self.claimant.clone());
        row.payer = Some(self.payer.clone());
        work.hold(&row, self.claimant).await?;
        let Self { options, earlier, payer, has_waited, .. } = self;
        let session = row.session;
        let begun =
            Begun { session, question, turn, options, is_question_new, earlier, payer, has_waited };
        Ok(Began::Running(Box::new(begun)))
    }
}

/// Lets a turn wait for the running one, if it may.
async fn enqueue(
    work: &mut impl Work,
    begin: &BeginTurn,
    row: SessionRow,
    ask: Ask,
) -> Result<Began> {
    // What is said before a message does not wait with it.
    if begin.on_busy == OnBusy::Reject || !begin.earlier.is_empty() {
        ensure_idle(&row)?;
    }
    // What cannot begin now will not begin later: better to hear it at once.
    match &ask {
        Ask::Say { parent, .. } => drop(resolve(work, &row, parent).await?),
        Ask::Again { reply } => drop(question_of(work, &row, reply.clone()).await?),
    }
    let turn = TurnSpec { ask, ..begin.turn.clone() };
    let waiting = Waiting { who: begin.who.clone(), turn, key: begin.key.clone() };
    queue::push(work, &row, &waiting, begin.on_busy).await?;
    Ok(Began::Queued { session: Box::new(row.session) })
}

/// The message that a reply answered; without a reply, the one that the head answered, or the head.
async fn question_of(
    work: &mut impl Work,
    row: &SessionRow,
    reply: Option<MessageId>,
) -> Result<(Question, Location)> {
    let named = match reply {
        Some(id) => Some(work.locate(row, &id).await?.ok_or_else(Error::message_not_found)?.at),
        None => row.head,
    };
    let nothing =
        || Error::invalid_field("messageId", "must name a reply, or the session must have one");
    let at = named.ok_or_else(nothing)?;
    let question = work.question(row, at).await?;
    if question.role != Role::Assistant {
        return Ok((question, at));
    }
    let parent = question.parent_id.ok_or_else(nothing)?;
    let at = work.locate(row, &parent).await?.ok_or_else(Error::message_not_found)?.at;
    Ok((work.question(row, at).await?, at))
}

pub(in crate::store) async fn finish_turn(
    work: &mut impl Work,
    finish: &FinishTurn,
) -> Result<Option<Finished>> {
    let Some(mut row) = work.session(&finish.session_id).await? else { return Ok(None) };
    let holds = row.session.active_turn.as_ref().is_some_and(|turn| turn.turn_id == finish.turn_id)
        && row.claimant.as_ref() == Some(&finish.claimant);
    if !holds {
        let is_stored = is_stored(work, &row, &finish.reply).await?;
        return Ok(is_stored.then(Finished::default));
    }
    let now = finish.reply.created_at;
    // Since the turn began nothing has moved the head: it is the question.
    let question = row.head();
    append(work, &mut row, &finish.reply, question.as_ref()).await?;
    save(work, &mut row, now).await?;
    if let Some(last) = &finish.last_batch {
        work.end_log(&row, &finish.turn_id, last, now).await?;
    }
    if let Some(entry) = entry_of(&row, finish) {
        work.book(&entry, finish.is_counted).await?;
    }
    work.release(&row).await?;
    row.session.active_turn = None;
    row.claimant = None;
    row.payer = None;
    let mut passed_over = Vec::new();
    let next = match &finish.take_next {
        Some(claimant) => queue::begin_next(work, row, claimant, now, &mut passed_over).await?,
        None => None,
    };
    Ok(Some(Finished { next, passed_over }))
}

/// Whether this very reply is stored already: the answer to an earlier try was lost.
async fn is_stored(work: &mut impl Work, row: &SessionRow, reply: &NewMessage) -> Result<bool> {
    let Some(place) = work.by_id(row, &reply.id).await? else { return Ok(false) };
    let stored = work.message(row, place.at).await?;
    Ok(stored.status == reply.reply.status && stored.content == reply.body.content)
}
