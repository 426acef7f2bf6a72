//! Claiming a session for a turn, whether the turn comes from a request or from the queue.

use super::append::{append_message, apply_auto_title, resolve_parent, save_session};
use crate::domain::quota::UsagePayer;
use crate::domain::session::SessionSettings;
use crate::domain::turn::ActiveTurn;
use crate::domain::{MessageId, Role, Timestamp, TurnId};
use crate::error::{Error, Result};
use crate::store::transaction::{MessageLocation, SessionRow, StoreTransaction};
use crate::store::{
    BeginOutcome, LeaseHolder, MessageParent, NewMessage, StartedTurn, UserMessage,
};

/// Everything that claiming a session for a turn takes.
pub(super) struct TurnClaim<'a> {
    pub(super) turn_id: TurnId,
    pub(super) reply_id: MessageId,
    pub(super) options: SessionSettings,
    pub(super) preceding: Vec<NewMessage>,
    pub(super) payer: UsagePayer,
    pub(super) was_queued: bool,
    pub(super) lease_holder: &'a LeaseHolder,
    pub(super) now: Timestamp,
}

/// Stores the message of a turn and claims the session for its reply.
pub(super) async fn store_message_and_claim(
    tx: &mut impl StoreTransaction,
    mut row: SessionRow,
    message: NewMessage,
    parent: &MessageParent,
    claim: TurnClaim<'_>,
) -> Result<BeginOutcome> {
    let mut parent_message = resolve_parent(tx, &row, parent).await?;
    for preceding in &claim.preceding {
        append_message(tx, &mut row, preceding, parent_message.as_ref()).await?;
        apply_auto_title(tx, &mut row, preceding).await?;
        parent_message = row.located_head();
    }
    append_message(tx, &mut row, &message, parent_message.as_ref()).await?;
    apply_auto_title(tx, &mut row, &message).await?;
    save_session(tx, &mut row, claim.now).await?;
    // A human agent answers: the message stays stored, but no turn is claimed.
    if row.session.status.is_agent_assigned() {
        return Ok(BeginOutcome::HumanTakeover {
            session: Box::new(row.session),
            message_id: message.id,
        });
    }
    let user_message = UserMessage {
        id: message.id,
        parent_id: parent_message.map(|parent_message| parent_message.id),
        role: message.role,
        content: message.body.content,
        parts: message.body.parts,
        tokens: message.tokens,
    };
    claim.claim_session(tx, row, user_message, true).await
}

/// Claims the session for another reply to a stored message.
pub(super) async fn claim_for_regeneration(
    tx: &mut impl StoreTransaction,
    mut row: SessionRow,
    reply: Option<MessageId>,
    claim: TurnClaim<'_>,
) -> Result<BeginOutcome> {
    let (user_message, at) = find_answered_message(tx, &row, reply).await?;
    if row.session.status.is_agent_assigned() {
        return Ok(BeginOutcome::HumanTakeover {
            session: Box::new(row.session),
            message_id: user_message.id,
        });
    }
    // The head moves back to the answered message, so that the new reply becomes a
    // sibling of the old one.
    row.session.head_id = Some(user_message.id.clone());
    row.head = Some(at);
    save_session(tx, &mut row, claim.now).await?;
    claim.claim_session(tx, row, user_message, false).await
}

impl TurnClaim<'_> {
    async fn claim_session(
        self,
        tx: &mut impl StoreTransaction,
        mut row: SessionRow,
        user_message: UserMessage,
        is_user_message_new: bool,
    ) -> Result<BeginOutcome> {
        let turn = ActiveTurn {
            turn_id: self.turn_id.clone(),
            message_id: self.reply_id.clone(),
            user_message_id: Some(user_message.id.clone()),
            started_at: self.now,
        };
        // Databases write the claim from `row`.
        row.session.active_turn = Some(turn.clone());
        row.lease_holder = Some(self.lease_holder.clone());
        row.payer = Some(self.payer.clone());
        tx.claim(&row, self.lease_holder).await?;
        let Self { options, preceding, payer, was_queued, .. } = self;
        let session = row.session;
        let started = StartedTurn {
            session,
            user_message,
            turn,
            options,
            is_user_message_new,
            preceding,
            payer,
            was_queued,
        };
        Ok(BeginOutcome::Running(Box::new(started)))
    }
}

/// Finds the message that a reply answers. Without a reply, it is the message that the head
/// answers, or the head itself.
pub(super) async fn find_answered_message(
    tx: &mut impl StoreTransaction,
    row: &SessionRow,
    reply: Option<MessageId>,
) -> Result<(UserMessage, MessageLocation)> {
    let location = match reply {
        Some(id) => {
            Some(tx.find_message(row, &id).await?.ok_or_else(Error::message_not_found)?.location)
        }
        None => row.head,
    };
    let no_reply =
        || Error::invalid_field("messageId", "must name a reply, or the session must have one");
    let at = location.ok_or_else(no_reply)?;
    let user_message = tx.read_user_message(row, at).await?;
    // Without a reply below it, the named message or the head is itself the one to answer.
    if user_message.role != Role::Assistant {
        return Ok((user_message, at));
    }
    let parent = user_message.parent_id.ok_or_else(no_reply)?;
    let at = tx.find_message(row, &parent).await?.ok_or_else(Error::message_not_found)?.location;
    Ok((tx.read_user_message(row, at).await?, at))
}
