//! The end of a turn: the reply is stored, then the stream ends, then the next turn begins.

use super::ChatService;
use super::events::SessionEventKind;
use super::frames::FrameBatch;
use super::hub::TurnBuffer;
use super::run_turn::{PromptRecord, ReplyOutcome};
use super::transcript::{StreamEnd, Transcript, error_frames};
use super::usage_policy::ConcurrencyPermit;
use crate::clock;
use crate::domain::message::{FinishReason, MessageBody, MessageError};
use crate::domain::quota::compute_cost;
use crate::domain::turn::ActiveTurn;
use crate::domain::usage::Cost;
use crate::domain::{CallKind, Role, SessionId, Status, Usage, UserId};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::tokens;
use crate::store::{FinishOutcome, FinishTurn, LedgerEntry, NewMessage, ReplyFields, StartedTurn};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// A store that stumbles is tried again after this long, then twice as long, up to …
const MIN_RETRY_DELAY: Duration = Duration::from_millis(50);
/// … this long.
const MAX_RETRY_DELAY: Duration = Duration::from_secs(2);

/// What is said of a reply that cannot be stored any more.
const LEASE_LOST: &str = "the session was deleted, or this server was silent for too long";
/// What is said of a reply that ended without a reason.
const REPLY_TRUNCATED: &str = "the provider's reply broke off";

impl ChatService {
    /// Stores the reply, then publishes the frames that end the stream: who has read them can read
    /// the reply. Then the next waiting turn runs.
    pub(super) async fn finish_turn(
        self: &Arc<Self>,
        started: &StartedTurn,
        buffer: &TurnBuffer,
        mut transcript: Transcript,
        record: &PromptRecord,
        outcome: ReplyOutcome,
        permit: ConcurrencyPermit,
    ) {
        let model = self.answering_model(started, &transcript);
        let body = transcript.message_body();
        let tokens = tokens::count_tokens_async(&body.countable_text()).await;
        self.record_prompt_count(&transcript, record);
        let usage = transcript.usage().unwrap_or_else(|| estimate_usage(record, tokens));
        let cost = compute_cost(&self.usage_policy.prices, &model, &usage).map(Cost);
        let usage = Usage { cost, first_token_ms: record.first_token_ms, ..usage };
        self.log_turn_end(started, &outcome, usage, &model);

        let reply = build_reply(started, body, &outcome, usage, tokens, &model);
        let failure = match &outcome {
            ReplyOutcome::Failed(error) => error.to_string(),
            _ => String::new(),
        };
        transcript.end_stream(match &outcome {
            ReplyOutcome::Finished(reason) => StreamEnd::Finish {
                reason: *reason,
                model: Some(&model),
                usage: Some(usage),
                memory: record.memory.as_ref(),
            },
            ReplyOutcome::Stopped => StreamEnd::Abort,
            ReplyOutcome::Truncated => StreamEnd::Error(REPLY_TRUNCATED),
            ReplyOutcome::Failed(_) => StreamEnd::Error(&failure),
        });
        let ending = transcript.take_frames();
        let stored = self.store_reply(started, buffer, reply, &ending).await;
        // Whoever reads the end may begin another turn at once.
        drop(permit);
        match stored {
            Ok(Some(finished)) => {
                self.publish_turn_end(&started.session.id, &started.turn);
                buffer.publish_frames(ending);
                self.maybe_summarize(started);
                self.start_next_queued(finished);
            }
            Ok(None) if matches!(outcome, ReplyOutcome::Stopped) => buffer.publish_frames(ending),
            Ok(None) => buffer.publish_frames(error_frames(
                buffer.turn_id.clone(),
                ending.first,
                LEASE_LOST,
            )),
            Err(error) => buffer.publish_frames(error_frames(
                buffer.turn_id.clone(),
                ending.first,
                &error.to_string(),
            )),
        }
    }

    /// Learns how well the prompt was counted, if the model that was asked is the one that says so.
    fn record_prompt_count(&self, transcript: &Transcript, record: &PromptRecord) {
        if let (Some(prompt_count), Some(usage), None) =
            (&record.prompt_count, transcript.usage(), transcript.model())
        {
            self.memory.record_prompt_count(prompt_count, usage);
        }
    }

    fn log_turn_end(
        &self,
        started: &StartedTurn,
        outcome: &ReplyOutcome,
        usage: Usage,
        model: &str,
    ) {
        let elapsed = clock::now().duration_since(started.turn.started_at);
        if let ReplyOutcome::Failed(error) = outcome {
            tracing::warn!(turn.id = %started.turn.turn_id, error = %error.chain(), "a turn failed");
        }
        tracing::info!(
            turn.id = %started.turn.turn_id,
            session.id = %started.session.id,
            turn.status = reply_status(outcome).as_str(),
            turn.ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            usage.prompt_tokens = usage.prompt_tokens,
            usage.completion_tokens = usage.completion_tokens,
            model,
            instance = self.lease_holder.instance,
            "turn ended"
        );
    }

    fn answering_model(&self, started: &StartedTurn, transcript: &Transcript) -> String {
        let requested_model =
            started.options.model.as_ref().or(started.session.settings.model.as_ref());
        let model = transcript.model().or(requested_model.map(String::as_str));
        model.unwrap_or(self.memory.default_model()).to_owned()
    }

