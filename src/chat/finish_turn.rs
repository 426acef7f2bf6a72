//! Ends a turn: stores the reply, ends the stream, starts the next queued turn, in this order.

use super::ChatService;
use super::empty_streams::error_frames;
use super::events::SessionEventKind;
use super::frames::FrameBatch;
use super::hub::TurnBuffer;
use super::run_turn::{PromptRecord, ReplyOutcome};
use super::transcript::{StreamEnd, Transcript};
use super::usage_policy::ConcurrencyPermit;
use crate::clock;
use crate::domain::content::MessageBody;
use crate::domain::message::{FinishReason, MessageError, MessageParts};
use crate::domain::principal::AccessLevel;
use crate::domain::quota::compute_cost;
use crate::domain::turn::ActiveTurn;
use crate::domain::usage::Cost;
use crate::domain::{CallKind, Principal, Role, SessionId, Status, Usage, UserId};
use crate::error::{Error, ErrorKind, Result};
use crate::memory::tokens;
use crate::store::{
    FinishOutcome, FinishTurn, LedgerEntry, LogBatch, NewMessage, ReplyFields, StartedTurn,
    TurnLogEntry,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// First delay before storing the reply is retried; doubled on each failure.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(50);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(2);

/// Shown to readers when the turn lost its claim before its reply was stored.
const LEASE_LOST: &str =
    "the reply was not stored: the session was deleted or this server lost its lease";
/// Shown when the stream ended without a finish reason.
const REPLY_TRUNCATED: &str = "the provider's stream ended before the reply was complete";

/// Stored with a reply that was cut because the database could not hold it.
const REPLY_CUT: &str = "the reply was too large for the database and was cut";
/// Bytes of text that are kept of such a reply.
const CUT_REPLY_BYTES: usize = 1 << 20;

/// How a turn ended, for the log.
struct TurnEnd {
    /// `None` if no reply was stored.
    status: Option<Status>,
    /// `None` for a complete reply.
    cause: Option<&'static str>,
}

/// A reply as it was stored, and what came of its turn.
struct StoredReply {
    finished: FinishOutcome,
    status: Status,
    /// The database could not hold all of it.
    is_cut: bool,
}

impl StoredReply {
    fn new(finished: FinishOutcome, reply: &NewMessage) -> Self {
        let error = reply.reply.error.as_ref();
        let is_cut = error.is_some_and(|error| error.code == ErrorKind::PayloadTooLarge.code());
        Self { finished, status: reply.reply.status, is_cut }
    }
}

impl ChatService {
    /// Stores the reply, then publishes the final frames, so that a client that has seen the end of
    /// the stream can read the reply. Then starts the next queued turn.
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
        let estimate = estimate_usage(record, tokens);
        let usage = transcript.usage().map_or(estimate, |usage| usage.or_estimate(estimate));
        let cost = compute_cost(&self.usage_policy.prices, &model, &usage).map(Cost);
        let usage = Usage { cost, first_token_ms: record.first_token_ms, ..usage };
        if let ReplyOutcome::Failed(error) = &outcome {
            tracing::warn!(turn.id = %started.turn.turn_id, error = %error.chain(), "turn failed");
        }

        let reply = build_reply(started, body, &outcome, usage, tokens, &model);
        let failure = match &outcome {
            ReplyOutcome::Failed(error) => error.to_string(),
            _ => String::new(),
        };
        // Encoded now but published only after the commit. The store needs the final frames too:
        // they are the last batch of the turn log.
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
        // Released before the final frames go out: a client that reads the end may start its next
        // turn immediately.
        drop(permit);
        // After the commit: the line must not report a reply that is not stored.
        let end = self.describe_end(started, &outcome, &stored).await;
        self.log_turn_end(started, &end, usage, &model);
        let is_stopped = matches!(outcome, ReplyOutcome::Stopped);
        self.publish_end(started, buffer, ending, is_stopped, stored);
    }

    /// Publishes the end of the stream, after the commit.
    fn publish_end(
        self: &Arc<Self>,
        started: &StartedTurn,
        buffer: &TurnBuffer,
        ending: FrameBatch,
        is_stopped: bool,
        stored: Result<Option<StoredReply>>,
    ) {
        let publish_error = |message: &str| {
            buffer.publish_frames(error_frames(buffer.turn_id.clone(), ending.first, message));
        };
        match stored {
            Ok(Some(StoredReply { finished, .. })) => {
                // Both the event and the end of the stream come after the commit: a client that
                // reacts to either finds the reply stored.
                self.publish_turn_end(&started.session.id, &started.turn);
                buffer.publish_frames(ending);
                self.maybe_summarize(started);
                self.start_next_queued(finished);
            }
            // The claim is gone and the turn was cancelled: the session was deleted, or the journal
            // noticed that the lease was lost. The stream ends like that of any cancelled turn.
            Ok(None) if is_stopped => buffer.publish_frames(ending),
            Ok(None) => publish_error(LEASE_LOST),
            Err(error) => publish_error(&error.to_string()),
        }
    }

    /// Lets memory compare its token count with the reported one. Skipped when a different model
    /// answered, since that model may have another tokenizer.
    fn record_prompt_count(&self, transcript: &Transcript, record: &PromptRecord) {
        if let (Some(prompt_count), Some(usage), None) =
            (&record.prompt_count, transcript.usage(), transcript.model())
        {
            self.memory.record_prompt_count(prompt_count, usage);
        }
    }

    /// Status and cause for the log.
    async fn describe_end(
        &self,
        started: &StartedTurn,
        outcome: &ReplyOutcome,
        stored: &Result<Option<StoredReply>>,
    ) -> TurnEnd {
        let cause = match (stored, outcome) {
            (Err(_), _) => Some("storing failed"),
            (Ok(None), _) => Some(self.find_claim_loss(started).await),
            (Ok(Some(reply)), _) if reply.is_cut => Some("reply cut"),
            (Ok(Some(_)), ReplyOutcome::Finished(_)) => None,
            (Ok(Some(_)), ReplyOutcome::Stopped) if self.hub.is_aborted() => Some("shutdown"),
            (Ok(Some(_)), ReplyOutcome::Stopped) => Some("stopped"),
            (Ok(Some(_)), ReplyOutcome::Truncated) => Some("no finish reason"),
            (Ok(Some(_)), ReplyOutcome::Failed(error)) => Some(error.kind.code()),
        };
        let status = stored.as_ref().ok().and_then(Option::as_ref).map(|reply| reply.status);
        TurnEnd { status, cause }
    }

    /// Why the turn no longer has its claim. A deleted session is not worth a warning. Otherwise
    /// this server renewed its lease too late, or another one took the claim over.
    async fn find_claim_loss(&self, started: &StartedTurn) -> &'static str {
        let session = &started.session.id;
        let found =
            self.store.get_session(&Principal::server(), session, AccessLevel::Participant).await;
        if found.is_err_and(|error| error.kind == ErrorKind::SessionNotFound) {
            return "session deleted";
        }
        tracing::warn!(
            turn.id = %started.turn.turn_id,
            session.id = %session,
            "claim lost, reply not stored: the lease expired or the claim was taken over"
        );
        "claim lost"
    }

    fn log_turn_end(&self, started: &StartedTurn, end: &TurnEnd, usage: Usage, model: &str) {
        let elapsed = clock::now().duration_since(started.turn.started_at);
        tracing::info!(
            turn.id = %started.turn.turn_id,
            session.id = %started.session.id,
            turn.status = end.status.map(Status::as_str),
            turn.cause = end.cause,
            turn.ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            usage.prompt_tokens = usage.prompt_tokens,
            usage.completion_tokens = usage.completion_tokens,
            model,
            instance = self.lease_holder.instance,
            "turn ended"
        );
    }

    pub(super) fn answering_model(&self, started: &StartedTurn, transcript: &Transcript) -> String {
        let requested_model =
            started.options.model.as_ref().or(started.session.settings.model.as_ref());
        let model = transcript.model().or(requested_model.map(String::as_str));
        model.unwrap_or(self.memory.default_model()).to_owned()
    }

    /// Stores the reply and retries while the store is unavailable. Gives up only during shutdown;
    /// recovery then restores the reply from the turn log.
    async fn store_reply(
        &self,
        started: &StartedTurn,
        buffer: &TurnBuffer,
        reply: NewMessage,
        ending: &FrameBatch,
    ) -> Result<Option<StoredReply>> {
        // Waits for a journal write in flight, then closes the log: no batch may follow the last
        // one.
        let (earlier_batches, last_batch) = buffer.close_log(ending).await;
        for batch in earlier_batches {
            self.append_log_batch(started, buffer, batch).await;
        }
        let mut finish = FinishTurn {
            session_id: started.session.id.clone(),
            turn_id: started.turn.turn_id.clone(),
            lease_holder: self.lease_holder.clone(),
            cost: reply.reply.usage.and_then(|usage| usage.cost).map(|Cost(cost)| cost),
            reply,
            counts_toward_quota: !self.usage_policy.quotas.is_empty(),
            last_batch,
            // A draining instance leaves queued turns to other instances or to the next start.
            next_lease_holder: (!self.is_draining()).then(|| self.lease_holder.clone()),
        };
        let mut delay = MIN_RETRY_DELAY;
        loop {
            let error = match self.finish_stored_turn(&mut finish).await {
                Ok(Some(finished)) => return Ok(Some(StoredReply::new(finished, &finish.reply))),
                Ok(None) => {
                    // The claim is gone, so retrying is pointless.
                    self.record_unstored_turn(started, &finish).await;
                    return Ok(None);
                }
                Err(error) => error,
            };
            // Only an abort ends the retries. A cancelled turn during normal operation still keeps
            // its partial reply.
            let is_aborted = self.is_draining() && buffer.cancel.is_cancelled();
            if is_aborted || error.kind != ErrorKind::StoreUnavailable {
                tracing::error!(turn.id = %buffer.turn_id, error = %error.chain(), "storing a reply failed");
                return Err(error);
            }
            tracing::warn!(turn.id = %buffer.turn_id, error = %error.chain(), "storing a reply failed, retrying");
            sleep(delay).await;
            delay = (delay * 2).min(MAX_RETRY_DELAY);
        }
    }

    /// Ends a turn in the store. A reply that the database cannot hold is cut: retrying would not
    /// help, and the session must not stay busy.
    pub(super) async fn finish_stored_turn(
        &self,
        finish: &mut FinishTurn,
    ) -> Result<Option<FinishOutcome>> {
        match self.store.finish_turn(finish.clone()).await {
            Err(error) if error.kind == ErrorKind::PayloadTooLarge => {
                tracing::warn!(turn.id = %finish.turn_id, error = %error.chain(), "reply is too large for the database and is cut");
                cut_reply(&mut finish.reply);
                self.store.finish_turn(finish.clone()).await
            }
            result => result,
        }
    }

    /// Writes frames that are too many for the last batch of the log. Without them a reader that
    /// resumes after a crash misses a part of the stream; the reply is complete in any case.
    async fn append_log_batch(&self, started: &StartedTurn, buffer: &TurnBuffer, batch: LogBatch) {
        let entry = TurnLogEntry {
            session_id: started.session.id.clone(),
            turn_id: started.turn.turn_id.clone(),
            batch,
        };
        while let Err(error) = self.store.append_log(vec![entry.clone()]).await {
            tracing::warn!(turn.id = %buffer.turn_id, error = %error.chain(), "writing the end of a turn log failed");
            let is_aborted = self.is_draining() && buffer.cancel.is_cancelled();
            if is_aborted || error.kind != ErrorKind::StoreUnavailable {
                return;
            }
            sleep(MAX_RETRY_DELAY).await;
        }
    }

    /// Records the usage of a turn whose reply cannot be stored: the provider charges for it
    /// anyway.
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
            tracing::error!(turn.id = %finish.turn_id, error = %error.chain(), "recording usage of a turn failed");
        }
    }

    pub(super) fn publish_turn_end(&self, session: &SessionId, turn: &ActiveTurn) {
        self.events.publish(session, SessionEventKind::message_added(&turn.message_id));
        self.events.publish(session, SessionEventKind::turn_ended(&turn.turn_id, &turn.message_id));
    }

    /// Runs the queued turn that `finish_turn` has begun.
    fn start_next_queued(self: &Arc<Self>, finished: FinishOutcome) {
        let FinishOutcome { next, skipped } = finished;
        self.end_skipped(&skipped);
        if let Some(next) = next {
            let permit = self.concurrency.acquire(&next.payer.user);
            self.spawn_turn(next, permit);
        }
    }
}

/// Estimated usage when the provider reports none; zero if the prompt was never sent.
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

/// Reduces a reply to the beginning of its text.
fn cut_reply(reply: &mut NewMessage) {
    let content = &mut reply.body.content;
    content.truncate(content.floor_char_boundary(CUT_REPLY_BYTES));
    reply.body.parts = MessageParts::default();
    reply.reply.status = Status::Interrupted;
    reply.reply.finish_reason = Some(FinishReason::Length);
    let code = ErrorKind::PayloadTooLarge.code().to_owned();
    reply.reply.error = Some(MessageError { code, message: REPLY_CUT.to_owned() });
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
            imported: false,
        },
    }
}