    /// A reply is not given up because the store stumbles: only the server's end ends the trying,
    /// and then the turn's log still has what was said.
    async fn store_reply(
        &self,
        started: &StartedTurn,
        buffer: &TurnBuffer,
        reply: NewMessage,
        ending: &FrameBatch,
    ) -> Result<Option<FinishOutcome>> {
        let finish = FinishTurn {
            session_id: started.session.id.clone(),
            turn_id: started.turn.turn_id.clone(),
            lease_holder: self.lease_holder.clone(),
            cost: reply.reply.usage.and_then(|usage| usage.cost).map(|Cost(cost)| cost),
            reply,
            counts_toward_quota: !self.usage_policy.quotas.is_empty(),
            last_batch: buffer.close_log(ending).await,
            next_lease_holder: (!self.is_draining()).then(|| self.lease_holder.clone()),
        };
        let mut delay = MIN_RETRY_DELAY;
        loop {
            let error = match self.store.finish_turn(finish.clone()).await {
                Ok(Some(finished)) => return Ok(Some(finished)),
                Ok(None) => {
                    self.record_unstored_turn(started, &finish).await;
                    return Ok(None);
                }
                Err(error) => error,
            };
            let is_aborted = self.is_draining() && buffer.cancel.is_cancelled();
            if is_aborted || error.kind != ErrorKind::StoreUnavailable {
                tracing::error!(turn.id = %buffer.turn_id, error = %error.chain(), "a reply could not be stored");
                return Err(error);
            }
            tracing::warn!(turn.id = %buffer.turn_id, error = %error.chain(), "storing a reply again");
            sleep(delay).await;
            delay = (delay * 2).min(MAX_RETRY_DELAY);
        }
    }

    /// Books a turn whose reply nobody wants any more: it was paid for all the same.
    async fn record_unstored_turn(&self, started: &StartedTurn, finish: &FinishTurn) {
        let reply = &finish.reply.reply;
        let entry = LedgerEntry {
            turn_id: finish.turn_id.clone(),
            kind: CallKind::Reply,
            session_id: finish.session_id.clone(),
            owner: started.session.owner.clone(),
            project_id: started.session.project_id.clone(),
            payer: started.payer.clone(),
            model: reply.model.clone(),
            status: reply.status,
            usage: reply.usage.unwrap_or_default(),
            cost: finish.cost,
            ended_at: finish.reply.created_at,
        };
        if let Err(error) = self.store.record_usage(entry).await {
            tracing::error!(turn.id = %finish.turn_id, error = %error.chain(), "what a turn used was not booked");
        }
    }

    /// Says that a turn has ended and its reply is stored.
    pub(super) fn publish_turn_end(&self, session: &SessionId, turn: &ActiveTurn) {
        self.events.publish(session, SessionEventKind::message_added(&turn.message_id));
        self.events.publish(session, SessionEventKind::turn_ended(&turn.turn_id, &turn.message_id));
    }

    /// The next waiting turn runs.
    fn start_next_queued(self: &Arc<Self>, finished: FinishOutcome) {
        let FinishOutcome { next, skipped } = finished;
        self.abort_queued(&skipped);
        if let Some(next) = next {
            let permit = self.concurrency.acquire(&next.payer.user);
            self.spawn_turn(next, permit);
        }
    }
}

/// What we count where the provider says nothing: nothing at all where it was not asked.
fn estimate_usage(record: &PromptRecord, tokens: u32) -> Usage {
    if !record.is_sent {
        return Usage::default();
    }
    Usage {
        prompt_tokens: record.memory.as_ref().map_or(0, |memory| memory.prompt_tokens.into()),
        completion_tokens: tokens.into(),
        estimated: true,
        ..Usage::default()
    }
}

const fn reply_status(outcome: &ReplyOutcome) -> Status {
    match outcome {
        ReplyOutcome::Finished(_) => Status::Complete,
        ReplyOutcome::Stopped | ReplyOutcome::Truncated => Status::Interrupted,
        ReplyOutcome::Failed(_) => Status::Failed,
    }
}

fn build_reply(
    started: &StartedTurn,
    body: MessageBody,
    outcome: &ReplyOutcome,
    usage: Usage,
    tokens: u32,
    model: &str,
) -> NewMessage {
    let to_message_error = |error: &Error| MessageError {
        code: error.kind.code().to_owned(),
        message: error.to_string(),
    };
    let (finish_reason, error) = match outcome {
        ReplyOutcome::Finished(reason) => (Some(*reason), None),
        ReplyOutcome::Stopped => (None, None),
        ReplyOutcome::Truncated => {
            (None, Some(to_message_error(&Error::new(ErrorKind::ProviderError, REPLY_TRUNCATED))))
        }
        ReplyOutcome::Failed(error) => (Some(FinishReason::Error), Some(to_message_error(error))),
    };
    NewMessage {
        id: started.turn.message_id.clone(),
        client_message_id: None,
        role: Role::Assistant,
        sender_id: UserId::assistant(),
        body,
        tokens,
        created_at: clock::now(),
        reply: ReplyFields {
            status: reply_status(outcome),
            model: Some(model.to_owned()),
            finish_reason,
            error,
            usage: Some(usage),
        },
    }
}
